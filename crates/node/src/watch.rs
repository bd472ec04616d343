//! Looks at the chain and tells the machines: one thread a role.
//!
//! At each new block, and whenever a funding output changes, every live channel gets a [`Sighting`]. Blocks are taken in
//! one by one from where the wallet stands, so a funding's spend is found however long the program was off; after a
//! reorganisation the wallet goes back to the last block that is still in the best chain and on from there.
//!
//! The thread also carries out effects on the chain. They are idempotent: what fails now is tried again at the next
//! block, because the machine's state asks for it again.

mod glimpse;

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitcoin::{FeeRate, OutPoint, ScriptBuf, Transaction, Txid};
use farthing_chain::{BlockId, Chain, ChainError, OutputStatus};
use farthing_protocol::channel::SpendKind;
use farthing_protocol::sighting::{Funding, Locked, Sighting};
use farthing_protocol::{Channel, ChannelId};
use tokio::sync::oneshot;

use crate::books::{Books, OrderError};
use crate::machine::{Machine, Watched};
use crate::publish::{self, Publication};
use crate::spread::{self, Spreading};
use crate::store::{Followed, Write, locked_outputs};
use crate::wallet::{Wallet, WalletError};
use crate::watch::glimpse::Glimpse;

/// A channel with more outputs than this on the chain is looked at once a block, and not in between.
const MANY: usize = 64;

/// How the chain is watched.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often the node is asked.
    pub interval: Duration,
    /// Within how many blocks transactions should confirm.
    pub target_blocks: u16,
    /// The fee rate where the node has no estimate.
    pub fallback_fee_rate: FeeRate,
    /// A node whose newest block is older than this has lost its peers, or has not caught up: what it shows is not the present. `None`
    /// where blocks come when somebody wants them.
    pub stale_after: Option<Duration>,
}

/// Something to be done on the chain. Doing it twice is harmless.
#[derive(Clone, Debug)]
pub enum OnChain {
    /// Broadcast a transaction.
    Broadcast(Transaction),
    /// Publish a commitment, with a child where needed.
    Publish(Publication),
    /// Publish the micropayment transaction of a batch, with a coin of the wallet's for its fee.
    Spread(Spreading),
    /// Free the coins of a transaction that will never be broadcast.
    Release(Txid),
}

/// What makes an effect of a machine one on the chain, and a person's wish an input.
pub trait Watchable: Machine {
    /// The part of an effect that happens on the chain, if any.
    fn on_chain(setup: &Arc<Self::Setup>, effect: Self::Effect) -> Option<OnChain>;

    /// The input for a person's wish to close, if the machine can do that without the other side.
    fn close() -> Option<Self::Input>;
}

/// Why a look did not succeed. The next one may.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A block does not connect.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// What was seen could not be stored.
    #[error(transparent)]
    Books(Box<dyn std::error::Error + Send + Sync>),
    /// The program is ending.
    #[error("the program is ending")]
    Ended,
}

impl<R: std::error::Error + Send + Sync + 'static> From<OrderError<R>> for WatchError {
    fn from(error: OrderError<R>) -> Self {
        Self::Books(Box::new(error))
    }
}

enum Task {
    Do(OnChain),
    Look(Option<oneshot::Sender<Result<(), WatchError>>>),
    End,
}

/// A way to the watching thread. Dropped, the thread ends.
#[derive(Debug)]
pub struct Watch {
    tasks: mpsc::Sender<Task>,
    thread: Option<JoinHandle<()>>,
    seen_at: Arc<Mutex<Option<Instant>>>,
}

impl Watch {
    /// Starts watching. `resumed` is what a restart must do again.
    pub fn start<M: Watchable>(
        chain: Chain,
        wallet: Arc<Mutex<Wallet>>,
        books: Arc<Books<M>>,
        pace: Pace,
        resumed: Vec<(ChannelId, M::Effect)>,
    ) -> Self {
        Self::start_beside(chain, wallet, books, pace, resumed, Box::new(|_, _| {}))
    }

    /// Starts watching. Whoever has things to do off the chain gets to see every effect before it is carried out.
    pub fn start_beside<M: Watchable>(
        chain: Chain,
        wallet: Arc<Mutex<Wallet>>,
        books: Arc<Books<M>>,
        pace: Pace,
        resumed: Vec<(ChannelId, M::Effect)>,
        beside: Beside<M>,
    ) -> Self {
        let (tasks, queue) = mpsc::channel();
        let seen_at = Arc::new(Mutex::new(None));
        let sees = seen_at.clone();
        let watcher = Watcher {
            chain,
            wallet,
            books,
            pace,
            beside,
            seen: HashMap::new(),
            sent_again_at: None,
            seen_at: sees,
            tip_found: None,
            complained: false,
        };
        let thread = std::thread::Builder::new()
            .name(format!("{} watch", M::ROLE.name()))
            .spawn(move || watcher.run(&queue, resumed))
            .expect("the operating system starts a thread");
        Self { tasks, thread: Some(thread), seen_at }
    }

