//! Memory of idle sessions: what a payee's process grows by when it opens its books over many channels and takes the tab
//! of each into memory. That is everything it keeps of them: agreement, keys, scripts, state, rungs, tab and MAC key.
//!
//! A process of its own is measured, so that nothing is counted that the preparation left behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Shape;
use farthing_protocol::{ChannelId, Msat};
use serde_json::{Value, json};

use super::session;

/// Sessions open at once.
pub const SESSIONS: usize = 100_000;
/// One rung.
const SHAPE: Shape = Shape { unit: Msat::new(10), words: 1_024, rungs: 1, delay: Delay::blocks(36) };
/// The argument that makes this program the process that is measured.
pub const COMMAND: &str = "lightspeed-idle";

/// Bytes a session.
pub struct Idle {
    pub session: f64,
    /// The tab's part of it, beside the channel's state in the books.
    pub tab: f64,
}

/// Measures.
pub fn measure(folder: &Path) -> anyhow::Result<Idle> {
    let (database, ids) = (folder.join("idle.sqlite"), folder.join("idle-sessions"));
    let mut names = Vec::with_capacity(SESSIONS * 32);
    session::write(&database, SESSIONS, SHAPE, |caller| names.extend(caller.id().as_bytes()))?;
    fs::write(&ids, names)?;
    let output = Command::new(std::env::current_exe()?).arg(COMMAND).args([&database, &ids]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sizes: Value = serde_json::from_slice(&output.stdout)?;
    let size = |key: &str| sizes[key].as_f64().with_context(|| format!("{key} was not measured"));
    let (before, opened, loaded) = (size("before")?, size("opened")?, size("loaded")?);
    let each = |bytes: f64| bytes / SESSIONS as f64;
    Ok(Idle { session: each(loaded - before), tab: each(loaded - opened) })
}

/// Opens all sessions and prints how much memory is resident before, with open books, and with all tabs.
pub fn open(database: &str, ids: &str) -> anyhow::Result<()> {
    let ids = fs::read(ids)?;
    let (ids, _) = ids.as_chunks::<32>();
    let before = resident()?;
    let sessions = session::open(Path::new(database))?;
    let opened = resident()?;
    sessions.load(ids.iter().map(|id| ChannelId::from_bytes(*id)))?;
    println!("{}", json!({ "before": before, "opened": opened, "loaded": resident()? }));
    Ok(())
}

/// `VmRSS` of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel tells it")?;
    let kib: u64 = line.trim().strip_suffix("kB").context("in kB")?.trim().parse()?;
    Ok(kib * 1_024)
}
