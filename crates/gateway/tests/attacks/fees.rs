//! Fees that rise: blocks are small, and somebody fills them with transactions that pay more.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
};
use farthing_chain::RegtestNode;
use farthing_node::device::alone::Closer;
use farthing_protocol::device::Policy;

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
    pub fn prepare(world: &World) -> Self {
        let address = Address::from_script(&script(COIN), Network::Regtest).unwrap();
        let coin = |_| {
            let txid = world.regtest.send(&address, Amount::from_sat(2_000_000)).unwrap();
            let parent = world.chain.mempool_transaction(&txid).unwrap().unwrap();
            let vout = parent.output.iter().position(|output| output.script_pubkey == script(COIN)).unwrap();
            world.mine(1);
            (OutPoint { txid, vout: vout as u32 }, parent.output[vout].clone())
        };
        Self { coins: (0..Self::IN_A_BLOCK).map(coin).collect() }
    }

    /// From now on the next block is full.
    pub fn fill_a_block(&mut self, world: &World) {
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
            world.chain.broadcast(&filling).unwrap();
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
    let mut spike = Spike::prepare(&world);
    for _ in 0..20 {
        spike.fill_a_block(&world);
        world.mine(1);
    }
    let estimate = world.chain.fee_rate(6).unwrap().expect("twenty full blocks give an estimate");
    assert!(estimate > most_fee_rate, "{estimate:?}");

    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    spike.fill_a_block(&world);
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
