//! Who has the device, or what its owner kept of it.

use std::time::{Duration, Instant};

use bitcoin::Amount;
use bitcoin::hex::DisplayHex as _;
use farthing_gateway::admin;
use farthing_gateway::ordinary::News;
use farthing_node::device::alone::Closer;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{CommitmentNumber, Preimage};
use farthing_protocol::device::owner::Claim;
use farthing_protocol::device::wire::{
    Answer, ChannelKeysId, Order, Report, Request, Standing, ToDevice, ToGateway,
};
use farthing_protocol::device::{Enrolment, Policy};
use secp256k1::{Keypair, SECP256K1};

use crate::bridge;
use crate::car::{Car, commitment_fee};
use crate::hostile::{In, Liar, Tap};
use crate::rounds::{Heard, count, note};
use crate::world::*;

const THIEF: u8 = 0x66;

/// The device is lost with everything in it, and its owner puts the backup into another. That has the keys and no channel: it can publish
/// no state, old or new, whatever a gateway asks for. The bridge closes, and the owner finds the money without the device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_restored_from_its_backup() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.pay(&world.destination.invoice(10_000_000)).await;
    let balance = car.balance().floor();
    car.hang_up();
    let published = bridge::newest(&world).await;

    let mut car = car.lose();
    assert_eq!(car.device().close_alone(&world.chain).len(), 0, "it has no state to publish");
    // The real gateway knows the device, and goes on with it.
    car.connect(&world.gateway).await;
    car.answer_until("a key for a new channel", |car| car.device().ready() > 0).await;
    car.hang_up();
    world.gateway.stop();
    // A hostile one asks for what the lost one had.
    let mut liar = Liar::meet(&world, &mut car).await;
    for request in [
        Request::CloseAlone,
        Request::Revoke { number: CommitmentNumber::FIRST },
        liar.sign_bridge(liar.newest(farthing_protocol::device::bolt3::Side::Bridge)),
        Request::Fund,
    ] {
        assert_eq!(liar.refused(&mut car, request).await, "channel-unknown");
    }
    // Points are public; without a share it has none to give.
    let points = Request::Points { from: CommitmentNumber::FIRST, count: 1 };
    assert!(matches!(liar.ask_of(&mut car, ChannelKeysId(channel.0), points).await, Answer::Refused { .. }));
    drop(liar);
    car.hang_up();
    assert_eq!(world.cold(), Amount::ZERO);

    world.chain.broadcast(&published).unwrap();
    world.mine(1);
    let found = world.chain.unspent_paying(&[car.owner.payment_script()]).unwrap();
    let claims: Vec<Claim> =
        found.into_iter().map(|(outpoint, output)| Claim::of_payment(outpoint, output.value)).collect();
    assert_eq!(claims.len(), 1);
    let fee = car.sweep(&world, &claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
}

/// The same, while the gateway waits for the lost one to take care of how its channel ended. The restored one says that it has no such
/// channel, and is not asked again once that end is deep in the chain, nor is the chain read for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_device_is_not_asked_for_what_the_lost_one_had() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.hang_up();
    let published = bridge::newest(&world).await;
    world.bridge.node.stop();
    world.chain.broadcast(&published).unwrap();
    world.mine(1);
    let gateway = world.gateway.clone();
    until("the gateway has heard", || gateway.orders(channel.0) != 0).await;

    let mut car = car.lose();
    // Not before the closing is deep: the lost one may be found.
    world.mine(5);
    car.connect(&world.gateway).await;
    car.answer_until("nothing is asked any more", |_| gateway.orders(channel.0) == 0).await;
}

