//! Payments a second that a seller accepts and stores: through [`Seller::charge`], with its own database on a disk,
//! `synchronous = FULL`, its chain watch running, and channels whose fundings are in a block of a real bitcoind. The
//! payments are signed beforehand. Each channel has [`IN_FLIGHT`] requests under way, as a buyer has by default.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bitcoin::key::TweakedPublicKey;
use bitcoin::secp256k1::{Keypair, Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, Sequence, Transaction, TxIn, TxOut, Witness, absolute,
    transaction,
};
use farthing_chain::{OutputStatus, RegtestNode};
use farthing_node::books::Item;
use farthing_node::home::Home;
use farthing_node::seller::{Seller, Terms};
use farthing_node::tabs::Durability;
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
    let pace = Pace {
        interval: Duration::from_secs(5),
        target_blocks: 3,
        fallback_fee_rate: FeeRate::from_sat_per_vb_u32(2),
    };
    let seller = Arc::new(Seller::start(&home, node.chain(), pace, terms())?);
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

/// Opens channels with the seller: one transaction funds them all, and is in a block when this returns.
fn open(node: &RegtestNode, seller: &Seller, channels: usize) -> anyhow::Result<Vec<Lane>> {
    let height = node.chain().tip()?.height;
    let coin = Coin::from(node, CAPACITY * (channels as u64 + 1))?;
    let offers: Vec<(Offer, KeyId)> = (0..channels).map(|_| seller.offer()).collect();
    let agreed = offers.iter().enumerate().map(|(index, (offer, _))| params(offer, height, index as u64));
    let agreed: Vec<Params> = agreed.collect();
    // The outputs do not depend on where they will be.
    let outputs = agreed.iter().map(|params| Ok(Channel::new(params.clone())?.funding_txout()));
    let funding = coin.spend(outputs.collect::<anyhow::Result<_>>()?)?;
    let txid = funding.compute_txid();
    let mut lanes = Vec::with_capacity(channels);
    for (index, (mut params, (offer, key))) in agreed.into_iter().zip(offers).enumerate() {
        params.funding = OutPoint { txid, vout: index as u32 };
        let keys = payer::keys(index as u64);
        let (mut payer, opening) = Payer::propose(params, keys, funding.clone())?;
        let (id, signature) = seller.accept(&offer, key, opening)?;
        payer.accepted(signature)?;
        lanes.push(Lane { id, payer, bought: 0 });
    }
    node.chain().broadcast(&funding)?;
    node.mine(1)?;
    seller.look()?;
    Ok(lanes)
}

fn params(offer: &Offer, height: u32, index: u64) -> Params {
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    Params {
        network: Network::Regtest,
        funding: OutPoint::null(),
        capacity: CAPACITY,
        expiry: Expiry::at_height(height + 1_000),
        fee_rate,
        prepaid: Offer::prepaid(fee_rate),
        payer: payer::party(&payer::keys(index)),
        payee: offer.payee.clone(),
    }
}

fn terms() -> Terms {
    Terms {
        capacity: (CAPACITY, CAPACITY),
        fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(200)),
        lifetime: (144, 4_320),
        margin: 36,
        confirmations: Confirmations { least: 1, one_more_per: Amount::ZERO },
        unconfirmed_cap: Msat::ZERO,
        patience: 6,
        finality: 6,
        most_unfunded: 1 + MANY,
        durability: Durability::Call,
        most_exposure: Msat::new(2_000_000),
    }
}

/// A coin whose key the bench knows.
struct Coin {
    keypair: Keypair,
    outpoint: OutPoint,
    output: TxOut,
}

impl Coin {
    /// A fresh one, in a block.
    fn from(node: &RegtestNode, value: Amount) -> anyhow::Result<Self> {
        let keypair = Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&[6; 32])?);
        let key = TweakedPublicKey::dangerous_assume_tweaked(keypair.x_only_public_key().0);
        let address = Address::p2tr_tweaked(key, Network::Regtest);
        let txid = node.send(&address, value)?;
        node.mine(1)?;
        for vout in 0..2 {
            let outpoint = OutPoint { txid, vout };
            if let OutputStatus::Confirmed { output, .. } = node.chain().output(&outpoint)?
                && output.script_pubkey == address.script_pubkey()
            {
                return Ok(Self { keypair, outpoint, output });
            }
        }
        bail!("the node sent a coin that is not there")
    }

    /// Pays these outputs; the rest goes to the miner.
    fn spend(&self, outputs: Vec<TxOut>) -> anyhow::Result<Transaction> {
        let mut transaction = Transaction {
            version: transaction::Version::TWO,
            lock_time: absolute::LockTime::ZERO,
            input: vec![TxIn { previous_output: self.outpoint, sequence: Sequence::MAX, ..TxIn::default() }],
            output: outputs,
        };
        let digest = SighashCache::new(&transaction).taproot_key_spend_signature_hash(
            0,
            &Prevouts::All(&[&self.output]),
            TapSighashType::Default,
        )?;
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&Message::from(digest), &self.keypair);
        transaction.input[0].witness = Witness::from_slice(&[signature.as_ref()]);
        Ok(transaction)
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