    /// For how long no look has shown the present chain; `None` when none has since the start.
    pub fn blind_for(&self) -> Option<Duration> {
        let seen_at = *self.seen_at.lock().expect("no holder of this lock panics");
        seen_at.map(|at| at.elapsed())
    }

    /// Does something on the chain soon.
    pub fn carry_out(&self, on_chain: OnChain) {
        // The thread is gone only when the program ends; the next start does it again.
        let _ending = self.tasks.send(Task::Do(on_chain));
    }

    /// Looks at the chain now instead of at the next interval.
    pub fn look_now(&self) {
        let _ending = self.tasks.send(Task::Look(None));
    }

    /// Looks at the chain now, and waits until everything up to the tip is taken in. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked or something could not be stored.
    pub fn look_blocking(&self) -> Result<(), WatchError> {
        let (reply, answer) = oneshot::channel();
        self.tasks.send(Task::Look(Some(reply))).map_err(|_| WatchError::Ended)?;
        answer.blocking_recv().unwrap_or(Err(WatchError::Ended))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended_already = self.tasks.send(Task::End);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What is told of the effects that a look at the chain, or a restart, brings.
pub type Beside<M> = Box<dyn Fn(ChannelId, &<M as Machine>::Effect) + Send>;

struct Watcher<M: Watchable> {
    chain: Chain,
    wallet: Arc<Mutex<Wallet>>,
    books: Arc<Books<M>>,
    pace: Pace,
    beside: Beside<M>,
    seen: HashMap<ChannelId, Glimpse>,
    /// The tip at which the wallet's payments were broadcast again.
    sent_again_at: Option<BlockId>,
    seen_at: Arc<Mutex<Option<Instant>>>,
    /// The tip, and when it was found (UNIX time).
    tip_found: Option<(BlockId, u64)>,
    complained: bool,
}

impl<M: Watchable> Watcher<M> {
    fn run(mut self, queue: &mpsc::Receiver<Task>, resumed: Vec<(ChannelId, M::Effect)>) {
        for (id, effect) in resumed {
            self.carry_out_for(id, effect);
        }
        let mut asked = None;
        loop {
            let looked = self.look();
            self.note(&looked);
            if let Some(reply) = asked.take() {
                let _caller_left = oneshot::Sender::send(reply, looked.map(drop));
            }
            match queue.recv_timeout(self.pace.interval) {
                Ok(Task::Do(on_chain)) => self.carry_out(on_chain),
                Ok(Task::Look(reply)) => asked = reply,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Task::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether the present chain was seen, and if not, why: once, until it is.
    fn note(&mut self, looked: &Result<BlockId, WatchError>) {
        let error = match looked {
            Ok(tip) => match self.behind(*tip) {
                Ok(None) => {
                    self.complained = false;
                    *self.seen_at.lock().expect("no holder of this lock panics") = Some(Instant::now());
                    return;
                }
                Ok(Some(behind)) => {
                    let hours = behind.as_secs() / 3_600;
                    format!(
                        "its newest block is {hours} h old: it has lost its peers, or has not caught up yet"
                    )
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if self.complained {
            tracing::debug!(%error, "the node still does not show the present chain");
        } else {
            tracing::warn!(%error, "the node does not show the present chain; trying again");
            self.complained = true;
        }
    }

    /// How old the tip is, where that is too old to be the present one.
    fn behind(&mut self, tip: BlockId) -> Result<Option<Duration>, ChainError> {
        let Some(most) = self.pace.stale_after else { return Ok(None) };
        let found = match self.tip_found {
            Some((of, found)) if of == tip => found,
            _other => u64::from(self.chain.header(&tip.hash)?.time),
        };
        self.tip_found = Some((tip, found));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let age = Duration::from_secs(now.saturating_sub(found));
        Ok((age > most).then_some(age))
    }

    /// Looks until nothing came in between. Returns the tip that was looked at.
    fn look(&mut self) -> Result<BlockId, WatchError> {
        loop {
            if let Some(tip) = self.look_at_all()? {
                return Ok(tip);
            }
        }
    }

    /// `None` when a block came meanwhile, with a spend that is not noted yet.
    fn look_at_all(&mut self) -> Result<Option<BlockId>, WatchError> {
        let watched = self.books.watched_blocking()?;
        let tip = self.take_in_blocks()?;
        self.send_again(tip)?;
        self.grant_wishes()?;
        let fee_rate = publish::fee_rate(&self.chain, self.pace.target_blocks, self.pace.fallback_fee_rate)?;
        self.forget_all_but(&watched);
        for Watched { id, outpoint, parties } in watched {
            let is_large = |seen: &&Glimpse| seen.tip == tip && seen.len() > MANY;
            if self.seen.get(&id).filter(is_large).is_some() {
                continue; // each output is a question to the node
            }
            let funding = self.status(&outpoint, tip)?;
            let mut locked = Vec::new();
            // What a refund pays, and to how many, is the payer's own affair.
            if self.books.setup(&id).is_some_and(|setup| is_commitment(M::channel(&setup), &funding)) {
                self.follow(&funding, &parties, tip, &mut locked)?;
            }
            let glimpse = Glimpse::of(tip, &funding, &locked);
            if self.seen.get(&id) == Some(&glimpse) {
                continue;
            }
            // Gone from the outputs, and in no block that was taken in: its spend may be in the one that has just come.
            if glimpse.has_unseen() && self.chain.tip()? != tip {
                return Ok(None);
            }
            let sighting = Sighting { height: tip.height, fee_rate, funding, locked };
            match self.books.handle_blocking(id, M::sighted(sighting)) {
                Ok(outcome) => {
                    self.seen.insert(id, glimpse);
                    for effect in outcome.effects {
                        self.carry_out_for(id, effect);
                    }
                }
                // It was forgotten, and never had any money, after the books said what is to be watched.
                Err(OrderError::NoChannel(_)) => {}
                Err(error) => tracing::warn!(channel = %id, %error, "a look at the chain was not taken in"),
            }
        }
        Ok(Some(tip))
    }

    /// What was seen of channels that are not watched any more takes no memory.
    fn forget_all_but(&mut self, watched: &[Watched]) {
        if self.seen.len() > watched.len() {
            let watched: HashSet<ChannelId> = watched.iter().map(|watched| watched.id).collect();
            self.seen.retain(|id, _| watched.contains(id));
        }
    }

    /// What a person asked for from another process.
    fn grant_wishes(&mut self) -> Result<(), WatchError> {
        for id in self.books.wishes_blocking()? {
            let Some(close) = M::close() else { continue };
            match self.books.handle_blocking(id, close) {
                Ok(outcome) => {
                    for effect in outcome.effects {
                        self.carry_out_for(id, effect);
                    }
                }
                // That may pass.
                Err(error @ (OrderError::Store(_) | OrderError::Blind(_) | OrderError::Ended)) => {
                    tracing::warn!(channel = %id, %error, "the channel cannot be closed yet");
                    continue;
                }
                Err(error) => tracing::warn!(channel = %id, %error, "the channel cannot be closed"),
            }
            self.books.granted_blocking(id)?;
        }
        Ok(())
    }

    /// Takes in the blocks since the last look and notes the spends of fundings in them. Returns the tip that has been taken
    /// in.
    fn take_in_blocks(&mut self) -> Result<BlockId, WatchError> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let tip = self.chain.tip()?;
        let known: Vec<BlockId> = wallet.checkpoints().collect();
        let mut last = None;
        for block in known {
            if self.chain.block_hash(block.height)? == Some(block.hash) {
                last = Some(block);
                break;
            }
        }
        let mut last = last.ok_or(WalletError::Disconnected(0))?;
        let mut followed = if last == tip { Followed::default() } else { self.books.followed_blocking()? };
        while last.height < tip.height {
            let height = last.height + 1;
            // A reorganisation may shorten the chain under our feet; then the next look goes on.
            let Some(hash) = self.chain.block_hash(height)? else { break };
            let block = self.chain.block(&hash)?;
            let spends: Vec<Write> = followed.spends_in(&block, hash, height).collect();
            // Before the wallet has the block: from then on nobody reads it again, and whoever stores the wallet says so.
            if !spends.is_empty() {
                self.books.write_blocking(spends)?;
            }
            wallet.connect(&block, height, last)?;
            wallet.save(|write| self.books.write_blocking(vec![write]))?;
            last = BlockId { height, hash };
        }
        Ok(last)
    }

    /// Broadcasts what the wallet has paid and no block has, at each start and with each block: whoever paid may have died right
    /// before, and a mempool forgets. Fundings are their channels' affair: what is kept back is released before its channel is forgotten.
    fn send_again(&mut self, tip: BlockId) -> Result<(), WatchError> {
        if self.sent_again_at == Some(tip) {
            return Ok(());
        }
        let wallet = self.wallet.lock().expect("no holder of this lock panics");
        let unconfirmed = wallet.unconfirmed_payments();
        if !unconfirmed.is_empty() {
            let followed = self.books.followed_blocking()?;
            for payment in unconfirmed.iter().filter(|payment| !followed.has_output_of(payment)) {
                if let Err(error) = self.chain.broadcast(payment) {
                    let txid = payment.compute_txid();
                    tracing::warn!(%txid, %error, "a payment of the wallet is in no block, and could not be sent again");
                }
            }
        }
        self.sent_again_at = Some(tip);
        Ok(())
    }

    /// What became of the outputs that a spend in a block locks to a condition, and of those that follow from them.
    fn follow(
        &self,
        spent: &Funding,
        parties: &[ScriptBuf; 2],
        tip: BlockId,
        locked: &mut Vec<Locked>,
    ) -> Result<(), WatchError> {
        let Funding::Spent { by, confirmations: 1.. } = spent else { return Ok(()) };
        let outpoints: Vec<OutPoint> = locked_outputs(by, parties).collect();
        // One spender tells of all outputs that it spends: a claim may spend a thousand.
        let mut told: HashMap<OutPoint, Funding> = HashMap::new();
        let mut spends = Vec::new();
        for outpoint in outpoints {
            let status = match told.remove(&outpoint) {
                Some(status) => status,
                None => {
                    let status = self.status(&outpoint, tip)?;
                    if let Funding::Spent { by, .. } = &status {
                        told.extend(by.input.iter().map(|input| (input.previous_output, status.clone())));
                        spends.push(status.clone());
                    }
                    status
                }
            };
            locked.push(Locked { outpoint, status });
        }
        spends.iter().try_for_each(|spend| self.follow(spend, parties, tip, locked))
    }

    fn status(&self, outpoint: &OutPoint, tip: BlockId) -> Result<Funding, WatchError> {
        Ok(match self.chain.output(outpoint)? {
            OutputStatus::Confirmed { confirmations, output } => Funding::Confirmed { output, confirmations },
            OutputStatus::Unconfirmed { output } => Funding::Unconfirmed(output),
            OutputStatus::SpentInMempool { confirmations, output } => {
                match self.chain.mempool_spender(outpoint)? {
                    Some(by) => Funding::Spent { by: by.into(), confirmations: 0 },
                    // The spender left the mempool between the two questions.
                    None => Funding::Confirmed { output, confirmations },
                }
            }
            OutputStatus::Absent => self.spend_in_block(outpoint, tip)?,
        })
    }

    fn spend_in_block(&self, outpoint: &OutPoint, tip: BlockId) -> Result<Funding, WatchError> {
        for spend in self.books.spends_blocking(*outpoint)? {
            if self.chain.block_hash(spend.height)? == Some(spend.block) {
                let confirmations = tip.height.saturating_sub(spend.height) + 1;
                return Ok(Funding::Spent { by: spend.by.into(), confirmations });
            }
        }
        // Funding and spend may both be in the mempool.
        Ok(match self.chain.mempool_spender(outpoint)? {
            Some(by) => Funding::Spent { by: by.into(), confirmations: 0 },
            None => Funding::Unseen,
        })
    }

    fn carry_out_for(&self, id: ChannelId, effect: M::Effect) {
        let Some(setup) = self.books.setup(&id) else { return };
        (self.beside)(id, &effect);
        if let Some(on_chain) = M::on_chain(&setup, effect) {
            self.carry_out(on_chain);
        }
    }

    fn carry_out(&self, on_chain: OnChain) {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let done: Result<(), Box<dyn std::error::Error + Send + Sync>> = match on_chain {
            OnChain::Broadcast(transaction) => self.chain.broadcast(&transaction).map_err(Into::into),
            OnChain::Publish(publication) => {
                publish::fee_rate(&self.chain, self.pace.target_blocks, self.pace.fallback_fee_rate)
                    .map_err(publish::PublishError::from)
                    .and_then(|target| publish::publish(&self.chain, &wallet, &publication, target))
                    .map_err(Into::into)
            }
            OnChain::Spread(spreading) => {
                let save = |write| self.books.write_blocking(vec![write]);
                let followed = || self.books.followed_blocking();
                spread::publish(&self.chain, &mut wallet, save, &spreading, followed).map_err(Into::into)
            }
            OnChain::Release(txid) => {
                wallet.release(txid);
                wallet.save(|write| self.books.write_blocking(vec![write])).map_err(Into::into)
            }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "not done on chain; trying again with the next block");
        }
    }
}

fn is_commitment(channel: &Channel, funding: &Funding) -> bool {
    let Funding::Spent { by, .. } = funding else { return false };
    channel.spend_kind(by) == Some(SpendKind::Commitment)
}
