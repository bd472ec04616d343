//! The bridge, alone and with the gateway: it closes, or publishes what it had revoked.

use bitcoin::{Amount, FeeRate, OutPoint, Transaction};
use farthing_chain::RegtestNode;
use farthing_gateway::gateway::Gateway;
use farthing_node::device::alone::Closer;
use farthing_protocol::Msat;
use farthing_protocol::device::State;
use farthing_protocol::device::bolt3::{Contents, Htlc, Preimage, Side};
use farthing_protocol::device::owner::Claim;
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Order, Report, Request, ToDevice, ToGateway};

use crate::bridge;
use crate::car::{Car, commitment_fee, fee_of};
use crate::fees::Spike;
use crate::hostile::{In, Liar, Out};
use crate::lost::trouble;
use crate::world::*;

/// The bridge closes while nothing is under way; then the device closes, and finds that it was done. The owner has its balance at
/// once, with its payment key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_closes_first_and_then_the_device() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let balance = car.balance().floor();
    car.hang_up();
    let published = bridge::newest(&world).await;
    world.bridge.node.force_close_with(&world.gateway.node.id()).unwrap();
    world.gateway.stop();
    until("the bridge's commitment is on its way", || {
        world.chain.mempool_transaction(&published.compute_txid()).unwrap().is_some()
    })
    .await;

    // It is seen in the mempool, in a block, and when the owner has it.
    for _ in 0..2 {
        let ended = car.close_alone(&world);
        assert_eq!((ended.by, ended.closing), (Closer::Bridge, published.compute_txid()));
        assert_eq!((ended.sent.len(), ended.delay()), (0, 0));
        assert_eq!(ended.claimed(), balance - commitment_fee(0));
        world.mine(1);
    }
    let claims = car.close_alone(&world).claims;
    let fee = car.sweep(&world, &claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
    // An owner that looks after it much later still finds who it was.
    world.mine(2_100);
    assert_eq!(car.close_alone(&world).by, Closer::Bridge);
}

/// The bridge closes with a payment under way that nobody claims. The device takes it back when it has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_closes_in_the_middle_of_a_payment() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(&mut world, &Preimage([2; 32]), 30_000_000).await;
    let besides = car.balance().floor();
    car.hang_up();
    world.gateway.stop();
    let published = bridge::newest(&world).await;
    world.chain.broadcast(&published).unwrap();
    world.mine(1);

    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Bridge, 1));
    let expiry = ended.waits_until().next().expect("the HTLC has not expired");
    let taken_back = ended.sent[0].0.clone();
    let htlc = published.output[taken_back.input[0].previous_output.vout as usize].value;
    world.mine(expiry - world.chain.tip().unwrap().height);
    let ended = car.close_alone(&world);
    assert_eq!(ended.waits_until().count() + ended.not_sent().count(), 0, "{ended:?}");
    world.mine(1);
    let fee = car.sweep(&world, &ended.claims);
    let expected = besides + htlc - commitment_fee(1) - fee_of(&taken_back, htlc) - fee;
    assert_eq!(world.cold(), expected);
    assert!(fee_of(&taken_back, htlc) < Amount::from_sat(1_500));
}

