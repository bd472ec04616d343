//! Fees that rise: blocks are small, and somebody fills them with transactions that pay more.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
};
use farthing_chain::{Chain, RegtestNode};
use farthing_gateway::ldk::fees::{FeeRates, Fees};
use farthing_gateway::ordinary::{News, low_fees};
use farthing_node::device::alone::Closer;
use farthing_protocol::device::Policy;
use lightning::chain::chaininterface::{ConfirmationTarget, FeeEstimator as _};

use crate::bridge;
use crate::car::{Car, fee_of};
use crate::world::*;

/// Somebody who pays more than others.
pub struct Spike {
    coins: Vec<(OutPoint, TxOut)>,
}

impl Spike {
    /// A block has room for 1,000 vbytes beside the coinbase.
    pub const ARGUMENTS: [&str; 2] = ["-blockreservedweight=8000", "-blockmaxweight=12000"];
    /// So many transactions fill a block.
    const IN_A_BLOCK: usize = 3;
    /// Each makes so many outputs, about 300 vbytes.
    const OUTPUTS: u64 = 6;
    const FEE: Amount = Amount::from_sat(9_000);
    const SMALL: Amount = Amount::from_sat(1_000);

    /// With coins of its own.
    pub fn prepare(regtest: &RegtestNode) -> Self {
        let address = Address::from_script(&script(COIN), Network::Regtest).unwrap();
        let coin = |_| {
            let txid = regtest.send(&address, Amount::from_sat(2_000_000)).unwrap();
            let parent = regtest.chain().mempool_transaction(&txid).unwrap().unwrap();
            let vout = parent.output.iter().position(|output| output.script_pubkey == script(COIN)).unwrap();
            regtest.mine(1).unwrap();
            (OutPoint { txid, vout: vout as u32 }, parent.output[vout].clone())
        };
        Self { coins: (0..Self::IN_A_BLOCK).map(coin).collect() }
    }

    /// From now on the next block is full.
    pub fn fill_a_block(&mut self, chain: &Chain) {
        for (outpoint, coin) in &mut self.coins {
            let small = TxOut { value: Self::SMALL, script_pubkey: script(COIN) };
            let rest = coin.value - Self::FEE - Self::SMALL * Self::OUTPUTS;
            let mut output = vec![TxOut { value: rest, script_pubkey: script(COIN) }];
            output.extend((0..Self::OUTPUTS).map(|_| small.clone()));
            let input = TxIn {
                previous_output: *outpoint,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            };
            let unsigned =
                Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: vec![input], output };
            let filling = sign(unsigned, coin);
            chain.broadcast(&filling).unwrap();
            (*outpoint, *coin) =
                (OutPoint { txid: filling.compute_txid(), vout: 0 }, filling.output[0].clone());
        }
    }
}

/// The bridge cheats while fees are above what the owner lets the device pay. The penalty pays the most that is allowed, and is in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_cheats_while_fees_are_above_the_owners_bounds() {
    let most_fee_rate = FeeRate::from_sat_per_kwu(1_100);
    let world = World::start_on(RegtestNode::start_with(&Spike::ARGUMENTS).unwrap()).await;
    let mut car = Car::with(Policy { most_fee_rate, ..policy() });
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let revoked = bridge::newest(&world).await;
    car.pay(&world.destination.invoice(10_000_000)).await;
    world.gateway.stop();
    car.hang_up();
    let mut spike = Spike::prepare(&world.regtest);
    for _ in 0..20 {
        spike.fill_a_block(&world.chain);
        world.mine(1);
    }
    let estimate = world.chain.fee_rate(6).unwrap().expect("twenty full blocks give an estimate");
    assert!(estimate > most_fee_rate, "{estimate:?}");

    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    spike.fill_a_block(&world.chain);
    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.not_sent().count()), (Closer::Cheat, 0), "{ended:?}");
    let [(penalty, Ok(()))] = &ended.sent[..] else { panic!("{ended:?}") };
    world.mine(1);
    assert!(world.chain.mempool_entry(&penalty.compute_txid()).unwrap().is_some(), "not in the next block");
    world.mine(1);
    let swept = car.sweep(&world, &ended.claims);
    let commitment = fee_of(&revoked, CAPACITY);
    let fee = fee_of(penalty, CAPACITY - commitment - ended.claimed());
    assert!(fee.to_sat() <= penalty.weight().to_wu() * 1_100 / 1_000 + 5, "{fee}");
    assert_eq!(world.cold(), CAPACITY - commitment - fee - swept, "the whole channel");
}

/// A stranger wants a channel to the operator's ordinary node at a rate that does not confirm. It could route a payment to itself, not take the
/// preimage for it, and wait until the payment has expired before the node's commitment is in a block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_wants_a_channel_whose_commitment_would_not_confirm() {
    let regtest = RegtestNode::start_with(&Spike::ARGUMENTS).unwrap();
    let chain = regtest.chain();
    let mut spike = Spike::prepare(&regtest);
    for _ in 0..20 {
        spike.fill_a_block(&chain);
        regtest.mine(1).unwrap();
    }
    let [soon, to_claim] = [6, 18].map(|target| chain.fee_rate(target).unwrap().expect("an estimate"));
    let low = low_fees();
    assert!(to_claim.to_sat_per_kwu() > low.commitment.to_sat_per_kwu() + 250, "{to_claim:?}");
    let following = FeeRates { follows_estimates: true, ..low };

    let ordinary = Stock::start_with("ordinary", 0x50, &chain, following).await;
    let mut stranger = Stock::start("stranger", 0x60, &chain).await;
    let id = ordinary.node.id();
    stranger.node.keep_connected(id, ordinary.address);
    until("the stranger is connected", || stranger.node.is_connected(&id)).await;
    stranger.node.open_channel(1, id, CAPACITY, false).unwrap();
    let news = tokio::time::timeout(PATIENCE, stranger.news.recv()).await.unwrap().unwrap();
    let News::Closed { opening: 1, why } = news else { panic!("it was taken: {news:?}") };
    assert!(why.contains("feerate much too low"), "{why}");

    // What is its own to send pays what confirms; what a device has to sign does not follow.
    let rate = |fees: &Fees, target| u64::from(fees.get_est_sat_per_1000_weight(target));
    for (rates, expected) in [(following, soon), (low, low.onchain)] {
        let fees = Fees::new(rates);
        fees.ask(&chain);
        for target in [ConfirmationTarget::UrgentOnChainSweep, ConfirmationTarget::NonAnchorChannelFee] {
            assert_eq!(rate(&fees, target), expected.to_sat_per_kwu(), "{target:?}");
        }
    }
}
