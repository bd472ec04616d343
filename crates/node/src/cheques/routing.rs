//! From channel to channel: what one machine wants done in another.
//!
//! ```text
//!   holder: Lock ───────▶ drawer: Promise          (refused: holder: Unlocked)
//!   drawer: Report ─────▶ holder: Learned, Unlocked ──▶ drawer: Noted
//!   drawer: Report ─────▶ receipt stored ─────────────▶ drawer: Noted      (a writer's)
//!   drawer: Report ─────▶ purchase: Paid, Ended ──────▶ drawer: Noted      (a payer's, the other way round)
//! ```
//!
//! Each step is stored before the next, and both machines repeat what they want until the other has it. So a crash between
//! two steps costs nothing: `resume`, and [`Router::tend`] in a program that runs on, ask again.
//!
//! **What could go wrong** is a wish that is carried out late: a lock made once more after it had ended, while the promise
//! behind it was given back. So the steps about one lock take turns, and a lock is made only while the holder says so.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use farthing_protocol::ChannelId;
use farthing_protocol::cheque::drawn::{self, Kind, Outcome};
use farthing_protocol::cheque::held::{self, Conditions, Onward};
use farthing_protocol::cheque::holder::Holder;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::promises::Promise;
use farthing_protocol::cheque::side::{Effect, Reject, Side};
use farthing_protocol::cheque::{drawer, holder};
use farthing_protocol::keys::ChequeKeys;

use super::machine::{ChequeChannel, drawn, held};
use super::paper::{Drawer, Fate, Paper};
use crate::books::{Books, OrderError};
use crate::machine::Machine as _;
use crate::store::{Store, StoreError, Write};

/// Locks of different channels seldom wait for each other.
const STRIPES: usize = 64;

type Failed = OrderError<Reject>;

/// Carries out what machines want of each other.
pub(super) struct Router {
    pub(super) books: Arc<Books<ChequeChannel>>,
    /// A second way to the database, to read cheques by.
    pub(super) reader: Mutex<Store>,
    /// A payer's identity, to go on with what it has bought.
    pub(super) keys: ChequeKeys,
    places: Mutex<Places>,
    turns: Vec<Mutex<()>>,
    papers: Mutex<()>,
}

#[derive(Default)]
struct Places {
    /// The channels that hold a promise under a point: whoever knows a point may promise something under it.
    held: HashMap<AdaptorPoint, Vec<ChannelId>>,
    /// The same by channel: what its newest update promises. Whoever sends updates fills no memory.
    of: HashMap<ChannelId, Vec<AdaptorPoint>>,
    /// The channel whose promise a lock depends on.
    behind: HashMap<(ChannelId, AdaptorPoint), ChannelId>,
}

impl Places {
    /// A channel holds these promises, and no others.
    fn hold(&mut self, id: ChannelId, points: Vec<AdaptorPoint>) {
        let before = self.of.insert(id, points.clone()).unwrap_or_default();
        for point in before.iter().filter(|point| !points.contains(point)) {
            if let Some(holders) = self.held.get_mut(point) {
                holders.retain(|holder| *holder != id);
                if holders.is_empty() {
                    self.held.remove(point);
                }
            }
        }
        for point in points.into_iter().filter(|point| !before.contains(point)) {
            self.held.entry(point).or_default().push(id);
        }
    }

    /// Only these channels are there: nothing is held in others.
    fn keep(&mut self, there: &HashSet<ChannelId>) {
        let gone: Vec<ChannelId> = self.of.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            self.hold(id, Vec::new());
            self.of.remove(&id);
        }
    }

    /// Whether no other channel waits for that lock: both would be paid for with one secret, and only one of them is told of it.
    fn may_wait(&self, id: ChannelId, lock: (ChannelId, AdaptorPoint)) -> bool {
        self.behind.get(&lock).is_none_or(|waits| *waits == id)
    }

    fn waits_no_more(&mut self, id: ChannelId, lock: (ChannelId, AdaptorPoint)) {
        if self.behind.get(&lock) == Some(&id) {
            self.behind.remove(&lock);
        }
    }
}

/// What came of effects, for whoever caused them.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The number of an update that counts.
    pub(super) taken: Option<u64>,
    /// Why a lock was not made.
    pub(super) refused: Option<Reject>,
}

impl Router {
    pub(super) fn new(books: Arc<Books<ChequeChannel>>, reader: Store, keys: ChequeKeys) -> Self {
        let turns = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self {
            books,
            reader: Mutex::new(reader),
            keys,
            places: Mutex::default(),
            turns,
            papers: Mutex::default(),
        }
    }

