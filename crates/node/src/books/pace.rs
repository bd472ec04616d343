//! How soon a write follows another. A flush of the disk takes the processor from several calls, and wakes threads, whatever it stores; so
//! under load a write waits for more calls to share it.

use std::thread;
use std::time::{Duration, Instant};

use super::Calls;

/// Under load, from the beginning of one write to the next, at most. On a disk that takes longer than that nothing waits.
const PAUSE: Duration = Duration::from_millis(2);
/// So many calls that share a write are a load. A few payers that wait for their answers never have as many.
const LOAD: usize = 8;
/// How often it is looked what more is to come.
const LOOK: Duration = Duration::from_micros(250);

/// The last write.
pub(super) struct Pace {
    begun: Instant,
    calls: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), calls: 0 }
    }

    /// A write begins, for so many calls that wait for it.
    pub(super) fn begin(&mut self, calls: usize) {
        *self = Self { begun: Instant::now(), calls };
    }

    /// Waits for calls that could share the next write: while some run, or fewer wait than the last one has released.
    pub(super) fn gather(&self, look: impl Fn() -> Calls) {
        while self.calls >= LOAD && self.begun.elapsed() < PAUSE {
            let Calls { running, waiting } = look();
            if running == 0 && waiting >= self.calls {
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often it was looked; each time one more waits.
    fn looks(pace: &Pace, running: usize, waiting: usize) -> usize {
        let looks = Cell::new(0);
        pace.gather(|| {
            looks.set(looks.get() + 1);
            Calls { running, waiting: waiting + looks.get() }
        });
        looks.get()
    }

    fn after(calls: usize) -> Pace {
        let mut pace = Pace::new();
        pace.begin(calls);
        pace
    }

    #[test]
    fn without_load_a_write_waits_for_nothing() {
        assert_eq!(looks(&Pace::new(), 1, 0), 0, "nothing was written yet");
        assert_eq!(looks(&after(LOAD - 1), 1, 0), 0);
    }

    #[test]
    fn under_load_a_write_waits_for_as_many_calls_as_the_last_one_had_and_not_for_long() {
        assert_eq!(looks(&after(LOAD), 0, LOAD), 1, "all are back");
        let pace = after(LOAD);
        let few = looks(&pace, 0, LOAD - 2);
        assert!(few == 2 || pace.begun.elapsed() >= PAUSE, "two more to come: {few}");
        let pace = after(LOAD);
        assert!(looks(&pace, 1, LOAD) > 0);
        assert!(pace.begun.elapsed() >= PAUSE, "one runs and does not end");
        assert_eq!(looks(&pace, 1, 0), 0, "no longer than that");
    }
}
