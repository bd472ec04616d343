//! One device that pays now and then: each payment begins when nothing of the one before is under way any more.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use farthing_testkit::wait::until;

use crate::gateway::devices::{Device, Paid};
use crate::gateway::link::Link;
use crate::gateway::road::Road;
use crate::gateway::{TOLL_MSAT, usage};
use crate::stats::percentile;

/// How long a link is quiet before the next payment. Here: until everything is over. On the slow link: so long that TCP, which knows
/// the link's rate while it is busy, begins anew, as for a device that pays now and then.
const QUIET: Duration = Duration::from_millis(60);
const QUIET_SLOW: Duration = Duration::from_millis(600);
/// Payments before anything is counted: they open TCP's windows and fill caches, as a device's first payments do.
const FIRST: usize = 3;

/// What the payments came to.
pub struct Single {
    /// From the invoice to the preimage, both at the device.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub payments: usize,
    pub failed: usize,
    /// The device's processor time for each payment.
    pub cpu_ms: f64,
    /// The most memory that the device's process ever had.
    pub peak_mib: f64,
    /// Encrypted bytes on the device's link for each payment, both ways.
    pub link_bytes: f64,
    /// Messages on it for each payment, both ways.
    pub messages: f64,
    pub joint_signatures: f64,
    /// Bytes of whole frames for each payment, both ways, where a slow link counted them.
    pub frame_bytes: Option<f64>,
}

/// What the gateway and the system have counted so far.
struct Counts {
    joint_signatures: f64,
    link_bytes: f64,
    messages: f64,
    cpu_ms: f64,
    frame_bytes: Option<f64>,
}

/// Measures so many payments.
pub fn measure(road: &Road, device: &Device, over: Option<&Link>, payments: usize) -> anyhow::Result<Single> {
    let mut connected = device.connect(over)?;
    let id = connected.process.id();
    let mut pay = || {
        let paid = connected.pay(&road.invoice(TOLL_MSAT)?)?;
        rest(road, if over.is_some() { QUIET_SLOW } else { QUIET })?;
        Ok::<_, anyhow::Error>(paid)
    };
    for _ in 0..FIRST {
        pay()?;
    }
    let before = Counts::now(road, id, over)?;
    let (mut took, mut failed) = (Vec::with_capacity(payments), 0);
    for _ in 0..payments {
        match pay()? {
            Paid::After(ms) => took.push(ms),
            Paid::Not => failed += 1,
        }
    }
    let after = Counts::now(road, id, over)?;
    let count = took.len() as f64;
    let each = |of: fn(&Counts) -> f64| (of(&after) - of(&before)) / count;
    Ok(Single {
        p50_ms: percentile(&took, 0.5).context("nothing was paid")?,
        p99_ms: percentile(&took, 0.99).context("nothing was paid")?,
        payments: took.len(),
        failed,
        cpu_ms: each(|counts| counts.cpu_ms),
        peak_mib: connected.process.peak_mib().context("the device is gone")?,
        link_bytes: each(|counts| counts.link_bytes),
        messages: each(|counts| counts.messages),
        joint_signatures: each(|counts| counts.joint_signatures),
        frame_bytes: after
            .frame_bytes
            .zip(before.frame_bytes)
            .map(|(after, before)| (after - before) / count),
    })
}

impl Counts {
    fn now(road: &Road, device: u32, over: Option<&Link>) -> anyhow::Result<Self> {
        let count = |key: &str| road.count(key).map(|count| count as f64);
        Ok(Self {
            joint_signatures: count("joint_signatures")?,
            link_bytes: count("link_bytes")?,
            messages: count("link_messages")?,
            cpu_ms: usage::of_process(device)?,
            frame_bytes: over.map(|link| link.frame_bytes() as f64),
        })
    }
}

/// Waits until device and gateway have nothing more to say to each other.
fn rest(road: &Road, quiet: Duration) -> anyhow::Result<()> {
    let mut last = (road.count("link_messages")?, Instant::now());
    until("the link rests", || {
        let messages = road.count("link_messages")?;
        if messages != last.0 {
            last = (messages, Instant::now());
        }
        Ok((last.1.elapsed() > quiet).then_some(()))
    })
}
