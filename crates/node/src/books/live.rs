//! What is asked of the channels that are in memory: which to watch, how many wait, which is forgotten.

use farthing_protocol::ChannelId;

use super::{Books, Entry, Order, OrderError};
use crate::machine::{Machine, Watched};

/// How many channels are of some kind, and the one of them that was opened first, with the time of its opening in seconds
/// since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// How many there are.
    pub taken: usize,
    /// The first of them.
    pub oldest: Option<(ChannelId, u64)>,
}

impl<M: Machine> Books<M> {
    /// The channels that are not over, as they stand now. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn present_blocking(&self) -> Result<Vec<Entry<M>>, OrderError<M::Reject>> {
        self.ask(Order::Present)
    }

    /// The channels that are to be watched. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn watched_blocking(&self) -> Result<Vec<Watched>, OrderError<M::Reject>> {
        self.ask(Order::Watched)
    }

    /// How many channels that are not over stand where `is_meant` says, and which is the oldest. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn places_blocking(&self, is_meant: fn(&M::State) -> bool) -> Result<Places, OrderError<M::Reject>> {
        self.ask(|reply| Order::Oldest(is_meant, reply))
    }

    /// Deletes a channel, if this side has given nothing for what is or could come to be in it ([`Machine::is_worthless`]). Whether it
    /// did. Blocks.
    ///
    /// Its payer may still fund it: the payment that it makes then is refused like that of any channel that is not known
    /// here, and its refund gives it everything back from the expiry on. (It can propose the same opening again as long as the
    /// challenge holds, and then both go on as if nothing had been.)
    ///
    /// # Errors
    /// When the database cannot be written. Then the channel stays.
    pub fn forget_blocking(&self, id: ChannelId) -> Result<bool, OrderError<M::Reject>> {
        self.ask(|reply| Order::Forget(id, reply))?.map_err(OrderError::Store)
    }
}
