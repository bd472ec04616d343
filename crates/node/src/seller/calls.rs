//! Selling calls: what a gate uses.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bitcoin::Amount;
use farthing_protocol::channel::Expiry;
use farthing_protocol::flat::{self, BatchTerms, Explanation};
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::lightspeed::{Call, CallNumber, Tab};
use farthing_protocol::payee::{self, Reject};
use farthing_protocol::{ChannelId, Msat, Payment};

use super::Seller;
use crate::books::{Books, Entry, OrderError};
use crate::explain::{ExplainError, explain};
use crate::machine::Payee;
use crate::seller::fees::{Fees, Short};
use crate::spread;
use crate::tabs::{Admission, AnnounceError, Announced, CallError, Drained, Ended, Standing, Tabs};

impl Seller {
    /// Admits a call: its cost is set aside until [`Self::end`].
    ///
    /// # Errors
    /// When it is not to be served. Then it costs nothing.
    pub async fn admit(
        &self,
        call: &Call,
        target: &Target<'_>,
        mac: &[u8; 32],
    ) -> Result<Admission, CallError> {
        if let Err(blind) = self.sees() {
            self.refuse(call, target, mac).await?;
            return Err(blind.into());
        }
        if let Some(admitted) = self.admit_now(call, target, mac) {
            return admitted;
        }
        self.tabs.load(&self.books, call.channel).await?;
        self.tabs.admit(call, target, mac)
    }

    /// [`Self::admit`] where nothing is to be waited for: `None`, and nothing decided, when the payer's tab is not in memory.
    pub fn admit_now(
        &self,
        call: &Call,
        target: &Target<'_>,
        mac: &[u8; 32],
    ) -> Option<Result<Admission, CallError>> {
        self.sees().ok()?;
        match self.tabs.admit(call, target, mac) {
            Err(CallError::Unknown(_)) => None,
            admitted => Some(admitted),
        }
    }