/// The gateway has a state signed that it never shows to the bridge, and then another one of the same number. The bridge closes with
/// the one it has; the device knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_shows_different_states_to_device_and_bridge() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let balance = car.balance().floor();
    world.gateway.stop();
    car.hang_up();
    let published = bridge::newest(&world).await;
    let invoice = car.approve(&world.destination.invoice(30_000_000));

    let mut liar = Liar::meet(&world, &mut car).await;
    let bridge = liar.newest(Side::Bridge).clone();
    let amount = invoice.amount();
    let expiry = world.chain.tip().unwrap().height + 100;
    let htlc = Htlc { offered_by: Side::Holder, amount, payment_hash: invoice.payment_hash(), expiry };
    let shown = Contents {
        number: bridge.number.next().unwrap(),
        point: public(3),
        to_holder: bridge.to_holder.saturating_sub(amount),
        htlcs: vec![htlc],
        ..bridge.clone()
    };
    liar.sign(&mut car, &shown).await;
    // A second state in its place, one after it, and its end on the device's side alone.
    let dearer = Contents { fee_rate: FeeRate::from_sat_per_kwu(1_001), ..shown.clone() };
    let request = liar.sign_bridge(&dearer);
    assert_eq!(liar.refused(&mut car, request).await, "commitment-retry-same");
    let after =
        Contents { number: shown.number.next().unwrap(), htlcs: vec![], to_bridge: Msat::ZERO, ..shown };
    let request = liar.sign_bridge(&after);
    assert_eq!(liar.refused(&mut car, request).await, "commitment-previous-revoked");
    let secret = Request::Revoke { number: liar.newest(Side::Holder).number };
    assert!(matches!(liar.ask(&mut car, secret).await, Answer::Refused { .. }));
    drop(liar);
    car.hang_up();

    world.chain.broadcast(&published).unwrap();
    world.mine(1);
    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Bridge, 0), "that state has no HTLC");
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee, "not a satoshi of the HTLC");
}

/// Gateway and bridge have every state that there ever was, one of them with a payment that failed. Each that was revoked is published, one
/// after the other, on a chain that is taken back in between. The device, which was away, takes everything in it: the owner has the whole
/// channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_publishes_every_state_that_it_had_revoked() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    let mut old = vec![bridge::newest(&world).await];
    car.pay(&world.destination.invoice(20_000_000)).await;
    old.push(bridge::newest(&world).await);
    let failed = Preimage([2; 32]);
    car.lock_in(&mut world, &failed, 50_000_000).await;
    old.push(bridge::newest(&world).await);
    world.destination.node.give_back(&failed.hash());
    car.settle().await;
    old.push(bridge::newest(&world).await);
    car.pay(&world.destination.invoice(30_000_000)).await;
    let live = bridge::newest(&world).await;
    assert!(old.iter().all(|old| old.compute_txid() != live.compute_txid()));
    assert_eq!(old.iter().map(|old| old.output.len()).collect::<Vec<_>>(), [1, 2, 3, 2]);
    // The first state has nothing of the bridge's: to publish it gains nobody anything.
    car.hang_up();
    world.gateway.stop();
    let balance = car.balance().floor();

    for revoked in &old {
        let block = world.regtest.mine_with(std::slice::from_ref(revoked)).unwrap();
        let before = world.cold();
        // The device comes back long before the bridge has its money.
        world.mine(500);
        let ended = car.close_alone(&world);
        assert_eq!((ended.by, ended.closing), (Closer::Cheat, revoked.compute_txid()));
        assert_eq!(ended.not_sent().count(), 0, "{ended:?}");
        let penalty: Vec<_> = ended.sent.iter().map(|(transaction, _)| transaction.clone()).collect();
        let to_take = revoked.output.len() - 1;
        assert_eq!(penalty.iter().map(|penalty| penalty.input.len()).sum::<usize>(), to_take);
        world.mine(1);
        let swept = car.sweep(&world, &ended.claims);
        let taken: Amount = revoked.output.iter().map(|output| output.value).sum();
        let spent = taken - ended.claimed();
        let fees: Amount = penalty.iter().map(|penalty| fee_of(penalty, spent)).sum();
        assert_eq!(world.cold() - before, taken - fees - swept, "all of it");
        assert!(world.cold() - before > balance, "more than the owner had");
        world.regtest.invalidate(&block).unwrap();
    }
}

/// The bridge publishes a state that it had revoked while the device is away, and the gateway ends meanwhile. The device has no bitcoind, and
/// nobody closes anything: once it is back, the gateway has it sign the penalty, and sends that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_comes_back_punishes_through_its_gateway() {
    cheat_while_the_device_is_away(false).await;
}

/// The same, after the gateway had given the channel up over a payment that expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_comes_back_punishes_a_cheat_that_came_after_the_gateway_gave_up() {
    cheat_while_the_device_is_away(true).await;
}

