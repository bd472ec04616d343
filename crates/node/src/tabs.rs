//! The tabs of payers that pay for calls, in memory: admitting a call takes no disk and no other thread.
//!
//! A call is admitted against the tab in memory, runs, and ends there. Its answer is released when the tab that has it as
//! served is stored ([`Durability::Call`]), or at once, and the tab is stored a little later ([`Durability::Batch`]). The
//! books draw the newest tab before every decision on a channel, so a close always settles what was served.
//!
//! What a crash can cost the payee: nothing with [`Durability::Call`]; with [`Durability::Batch`], what was served within
//! the interval. The payer pays for nothing twice in either: each start begins an epoch that is stored first, and older
//! epochs serve nothing new.

mod announcing;
mod asked;
mod ending;
mod resident;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use farthing_protocol::lightspeed::call::{MacKey, Target};
use farthing_protocol::lightspeed::tab::Refused;
use farthing_protocol::lightspeed::{Call, CallNumber, Ladder, Tab};
use farthing_protocol::payee::{self, Input, Reject};
use farthing_protocol::session::{CallKey, NotAuthentic};
use farthing_protocol::{ChannelId, Msat};
use tokio::sync::{Notify, oneshot};

use crate::books::{Books, Calls, Desk, Drawn, FoldReply, OrderError};
use crate::by_channel::ByChannel;
use crate::machine::Payee;
pub use crate::tabs::announcing::{AnnounceError, Announced};
use crate::tabs::asked::Asked;
use crate::tabs::ending::Storing;
pub use crate::tabs::ending::{Admission, Ended};
use crate::tabs::resident::{Resident, Share};

/// When a served call is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before its answer leaves.
    Call,
    /// After at most that long.
    Batch(Duration),
}

/// Why a call is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No channel here pays for calls under that name.
    #[error("channel {0} is not known here, or pays for no calls")]
    Unknown(ChannelId),
    /// The MAC does not fit the request.
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    /// Not paid for, or served before.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The channel is being closed.
    #[error("the channel is being closed and serves no more calls")]
    Closing,
    /// The books.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
}

/// Where a payer stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// What served calls cost.
    pub spent: Msat,
    /// What is paid.
    pub paid: Msat,
    /// What would be lost if the payer vanished now.
    pub uncovered: Msat,
    /// The most that could be.
    pub exposure: Msat,
}

/// One channel's tab in memory.
struct Session {
    mac: MacKey,
    live: Mutex<Live>,
    /// Held while a chain is taken: of two under one number, only one may ever be stored. How many were taken for looking
    /// at and had a signature that does not fit.
    announcing: tokio::sync::Mutex<u8>,
    /// Told whenever a call ends.
    ended: Notify,
    /// When it was last used: so many tabs had been taken from the books by then.
    used: AtomicU64,
}

struct Live {
    tab: Tab,
    ladders: Vec<Ladder>,
    cap: Option<Msat>,
    /// How many want the channel to be closed: no call is admitted then.
    draining: u32,
    /// The tab is newer than what was drawn last.
    dirty: bool,
    /// It was drawn, and is not in the books yet: who takes the tab from them has an older one.
    storing: bool,
    /// It is on the list of what the books are to draw.
    asked: bool,
    waiting: Vec<FoldReply<Payee>>,
    /// The channel takes no account any more: what still runs is in nothing that was settled.
    is_closed: bool,
    /// What all of this takes of the memory that tabs may take.
    share: Share,
}

impl Live {
    /// Admits an authentic call.
    fn admit(&mut self, call: &Call) -> Result<(), CallError> {
        // What was served before still has its answer.
        if self.is_draining() {
            self.tab.refuse(call.number)?;
            return Err(CallError::Closing);
        }
        let admitted = self.tab.admit(&self.ladders, call, self.cap);
        let chain = self.tab.newest_word().map_or(0, |(chain, ..)| chain);
        if self.ladders.first().is_some_and(|ladder| ladder.terms().number < chain) {
            self.ladders.retain(|ladder| ladder.terms().number >= chain);
            self.weigh();
        }
        Ok(admitted?)
    }

    fn is_draining(&self) -> bool {
        self.is_closed || self.draining > 0
    }

