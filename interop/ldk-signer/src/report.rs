//! What a test in a process of its own tells the process that started it: lines between what LDK prints.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use crate::wire::lock;

/// Begins each line that is ours.
pub const MARK: &str = "@suite ";

/// What the adapter adds to the signer where a test needs what LNGate never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Help {
    /// The channel begins with money of the bridge's.
    Gift,
    /// The channel is announced.
    Announcement,
    /// A copy of the device gives out a signature on a state that the device itself revokes later.
    Copy,
}

impl Help {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gift => "gift",
            Self::Announcement => "announcement",
            Self::Copy => "copy",
        }
    }
}

static OPENED: AtomicU64 = AtomicU64::new(0);
static JOINT: AtomicU64 = AtomicU64::new(0);
static BRIDGE: AtomicU64 = AtomicU64::new(0);
static HTLCS: AtomicU64 = AtomicU64::new(0);
static HOLDER: AtomicU64 = AtomicU64::new(0);
static REVEALED: AtomicU64 = AtomicU64::new(0);
static HELPS: LazyLock<Mutex<BTreeSet<Help>>> = LazyLock::new(Mutex::default);

/// A channel of a device's was begun.
pub fn opened() {
    OPENED.fetch_add(1, Ordering::SeqCst);
}

/// Device and gateway signed jointly.
pub fn joint_signature() {
    JOINT.fetch_add(1, Ordering::SeqCst);
}

/// The device signed a commitment of the bridge's.
pub fn bridge_signed(htlcs: usize) {
    BRIDGE.fetch_add(1, Ordering::SeqCst);
    HTLCS.fetch_add(htlcs as u64, Ordering::SeqCst);
}

/// The device has a commitment of its own complete.
pub fn holder_complete() {
    HOLDER.fetch_add(1, Ordering::SeqCst);
}

/// The device gave up a commitment of its own.
pub fn revealed() {
    REVEALED.fetch_add(1, Ordering::SeqCst);
}

/// The adapter did what LNGate does not.
pub fn help(help: Help) {
    lock(&HELPS).insert(help);
}

/// Something stood in the way. Said at once: the test may abort the process.
pub fn obstacle(why: &str) {
    println!("{MARK}obstacle {why}");
}

/// Worth reading when a test fails.
pub fn remark(what: &str) {
    println!("{MARK}remark {what}");
}

/// The test passed.
pub fn passed() {
    let helps: Vec<_> = lock(&HELPS).iter().map(|help| help.name()).collect();
    let counts = [&OPENED, &JOINT, &BRIDGE, &HTLCS, &HOLDER, &REVEALED];
    let counts: Vec<_> = counts.iter().map(|count| count.load(Ordering::SeqCst).to_string()).collect();
    println!("{MARK}passed {} {}", counts.join(" "), helps.join(","));
}