async fn cheat_while_the_device_is_away(gateway_gives_up: bool) {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let failed = Preimage([2; 32]);
    car.lock_in(&mut world, &failed, 50_000_000).await;
    let revoked = bridge::newest(&world).await;
    assert_eq!(revoked.output.len(), 3);
    world.destination.node.give_back(&failed.hash());
    car.settle().await;
    car.pay(&world.destination.invoice(30_000_000)).await;
    let (channel, _) = car.device().paying().unwrap();
    if gateway_gives_up {
        car.lock_in(&mut world, &Preimage([3; 32]), 10_000_000).await;
    }
    car.hang_up();
    world.bridge.node.stop();
    let gateway = world.gateway.clone();
    if gateway_gives_up {
        world.mine(300);
        until("the gateway gives the channel up", || gateway.details(channel.0).is_none()).await;
    }
    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    world.mine(500);
    until("the gateway has heard", || {
        let height = gateway.node.channels.current_best_block().height;
        gateway.details(channel.0).is_none() && height == world.chain.tip().unwrap().height
    })
    .await;
    world.restart_gateway().await;

    car.connect(&world.gateway).await;
    let claim = Claim::of_bridge_commitment(&revoked, &car.enrolled.enrolment.payment);
    let claim = claim.expect("the owner's balance");
    let taken = OutPoint { txid: revoked.compute_txid(), vout: (claim.outpoint.vout + 1) % 3 };
    let mut penalty = None;
    car.answer_until("the penalty is on its way", |_| {
        penalty = world.chain.mempool_spender(&taken).unwrap();
        penalty.is_some()
    })
    .await;
    let penalty = penalty.unwrap();
    assert_eq!(penalty.input.len(), 2, "the bridge's balance, and the payment that had failed");
    // Until that is deep in the chain, and then no more.
    let desk = |gateway: &Gateway| gateway.orders(channel.0);
    assert_ne!(desk(&world.gateway), 0);
    for block in 1..=6 {
        assert_ne!(desk(&world.gateway), 0, "however deep the commitment is, after {block} blocks");
        world.mine(1);
        car.asked_about_the_end().await;
    }
    let gateway = world.gateway.clone();
    car.answer_until("nothing is looked for any more", |_| desk(&gateway) == 0).await;
    assert!(matches!(car.state(), State::Closing(_)));
    car.hang_up();

    let value: Amount = revoked.output.iter().map(|output| output.value).sum();
    let fee = fee_of(&penalty, value - claim.value);
    let swept = car.sweep(&world, &[claim]);
    assert_eq!(world.cold(), value - fee - swept, "all of the channel");
}

/// The bridge closes with a payment under way that nobody claims, while the device is away. Once it is back and the payment has expired, it
/// comes home through the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_comes_back_takes_its_payment_back_through_its_gateway() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(&mut world, &Preimage([2; 32]), 30_000_000).await;
    let (besides, channel) = (car.balance().floor(), car.device().paying().unwrap().0);
    car.hang_up();
    let published = bridge::newest(&world).await;
    world.bridge.node.stop();
    world.chain.broadcast(&published).unwrap();
    world.mine(1);
    let gateway = world.gateway.clone();
    until("the gateway has heard", || gateway.details(channel.0).is_none()).await;

    car.connect(&world.gateway).await;
    car.answer_until("the device knows", |car| matches!(car.state(), State::Closing(_))).await;
    assert_eq!(world.cold(), Amount::ZERO, "it has not expired");
    world.mine(300);
    let claim = Claim::of_bridge_commitment(&published, &car.enrolled.enrolment.payment).unwrap();
    let outputs = (0..).zip(&published.output);
    let outputs =
        outputs.map(|(vout, output)| (OutPoint { txid: published.compute_txid(), vout }, output.value));
    let outputs: Vec<_> = outputs.collect();
    let mut found = None;
    car.answer_until("it comes back", |_| {
        let spender = |outpoint| world.chain.mempool_spender(outpoint).unwrap();
        found = outputs.iter().find_map(|(outpoint, value)| Some((spender(outpoint)?, *value)));
        found.is_some()
    })
    .await;
    let (taken_back, htlc) = found.unwrap();
    world.mine(1);
    car.hang_up();
    let swept = car.sweep(&world, &[claim]);
    assert_eq!(world.cold(), besides + htlc - commitment_fee(1) - fee_of(&taken_back, htlc) - swept);
}

