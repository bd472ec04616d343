//! How much memory tabs may take: those that were not used for the longest time make room for others.
//!
//! A tab that leaves the memory is stored, and comes back with its payer's next call. What is never stored is which numbers
//! were refused, so when it comes back no number that was seen is served any more: a call on its way at that moment is
//! refused, free, and sent again under another number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use farthing_protocol::lightspeed::{CallNumber, Rung};
use farthing_protocol::{ChannelId, Msat};

use super::{Live, Tabs};
use crate::books::Books;
use crate::machine::Payee;

/// What a session without its chains takes, in bytes, its part of the maps and of the books included.
const SESSION: usize = 5 * 1024;
/// What an output of a batch takes: a signature and whether its preimage is known.
const OUTPUT: usize = 128;
/// What a call takes that cost something else than it stated: its number and cost, twice since the list has room to grow.
const OTHER_COST: usize = 2 * size_of::<(CallNumber, Msat)>();

/// What all tabs take.
#[derive(Debug)]
pub(super) struct Resident {
    most: usize,
    bytes: Arc<AtomicUsize>,
}

impl Resident {
    pub(super) fn new(most: usize) -> Self {
        Self { most, bytes: Arc::default() }
    }

    /// The share of a tab that takes nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { all: self.bytes.clone(), own: 0 }
    }

    fn excess(&self, part: usize) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.most / 4 * part
    }
}

/// What one tab takes. Dropped, it takes nothing any more.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Share {
    fn set(&mut self, own: usize) {
        if own == self.own {
            return; // after most calls: what all tabs share is not touched
        }
        self.all.fetch_add(own, Ordering::Relaxed);
        self.all.fetch_sub(std::mem::replace(&mut self.own, own), Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Live {
    /// Takes note of how much memory this takes, whenever chains or batches come and go and when a call has ended.
    pub(super) fn weigh(&mut self) {
        let rungs: usize = self.ladders.iter().map(|ladder| ladder.terms().shape.rungs as usize).sum();
        let outputs = self.tab.batch().map_or(0, |batch| batch.terms().terms.outputs as usize);
        let costs = self.tab.numbers().other_costs() * OTHER_COST;
        self.share.set(SESSION + rungs * size_of::<Rung>() + outputs * OUTPUT + costs);
    }

    /// Whether the stored tab is all there is to know.
    fn is_at_rest(&self) -> bool {
        !self.dirty
            && !self.storing
            && !self.asked
            && !self.is_draining()
            && self.waiting.is_empty()
            && self.tab.numbers().running() == 0
    }
}

impl Tabs {
    /// How many bytes all tabs take in memory, about.
    pub fn resident(&self) -> usize {
        self.resident.bytes.load(Ordering::Relaxed)
    }

    /// Lets tabs go that were not used for the longest time, where all of them take too much. One that is newer than what is
    /// stored is stored first, and goes another time; one with calls that run stays.
    pub(super) fn make_room(&self, books: &Books<Payee>) {
        if !self.resident.excess(4) {
            return;
        }
        let mut tells = false;
        let mut sessions = self.sessions.write().expect("no holder of this lock panics");
        let mut oldest: Vec<(u64, ChannelId)> =
            sessions.iter().map(|(id, session)| (session.used.load(Ordering::Relaxed), *id)).collect();
        oldest.sort_unstable_by_key(|(used, _)| *used);
        for (_, id) in oldest {
            if !self.resident.excess(3) {
                break;
            }
            // Nobody else can hold it, or get hold of it, while this holds the map.
            let Some(session) = sessions.get(&id).filter(|session| Arc::strong_count(session) == 1) else {
                continue;
            };
            if session.live().is_at_rest() {
                sessions.remove(&id);
                self.left.fetch_add(1, Ordering::Release);
                continue;
            }
            let mut live = session.live();
            if live.dirty {
                tells |= self.ask(&mut live, id);
            }
        }
        drop(sessions);
        if tells {
            books.fold();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farthing_protocol::lightspeed::Tab;

    use super::*;
    use crate::books::tests::{Story, payment, setup};
    use crate::books::{Desk as _, Drawn};
    use crate::tabs::Durability;

    /// Whoever took it from the books meanwhile would have it as it was before, and serve its last calls again.
    #[test]
    fn a_tab_stays_in_memory_until_the_books_have_what_they_drew() {
        let story = Story::begin();
        let id = story.opens(1).unwrap();
        let state = story.books().list_blocking().unwrap().pop().unwrap().state;
        let (_, setup) = setup(1);
        let tabs = Tabs::new(1, Durability::Call, 0);
        let taken = || (Tab::new(payment(1), Msat::ZERO), Vec::new(), None);
        assert!(tabs.insert(id, &setup, taken(), 0));
        let stays = || {
            tabs.make_room(story.books());
            tabs.sessions.read().unwrap().contains_key(&id)
        };
        let draw = || {
            let session = tabs.session(id).unwrap();
            tabs.changed(&mut session.live(), id);
            drop(session);
            let Drawn { waiting, .. } = tabs.draw(id).expect("it is newer");
            assert!(waiting.is_empty());
        };
        draw();
        assert!(stays(), "it is not stored yet");
        tabs.not_stored(id);
        assert!(stays(), "it never was");
        draw();
        tabs.turned(id, &state, &setup);
        assert!(!stays());
        // Who took it from the books before it left may have it as it was before.
        assert!(!tabs.insert(id, &setup, taken(), 0) && !stays());
        assert!(tabs.insert(id, &setup, taken(), 1));
    }

    /// Of two that want it closed, the first came before its tab was in memory.
    #[test]
    fn whoever_goes_frees_only_what_it_held() {
        let story = Story::begin();
        let id = story.opens(1).unwrap();
        let (_, setup) = setup(1);
        let tabs = Tabs::new(1, Durability::Call, 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let drain = || runtime.block_on(tabs.drain(id, Duration::ZERO)).unwrap();
        let first = drain();
        assert!(tabs.insert(id, &setup, (Tab::new(payment(1), Msat::ZERO), Vec::new(), None), 0));
        let second = drain();
        let is_draining = || tabs.session(id).unwrap().live().is_draining();
        drop(first);
        assert!(is_draining());
        drop(second);
        assert!(!is_draining());
    }
}