    /// Takes note of what a stored channel holds and waits for.
    pub(super) fn place(&self, id: ChannelId, state: &Side) {
        let Some(holder) = state.holder() else { return };
        let mut places = self.places();
        places.hold(id, points_of(holder));
        for (promise, _) in holder.held().promises() {
            if let Some(onward) = holder.held().onward(&promise.point) {
                places.behind.insert((onward.channel, onward.point), id);
            }
        }
    }

    /// Stores that a holder wants a lock, unless another channel waits for the same.
    pub(super) fn want(
        &self,
        id: ChannelId,
        onward: Onward,
        conditions: Conditions,
    ) -> Result<Vec<Effect>, Failed> {
        let _turn = self.turn(onward.channel);
        let lock = (onward.channel, onward.point);
        if !self.places().may_wait(id, lock) {
            let taken = held::Reject::LockTaken(onward.point);
            return Err(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(taken))));
        }
        let outcome = self.books.handle_blocking(id, held(held::Input::Lock(onward, conditions)))?;
        self.places().behind.insert(lock, id);
        Ok(outcome.effects)
    }

    /// Takes note of what a channel holds, after an update of it was taken. Two updates may be taken at the same time, so it is what is
    /// stored by now, and nobody else takes note of it meanwhile.
    pub(super) fn hold(&self, id: ChannelId) -> Result<(), Failed> {
        let _turn = self.turn(id);
        let state = self.books.state_blocking(id)?;
        if let Some(holder) = state.as_ref().and_then(Side::holder) {
            self.places().hold(id, points_of(holder));
        }
        Ok(())
    }

    /// Which channels hold a promise under that point, the first one first.
    pub(super) fn holders_of(&self, point: &AdaptorPoint) -> Vec<ChannelId> {
        self.places().held.get(point).cloned().unwrap_or_default()
    }

    /// Carries out a channel's effects, as far as they are about promises.
    pub(super) fn route(&self, id: ChannelId, effects: impl IntoIterator<Item = Effect>) -> Done {
        let mut done = Done::default();
        for effect in effects {
            match effect {
                Effect::Holder(holder::Effect::Promises(effect)) => match effect {
                    held::Effect::Taken(number) => done.taken = Some(number),
                    held::Effect::Lock(onward) => self.lock(id, &onward, &mut done),
                    // The state has it for whoever asks.
                    held::Effect::HandOver(_) | held::Effect::Authorise(_) | held::Effect::GiveUp(..) => {}
                },
                Effect::Drawer(drawer::Effect::Promises(effect)) => match effect {
                    drawn::Effect::Send(_) => {}
                    drawn::Effect::Report(outcome) => self.report(id, outcome),
                },
                Effect::Holder(holder::Effect::Channel(_)) | Effect::Drawer(drawer::Effect::Channel(_)) => {}
            }
        }
        done
    }

    /// Asks again for what may not have been done, in every channel, and forgets what was held in channels that are not there any more.
    pub(super) fn tend(&self) -> Result<(), Failed> {
        let entries = {
            // Whatever comes to be held meanwhile is noted after this.
            let mut places = self.places();
            let entries = self.books.present_blocking()?;
            places.keep(&entries.iter().map(|entry| entry.id).collect());
            entries
        };
        for entry in entries {
            let Some(setup) = self.books.setup(&entry.id) else { continue };
            self.route(entry.id, ChequeChannel::resume(&entry.state, &setup));
        }
        Ok(())
    }

    /// Makes the lock that a holder wants, in another channel.
    fn lock(&self, id: ChannelId, onward: &Onward, done: &mut Done) {
        let _turn = self.turn(onward.channel);
        match self.is_wanted(id, onward) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return put_off(&error),
        }
        let promise = Promise { amount: onward.amount, point: onward.point };
        match self.books.handle_blocking(onward.channel, drawn(drawn::Input::Promise(promise))) {
            Ok(_sent) => {}
            // Paid already, and its outcome is on the way. Or it was paid long ago, for something else.
            Err(OrderError::Rejected(
                reject @ Reject::Drawer(drawer::Reject::Promises(drawn::Reject::PointUsed)),
            )) => match self.may_yet_pay(onward.channel, &onward.point) {
                Ok(true) => {}
                Ok(false) => {
                    self.unlock(id, onward);
                    done.refused = Some(reject);
                }
                Err(error) => put_off(&error),
            },
            // A channel that is closing takes no promise; one that it made before may still be paid, or was, and its outcome is
            // on the way.
            Err(OrderError::Rejected(reject @ Reject::Drawer(drawer::Reject::Channel(_)))) => {
                match self.may_yet_pay(onward.channel, &onward.point) {
                    Ok(true) => {}
                    Ok(false) => self.unlock(id, onward),
                    Err(error) => put_off(&error),
                }
                done.refused = Some(reject);
            }
            // It was not made, and never will be.
            Err(OrderError::Rejected(reject)) => {
                self.unlock(id, onward);
                done.refused = Some(reject);
            }
            Err(error @ OrderError::NoChannel(_)) => {
                self.unlock(id, onward);
                put_off(&error);
            }
            Err(
                error @ (OrderError::FundingTaken(_)
                | OrderError::Store(_)
                | OrderError::Blind(_)
                | OrderError::Ended),
            ) => put_off(&error),
        }
    }

    fn unlock(&self, id: ChannelId, onward: &Onward) {
        let unlocked = held(held::Input::Unlocked(onward.point));
        match self.books.handle_blocking(id, unlocked) {
            Ok(_) => self.places().waits_no_more(id, (onward.channel, onward.point)),
            Err(error) => put_off(&error),
        }
    }

    /// Whether a channel's lock under that point is not over, or there is something to report of it.
    fn may_yet_pay(&self, id: ChannelId, point: &AdaptorPoint) -> Result<bool, Failed> {
        let state = self.books.state_blocking(id)?;
        Ok(state.as_ref().and_then(Side::drawer).is_some_and(|drawer| drawer.drawn().is_pending(point)))
    }

    /// Whether the holder still waits for this lock.
    fn is_wanted(&self, id: ChannelId, onward: &Onward) -> Result<bool, Failed> {
        let state = self.books.state_blocking(id)?;
        Ok(state.as_ref().and_then(Side::holder).and_then(|holder| holder.held().onward(&onward.held))
            == Some(onward))
    }

    /// Tells whoever waits what became of a promise, and then that it was told.
    fn report(&self, id: ChannelId, outcome: Outcome) {
        let _turn = self.turn(id);
        let told = match self.books.state_blocking(id) {
            Ok(Some(Side::Drawer(drawer))) => match drawer.drawn().kind() {
                Kind::Cheques => self.keep(&outcome),
                Kind::Lock => self.tell_behind(id, &outcome),
                Kind::Purchase => self.keep_bought(id, &outcome),
            },
            Ok(Some(Side::Holder(_)) | None) => return,
            Err(error) => Err(error),
        };
        let noted =
            told.and_then(|()| self.books.handle_blocking(id, drawn(drawn::Input::Noted(outcome))).map(drop));
        noted.unwrap_or_else(|error| put_off(&error));
    }

    /// To the channel whose promise the lock depends on.
    fn tell_behind(&self, id: ChannelId, outcome: &Outcome) -> Result<(), Failed> {
        let (point, input) = match outcome {
            Outcome::Paid(secret) => (secret.point(), held::Input::Learned(secret.clone())),
            Outcome::Ended(point) => (*point, held::Input::Unlocked(*point)),
            // A channel has one lock, so no two are paid at once.
            Outcome::PaidJointly(points, _) => {
                tracing::error!(channel = %id, count = points.len(), "several locks were paid at once");
                return Ok(());
            }
        };
        let Some(behind) = self.places().behind.get(&(id, point)).copied() else { return Ok(()) };
        match self.books.handle_blocking(behind, held(input)) {
            // What it learnt it had learnt before.
            Ok(_)
            | Err(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(held::Reject::Unknown)))) => {
                self.places().waits_no_more(behind, (id, point));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A writer's: the receipt is stored with the cheque.
    pub(super) fn keep(&self, outcome: &Outcome) -> Result<(), Failed> {
        let points = match outcome {
            Outcome::Paid(secret) => vec![secret.point()],
            Outcome::PaidJointly(points, _) => points.clone(),
            Outcome::Ended(point) => vec![*point],
        };
        let _one_at_a_time = self.one_at_a_time();
        let mut writes = Vec::new();
        for point in points {
            let issued = self.issued(&point).map_err(|error| OrderError::Store(Arc::new(error)))?;
            let has_receipt = |fate: &Fate| matches!(fate, Fate::Paid(_) | Fate::PaidAllTheSame(..));
            let Some(mut issued) = issued.filter(|issued| !has_receipt(&issued.fate)) else { continue };
            // With a payment that breaks it, the agent's word is half of the proof.
            let word = issued.fate.word().cloned();
            let fate = match (outcome, word) {
                (Outcome::Paid(secret), word) => issued.written.receipt(secret).map(|receipt| match word {
                    Some(word) => Fate::PaidAllTheSame(receipt, word),
                    None => Fate::Paid(receipt),
                }),
                (Outcome::PaidJointly(points, secret), Some(word)) => {
                    Some(Fate::PaidJointlyAllTheSame(points.clone(), secret.clone(), word))
                }
                (Outcome::PaidJointly(points, secret), None) => {
                    Some(Fate::PaidJointly(points.clone(), secret.clone()))
                }
                (Outcome::Ended(_), _) => Some(Fate::Ended),
            };
            if let Some(fate) = fate {
                issued.fate = fate;
                writes.push(Write::Cheque(Box::new(Paper::Written(issued))));
            }
        }
        if writes.is_empty() { Ok(()) } else { self.books.write_blocking(writes) }
    }

    /// The cheque that was written under that point.
    pub(super) fn issued(&self, point: &AdaptorPoint) -> Result<Option<super::paper::Issued>, StoreError> {
        Ok(self.paper(Drawer::Written, &point.to_bytes())?.and_then(|paper| match paper {
            Paper::Written(issued) => Some(issued),
            Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => None,
        }))
    }

    /// The cheque that was got under that point.
    pub(super) fn presented(
        &self,
        point: &AdaptorPoint,
    ) -> Result<Option<super::paper::Presented>, StoreError> {
        Ok(self.paper(Drawer::Got, &point.to_bytes())?.and_then(|paper| match paper {
            Paper::Got(presented) => Some(presented),
            Paper::Written(_) | Paper::Bought(_) | Paper::Sold(_) => None,
        }))
    }

    /// Whatever lies under that key in that drawer.
    pub(super) fn paper(&self, drawer: Drawer, key: &[u8]) -> Result<Option<Paper>, StoreError> {
        self.reader.lock().expect("no holder of this lock panics").paper(drawer, key)
    }

    /// Held between reading a paper and writing it: nothing may become of a cheque or a purchase meanwhile. A turn is never waited for
    /// while it is held.
    pub(super) fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.papers.lock().expect("no holder of this lock panics")
    }

    /// Held while something about the locks of a channel is going on.
    fn turn(&self, id: ChannelId) -> MutexGuard<'_, ()> {
        let stripe = usize::from(id.as_bytes()[0]) % STRIPES;
        self.turns[stripe].lock().expect("no holder of this lock panics")
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no holder of this lock panics")
    }
}