/// A thief has the device, and changed its program: it knows no limit. By the gateway's copy of the owner's policy it pays no more than
/// that allows, until the owner says stop; then it can close, which pays the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_has_the_device() {
    let mut world = World::start().await;
    world.gateway.listen_to_operator().await.unwrap();
    let owner = Keypair::from_secret_key(SECP256K1, &secret(OWNER));
    let limited = Policy {
        per_payment: Msat::new(30_000_000),
        per_hour: Msat::new(70_000_000),
        payees: vec![world.destination.node.id()],
        ..policy()
    };
    let (mut device, reports, statements) = new_device(1);
    // In the thief's program the thief is the owner.
    let everything = Msat::new(u64::from(u32::MAX));
    let unlimited = Policy {
        per_payment: everything,
        per_hour: everything,
        per_day: everything,
        in_flight: everything,
        ..policy()
    };
    device.enrolment = Enrolment { owner: public(THIEF).x_only_public_key().0, ..enrolment() };
    device.policy = unlimited.sign(&Keypair::from_secret_key(SECP256K1, &secret(THIEF)));
    let mut car = world.connect(1, device);
    (car.reports, car.statements) = (reports, statements);
    let channel = car.open_under(&world, limited.clone().sign(&owner)).await;

    let failed = |report: Report, rule: &str| match report {
        Report::Failed { why, .. } => assert!(why.contains(rule), "{rule}: {why}"),
        other => panic!("{rule}: {other:?}"),
    };
    let mut spent = Msat::ZERO;
    for _ in 0..3 {
        let report = car.pay(channel, world.destination.invoice(20_000_000)).await;
        let Report::Paid { fee, .. } = report else { panic!("{report:?}") };
        spent = spent.saturating_add(Msat::new(20_000_000)).saturating_add(fee);
    }
    let strangers = world.bridge.invoice(1_000_000);
    failed(car.pay(channel, strangers).await, "invoice-payee-allowlisted");
    failed(car.pay(channel, world.destination.invoice(40_000_000)).await, "payment-amount");
    failed(car.pay(channel, world.destination.invoice(20_000_000)).await, "payment-velocity");

    // What was allowed once and failed is not allowed for ever.
    let held = Preimage([3; 32]).hash();
    let invoice = world.destination.node.hold_invoice(5_000_000, held).unwrap();
    let destination = &mut world.destination;
    let give_back = async {
        while destination.news.recv().await != Some(News::Waiting(held)) {}
        destination.node.give_back(&held);
    };
    let (report, ()) = tokio::join!(car.pay(channel, invoice.clone()), give_back);
    assert!(matches!(report, Report::Failed { .. }), "{report:?}");
    let folder = world.gateway.settings.folder.clone();
    let tell = async |policy: Policy| {
        let policy = format!("policy {}", serde_json::to_string(&policy.sign(&owner)).unwrap());
        let told = admin::ask(&folder, &policy).await.unwrap();
        assert_eq!(told["devices"], 1);
    };
    let lower = Policy { version: 2, per_payment: Msat::new(5_000_000), ..limited };
    tell(lower.clone()).await;
    failed(car.pay(channel, invoice).await, "payment-amount");

    tell(Policy { version: 3, paused: true, ..lower }).await;
    failed(car.pay(channel, world.destination.invoice(1_000_000)).await, "policy-paused");
    // A policy of the thief's own is none.
    let own = device_policy(4).sign(&Keypair::from_secret_key(SECP256K1, &secret(THIEF)));
    car.order(Order::Policy(own));
    assert!(matches!(car.report().await, Report::Refused { .. }));

    until("nothing is under way", || {
        let details = world.gateway.details(channel.0).unwrap();
        details.pending_outbound_htlcs.is_empty()
    })
    .await;
    car.order(Order::Close { channel });
    let report = car.report().await;
    let Report::Closed(txid) = report else { panic!("{report:?}") };
    let closing = world.chain.mempool_transaction(&txid).unwrap().unwrap();
    world.mine(1);
    let fee = crate::car::fee_of(&closing, CAPACITY);
    let owed = Msat::from_amount(CAPACITY).unwrap().saturating_sub(spent);
    assert_eq!(world.cold() + fee, CAPACITY - spent.floor(), "the owner has the rest");
    assert!(world.cold() > owed.floor() - Amount::from_sat(2_000));
}