    /// Somebody waits until the tab as it is now is stored.
    fn wait(&mut self) -> oneshot::Receiver<Result<(), OrderError<Reject>>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.push(reply);
        self.dirty = true;
        answer
    }
}

/// A channel that admits no calls, for a close that follows. Dropped, it admits them again, unless it is closed by then.
pub struct Drained {
    /// `None` where the tab was not in memory, so nothing was held up.
    session: Option<Arc<Session>>,
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            let mut live = session.live();
            live.draining = live.draining.saturating_sub(1);
        }
    }
}

impl Session {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("no holder of this lock panics")
    }
}

/// All tabs of a seller.
pub struct Tabs {
    sessions: RwLock<ByChannel<Arc<Session>>>,
    epoch: u32,
    durability: Durability,
    /// How many tabs were taken from the books.
    loads: AtomicU64,
    /// How many have left the memory. Changes with `sessions` locked.
    left: AtomicU64,
    /// How many calls run.
    running: AtomicUsize,
    resident: Resident,
    asked: Mutex<Asked>,
    /// The books are closed. Changes with `sessions` locked.
    has_ended: AtomicBool,
}

impl Tabs {
    /// No tabs yet: they are taken from the books when their payers call. Above `most_resident` bytes, those that were not
    /// used for the longest time leave the memory again.
    pub fn new(epoch: u32, durability: Durability, most_resident: usize) -> Self {
        let (sessions, loads, left) = (RwLock::default(), AtomicU64::default(), AtomicU64::default());
        let (resident, asked) = (Resident::new(most_resident), Mutex::default());
        let (running, has_ended) = (AtomicUsize::default(), AtomicBool::default());
        Self { sessions, epoch, durability, loads, left, running, resident, asked, has_ended }
    }

    /// The epoch that serves calls.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Admits a call if its session is in memory. No disk, no other thread.
    ///
    /// # Errors
    /// When it is not to be served; [`CallError::Unknown`] also when the tab was not taken from the books yet.
    pub fn admit(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<Admission, CallError> {
        let session = self.session(call.channel).ok_or(CallError::Unknown(call.channel))?;
        session.mac.verify(call, target, mac)?;
        let mut live = session.live();
        let admitted = live.admit(call);
        self.changed(&mut live, call.channel);
        drop(live);
        admitted?;
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { session, channel: call.channel, number: call.number })
    }

