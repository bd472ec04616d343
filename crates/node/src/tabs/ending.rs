//! A call between its admission and its answer.

use std::fmt;
use std::sync::Arc;

use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::payee::Reject;
use farthing_protocol::{ChannelId, Msat};
use tokio::sync::oneshot;

use super::Session;
use crate::books::OrderError;

/// A call that was admitted. It keeps its tab in memory until it ends ([`super::Tabs::end`]); only then its number and what was set
/// aside for it come free.
#[must_use = "what was set aside for a call comes free when it is ended"]
pub struct Admission {
    pub(super) session: Arc<Session>,
    pub(super) channel: ChannelId,
    pub(super) number: CallNumber,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A call that has ended. Its answer may leave once [`Self::stored`] says so.
#[must_use = "an answer leaves only when the call is stored"]
#[derive(Debug)]
pub struct Ended {
    /// What was charged.
    pub charged: Msat,
    pub(super) storing: Storing,
    /// Whether the books are still to be told that there is something to store.
    pub(crate) asks: bool,
}

#[derive(Debug)]
pub(super) enum Storing {
    /// Nothing is to be waited for.
    Done,
    /// Its tab was handed to the books, or will be.
    Waits(oneshot::Receiver<Result<(), OrderError<Reject>>>),
    /// The channel closed before the call ended: it is in nothing that was settled.
    Gone(ChannelId),
}

impl Ended {
    /// Waits until the call is stored, as far as the durability asks for it.
    ///
    /// # Errors
    /// When it could not be stored, or the channel is closed. Then the answer must not leave.
    pub async fn stored(self) -> Result<(), OrderError<Reject>> {
        match self.storing {
            Storing::Done => Ok(()),
            Storing::Waits(answer) => answer.await.unwrap_or(Err(OrderError::Ended)),
            Storing::Gone(channel) => Err(OrderError::NoChannel(channel)),
        }
    }
}
