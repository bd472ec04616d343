//! Payments a second that a seller accepts and stores: through [`Seller::charge`], with its own database on a disk,
//! `synchronous = FULL`, its chain watch running, and channels whose fundings are in a block of a real bitcoind. The
//! payments are signed beforehand. Each channel has [`IN_FLIGHT`] requests under way, as a buyer has by default.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::{Amount, Network};
use farthing_chain::RegtestNode;
use farthing_node::books::Item;
use farthing_node::home::Home;
use farthing_node::seller::Seller;
use farthing_node::tabs::Durability;
use farthing_protocol::{ChannelId, Msat, Payment, payee};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::farthing::Folder;
use crate::opened;
use crate::payer::Payer;
use crate::stats::median;

/// Requests under way in each channel.
pub const IN_FLIGHT: usize = 2;
/// Channels in the larger measurement.
const MANY: usize = 64;
const ROUNDS: usize = 7;
/// Payments in one round of one channel, and of each of many.
const ONE_CHANNEL: usize = 1_000;
const EACH_OF_MANY: usize = 150;
const CAPACITY: Amount = Amount::from_sat(1_000_000);
/// Not small beside the first payment, so that nearly every payment raises the total and is verified.
const COST: Msat = Msat::new(50_000);

/// Medians over the rounds.
pub struct Durable {
    pub payments_per_s_1: f64,
    pub payments_per_s_64: f64,
    /// What one small write that reaches the disk takes here, in microseconds: append, then `fdatasync`.
    pub disk_flush_us: f64,
    pub rounds: usize,
}

/// One channel of the seller's, and who pays in it.
struct Lane {
    id: ChannelId,
    payer: Payer,
    bought: u64,
}

/// Measures.
pub fn measure(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Durable> {
    let data = folder.path().join("durable");
    let (home, _words) = Home::init(&data, Network::Regtest)?;
    let terms = opened::terms(CAPACITY, 1 + MANY, Durability::Call);
    let pace = opened::pace(Duration::from_secs(5));
    let seller = Arc::new(Seller::start(&home, node.chain(), pace, terms)?);
    let runtime = Runtime::new()?;
    let channels = opened::open(node, &seller, CAPACITY, 1 + MANY)?;
    let mut lanes: Vec<Lane> =
        channels.into_iter().map(|(id, payer)| Lane { id, payer, bought: 0 }).collect();
    let (one, many) = lanes.split_at_mut(1);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let flush = flush_us(&data.join("flush"))?;
        let single = round(&runtime, &seller, one, ONE_CHANNEL)?;
        rounds.push((single, round(&runtime, &seller, many, EACH_OF_MANY)?, flush));
    }
    for entry in runtime.block_on(seller.channels())? {
        let lane = lanes.iter().find(|lane| lane.id == entry.id).context("a channel of ours")?;
        ensure!(
            Some(entry.state.ledger().spent) == COST.checked_mul(lane.bought),
            "each payment was charged"
        );
        ensure!(matches!(entry.state, payee::State::Open(_)), "the channel is open");
    }
    Ok(Durable {
        payments_per_s_1: median(rounds.iter().map(|round| round.0)),
        payments_per_s_64: median(rounds.iter().map(|round| round.1)),
        disk_flush_us: median(rounds.iter().map(|round| round.2)),
        rounds: ROUNDS,
    })
}

/// Accepted payments a second, when each channel brings so many.
fn round(
    runtime: &Runtime,
    seller: &Arc<Seller>,
    lanes: &mut [Lane],
    payments: usize,
) -> anyhow::Result<f64> {
    let signed = lanes.iter_mut().map(|lane| Ok((lane.id, lane.sign(payments)?)));
    let signed = signed.collect::<anyhow::Result<Vec<_>>>()?;
    let start = Instant::now();
    runtime.block_on(async {
        let mut channels = JoinSet::new();
        for (id, payments) in signed {
            channels.spawn(charge(seller.clone(), id, payments));
        }
        while let Some(channel) = channels.join_next().await {
            channel??;
        }
        anyhow::Ok(())
    })?;
    Ok((lanes.len() * payments) as f64 / start.elapsed().as_secs_f64())
}

/// Brings one channel's payments, [`IN_FLIGHT`] at a time, in order.
async fn charge(seller: Arc<Seller>, id: ChannelId, payments: Vec<(Item, Payment)>) -> anyhow::Result<()> {
    let waiting = Mutex::new(payments.into_iter());
    let next = || waiting.lock().expect("no holder of this lock panics").next();
    let requests = async || {
        while let Some((item, payment)) = next() {
            let cost = seller.charge(id, item, Some(payment)).await?;
            ensure!(cost == COST, "an item is new to the channel");
        }
        Ok(())
    };
    let both: [anyhow::Result<()>; IN_FLIGHT] = tokio::join!(requests(), requests()).into();
    both.into_iter().collect()
}

impl Lane {
    fn sign(&mut self, payments: usize) -> anyhow::Result<Vec<(Item, Payment)>> {
        (0..payments)
            .map(|_| {
                let mut item = Item { id: [0; 32], cost: COST };
                item.id[..8].copy_from_slice(&self.bought.to_be_bytes());
                self.bought += 1;
                Ok((item, self.payer.buy(COST)?))
            })
            .collect()
    }
}

/// What a small write takes until it is on the disk: the median of some, in microseconds.
fn flush_us(path: &Path) -> anyhow::Result<f64> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let flush = |_| {
        let start = Instant::now();
        (&file).write_all(&[0x5A; 4_096])?;
        file.sync_data()?;
        anyhow::Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    Ok(median((0..50).map(flush).collect::<Result<Vec<_>, _>>()?))
}