    /// Refuses an authentic call before it is admitted. It is free for good.
    ///
    /// # Errors
    /// When it is not authentic, there is no such channel, or its number is not new: it may have been served.
    pub fn refuse(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<(), CallError> {
        let session = self.session(call.channel).ok_or(CallError::Unknown(call.channel))?;
        session.mac.verify(call, target, mac)?;
        let mut live = session.live();
        live.tab.refuse(call.number)?;
        // How far the numbers have come is stored, so that none of these is served after it has left the memory.
        self.changed(&mut live, call.channel);
        Ok(())
    }

    /// What is spent, for a payer that has lost track: no call up to `last` is served after this. `None` while calls run.
    ///
    /// # Errors
    /// When the channel pays for no calls.
    pub fn reconcile(&self, channel: ChannelId, last: CallNumber) -> Result<Option<Msat>, CallError> {
        let session = self.session(channel).ok_or(CallError::Unknown(channel))?;
        let mut live = session.live();
        let spent = live.tab.reconcile(last);
        // How far the numbers have come is stored, so that none of these is served after it has left the memory.
        self.changed(&mut live, channel);
        Ok(spent)
    }

    /// How many outputs the present batch of a channel has: none without a batch. `None` when its tab is not in memory.
    pub fn outputs(&self, channel: ChannelId) -> Option<u32> {
        let session = self.session(channel)?;
        let live = session.live();
        Some(live.tab.batch().map_or(0, |batch| batch.terms().terms.outputs))
    }

    /// What a served call was charged; `None` when it was all that it stated.
    pub fn other_cost(&self, channel: ChannelId, number: CallNumber) -> Option<Msat> {
        self.session(channel)?.live().tab.numbers().other_cost(number)
    }

    /// Ends a call: served for `charged`, or failed and free. Whoever draws the tab from now on also learns that somebody
    /// waits for this call, so no close can settle it and leave its answer behind.
    pub fn end(&self, admission: Admission, charged: Option<Msat>) -> Ended {
        let Admission { session, channel, number } = admission;
        self.running.fetch_sub(1, Ordering::Relaxed);
        let mut live = session.live();
        if live.is_closed {
            return Ended { charged: Msat::ZERO, storing: Storing::Gone(channel), asks: false };
        }
        self.changed(&mut live, channel);
        let was_served = charged.is_some();
        let charged = live.tab.end(number, charged);
        live.weigh();
        if live.is_draining() {
            session.ended.notify_waiters();
        }
        match self.durability {
            Durability::Call if was_served => {
                let (answer, asks) = (live.wait(), self.ask(&mut live, channel));
                Ended { charged, storing: Storing::Waits(answer), asks }
            }
            Durability::Call | Durability::Batch(_) => Ended { charged, storing: Storing::Done, asks: false },
        }
    }

    /// Charges a running call for what it has answered so far. It is stored with the next call that ends.
    pub fn charge_so_far(&self, channel: ChannelId, number: CallNumber, so_far: Msat) {
        if let Some(session) = self.session(channel) {
            let mut live = session.live();
            live.tab.settle(number, so_far);
            live.weigh();
            self.changed(&mut live, channel);
        }
    }

    /// Sets more aside for a call that runs.
    ///
    /// # Errors
    /// When the words do not cover it.
    pub fn top_up(&self, channel: ChannelId, number: CallNumber, by: Msat) -> Result<Msat, CallError> {
        let session = self.session(channel).ok_or(CallError::Unknown(channel))?;
        let mut live = session.live();
        let cap = live.cap;
        Ok(live.tab.top_up(number, by, cap)?)
    }

    /// Waits until everything that ended so far is stored; with [`Durability::Batch`] it only sees to it that it soon is.
    ///
    /// # Errors
    /// When it could not be stored, or the channel is closed. Then the answer must not leave.
    pub async fn stored(&self, books: &Books<Payee>, channel: ChannelId) -> Result<(), OrderError<Reject>> {
        match self.durability {
            Durability::Call => self.store_now(books, channel).await,
            Durability::Batch(_) => Ok(()),
        }
    }

    async fn store_now(&self, books: &Books<Payee>, channel: ChannelId) -> Result<(), OrderError<Reject>> {
        let session = self.session(channel).ok_or(OrderError::NoChannel(channel))?;
        let (answer, asks) = {
            let mut live = session.live();
            if live.is_closed {
                return Err(OrderError::NoChannel(channel));
            }
            (live.wait(), self.ask(&mut live, channel))
        };
        if asks {
            books.fold();
        }
        answer.await.unwrap_or(Err(OrderError::Ended))
    }

    /// Takes a channel's tab from the books, if it is not in memory yet. Whether there is one.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub async fn load(&self, books: &Books<Payee>, channel: ChannelId) -> Result<bool, OrderError<Reject>> {
        if self.session(channel).is_some() {
            return Ok(true);
        }
        // Who names a channel that is not there must not keep the books busy.
        let Some(setup) = books.setup(&channel) else { return Ok(false) };
        loop {
            let left = self.left();
            let Some((state, ladders)) = books.ladders(channel).await? else { return Ok(false) };
            let Some(tab) = state.tab() else { return Ok(false) };
            if self.insert(channel, &setup, (tab.clone(), ladders, state.cap(&setup)), left) {
                self.make_room(books);
                return Ok(true);
            }
        }
    }

    /// Puts a tab into memory that was taken from the books when so many had `left` it. Whether it may: of those that have left since, one
    /// may have been this channel's and newer.
    fn insert(
        &self,
        channel: ChannelId,
        setup: &payee::Setup,
        (mut tab, mut ladders, cap): (Tab, Vec<Ladder>, Option<Msat>),
        left: u64,
    ) -> bool {
        ladders.shrink_to_fit();
        let key = CallKey::agree(&setup.keys, &setup.channel.params().payer.session, channel);
        tab.begin(self.epoch);
        let (waiting, share) = (Vec::new(), self.resident.share());
        let mut live = Live {
            tab,
            ladders,
            cap,
            draining: 0,
            dirty: false,
            storing: false,
            asked: false,
            waiting,
            is_closed: false,
            share,
        };
        live.weigh();
        let used = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        let session = Session {
            mac: MacKey::new(&key),
            live: Mutex::new(live),
            announcing: tokio::sync::Mutex::default(),
            ended: Notify::new(),
            used: AtomicU64::new(used),
        };
        let mut sessions = self.sessions.write().expect("no holder of this lock panics");
        if self.left() != left {
            return false;
        }
        if !self.has_ended.load(Ordering::Relaxed) {
            sessions.entry(channel).or_insert_with(|| Arc::new(session));
        }
        true
    }

