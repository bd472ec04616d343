//! Waiting for a condition, with a deadline instead of a guess how long it takes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take before a story has failed. Generous: machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(240);

const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
///
/// # Errors
/// When looking fails, or nothing is seen within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} seconds", PATIENCE.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Looks for a while and expects to see nothing: for what must *not* happen, which no condition can show.
///
/// # Errors
/// When looking fails, or something is seen.
pub fn never<T>(what: &str, during: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<()> {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        if look()?.is_some() {
            bail!("{what}: it happened");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