    /// Refuses an authentic call that will not be served for a reason of the caller's. It is free for good.
    ///
    /// # Errors
    /// When it is not authentic, there is no such channel, or its number is not new: it may have been served.
    pub async fn refuse(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<(), CallError> {
        self.tabs.load(&self.books, call.channel).await?;
        self.tabs.refuse(call, target, mac)
    }

    /// What is spent in a channel, for a payer that has lost track or is about to close. From now on no call up to `last` is
    /// served. `None` while calls run.
    ///
    /// # Errors
    /// When there is no such open channel, or the books cannot be asked.
    pub async fn reconcile(&self, id: ChannelId, last: CallNumber) -> Result<Option<Msat>, CallError> {
        if !self.tabs.load(&self.books, id).await? {
            // It pays for pieces. What is charged is stored.
            let state = self.books.state(id).await?.filter(|state| state.is_open() && state.tab().is_none());
            return state.map(|state| Some(state.ledger().spent)).ok_or(CallError::Unknown(id));
        }
        let spent = self.tabs.reconcile(id, last)?;
        // A sum that a crash could take back would have the payer pay for an answer that never left.
        self.tabs.stored(&self.books, id).await?;
        Ok(spent)
    }

    /// Ends a call that was admitted: served for at most what was set aside, or failed and free. The answer of a call that was
    /// served leaves only after [`Ended::stored`].
    pub fn end(&self, admission: Admission, charged: Option<Msat>) -> Ended {
        let ended = self.tabs.end(admission, charged);
        if ended.asks {
            self.books.fold();
        }
        ended
    }

    /// What a served call was charged; `None` when it was all that it stated.
    pub fn other_cost(&self, id: ChannelId, number: CallNumber) -> Option<Msat> {
        self.tabs.other_cost(id, number)
    }

    /// Charges a running call for what it has answered so far. It is stored with the next call that ends.
    pub fn charge_so_far(&self, id: ChannelId, number: CallNumber, so_far: Msat) {
        self.tabs.charge_so_far(id, number, so_far);
    }

    /// Whether there is such a channel, and it pays for calls.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub async fn knows(&self, id: ChannelId) -> Result<bool, OrderError<Reject>> {
        self.tabs.load(&self.books, id).await
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

    /// Takes a chain of words with its rungs, or a batch of preimages: the one that this seller is paid by.
    ///
    /// # Errors
    /// When a signature does not fit, too much would be at stake, or the terms are not this seller's.
    pub async fn announce(
        &self,
        id: ChannelId,
        announced: Announced,
        payment: Payment,
    ) -> Result<u32, AnnounceError> {
        self.check_funded(id).await?;
        let fits = match (&announced, &self.terms.flat) {
            (Announced::Chain(..), None) => Ok(()),
            (Announced::Batch(batch, _), Some(offered)) => self.check_batch(id, batch, offered).await,
            (Announced::Chain(..), Some(_)) => Err(AnnounceError::OtherMode("with preimages")),
            (Announced::Batch(..), None) => Err(AnnounceError::OtherMode("with words")),
        };
        let most = self.terms.most_exposure;
        let taken = self.tabs.announce(&self.books, id, announced, payment, (fits, most)).await;
        // What counts is the batch that is there now, taken or not.
        if let (Some(fees), Some(outputs)) = (self.fees.get(), self.tabs.outputs(id)) {
            let fee = if outputs == 0 { Some(Amount::ZERO) } else { self.cost_of_batch(id, outputs) };
            fees.is(id, fee.unwrap_or_default());
        }
        taken?;
        Ok(self.tabs.epoch())
    }

    /// Whether somebody has locked something in a channel: before that, nothing large is read or worked out for it.
    ///
    /// # Errors
    /// When there is no such channel, or its funding was never seen.
    pub async fn check_funded(&self, id: ChannelId) -> Result<(), AnnounceError> {
        // A tab is begun only after the funding was seen.
        if self.tabs.load(&self.books, id).await? {
            return Ok(());
        }
        match self.books.state(id).await? {
            Some(state) if state.is_unfunded() => Err(AnnounceError::Unfunded),
            Some(_) => Ok(()),
            None => Err(AnnounceError::Unknown(id)),
        }
    }

    /// Whether the batch is of the terms that were offered, and its outputs could be published: the fees of all batches come
    /// from this side's wallet. Its fee is set aside then.
    async fn check_batch(
        &self,
        id: ChannelId,
        batch: &BatchTerms,
        offered: &flat::Terms,
    ) -> Result<(), AnnounceError> {
        let terms = flat::Terms { prepaid: offered.prepaid, outputs: offered.outputs, ..batch.terms };
        if terms != *offered || batch.terms.outputs > offered.outputs {
            return Err(AnnounceError::OtherTerms);
        }
        let needed = self.cost_of_batch(id, batch.terms.outputs).ok_or(AnnounceError::Unknown(id))?;
        // The wallet is locked while the chain is looked at, which takes as long as the node does.
        let wallet = self.wallet.clone();
        let balance = tokio::task::spawn_blocking(move || {
            wallet.lock().expect("no holder of this lock panics").balance().total()
        });
        let got = balance.await.map_err(|_| OrderError::Ended)?;
        let fees = self.fees.get_or_try_init(|| self.stored_fees()).await?;
        fees.set_aside(id, needed, got, |id| self.has(id)).map_err(|Short { needed }| {
            tracing::warn!(%got, %needed, "a batch was refused: the wallet could not pay to publish all outputs");
            AnnounceError::NoCoins { got, needed }
        })
    }

    /// What publishing the outputs of all stored batches costs.
    async fn stored_fees(&self) -> Result<Fees, AnnounceError> {
        let stored = self.books.list().await?;
        let fee =
            |entry: &Entry<Payee>| Some((entry.id, self.cost_of_batch(entry.id, outputs(&entry.state)?)?));
        Ok(Fees::of(stored.iter().filter_map(fee)))
    }

    /// What publishing so many outputs of a channel's batch costs; `None` when the channel is not there any more.
    fn cost_of_batch(&self, id: ChannelId, outputs: u32) -> Option<Amount> {
        let setup = self.books.setup(&id)?;
        Some(spread::cost(outputs, setup.channel.params().fee_rate))
    }

    /// What the terms of flat mode mean in the largest channel that is accepted; `None` when calls are paid with words. Blocks.
    ///
    /// # Errors
    /// When a term breaks a limit.
    pub fn explain_flat(&self) -> Result<Option<Explanation>, ExplainError> {
        let Some(flat) = &self.terms.flat else { return Ok(None) };
        let (offer, _) = self.offer();
        let expiry = Expiry::at_height(self.chain.tip()?.height.saturating_add(offer.lifetime.1));
        let rates = (offer.fee_rate.0, offer.fee_rate.0);
        explain(&self.seed, &offer, (offer.capacity.1, expiry), rates, flat).map(Some)
    }

    /// The terms of flat mode, if calls are paid with preimages.
    pub fn flat(&self) -> Option<&flat::Terms> {
        self.terms.flat.as_ref()
    }

    /// How many bytes the accounts of payers of calls take in memory, about: at most [`super::Terms::most_resident`], but for
    /// those whose calls run.
    pub fn resident(&self) -> usize {
        self.tabs.resident()
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
    pub async fn drain(&self, id: ChannelId, patience: Duration) -> Option<Drained> {
        self.tabs.drain(id, patience).await
    }

    /// The most that one payer's calls may come to between two rungs.
    pub fn most_exposure(&self) -> Msat {
        self.terms.most_exposure
    }
}

/// How many outputs of a channel this side may have to publish. While it is open, calls may reveal more of them: also a batch of
/// which nothing is revealed counts.
fn outputs(state: &payee::State) -> Option<u32> {
    let open = state.tab().and_then(Tab::batch).map(|batch| batch.terms().terms.outputs);
    open.or_else(|| match state.claim()? {
        Claim::Batch(batch) => Some(batch.terms().terms.outputs),
        Claim::Plain(_) | Claim::Rung(_) => None,
    })
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