/// The device closes alone with the last state that it holds complete, when the gateway has shown it the next one already. The gateway sends what
/// brings the payment in that state home all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_knows_the_state_before_the_newest_too() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let failed = Preimage([2; 32]);
    car.lock_in(&mut world, &failed, 30_000_000).await;
    car.hang_up();
    world.destination.node.give_back(&failed.hash());
    let cutting = |message: In| match message {
        In::FromGateway(ToDevice::Request { request: Request::ValidateHolder { .. }, .. }) => vec![Out::Cut],
        other => vec![other.pass()],
    };
    car.connect_through(&world.gateway, Box::new(cutting)).await;
    while car.hear().await.is_ok() {}
    car.hang_up();
    world.bridge.node.stop();
    let ended = car.close_alone(&world);
    let [(_, Ok(())), (second_stage, Err(_))] = &ended.sent[..] else { panic!("{ended:?}") };
    let expiry = ended.waits_until().next().expect("the payment has not expired");
    world.mine(1);

    car.connect(&world.gateway).await;
    car.asked_about_the_end().await;
    world.mine(expiry - world.chain.tip().unwrap().height);
    let htlc = second_stage.input[0].previous_output;
    car.answer_until("it comes back", |_| world.chain.mempool_spender(&htlc).unwrap().is_some()).await;
}

/// The channel closes together. Before that is in a block, the bridge has a state mined that it had revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_cheats_after_it_has_signed_the_closing() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let revoked = bridge::newest(&world).await;
    car.pay(&world.destination.invoice(30_000_000)).await;
    let order = car.order(Order::Close { channel }).await;
    let report = car.report(order).await;
    assert!(matches!(report, Report::Closed(_)), "{report:?}");
    car.hang_up();
    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    punished(&world, &mut car, channel, &revoked).await;
}

/// The bridge tells the gateway that the channel is over, and then has a revoked state mined: LDK closes for what it hears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_cheats_after_it_has_said_that_the_channel_is_over() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let revoked = bridge::newest(&world).await;
    car.pay(&world.destination.invoice(30_000_000)).await;
    car.hang_up();
    world.bridge.node.force_close_with(&world.gateway.node.id()).unwrap();
    until("the gateway hears of the end", || world.gateway.details(channel.0).is_none()).await;
    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    world.restart_gateway().await;
    punished(&world, &mut car, channel, &revoked).await;
}

/// The device comes back, and the owner gets the whole channel.
async fn punished(world: &World, car: &mut Car, channel: ChannelKeysId, revoked: &Transaction) {
    let claim = Claim::of_bridge_commitment(revoked, &car.enrolled.enrolment.payment).unwrap();
    assert_eq!(revoked.output.len(), 2, "the owner's, and the bridge's");
    let taken = OutPoint { txid: revoked.compute_txid(), vout: 1 - claim.outpoint.vout };
    car.connect(&world.gateway).await;
    let mut penalty = None;
    car.answer_until("the penalty is on its way", |_| {
        penalty = world.chain.mempool_spender(&taken).unwrap();
        penalty.is_some()
    })
    .await;
    for _ in 0..6 {
        world.mine(1);
        car.asked_about_the_end().await;
    }
    let gateway = world.gateway.clone();
    car.answer_until("nothing is looked for any more", |_| gateway.orders(channel.0) == 0).await;
    car.hang_up();
    let value: Amount = revoked.output.iter().map(|output| output.value).sum();
    let fee = fee_of(&penalty.unwrap(), value - claim.value);
    let swept = car.sweep(world, &[claim]);
    assert_eq!(world.cold(), value - fee - swept, "all of the channel");
}

