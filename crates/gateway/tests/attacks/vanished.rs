//! A gateway that goes away in the middle of a payment, and what the chain may bring meanwhile.

use bitcoin::{Amount, Transaction};
use farthing_chain::RegtestNode;
use farthing_node::device::alone::{Closer, Ended};
use farthing_protocol::device::State;
use farthing_protocol::device::bolt3::Preimage;

use crate::car::{Car, commitment_fee, fee_of};
use crate::fees::Spike;
use crate::world::*;

/// What a second stage pays: 663 weight units at the commitment's rate.
const TIMEOUT_FEE: Amount = Amount::from_sat(663);

/// A device that has paid once and has a payment under way that nobody claims, for that preimage. Gives what it has besides.
async fn in_the_middle(world: &mut World, car: &mut Car, preimage: &Preimage) -> Amount {
    car.connect(&world.gateway).await;
    car.open(world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(world, preimage, 30_000_000).await;
    car.balance().floor()
}

/// What the device's commitment has for the payment.
fn htlc(ended: &Ended) -> Amount {
    let [(commitment, _), (timeout, _)] = &ended.sent[..] else { panic!("a commitment and one payment") };
    commitment.output[timeout.input[0].previous_output.vout as usize].value
}

/// Takes the payment back when it has expired, and then everything to the cold address, with nothing but a bitcoind.
pub fn end(world: &World, car: &mut Car, besides: Amount, ended: &Ended) {
    let htlc = htlc(ended);
    let [expiry] = ended.waits_until().collect::<Vec<_>>()[..] else { panic!("one payment waits") };
    world.mine(expiry - 1 - world.chain.tip().unwrap().height);
    assert_eq!(car.close_alone(world).waits_until().count(), 1, "it is a block too early");
    world.mine(1);
    let ended = car.close_alone(world);
    assert!(ended.sent.iter().all(|(_, sent)| sent.is_ok()), "{ended:?}");
    world.mine(1 + u32::from(ended.delay()));
    let fee = car.sweep(world, &ended.claims);
    let timeout: &Transaction = &ended.sent[1].0;
    assert_eq!(fee_of(timeout, htlc), TIMEOUT_FEE);
    assert_eq!(world.cold(), besides + htlc - commitment_fee(1) - TIMEOUT_FEE - fee);
}

/// The gateway reveals nothing and is gone. Power is cut, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_vanishes_and_the_payment_times_out() {
    let mut world = World::start().await;
    let mut car = Car::new();
    let besides = in_the_middle(&mut world, &mut car, &Preimage([2; 32])).await;
    world.gateway.stop();
    car.power_cut();
    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Device, 2));
    assert!(ended.sent[0].1.is_ok(), "{ended:?}");
    world.mine(1);
    end(&world, &mut car, besides, &ended);
}

/// The same, but the payee claims: it is paid, once, and the device has the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_vanishes_and_the_payment_goes_through_on_the_chain() {
    let mut world = World::start().await;
    let mut car = Car::new();
    let preimage = Preimage([2; 32]);
    let besides = in_the_middle(&mut world, &mut car, &preimage).await;
    world.gateway.stop();
    car.power_cut();
    let ended = car.close_alone(&world);
    world.mine(1);
    world.destination.node.claim(&preimage);
    let taken = ended.sent[1].0.input[0].previous_output;
    until("the bridge claims with the preimage", || world.chain.mempool_spender(&taken).unwrap().is_some())
        .await;
    world.mine(1);
    let expiry = ended.waits_until().next().unwrap();
    world.mine(expiry - world.chain.tip().unwrap().height);
    let ended = car.close_alone(&world);
    assert_eq!(ended.waits_until().count() + ended.not_sent().count(), 0, "the payment is over: {ended:?}");
    world.mine(u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), besides - commitment_fee(1) - fee);
}

/// The device is away until a payment has expired. The gateway gives the channel up, and its process ends; the next one tells the device
/// to close as soon as it is there. The bridge is gone as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_gives_up_and_the_device_is_told_when_it_is_back() {
    let mut world = World::start().await;
    let mut car = Car::new();
    let besides = in_the_middle(&mut world, &mut car, &Preimage([2; 32])).await;
    let (channel, life) = car.device().paying().unwrap();
    let funding = life.setup().terms.funding;
    car.hang_up();
    world.bridge.node.stop();
    world.mine(300);
    let gateway = world.gateway.clone();
    until("the gateway gives the channel up", || gateway.details(channel.0).is_none()).await;
    world.restart_gateway().await;

    car.connect(&world.gateway).await;
    car.answer_until("the device closes", |car| matches!(car.state(), State::Closing(_))).await;
    until("the gateway sends it", || world.chain.mempool_spender(&funding).unwrap().is_some()).await;
    let ended = car.close_alone(&world);
    assert_eq!(ended.by, Closer::Device);
    let htlc = htlc(&ended);
    world.mine(1);
    let ended = car.close_alone(&world);
    assert_eq!(ended.waits_until().count() + ended.not_sent().count(), 0, "it had expired: {ended:?}");
    world.mine(1 + u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), besides + htlc - commitment_fee(1) - TIMEOUT_FEE - fee);
}

/// The same, but what the device gave leaves the mempool before it is in a block. The device is asked again with the next block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commitment_that_the_node_forgot_is_sent_again() {
    let mut world = World::start().await;
    let mut car = Car::new();
    in_the_middle(&mut world, &mut car, &Preimage([2; 32])).await;
    let (channel, life) = car.device().paying().unwrap();
    let funding = life.setup().terms.funding;
    car.hang_up();
    world.bridge.node.stop();
    world.mine(300);
    let gateway = world.gateway.clone();
    until("the gateway gives the channel up", || gateway.details(channel.0).is_none()).await;
    car.connect(&world.gateway).await;
    let mut sent = None;
    car.answer_until("the gateway sends it", |_| {
        sent = world.chain.mempool_spender(&funding).unwrap();
        sent.is_some()
    })
    .await;
    world.forget_mempool(&sent.unwrap().compute_txid());
    world.regtest.mine_empty().unwrap();
    car.answer_until("it sends it again", |_| world.chain.mempool_spender(&funding).unwrap().is_some()).await;
}

/// Fees rise above what the commitment pays while the gateway is gone. It waits in the mempool, nobody else can spend what it spends,
/// and when fees have fallen everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fees_rise_while_the_gateway_is_gone() {
    let regtest = RegtestNode::start_with(&Spike::ARGUMENTS).unwrap();
    let mut world = World::start_on(regtest).await;
    let mut car = Car::new();
    let besides = in_the_middle(&mut world, &mut car, &Preimage([2; 32])).await;
    world.gateway.stop();
    car.power_cut();
    let mut spike = Spike::prepare(&world.regtest);
    for _ in 0..10 {
        spike.fill_a_block(&world.chain);
        let ended = car.close_alone(&world);
        assert!(ended.sent[0].1.is_ok(), "{ended:?}");
        world.mine(1);
        assert!(world.chain.mempool_entry(&ended.closing).unwrap().is_some(), "it pays too little now");
    }
    world.mine(1);
    let ended = car.close_alone(&world);
    assert!(world.chain.mempool_entry(&ended.closing).unwrap().is_none(), "it is in a block");
    end(&world, &mut car, besides, &ended);
}
