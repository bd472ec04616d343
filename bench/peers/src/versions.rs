//! Which version was measured, from the lock file that the program was built with.

use anyhow::{Context, Result};

const LOCK: &str = include_str!("../Cargo.lock");

/// The version of a package that is locked once.
pub fn locked(name: &str) -> Result<&'static str> {
    let named = format!("name = \"{name}\"");
    let mut lines = LOCK.lines().skip_while(|line| *line != named).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.with_context(|| format!("{name} is not in Cargo.lock"))
}
