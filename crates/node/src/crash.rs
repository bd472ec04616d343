//! Places where a test may kill the process: before a save, and between a save and its effects. Without the feature
//! `crash-points`, which no release has, this is nothing.

/// Aborts the process if this is the point that `FARTHING_CRASH_AT` names, counting from 1.
#[cfg(feature = "crash-points")]
pub(crate) fn point() {
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
#[cfg(not(feature = "crash-points"))]
pub(crate) fn point() {}