/// The owner gave it to the device while the gateway was away. It comes before the device's orders; this one is a thief's, who asks the device
/// for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_the_gateway_missed_comes_with_the_device() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.hang_up();
    let lower = Policy { version: 2, per_payment: Msat::new(5_000_000), ..policy() };
    let lower = car.owner.sign(lower);
    car.device().set_policy(lower).unwrap();

    car.connect(&world.gateway).await;
    car.usable(&world).await;
    let invoice = world.destination.invoice(20_000_000);
    let order = car.order(Order::Pay { channel, invoice }).await;
    match car.report(order).await {
        Report::Failed { why, .. } => assert!(why.contains("payment-amount"), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn device_policy(version: u64) -> Policy {
    Policy { version, ..policy() }
}

/// A thief's program, which cheats in each round that the gateway begins.
fn cheating(heard: Heard) -> Tap {
    Box::new(move |mut message: In| {
        match &mut message {
            In::FromGateway(ToDevice::Request { request, .. }) => match request {
                Request::SignBridge { .. }
                | Request::ValidateHolder { .. }
                | Request::CloseTogether { .. } => {
                    note(&heard, "a round");
                }
                // Asked for as soon as a new key is stored.
                Request::Points { from: CommitmentNumber::FIRST, .. } => note(&heard, "a new key"),
                _other => {}
            },
            In::FromDevice(ToGateway::Answer { answer: Answer::Signing { first, .. }, .. }) => {
                // In the oblivious transfer. At its beginning it would be a message for somebody else, or of another round.
                let middle = first.len() / 2;
                first[middle] ^= 1;
                note(&heard, "a cheat");
            }
            In::FromDevice(_) | In::FromGateway(_) => {}
        }
        vec![message.pass()]
    })
}

/// The device says of no key that was kept ready: the gateway makes a new one, when nothing else is left to do on this connection.
fn forgetful(mut tap: Tap) -> Tap {
    Box::new(move |mut message: In| {
        if let In::FromDevice(ToGateway::Hello(hello)) = &mut message {
            hello.channels.retain(|(_, standing)| *standing != Standing::Ready);
        }
        tap(message)
    })
}

/// What the operator reads of a channel that stands still.
pub async fn trouble(world: &World, channel: ChannelKeysId) -> String {
    let name = channel.0.to_lower_hex_string();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let channels = admin::ask(&world.gateway.settings.folder, "channels").await.unwrap();
        let is_it = |shown: &&serde_json::Value| shown["channel"] == name.as_str();
        let shown = channels.as_array().unwrap().iter().find(is_it).expect("it is listed");
        if let Some(trouble) = shown["trouble"].as_str() {
            return trouble.to_owned();
        }
        assert!(Instant::now() < deadline, "waited in vain: the operator is told of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many rounds the gateway begins with a device that is back, before it finds that nothing else is left to do.
async fn rounds_begun(world: &World, car: &mut Car) -> usize {
    let (first, last) = (Heard::default(), Heard::default());
    car.connect_through(&world.gateway, cheating(first.clone())).await;
    car.usable(world).await;
    car.hang_up();
    // By now the Lightning node has asked for what it wants signed. That comes before a new key.
    car.connect_through(&world.gateway, forgetful(cheating(last.clone()))).await;
    car.answer_until("the gateway makes a new key", |_| count(&last, "a new key") > 0).await;
    car.hang_up();
    count(&first, "a round") + count(&last, "a round")
}

/// A device that cheats in a joint round could learn the gateway's half of the key, a little with each. So there is no further round: not on
/// another connection, and not by another process of the gateway. The operator sees why, and the owner has its money by the device alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_cheats_in_a_round_is_banned_for_good() {
    let mut world = World::start().await;
    world.gateway.listen_to_operator().await.unwrap();
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    let channel = car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let balance = car.balance().floor();
    car.hang_up();

    let heard = Heard::default();
    car.connect_through(&world.gateway, cheating(heard.clone())).await;
    car.usable(&world).await;
    car.begin_to_pay(&world.destination.invoice(30_000_000)).await;
    car.answer_until("it has cheated", |_| count(&heard, "a cheat") == 1).await;
    let told = trouble(&world, channel).await;
    assert!(told.starts_with("the device cheated ("), "{told}");
    car.hang_up();
    assert_eq!(count(&heard, "a round"), 1, "the one in which it cheated");
    assert_eq!(rounds_begun(&world, &mut car).await, 0, "on another connection");

    world.restart_gateway().await;
    world.gateway.listen_to_operator().await.unwrap();
    assert_eq!(trouble(&world, channel).await, told, "it was on the disk");
    assert_eq!(rounds_begun(&world, &mut car).await, 0, "by another process");
    let details = world.gateway.details(channel.0).unwrap();
    let wanted = details.pending_outbound_htlcs.len();
    assert_eq!(wanted, 1, "a payment waits for its signature, else this would show nothing");
    assert_eq!(world.gateway.tally().joint_signatures, 0);

    world.gateway.stop();
    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Device, 1), "the state before the payment");
    assert!(ended.sent[0].1.is_ok(), "{ended:?}");
    world.mine(1 + u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
}