fn points_of(holder: &Holder) -> Vec<AdaptorPoint> {
    holder.held().promises().map(|(promise, _)| promise.point).collect()
}

fn put_off(error: &Failed) {
    tracing::warn!(%error, "not done between two channels; trying again later");
}

#[cfg(test)]
mod tests {
    use farthing_protocol::cheque::point::AdaptorSecret;

    use super::*;

    #[test]
    fn what_a_channel_held_is_forgotten_with_it() {
        let channel = |byte| ChannelId::from_bytes([byte; 32]);
        let point = |byte| AdaptorSecret::from_bytes(&[byte; 32]).unwrap().point();
        let mut places = Places::default();
        places.hold(channel(1), vec![point(1), point(2)]);
        places.hold(channel(2), vec![point(2)]);
        places.keep(&HashSet::from([channel(1), channel(2), channel(3)]));
        assert_eq!(places.held[&point(2)], [channel(1), channel(2)]);
        places.keep(&HashSet::from([channel(2)]));
        assert_eq!((places.held.len(), places.of.len()), (1, 1));
        assert_eq!(places.held[&point(2)], [channel(2)]);
    }

    #[test]
    fn two_channels_do_not_wait_for_one_lock() {
        let channel = |byte| ChannelId::from_bytes([byte; 32]);
        let secret = AdaptorSecret::from_bytes(&[5; 32]).unwrap();
        let (lock, other) = ((channel(9), secret.point()), (channel(8), secret.point()));
        let mut places = Places::default();
        assert!(places.may_wait(channel(1), lock));
        places.behind.insert(lock, channel(1));
        assert!(places.may_wait(channel(1), lock), "the same wish again");
        assert!(!places.may_wait(channel(2), lock));
        assert!(places.may_wait(channel(2), other));
        places.waits_no_more(channel(2), lock);
        assert!(!places.may_wait(channel(2), lock), "the first still waits");
        places.waits_no_more(channel(1), lock);
        assert!(places.may_wait(channel(2), lock));
    }
}
