//! Places where a test may kill the process: before a save, and between a save and its effects. Without the feature
//! `crash-points`, which no release has, this is nothing. The gateway has such places too.

/// Aborts the process if this is the point that `FARTHING_CRASH_AT` names, counting from 1.
#[cfg(all(feature = "crash-points", not(test)))]
pub fn point() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static CRASH_AT: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("FARTHING_CRASH_AT").ok().and_then(|at| at.parse().ok()));

    if CRASH_AT.is_some_and(|at| PASSED.fetch_add(1, Ordering::SeqCst) + 1 == at) {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(any(feature = "crash-points", test)))]
pub fn point() {}

#[cfg(test)]
pub(crate) use in_test::{Crash, arm, point};

/// In a unit test a crash is a panic that the test catches.
#[cfg(test)]
mod in_test {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// What a crash panics with.
    #[derive(Debug)]
    pub(crate) struct Crash;

    /// From now on, this thread crashes at that point, counting from 1; `None` disarms.
    pub(crate) fn arm(at: Option<u64>) {
        LEFT.set(at);
    }

    pub(crate) fn point() {
        let left = LEFT.get().map(|left| left - 1);
        LEFT.set(left);
        if left == Some(0) {
            LEFT.set(None);
            // Unlike `panic!`, this prints nothing.
            std::panic::resume_unwind(Box::new(Crash));
        }
    }
}
