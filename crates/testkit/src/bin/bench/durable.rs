//! Payments a second that a seller accepts and stores: through [`Seller::charge`], with its own database on a disk,
//! `synchronous = FULL`, its chain watch running, and channels whose fundings are in a block of a real bitcoind. The
//! payments are signed beforehand. Each channel has [`IN_FLIGHT`] requests under way, as a buyer has by default.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::key::TweakedPublicKey;
use bitcoin::secp256k1::{Keypair, Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, Sequence, Transaction, TxIn, TxOut, Witness, absolute, transaction,
};
use farthing_chain::{OutputStatus, RegtestNode};
use farthing_node::books::Item;
use farthing_node::home::Home;
use farthing_node::seller::{Seller, Terms};
use farthing_node::watch::Pace;
use farthing_protocol::channel::Expiry;
use farthing_protocol::keys::KeyId;
use farthing_protocol::opening::{Confirmations, Offer};
use farthing_protocol::{Channel, ChannelId, Msat, Params, Payment, payee};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::farthing::Folder;
use crate::payer::{self, Payer};
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
/// More than a thousandth of the first payment, so that nearly every payment raises the total.
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
    let (home, _words) = Home::init(&data, Network::Regtest, None)?;
    let pace = Pace {
        interval: Duration::from_secs(5),
        target_blocks: 3,
        fallback_fee_rate: FeeRate::from_sat_per_vb_u32(2),
    };
    let seller = Seller::start(&home, node.chain(), pace, terms())?;
    let runtime = Runtime::new()?;
    let mut lanes = open(node, &seller, 1 + MANY)?;
    let (one, many) = lanes.split_at_mut(1);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let flush = flush_us(&data.join("flush"))?;
        let single = round(&runtime, &seller, one, ONE_CHANNEL)?;
        rounds.push((single, round(&runtime, &seller, many, EACH_OF_MANY)?, flush));
    }
    for entry in runtime.block_on(seller.channels())? {
        let lane = lanes.iter().find(|lane| lane.id == entry.id).context("a channel of ours")?;
        ensure!(Some(entry.state.ledger().spent) == COST.checked_mul(lane.bought), "each payment was charged");
        ensure!(matches!(entry.state, payee::State::Open(_)), "the channel is open");
    }
    Ok(Durable {
        payments_per_s_1: median(rounds.iter().map(|round| round.0)),
        payments_per_s_64: median(rounds.iter().map(|round| round.1)),
        disk_flush_us: median(rounds.iter().map(|round| round.2)),
        rounds: ROUNDS,
    })
}

/// Accepted payments a second, when each lane brings so many.
fn round(runtime: &Runtime, seller: &Seller, lanes: &mut [Lane], payments: usize) -> anyhow::Result<f64> {
    let work: Vec<(ChannelId, Vec<(Item, Payment)>)> =
        lanes.iter_mut().map(|lane| Ok((lane.id, lane.sign(payments)?))).collect::<anyhow::Result<_>>()?;
    let accepted = lanes.len() * payments;
    let seconds = std::thread::scope(|scope| {
        // Scoped, so that the tasks may borrow the seller.
        scope.spawn(|| runtime.block_on(all(seller, work))).join().expect("no task panics")
    })?;
    Ok(accepted as f64 / seconds)
}

/// All lanes at once; how many seconds it takes until the last payment is stored.
async fn all(seller: &Seller, work: Vec<(ChannelId, Vec<(Item, Payment)>)>) -> anyhow::Result<f64> {
    let start = Instant::now();
    let lanes = work.iter().map(|(id, payments)| lane(seller, *id, payments));
    futures(lanes).await?;
    Ok(start.elapsed().as_secs_f64())
}
