//! The same payments without devices: a node like the gateway's, whose signer is LDK's own and has all keys in memory. It shares bridge,
//! destination, disk and processors with the gateway, and has as many channels.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use farthing_chain::RegtestNode;
use farthing_gateway::ordinary::{ChannelId, News};
use farthing_testkit::wait::until;

use crate::gateway::busy::{LEAD, WINDOW};
use crate::gateway::devices::CAPACITY;
use crate::gateway::road::{Lightning, Road};
use crate::gateway::{TOLL_MSAT, usage};

/// The name of the node, and so of its threads.
pub const NAME: &str = "plain";

/// The node and its channels.
pub struct Plain {
    lightning: Lightning,
    channels: Vec<ChannelId>,
}

/// What a round of it came to.
pub struct Round {
    pub payments_per_s: f64,
    pub failed: usize,
    /// Processor time of the node for each payment.
    pub cpu_ms: f64,
}

impl Plain {
    /// Starts the node and opens that many channels with the bridge.
    pub fn new(regtest: &RegtestNode, road: &Road, folder: &Path, channels: usize) -> anyhow::Result<Self> {
        let mut lightning = Lightning::start(NAME, 3, &regtest.chain(), folder)?;
        lightning.connect(&road.bridge)?;
        for _ in 0..channels {
            lightning.open(regtest, &road.bridge, CAPACITY)?;
            // A peer has only few channels without a confirmation.
            regtest.mine(1)?;
            let height = regtest.chain().tip()?.height;
            until("the bridge knows the block", || Ok((road.bridge.node.height() >= height).then_some(())))?;
        }
        regtest.mine(8)?;
        until("the channels are open", || Ok((lightning.node.usable() == channels).then_some(())))?;
        while lightning.ready.len() < channels {
            if let News::Ready(channel) = lightning.hear()? {
                lightning.ready.push(channel);
            }
        }
        let channels = std::mem::take(&mut lightning.ready);
        Ok(Self { lightning, channels })
    }

    /// So many payments, one after the other. How long each took from the order to the preimage, in milliseconds. They go round the
    /// channels, so that each begins in one that rests.
    pub fn sequential(&mut self, road: &Road, payments: usize) -> anyhow::Result<Vec<f64>> {
        let mut took = Vec::with_capacity(payments);
        for channel in self.channels.clone().into_iter().cycle().take(payments) {
            let invoice = road.invoice(TOLL_MSAT)?;
            let began = Instant::now();
            let hash = self.lightning.node.pay(channel, &invoice)?;
            while self.lightning.hear()? != News::Paid(hash) {}
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    }

    /// All channels at once, each with one payment after the other.
    pub fn busy(&mut self, road: &Road) -> anyhow::Result<Round> {
        let mut under_way = HashMap::new();
        for channel in self.channels.clone() {
            under_way.insert(self.begin(road, channel)?, channel);
        }
        let from = Instant::now() + LEAD;
        let (mut paid, mut failed, mut before) = (0, 0, None);
        while from.elapsed() < WINDOW {
            let (hash, is_paid) = match self.lightning.hear()? {
                News::Paid(hash) => (hash, true),
                News::NotPaid(hash, why) => {
                    eprintln!("not paid: {why}");
                    (hash, false)
                }
                _other => continue,
            };
            if from.elapsed() > Duration::ZERO {
                before.get_or_insert((Instant::now(), usage::of_threads(NAME)?));
                paid += u32::from(is_paid);
                failed += usize::from(!is_paid);
            }
            if let Some(channel) = under_way.remove(&hash) {
                under_way.insert(self.begin(road, channel)?, channel);
            }
        }
        let (start, cpu) = before.unwrap_or((from, 0.0));
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), usage::of_threads(NAME)? - cpu);
        while !under_way.is_empty() {
            if let News::Paid(hash) | News::NotPaid(hash, _) = self.lightning.hear()? {
                under_way.remove(&hash);
            }
        }
        let payments = f64::from(paid);
        Ok(Round { payments_per_s: payments / seconds, failed, cpu_ms: cpu / payments })
    }

    fn begin(&self, road: &Road, channel: ChannelId) -> anyhow::Result<[u8; 32]> {
        Ok(self.lightning.node.pay(channel, &road.invoice(TOLL_MSAT)?)?)
    }

    /// Ends the node.
    pub fn stop(self) {
        self.lightning.node.stop();
    }
}
