//! Which calls were served: a window over the newest call numbers.
//!
//! A number is an epoch and a counter. The payee begins a new epoch with each start and stores it first, so whatever a
//! crash left unknown belongs to an older epoch, and older epochs serve nothing new. The window remembers the newest
//! [`WINDOW`] counters of the present epoch and of the one before; a number that has left it is refused, uncharged.

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::lightspeed::call::CallNumber;

/// How many numbers the window holds: so far may a retry lag behind the newest call.
pub const WINDOW: u64 = 1_024;
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
    /// Too old to tell, or of an older epoch and not served: it will never be, and costs nothing.
    Void,
}

/// The served numbers of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    epoch: u32,
    /// The highest counter that was seen.
    highest: u64,
    /// One bit for each counter, at its remainder by the window's size.
    served: [u64; WORDS],
}

impl Window {
    fn is_within(&self, counter: u64) -> bool {
        self.highest.saturating_sub(counter) < WINDOW
    }

    fn is_served(&self, counter: u64) -> bool {
        let bit = counter % WINDOW;
        counter <= self.highest
            && self.is_within(counter)
            && self.served[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    fn advance(&mut self, counter: u64) {
        if counter <= self.highest {
            return;
        }
        if counter - self.highest >= WINDOW {
            self.served = [0; WORDS];
        } else {
            for passed in self.highest + 1..=counter {
                let bit = passed % WINDOW;
                self.served[(bit / 64) as usize] &= !(1 << (bit % 64));
            }
        }
        self.highest = counter;
    }

    fn mark(&mut self, counter: u64) {
        let bit = counter % WINDOW;
        if counter <= self.highest && self.is_within(counter) {
            self.served[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }
}

/// The numbers of one payer's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    present: Window,
    before: Window,
    /// Calls that are being served, with what is set aside for each. A crash forgets them: they cost nothing then.
    #[serde(skip)]
    running: Vec<(u64, Msat)>,
}

impl Numbers {
    /// Turns to the payee's present epoch, which only ever grows.
    pub(crate) fn begin(&mut self, epoch: u32) {
        if epoch > self.present.epoch {
            let fresh = Window { epoch, ..Window::default() };
            self.before = std::mem::replace(&mut self.present, fresh);
            self.running.clear();
        }
    }

    /// The epoch in which calls are served.
    pub fn epoch(&self) -> u32 {
        self.present.epoch
    }

    /// What is known of a number.
    pub fn standing(&self, number: CallNumber) -> Standing {
        if number.epoch == self.before.epoch && self.before.is_served(number.counter) {
            return Standing::Served;
        }
        if number.epoch != self.present.epoch {
            return Standing::Void;
        }
        if self.present.is_served(number.counter) {
            Standing::Served
        } else if self.running.iter().any(|(counter, _)| *counter == number.counter) {
            Standing::Running
        } else if self.present.is_within(number.counter) {
            Standing::New
        } else {
            Standing::Void
        }
    }

    /// What is set aside for calls that are being served.
    pub fn pending(&self) -> Msat {
        self.running.iter().map(|(_, cost)| *cost).sum()
    }

    /// How many calls are being served.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn start(&mut self, counter: u64, cost: Msat) {
        self.present.advance(counter);
        self.running.push((counter, cost));
    }

    /// Ends a running call and gives back what was set aside for it; `None` when no such call runs.
    pub(crate) fn end(&mut self, number: CallNumber, was_served: bool) -> Option<Msat> {
        if number.epoch != self.present.epoch {
            return None;
        }
        let at = self.running.iter().position(|(counter, _)| *counter == number.counter)?;
        let (counter, cost) = self.running.swap_remove(at);
        if was_served {
            self.present.mark(counter);
        }
        Some(cost)
    }

    /// Sets more aside for a running call.
    pub(crate) fn raise(&mut self, number: CallNumber, by: Msat) -> Option<Msat> {
        if number.epoch != self.present.epoch {
            return None;
        }
        let (_, cost) = self.running.iter_mut().find(|(counter, _)| *counter == number.counter)?;
        *cost = cost.checked_add(by)?;
        Some(*cost)
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
        numbers.end(number(numbers.epoch(), counter), true).unwrap();
    }

    proptest! {
        /// Against a plain set of everything ever served: a served number within the window is known, one outside of it is
        /// void, and none is ever served twice.
        #[test]
        fn the_window_is_a_set_with_a_short_memory(steps in proptest::collection::vec((0..3_000_u64, any::<bool>()), 1..300)) {
            let mut numbers = Numbers::default();
            numbers.begin(1);
            let (mut served, mut highest) = (BTreeSet::new(), 0);
            for (counter, succeeds) in steps {
                let standing = numbers.standing(number(1, counter));
                let expected = if counter + WINDOW <= highest {
                    Standing::Void
                } else if served.contains(&counter) {
                    Standing::Served
                } else {
                    Standing::New
                };
                prop_assert_eq!(standing, expected);
                if standing == Standing::New {
                    numbers.start(counter, Msat::new(7));
                    prop_assert_eq!(numbers.standing(number(1, counter)), Standing::Running);
                    highest = highest.max(counter);
                    prop_assert_eq!(numbers.end(number(1, counter), succeeds), Some(Msat::new(7)));
                    if succeeds {
                        served.insert(counter);
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
        assert_eq!(numbers.end(number(3, 6), true), None, "it ended with its epoch");
    }

    #[test]
    fn a_running_call_outlives_the_window() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        numbers.start(1, Msat::new(9));
        serve(&mut numbers, 5_000);
        assert_eq!(numbers.standing(number(1, 1)), Standing::Running);
        assert_eq!(numbers.end(number(1, 1), true), Some(Msat::new(9)));
        assert_eq!(numbers.standing(number(1, 1)), Standing::Void);
    }

    #[test]
    fn a_far_jump_forgets_everything_and_the_end_of_the_numbers_is_no_overflow() {
        let mut numbers = Numbers::default();
        numbers.begin(1);
        serve(&mut numbers, 1);
        serve(&mut numbers, u64::MAX);
        assert_eq!(numbers.standing(number(1, u64::MAX)), Standing::Served);
        assert_eq!(numbers.standing(number(1, 1)), Standing::Void);
        assert_eq!(numbers.standing(number(1, u64::MAX - 1)), Standing::New);
    }
}
