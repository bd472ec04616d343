//! Which calls were served: a window over the newest call numbers.
//!
//! A number is an epoch and a counter. The payee begins a new epoch with each start and stores it first, so whatever a
//! crash left unknown belongs to an older epoch, and older epochs serve nothing new. The window remembers the newest
//! [`WINDOW`] counters of the present epoch and of the one before; a number that has left it is refused, uncharged.
//!
//! A call may run for longer than that, beside many others: an answer that is charged as it flows uses a number with each of
//! its top-ups. Its payer asks for the receipt at its end, so what such a call was charged is remembered apart.
//!
//! **What the payer hears of a number is final.** A call that was refused or failed is free, and its payer spends the
//! money on another. So its number is void from then on: a copy of the call that comes late is not served after all. A
//! number that nobody remembers is told apart from a void one, since it may have been served before.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::lightspeed::call::CallNumber;

/// How many numbers the window holds: so far may a retry lag behind the newest call.
pub const WINDOW: u64 = 1_024;
/// How many receipts are kept of calls whose numbers have left the window: as many as calls of one payer wait for an answer.
pub const MOST_LATE: usize = (WINDOW / 2) as usize;
const WORDS: usize = (WINDOW / 64) as usize;

/// What the window knows of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never served: it may be, now.
    New,
    /// Being served at the moment.
    Running,
    /// Served and charged.
    Served,
    /// Not served, and it never will be: it was refused, it failed, or a new epoch began. It costs nothing.
    Void,
    /// Too old to tell. It will not be served any more, but may have been.
    Forgotten,
}

/// The served numbers of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    epoch: u32,
    /// The highest counter that was seen.
    highest: u64,
    /// One bit for each counter, at its remainder by the window's size.
    served: [u64; WORDS],
    /// Those that were refused or failed, if any were. A restart needs no memory of them, since it begins an epoch.
    #[serde(skip)]
    refused: Option<Box<[u64; WORDS]>>,
    /// No counter up to this one is served any more, unless it runs.
    #[serde(skip)]
    floor: Option<u64>,
}

