//! Selling calls: what a gate uses.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::{Call, CallNumber, ChainTerms, Rung};
use farthing_protocol::payee::Reject;
use farthing_protocol::{ChannelId, Msat, Payment};

use super::Seller;
use crate::books::{Books, OrderError};
use crate::machine::Payee;
use crate::tabs::{AnnounceError, CallError, Drained, Ended, Standing, Tabs};

impl Seller {
    /// Admits a call: its cost is set aside until [`Self::end`].
    ///
    /// # Errors
    /// When it is not to be served. Then it costs nothing.
    pub async fn admit(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<(), CallError> {
        match self.tabs.admit(call, target, mac) {
            Err(CallError::Unknown(id)) if self.tabs.load(&self.books, id).await? => {
                self.tabs.admit(call, target, mac)
            }
            admitted => admitted,
        }
    }

    /// Refuses an authentic call that will not be served for a reason of the caller's. It is free for good.
    ///
    /// # Errors
    /// When it is not authentic, or there is no such channel.
    pub async fn refuse(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<(), CallError> {
        self.tabs.load(&self.books, call.channel).await?;
        self.tabs.refuse(call, target, mac)
    }

    /// What is spent in a channel, for a payer that has lost track: from now on no call up to `last` is served. `None` while
    /// calls run.
    ///
    /// # Errors
    /// When the channel pays for no calls, or the books cannot be asked.
    pub async fn reconcile(&self, id: ChannelId, last: CallNumber) -> Result<Option<Msat>, CallError> {
        self.tabs.load(&self.books, id).await?;
        let spent = self.tabs.reconcile(id, last)?;
        // A sum that a crash could take back would have the payer pay for an answer that never left.
        self.tabs.stored(&self.books, id).await?;
        Ok(spent)
    }

    /// Ends a call that was admitted: served for at most what was set aside, or failed and free. The answer of a call that was
    /// served leaves only after [`Ended::stored`].
    pub fn end(&self, id: ChannelId, number: CallNumber, charged: Option<Msat>) -> Ended {
        let ended = self.tabs.end(id, number, charged);
        if ended.asks {
            self.books.fold(id);
        }
        ended
    }

    /// What a served call was charged; `None` when it was all that it stated.
    pub fn other_cost(&self, id: ChannelId, number: CallNumber) -> Option<Msat> {
        self.tabs.other_cost(id, number)
    }

    /// Sets more aside for a call that runs.
    ///
    /// # Errors
    /// When the words do not cover it.
    pub fn top_up(&self, id: ChannelId, number: CallNumber, by: Msat) -> Result<Msat, CallError> {
        self.tabs.top_up(id, number, by)
    }

    /// Waits until all calls that have ended in a channel are stored, as far as [`super::Terms::durability`] asks for it. Only
    /// then may their answers leave.
    ///
    /// # Errors
    /// When they could not be stored.
    pub async fn stored(&self, id: ChannelId) -> Result<(), OrderError<Reject>> {
        self.tabs.stored(&self.books, id).await
    }

    /// Takes a chain of words with its rungs.
    ///
    /// # Errors
    /// When a rung's signature does not fit, or too much would be at stake.
    pub async fn announce(
        &self,
        id: ChannelId,
        terms: ChainTerms,
        rungs: Vec<Rung>,
        payment: Payment,
    ) -> Result<u32, AnnounceError> {
        let most = self.terms.most_exposure;
        self.tabs.announce(&self.books, id, (terms, rungs), payment, most).await?;
        Ok(self.tabs.epoch())
    }

    /// Where a payer of calls stands; `None` if the channel pays for no calls.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub async fn standing(&self, id: ChannelId) -> Result<Option<Standing>, OrderError<Reject>> {
        self.tabs.load(&self.books, id).await?;
        Ok(self.books.setup(&id).and_then(|setup| self.tabs.standing(id, &setup)))
    }

    /// The epoch in which calls are served.
    pub fn epoch(&self) -> u32 {
        self.tabs.epoch()
    }

    /// Admits no more calls in a channel, for a close that follows, and waits for those that run: `None` when they have not
    /// ended in time.
    pub async fn drain(&self, id: ChannelId, patience: Duration) -> Option<Drained<'_>> {
        self.tabs.drain(id, patience).await
    }

    /// The most that one payer's calls may come to between two rungs.
    pub fn most_exposure(&self) -> Msat {
        self.terms.most_exposure
    }
}

/// Stores, again and again, the tabs of calls whose answers have left already.
pub(super) struct Batches {
    ending: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Batches {
    pub(super) fn start(tabs: Arc<Tabs>, books: Arc<Books<Payee>>, interval: Duration) -> Self {
        let (ending, ended) = mpsc::channel();
        let work = move || {
            while ended.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                tabs.store_all(&books);
            }
            tabs.store_all(&books);
        };
        let thread = std::thread::Builder::new().name("payee batches".to_owned()).spawn(work);
        Self { ending, thread: Some(thread.expect("the operating system starts a thread")) }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let _ended_already = self.ending.send(());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