    /// Admits no more calls in a channel and waits until those that run have ended, at most for `patience`. `None` when they
    /// have not; then calls are admitted again.
    pub async fn drain(&self, channel: ChannelId, patience: Duration) -> Option<Drained> {
        let Some(session) = self.session(channel) else { return Some(Drained { session: None }) };
        session.live().draining += 1;
        let guard = Drained { session: Some(session.clone()) };
        let drained = async {
            loop {
                let ended = session.ended.notified();
                if session.live().tab.numbers().running() == 0 {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(patience, drained).await.is_ok().then_some(guard)
    }

    /// Where a payer stands.
    pub fn standing(&self, channel: ChannelId, setup: &payee::Setup) -> Option<Standing> {
        let session = self.session(channel)?;
        let live = session.live();
        Some(Standing {
            spent: live.tab.spent(),
            paid: live.tab.paid(),
            uncovered: live.tab.uncovered(&setup.channel),
            exposure: live.tab.exposure(&setup.channel),
        })
    }

    /// Admits nothing in a channel any more.
    fn close(&self, channel: ChannelId) {
        let gone = self.sessions.write().expect("no holder of this lock panics").remove(&channel);
        if let Some(session) = gone {
            let mut live = session.live();
            live.is_closed = true;
            // Their calls are not in what was settled.
            live.waiting.drain(..).for_each(|reply| drop(reply.send(Err(OrderError::NoChannel(channel)))));
        }
    }

    fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    fn session(&self, channel: ChannelId) -> Option<Arc<Session>> {
        let session = self.sessions.read().expect("no holder of this lock panics").get(&channel).cloned()?;
        session.used.store(self.loads.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(session)
    }
}

impl Desk<Payee> for Tabs {
    fn asked(&self, most: usize) -> (Vec<ChannelId>, bool) {
        self.draw_list(most)
    }

    fn calls(&self) -> Calls {
        Calls { running: self.running.load(Ordering::Relaxed), waiting: self.waiting() }
    }

    fn draw(&self, id: ChannelId) -> Option<Drawn<Payee>> {
        let session = self.session(id)?;
        let mut live = session.live();
        live.asked = false;
        if !std::mem::replace(&mut live.dirty, false) {
            return None;
        }
        live.storing = true;
        let waiting = std::mem::take(&mut live.waiting);
        Some(Drawn { input: Input::Fold(Box::new(live.tab.clone())), waiting })
    }

    fn not_stored(&self, id: ChannelId) {
        if let Some(session) = self.session(id) {
            let mut live = session.live();
            live.storing = false;
            self.changed(&mut live, id);
        }
    }

    fn not_taken(&self, id: ChannelId) {
        // It was taken from the books while the channel closed: whatever it admits is in nothing that is settled.
        self.close(id);
    }

    fn turned(&self, id: ChannelId, state: &payee::State, setup: &payee::Setup) {
        match state.is_open() {
            // Also while the first chain of a channel is being verified, before its tab is stored.
            true => {
                if let Some(session) = self.session(id) {
                    let mut live = session.live();
                    live.storing = false;
                    live.cap = state.cap(setup);
                }
            }
            // Closing or closed: nothing is admitted any more.
            false => self.close(id),
        }
    }

    fn ended(&self) {
        let mut sessions = self.sessions.write().expect("no holder of this lock panics");
        self.has_ended.store(true, Ordering::Relaxed);
        for (_, session) in sessions.drain() {
            let mut live = session.live();
            live.is_closed = true;
            // Each learns it from its answer, which does not come.
            live.waiting.clear();
        }
    }
}