fn bit(counter: u64) -> (usize, u64) {
    let bit = counter % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

impl Window {
    /// Itself, unless there is nothing to remember.
    fn unless_new(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    fn is_within(&self, counter: u64) -> bool {
        self.highest.saturating_sub(counter) < WINDOW
    }

    fn is_marked(&self, marks: &[u64; WORDS], counter: u64) -> bool {
        let (word, mask) = bit(counter);
        counter <= self.highest && self.is_within(counter) && marks[word] & mask != 0
    }

    fn is_served(&self, counter: u64) -> bool {
        self.is_marked(&self.served, counter)
    }

    fn is_refused(&self, counter: u64) -> bool {
        let is_marked = |marks: &[u64; WORDS]| self.is_marked(marks, counter);
        Some(counter) <= self.floor || self.refused.as_deref().is_some_and(is_marked)
    }

    fn advance(&mut self, counter: u64) {
        if counter <= self.highest {
            return;
        }
        if counter - self.highest >= WINDOW {
            (self.served, self.refused) = ([0; WORDS], None);
        } else {
            for passed in self.highest + 1..=counter {
                let (word, mask) = bit(passed);
                self.served[word] &= !mask;
                if let Some(refused) = &mut self.refused {
                    refused[word] &= !mask;
                }
            }
        }
        self.highest = counter;
    }

    fn mark(&mut self, counter: u64, was_served: bool) {
        if counter <= self.highest && self.is_within(counter) {
            let (word, mask) = bit(counter);
            let marks = if was_served { &mut self.served } else { self.refused.get_or_insert_default() };
            marks[word] |= mask;
        }
    }
}

/// A window is stored as if it were always there: one that is not, as the window of epoch 0, in which nobody calls.
mod in_place {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Window;

    pub(super) fn serialize<S: Serializer>(
        window: &Option<Box<Window>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match window {
            Some(window) => window.serialize(serializer),
            None => Window::default().serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Box<Window>>, D::Error> {
        let window = Window::deserialize(deserializer)?;
        Ok(window.unless_new())
    }
}

/// A call that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RunningCall {
    counter: u64,
    /// What it said that it may cost.
    stated: Msat,
    /// What is set aside for it: more, after a top-up.
    aside: Msat,
    /// What of that was charged already, while it runs.
    charged: Msat,
}

impl RunningCall {
    fn pending(&self) -> Msat {
        self.aside.saturating_sub(self.charged)
    }
}

/// What the end of a call, or of a part of it, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charged {
    /// For all of the call.
    pub total: Msat,
    /// What of it was not charged before.
    pub more: Msat,
}

/// The numbers of one payer's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    present: Window,
    /// That of the epoch before; nothing when it served nothing. Many payers' numbers are kept in memory.
    #[serde(with = "in_place")]
    before: Option<Box<Window>>,
    /// Calls that are being served, in the order of their counters, since they mostly come and end in it. A crash forgets
    /// them: they cost nothing then.
    #[serde(skip)]
    running: VecDeque<RunningCall>,
    /// What is set aside for all of them.
    #[serde(skip)]
    pending: Msat,
    /// Served calls that cost something else than they stated, and those that ended when their numbers were about to leave the
    /// window, or had left it. For their receipts.
    other_costs: Vec<(CallNumber, Msat)>,
}

impl Numbers {
    /// Turns to the payee's present epoch, which only ever grows. Numbers that are taken up again in the same epoch no longer
    /// know which of them were refused, so none that was seen is served any more.
    pub(crate) fn begin(&mut self, epoch: u32) {
        if epoch > self.present.epoch {
            let fresh = Window { epoch, ..Window::default() };
            let before = std::mem::replace(&mut self.present, fresh);
            // What was refused in it is void like all that was not served.
            self.before = Window { refused: None, floor: None, ..before }.unless_new();
            self.running.clear();
            self.pending = Msat::ZERO;
        } else {
            self.refuse_up_to(CallNumber { epoch, counter: self.present.highest });
        }
    }

    /// The epoch in which calls are served.
    pub fn epoch(&self) -> u32 {
        self.present.epoch
    }

    /// What is known of a number.
    pub fn standing(&self, number: CallNumber) -> Standing {
        let CallNumber { epoch, counter } = number;
        let is_present = epoch == self.present.epoch;
        if is_present && self.place(counter).is_ok() {
            return Standing::Running;
        }
        let window = match &self.before {
            _ if is_present => &self.present,
            Some(before) if epoch == before.epoch => before,
            Some(before) if epoch < before.epoch => return Standing::Forgotten,
            // Nothing was charged in an epoch that has left nothing, and nothing of it is served any more.
            Some(_) | None => return Standing::Void,
        };
        if window.is_served(counter) {
            Standing::Served
        } else if !window.is_within(counter) {
            self.other_cost(number).map_or(Standing::Forgotten, |_receipt| Standing::Served)
        } else if is_present && !window.is_refused(counter) {
            Standing::New
        } else {
            Standing::Void
        }
    }

    /// The call is not served, now or ever.
    pub(crate) fn refuse(&mut self, counter: u64) {
        self.present.advance(counter);
        self.present.mark(counter, false);
    }

    /// No number up to this one is served any more that was not. The floor is not stored, but how far the numbers have come is, so
    /// it holds also after these numbers were taken up again.
    pub(crate) fn refuse_up_to(&mut self, number: CallNumber) {
        if number.epoch == self.present.epoch {
            self.present.advance(number.counter);
            self.present.floor = self.present.floor.max(Some(number.counter));
        }
    }

    /// What is set aside for calls that are being served.
    pub fn pending(&self) -> Msat {
        self.pending
    }

    /// How many calls are being served.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn start(&mut self, counter: u64, cost: Msat) {
        self.present.advance(counter);
        let (Ok(place) | Err(place)) = self.place(counter);
        self.running.insert(place, RunningCall { counter, stated: cost, aside: cost, charged: Msat::ZERO });
        self.pending = self.pending.saturating_add(cost);
    }

    /// Where a call is among those that run, or else where it belongs.
    fn place(&self, counter: u64) -> Result<usize, usize> {
        match self.running.back() {
            Some(last) if counter <= last.counter => {
                self.running.binary_search_by_key(&counter, |call| call.counter)
            }
            Some(_) | None => Err(self.running.len()),
        }
    }

    /// Charges a running call for what it has answered so far. From now on it counts as served, whatever becomes of it.
    /// `None` when no such call runs.
    pub(crate) fn settle(&mut self, number: CallNumber, so_far: Msat) -> Option<Charged> {
        if number.epoch != self.present.epoch {
            return None;
        }
        let place = self.place(number.counter).ok()?;
        let call = self.running.get_mut(place)?;
        let (total, before) = (so_far.min(call.aside).max(call.charged), call.charged);
        let more = total.saturating_sub(before);
        call.charged = total;
        if more > Msat::ZERO {
            self.pending = self.pending.saturating_sub(more);
            self.present.mark(number.counter, true);
            self.note_cost(number, total);
        }
        Some(Charged { total, more })
    }

    /// Ends a running call, served for `charged` or failed, and gives what is charged: never more than was set aside for it,
    /// and never less than it was charged while it ran. `None` when no such call runs.
    pub(crate) fn end(&mut self, number: CallNumber, charged: Option<Msat>) -> Option<Charged> {
        if number.epoch != self.present.epoch {
            return None;
        }
        let place = self.place(number.counter).ok()?;
        let call = self.running.remove(place)?;
        self.pending = self.pending.saturating_sub(call.pending());
        let was_served = charged.is_some() || call.charged > Msat::ZERO;
        self.present.mark(call.counter, was_served);
        let total = charged.unwrap_or(Msat::ZERO).min(call.aside).max(call.charged);
        let is_late = self.present.highest.saturating_sub(call.counter) >= WINDOW / 2;
        if was_served && (is_late || total != call.stated || call.charged > Msat::ZERO) {
            self.note_cost(number, total);
        }
        Some(Charged { total, more: total.saturating_sub(call.charged) })
    }

    /// How many receipts it keeps for calls that cost something else than they stated, or ended late.
    pub fn other_costs(&self) -> usize {
        self.other_costs.len()
    }

    /// Notes what a call was charged. Of the calls that have left the window, the newest [`MOST_LATE`] stay noted.
    fn note_cost(&mut self, number: CallNumber, cost: Msat) {
        let mut costs = std::mem::take(&mut self.other_costs);
        costs.retain(|(other, _)| *other != number);
        costs.push((number, cost));
        if costs.len() > MOST_LATE {
            let mut excess =
                costs.iter().filter(|(other, _)| self.has_left(*other)).count().saturating_sub(MOST_LATE);
            costs.retain(|(other, _)| {
                let is_kept = excess == 0 || !self.has_left(*other);
                excess -= usize::from(!is_kept);
                is_kept
            });
        }
        self.other_costs = costs;
    }

    /// Whether a number is in no window any more, and its call does not run.
    fn has_left(&self, CallNumber { epoch, counter }: CallNumber) -> bool {
        if epoch == self.present.epoch {
            return !self.present.is_within(counter) && self.place(counter).is_err();
        }
        !self.before.as_ref().is_some_and(|before| epoch == before.epoch && before.is_within(counter))
    }

    /// What a served call was charged; `None` when it was all that it stated and it ended in time.
    pub fn other_cost(&self, number: CallNumber) -> Option<Msat> {
        self.other_costs.iter().find(|(other, _)| *other == number).map(|(_, cost)| *cost)
    }

    /// Sets more aside for a running call.
    pub(crate) fn raise(&mut self, number: CallNumber, by: Msat) -> Option<Msat> {
        if number.epoch != self.present.epoch {
            return None;
        }
        let place = self.place(number.counter).ok()?;
        let pending = self.pending.checked_add(by)?;
        let call = self.running.get_mut(place)?;
        call.aside = call.aside.checked_add(by)?;
        self.pending = pending;
        Some(call.aside)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn number(epoch: u32, counter: u64) -> CallNumber {
        CallNumber { epoch, counter }
    }

    fn serve(numbers: &mut Numbers, counter: u64) {
        numbers.start(counter, Msat::new(1));
        numbers.end(number(numbers.epoch(), counter), Some(Msat::new(1))).unwrap();
    }

    proptest! {
        /// Against plain sets of everything ever served or failed: within the window each is known, outside of it only what was
        /// served late, and no number is ever served twice, nor after it failed.
        #[test]
        fn the_window_is_a_set_with_a_short_memory(steps in proptest::collection::vec((0..3_000_u64, any::<bool>()), 1..300)) {
            let mut numbers = Numbers::default();
            numbers.begin(1);
            let (mut served, mut failed, mut late, mut highest) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 0);
            for (counter, succeeds) in steps {
                let standing = numbers.standing(number(1, counter));
                let expected = if counter + WINDOW <= highest && !late.contains(&counter) {
                    Standing::Forgotten
                } else if served.contains(&counter) {
                    Standing::Served
                } else if failed.contains(&counter) {
                    Standing::Void
                } else {
                    Standing::New
                };
                prop_assert_eq!(standing, expected);
                if standing == Standing::New {
                    numbers.start(counter, Msat::new(7));
                    prop_assert_eq!(numbers.standing(number(1, counter)), Standing::Running);
                    highest = highest.max(counter);
                    let charged = succeeds.then_some(Msat::new(7));
                    let cost = charged.unwrap_or_default();
                    prop_assert_eq!(numbers.end(number(1, counter), charged), Some(Charged { total: cost, more: cost }));
                    let ended = if succeeds { &mut served } else { &mut failed };
                    ended.insert(counter);
                    if succeeds && counter + WINDOW / 2 <= highest {
                        late.insert(counter);
                    }
                }
            }
        }
    }

    #[test]
    fn an_older_epoch_tells_what_was_served_and_serves_nothing_new() {
        let mut numbers = Numbers::default();
        numbers.begin(3);
        serve(&mut numbers, 5);
        numbers.start(6, Msat::new(1));
        numbers.begin(4);
        assert_eq!(numbers.pending(), Msat::ZERO);
        assert_eq!(numbers.standing(number(3, 5)), Standing::Served);
        assert_eq!(numbers.standing(number(3, 6)), Standing::Void);
        assert_eq!(numbers.standing(number(4, 5)), Standing::New);
        assert_eq!(numbers.standing(number(9, 1)), Standing::Void);
        assert_eq!(numbers.end(number(3, 6), Some(Msat::new(1))), None, "it ended with its epoch");
        numbers.begin(5);
        assert_eq!(numbers.standing(number(3, 5)), Standing::Forgotten);
        assert_eq!(numbers.standing(number(3, 6)), Standing::Forgotten);
        assert_eq!(numbers.standing(number(4, 5)), Standing::Void);
    }

    /// A start in which every call was refused leaves nothing in the store.
    #[test]
    fn a_number_of_an_epoch_in_which_nothing_was_charged_is_free() {
        let mut numbers = Numbers::default();
        numbers.begin(3);
        assert_eq!(numbers.standing(number(2, 1)), Standing::Void);
        serve(&mut numbers, 5);
        let stored = numbers.clone();
        numbers.begin(4);
        numbers.refuse(1);
        let mut numbers = stored;
        numbers.begin(5);
        assert_eq!(numbers.standing(number(4, 1)), Standing::Void);
        assert_eq!(numbers.standing(number(3, 5)), Standing::Served);
        assert_eq!(numbers.standing(number(2, 1)), Standing::Forgotten);
    }

    #[test]
    fn an_epoch_in_which_nobody_called_takes_no_memory_and_is_stored_all_the_same() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.standing(number(0, 1)), Standing::New);
        numbers.begin(1);
        assert_eq!((numbers.before.is_some(), numbers.standing(number(0, 1))), (false, Standing::Void));
        serve(&mut numbers, 7);
        let stored = postcard::to_allocvec(&numbers).unwrap();
        let windows = (&numbers.present, Window::default(), &numbers.other_costs);
        assert_eq!(stored, postcard::to_allocvec(&windows).unwrap(), "as if it had always been there");
        assert_eq!(postcard::from_bytes::<Numbers>(&stored).unwrap(), numbers);
        numbers.begin(2);
        let stored = postcard::to_allocvec(&numbers).unwrap();
        assert_eq!(postcard::from_bytes::<Numbers>(&stored).unwrap(), numbers);
        assert_eq!(numbers.standing(number(1, 7)), Standing::Served);
    }

    #[test]
    fn a_refused_number_is_never_served_and_its_neighbours_are() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        numbers.refuse(7);
        assert_eq!(numbers.standing(number(1, 7)), Standing::Void);
        assert_eq!(numbers.standing(number(1, 6)), Standing::New);
        assert_eq!(numbers.standing(number(1, 8)), Standing::New);
        serve(&mut numbers, 7 + WINDOW);
        assert_eq!(numbers.standing(number(1, 7)), Standing::Forgotten);
        assert_eq!(numbers.standing(number(1, 7 + WINDOW)), Standing::Served);
    }

    #[test]
    fn below_the_floor_only_what_runs_already_is_served() {
        let mut numbers = Numbers::default();
        numbers.begin(2);
        numbers.start(3, Msat::new(1));
        serve(&mut numbers, 5);
        numbers.refuse_up_to(number(1, 900));
        assert_eq!(numbers.standing(number(2, 4)), Standing::New, "that was another epoch");
        numbers.refuse_up_to(number(2, 9));
        numbers.refuse_up_to(number(2, 8));
        assert_eq!(numbers.standing(number(2, 3)), Standing::Running);
        assert_eq!(numbers.standing(number(2, 5)), Standing::Served);
        assert_eq!(numbers.standing(number(2, 4)), Standing::Void);
        assert_eq!(numbers.standing(number(2, 9)), Standing::Void);
        assert_eq!(numbers.standing(number(2, 10)), Standing::New);
    }

    #[test]
    fn a_receipt_tells_what_a_call_did_cost() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        (1..=4).for_each(|counter| numbers.start(counter, Msat::new(10)));
        numbers.raise(number(1, 3), Msat::new(5)).unwrap();
        assert_eq!(numbers.end(number(1, 1), Some(Msat::new(10))).map(|end| end.total), Some(Msat::new(10)));
        assert_eq!(numbers.end(number(1, 2), Some(Msat::new(4))).map(|end| end.total), Some(Msat::new(4)));
        assert_eq!(numbers.end(number(1, 3), Some(Msat::new(99))).map(|end| end.total), Some(Msat::new(15)));
        assert_eq!(numbers.end(number(1, 4), None).map(|end| end.total), Some(Msat::ZERO));
        let costs: Vec<Option<Msat>> =
            (1..=4).map(|counter| numbers.other_cost(number(1, counter))).collect();
        assert_eq!(costs, [None, Some(Msat::new(4)), Some(Msat::new(15)), None]);
    }

    #[test]
    fn a_call_that_was_charged_in_part_is_served_whatever_becomes_of_it() {
        let msat = Msat::new;
        let mut numbers = Numbers::default();
        numbers.begin(1);
        (1..=4).for_each(|counter| numbers.start(counter, msat(10)));
        assert_eq!(numbers.settle(number(1, 1), msat(4)), Some(Charged { total: msat(4), more: msat(4) }));
        assert_eq!(numbers.settle(number(1, 1), msat(3)), Some(Charged { total: msat(4), more: msat(0) }));
        assert_eq!(numbers.settle(number(1, 2), msat(99)), Some(Charged { total: msat(10), more: msat(10) }));
        assert_eq!(numbers.settle(number(1, 3), msat(0)), Some(Charged { total: msat(0), more: msat(0) }));
        assert_eq!(numbers.settle(number(1, 9), msat(1)), None);
        assert_eq!(numbers.pending(), msat(26));
        // The crash: what runs is forgotten, what was charged is not.
        let bytes = postcard::to_allocvec(&numbers).unwrap();
        let mut restarted: Numbers = postcard::from_bytes(&bytes).unwrap();
        restarted.begin(2);
        let standing: Vec<Standing> = (1..=4).map(|counter| restarted.standing(number(1, counter))).collect();
        assert_eq!(standing, [Standing::Served, Standing::Served, Standing::Void, Standing::Void]);
        assert_eq!(restarted.other_cost(number(1, 1)), Some(msat(4)));
        assert_eq!(restarted.other_cost(number(1, 2)), Some(msat(10)));
        // Without one: more of it, less than before, a failure.
        numbers.settle(number(1, 4), msat(5)).unwrap();
        assert_eq!(numbers.end(number(1, 1), Some(msat(7))), Some(Charged { total: msat(7), more: msat(3) }));
        assert_eq!(
            numbers.end(number(1, 2), Some(msat(2))),
            Some(Charged { total: msat(10), more: msat(0) })
        );
        assert_eq!(numbers.end(number(1, 4), None), Some(Charged { total: msat(5), more: msat(0) }));
        assert_eq!(numbers.other_cost(number(1, 1)), Some(msat(7)));
        assert_eq!(numbers.other_cost(number(1, 4)), Some(msat(5)));
        assert_eq!(numbers.standing(number(1, 4)), Standing::Served);
        assert_eq!(numbers.pending(), msat(10), "the third one runs");
    }

    #[test]
    fn numbers_that_are_taken_up_again_serve_nothing_that_was_seen() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        serve(&mut numbers, 1);
        numbers.refuse(2);
        serve(&mut numbers, 4);
        let bytes = postcard::to_allocvec(&numbers).unwrap();
        let mut again: Numbers = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(again.standing(number(1, 2)), Standing::New, "it is not stored that it was refused");
        again.begin(1);
        let standing: Vec<Standing> = (1..=5).map(|counter| again.standing(number(1, counter))).collect();
        let (served, void) = (Standing::Served, Standing::Void);
        assert_eq!(standing, [served, void, void, served, Standing::New]);
    }

    #[test]
    fn numbers_that_are_taken_up_again_serve_nothing_up_to_what_was_reconciled() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        serve(&mut numbers, 5);
        numbers.refuse_up_to(number(1, 9));
        let bytes = postcard::to_allocvec(&numbers).unwrap();
        let mut again: Numbers = postcard::from_bytes(&bytes).unwrap();
        again.begin(1);
        let standing: Vec<Standing> = (5..=10).map(|counter| again.standing(number(1, counter))).collect();
        let (served, void) = (Standing::Served, Standing::Void);
        assert_eq!(standing, [served, void, void, void, void, Standing::New]);
    }

    #[test]
    fn a_running_call_outlives_the_window() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        (1..=3).for_each(|counter| numbers.start(counter, Msat::new(9)));
        serve(&mut numbers, 5_000);
        assert_eq!(numbers.standing(number(1, 1)), Standing::Running);
        assert_eq!(numbers.end(number(1, 1), Some(Msat::new(9))).map(|end| end.total), Some(Msat::new(9)));
        assert_eq!(numbers.standing(number(1, 1)), Standing::Served);
        assert_eq!(numbers.other_cost(number(1, 1)), Some(Msat::new(9)));
        numbers.settle(number(1, 2), Msat::new(4)).unwrap();
        numbers.end(number(1, 3), None).unwrap();
        assert_eq!(numbers.standing(number(1, 3)), Standing::Forgotten, "nothing is to be had for it");
        // The crash.
        let bytes = postcard::to_allocvec(&numbers).unwrap();
        let mut restarted: Numbers = postcard::from_bytes(&bytes).unwrap();
        restarted.begin(2);
        let standing: Vec<Standing> = (1..=3).map(|counter| restarted.standing(number(1, counter))).collect();
        assert_eq!(standing, [Standing::Served, Standing::Served, Standing::Forgotten]);
        assert_eq!(restarted.other_cost(number(1, 2)), Some(Msat::new(4)));
    }

    /// Or its payer would have no time to ask for its receipt.
    #[test]
    fn a_call_that_ends_near_the_end_of_the_window_does_not_leave_with_it() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        (1..=2).for_each(|counter| numbers.start(counter, Msat::new(9)));
        serve(&mut numbers, WINDOW);
        numbers.end(number(1, 1), Some(Msat::new(9))).unwrap();
        numbers.end(number(1, 2), Some(Msat::new(7))).unwrap();
        serve(&mut numbers, 2 * WINDOW);
        let standing: Vec<Standing> =
            [1, 2, WINDOW].iter().map(|counter| numbers.standing(number(1, *counter))).collect();
        assert_eq!(standing, [Standing::Served, Standing::Served, Standing::Forgotten]);
        assert_eq!(numbers.other_cost(number(1, 2)), Some(Msat::new(7)));
    }

    #[test]
    fn of_receipts_behind_the_window_the_newest_are_kept_and_those_of_what_runs() {
        let most = MOST_LATE as u64;
        let mut numbers = Numbers::default();
        numbers.begin(1);
        (1..=most + 2).for_each(|counter| numbers.start(counter, Msat::new(9)));
        numbers.settle(number(1, 1), Msat::new(3)).unwrap();
        serve(&mut numbers, 5_000);
        for counter in 2..=most + 2 {
            numbers.end(number(1, counter), Some(Msat::new(9))).unwrap();
        }
        for counter in 5_001..=5_000 + WINDOW {
            numbers.start(counter, Msat::new(9));
            numbers.end(number(1, counter), Some(Msat::new(1))).unwrap();
        }
        assert_eq!(numbers.standing(number(1, 2)), Standing::Forgotten);
        for counter in (3..=most + 2).chain(5_001..=5_000 + WINDOW) {
            assert_eq!(numbers.standing(number(1, counter)), Standing::Served, "{counter}");
        }
        assert_eq!(numbers.other_costs() as u64, 1 + most + WINDOW);
        assert_eq!(numbers.end(number(1, 1), None).map(|end| end.total), Some(Msat::new(3)));
        assert_eq!(numbers.standing(number(1, 1)), Standing::Served);
        assert_eq!(numbers.standing(number(1, 3)), Standing::Forgotten);
        // A new epoch keeps the same, and the one after that none of it.
        numbers.begin(2);
        assert_eq!(numbers.standing(number(1, 1)), Standing::Served);
        assert_eq!(numbers.standing(number(1, most + 2)), Standing::Served);
        numbers.begin(3);
        assert_eq!(numbers.standing(number(1, most + 2)), Standing::Forgotten);
    }

    #[test]
    fn a_far_jump_forgets_everything_and_the_end_of_the_numbers_is_no_overflow() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        serve(&mut numbers, 1);
        serve(&mut numbers, u64::MAX);
        assert_eq!(numbers.standing(number(1, u64::MAX)), Standing::Served);
        assert_eq!(numbers.standing(number(1, 1)), Standing::Forgotten);
        assert_eq!(numbers.standing(number(1, u64::MAX - 1)), Standing::New);
    }
}
