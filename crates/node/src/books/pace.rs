//! How soon a write follows another. A flush of the disk takes the processor from several calls, and wakes threads, whatever it stores; so
//! under load a write waits for more calls to share it.

use std::thread;
use std::time::{Duration, Instant};

use super::Calls;

/// Under load, from the beginning of one write to the next, at most. On a disk that takes longer than that nothing waits.
const PAUSE: Duration = Duration::from_millis(2);
/// So many calls that share a write are a load. A few payers that wait for their answers never have as many.
const LOAD: usize = 8;
/// After so long it is looked once what more is to come. To look again and again would take what is to be saved.
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

    /// Waits for calls that could share the next write, unless none runs and as many wait as the last one has released.
    pub(super) fn gather(&self, look: impl FnOnce() -> Calls) {
        if self.calls < LOAD || self.left().is_zero() {
            return;
        }
        thread::sleep(LOOK.min(self.left()));
        let Calls { running, waiting } = look();
        if running > 0 || waiting < self.calls {
            thread::sleep(self.left());
        }
    }

    fn left(&self) -> Duration {
        PAUSE.saturating_sub(self.begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn after(calls: usize) -> Pace {
        let mut pace = Pace::new();
        pace.begin(calls);
        pace
    }

    /// Whether it was looked.
    fn looks(pace: &Pace, running: usize, waiting: usize) -> bool {
        let looked = Cell::new(false);
        pace.gather(|| {
            looked.set(true);
            Calls { running, waiting }
        });
        looked.get()
    }

    #[test]
    fn without_load_a_write_waits_for_nothing() {
        assert!(!looks(&Pace::new(), 1, 0), "nothing was written yet");
        assert!(!looks(&after(LOAD - 1), 1, 0));
    }

    #[test]
    fn under_load_a_write_waits_for_calls_that_may_share_it_and_not_for_long() {
        for (running, waiting) in [(1, LOAD), (0, LOAD - 1)] {
            let pace = after(LOAD);
            looks(&pace, running, waiting);
            assert!(pace.begun.elapsed() >= PAUSE, "{running} run and {waiting} wait");
            assert!(!looks(&pace, running, waiting), "no longer than that");
        }
    }

    #[test]
    fn a_write_waits_no_longer_when_all_that_the_last_one_released_are_back() {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let pace = after(LOAD);
            looks(&pace, 0, LOAD);
            if !pace.left().is_zero() {
                return;
            }
            assert!(Instant::now() < deadline, "not even once before its time was over");
        }
    }
}