/// The closing of both sides leaves the mempool before it is in a block, and LDK has forgotten the channel. The next process of the gateway
/// sends it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_that_the_node_forgot_is_sent_again() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let order = car.order(Order::Close { channel }).await;
    let Report::Closed(txid) = car.report(order).await else { panic!("it closes") };
    car.hang_up();
    world.bridge.node.stop();
    world.forget_mempool(&txid);
    world.restart_gateway().await;
    world.regtest.mine_empty().unwrap();
    until("it is on its way again", || world.chain.mempool_transaction(&txid).unwrap().is_some()).await;
}

/// The device has closed alone and goes back to its gateway. A reorganisation takes its commitment out of the chain, and the nodes forget it: the
/// gateway has the device publish again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commitment_that_a_reorganisation_takes_back_is_published_again() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.hang_up();
    world.bridge.node.stop();
    let published = car.close_alone(&world).closing;
    let block = world.regtest.mine(1).unwrap().remove(0);
    let gateway = world.gateway.clone();
    until("the gateway hears of the end", || gateway.details(channel.0).is_none()).await;
    car.connect(&world.gateway).await;
    car.answer_until("nothing but a look at the chain is left", |_| gateway.orders(channel.0) == 1).await;

    world.regtest.invalidate(&block).unwrap();
    world.forget_mempool(&published);
    world.regtest.mine_empty().unwrap();
    world.regtest.mine_empty().unwrap();
    let is_there = || world.chain.mempool_transaction(&published).unwrap().is_some();
    car.answer_until("it is on its way again", |_| is_there()).await;
}

/// A small payment is under way when the bridge closes, and fees are so high that it is not worth taking back. It is not given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_worth_its_fee_now_waits_for_fees_to_fall() {
    let mut world = World::start_on(RegtestNode::start_with(&Spike::ARGUMENTS).unwrap()).await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(&mut world, &Preimage([2; 32]), 3_000_000).await;
    car.hang_up();
    let published = bridge::newest(&world).await;
    assert_eq!(published.output.len(), 3);
    world.bridge.node.stop();
    world.regtest.mine_with(std::slice::from_ref(&published)).unwrap();
    world.mine(300);
    let gateway = world.gateway.clone();
    until("the gateway has heard", || gateway.details(channel.0).is_none()).await;
    let mut spike = Spike::prepare(&world.regtest);
    for _ in 0..20 {
        spike.fill_a_block(&world.chain);
        world.mine(1);
    }
    let estimate = world.chain.fee_rate(6).unwrap().expect("twenty full blocks give an estimate");
    assert!(estimate > FeeRate::from_sat_per_kwu(6_000), "{estimate:?}");

    car.connect(&world.gateway).await;
    car.answer_until("the device knows", |car| matches!(car.state(), State::Closing(_))).await;
    for _ in 0..16 {
        spike.fill_a_block(&world.chain);
        world.mine(1);
        car.asked_about_the_end().await;
    }
    assert_ne!(gateway.orders(channel.0), 0, "it is deep, and nothing is to be sent now");
}

/// The device refuses something, so that its channel stands still; then the bridge closes. The gateway has the device take care of that on
/// the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_stands_still_is_brought_home_all_the_same() {
    let world = World::start().await;
    world.gateway.listen_to_operator().await.unwrap();
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.hang_up();
    let refusing = |message: In| match message {
        In::FromGateway(ToDevice::Request { id, request: Request::SignBridge { .. }, .. }) => {
            let answer = Answer::Refused { rule: "no".into(), why: "no: this one not".into() };
            vec![Out::ToGateway(ToGateway::Answer { id, answer })]
        }
        other => vec![other.pass()],
    };
    car.connect_through(&world.gateway, Box::new(refusing)).await;
    car.usable(&world).await;
    car.begin_to_pay(&world.destination.invoice(30_000_000)).await;
    assert!(trouble(&world, channel).await.contains("this one not"));
    world.bridge.node.force_close_with(&world.gateway.node.id()).unwrap();
    car.answer_until("the device is told of the end", |car| matches!(car.state(), State::Closing(_))).await;
}
