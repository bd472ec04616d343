//! Whole stories: a stock bridge and a stock destination, a gateway, a device, and a real bitcoind.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod world;

use farthing_gateway::ordinary::News;
use farthing_protocol::device::bolt3::Preimage;
use farthing_protocol::device::bolt3::keys::secret_key;
use farthing_protocol::device::wire::{Order, Report};
use tokio::sync::mpsc;
use world::device::Do;
use world::*;

/// A device opens a channel with a stock bridge, pays a stock destination through it, and closes alone when the gateway is gone. The
/// money arrives at the cold address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_pays_and_closes_alone_when_the_gateway_is_gone() {
    let world = World::start().await;
    let (device, reports, statements) = new_device(1);
    let mut car = world.connect(1, device);
    (car.reports, car.statements) = (reports, statements);
    let channel = car.open(&world).await;
    assert_eq!(world.gateway.tally().joint_signatures, 2, "the first state of each side");

    let started = std::time::Instant::now();
    let paid = car.pay(channel, world.destination.invoice(20_000_000)).await;
    eprintln!("paid in {:?}", started.elapsed());
    let Report::Paid { fee, .. } = paid else { panic!("paid, not {paid:?}") };
    assert!(fee.get() > 0, "the bridge takes its fee");
    until("the HTLC is gone from both sides", || world.gateway.tally().joint_signatures == 6).await;
    let tally = world.gateway.tally();
    assert_eq!((tally.commitments, tally.with_htlcs), (6, 2), "each was built twice, by LDK and by us");

    let (terms, newest) = world.gateway.holder_state(channel.0).unwrap();
    world.gateway.stop();
    let (to, mut published) = mpsc::unbounded_channel();
    car.wishes.send(Do::CloseAlone(to)).ok().unwrap();
    let transactions = published.recv().await.unwrap();
    let commitment = &transactions[0];
    world.chain.broadcast(commitment).unwrap();
    world.mine(u32::from(terms.holder.delay));

    let built = farthing_protocol::device::bolt3::Commitment::build(
        &terms,
        farthing_protocol::device::bolt3::Side::Holder,
        &newest,
    );
    let key = secret_key(&secret(COLD_DELAYED), &newest.point);
    let swept = sweep(commitment, built.delayed_script(), &key, terms.holder.delay);
    world.chain.broadcast(&swept).unwrap();
    world.mine(1);
    let arrived = swept.output[0].value.to_sat();
    assert!(arrived > 1_000_000 - 20_000 - 3_000, "{arrived}");
}

async fn enrolled(world: &World, byte: u8) -> Connected {
    let (device, reports, statements) = new_device(byte);
    let mut connected = world.connect(byte, device);
    (connected.reports, connected.statements) = (reports, statements);
    connected
}

/// HTLCs too small for an output are in no transaction, and the device knows of them all the same. Then all three close together,
/// and the owner's address is paid at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pays_less_than_dust_and_closes_together() {
    pays_and_closes_together(&[100_000, 300_001, 20_000_000, 1_000]).await;
}

/// All that was paid has no output either, so no transaction tells whether a payment went through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pays_less_than_dust_in_all_and_closes_together() {
    pays_and_closes_together(&[100_000, 30_001, 1_000]).await;
}

async fn pays_and_closes_together(payments: &[u64]) {
    let world = World::start().await;
    let mut car = enrolled(&world, 1).await;
    let channel = car.open(&world).await;
    for (place, msat) in payments.iter().enumerate() {
        let paid = car.pay(channel, world.destination.invoice(*msat)).await;
        assert!(matches!(paid, Report::Paid { .. }), "{msat} msat: {paid:?}");
        let signed = 2 + 4 * (place as u64 + 1);
        until("both sides have one state", || world.gateway.tally().joint_signatures >= signed).await;
    }
    until("nothing is under way", || {
        let details = world.gateway.details(channel.0).unwrap();
        details.pending_outbound_htlcs.is_empty()
    })
    .await;
    car.order(farthing_protocol::device::wire::Order::Close { channel });
    let closed = car.report().await;
    let Report::Closed(txid) = closed else { panic!("closed, not {closed:?}") };
    let closing = world.chain.mempool_transaction(&txid).unwrap().expect("it is on its way");
    let to_owner = closing.output.iter().find(|output| output.script_pubkey == script(COLD)).unwrap();
    assert!(to_owner.value.to_sat() > 970_000, "{}", to_owner.value);
    world.mine(1);
}

/// The device loses its connection in the middle of a payment, which waits and goes on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_waits_for_its_device() {
    let mut world = World::start().await;
    let mut car = enrolled(&world, 1).await;
    let channel = car.open(&world).await;
    // Nobody else can end it.
    let preimage = Preimage([9; 32]);
    let invoice = world.destination.node.hold_invoice(20_000_000, preimage.hash()).unwrap();
    car.wishes.send(Do::Pay(channel, invoice.clone())).ok().unwrap();
    assert!(matches!(car.report().await, Report::Paying(_)));
    let (device, reports) = car.cut().await;

    let mut car = world.reconnect(1, device);
    car.reports = reports;
    let Stock { node, news, .. } = &mut world.destination;
    let claimed = async {
        while !matches!(news.recv().await.unwrap(), News::Waiting(hash) if hash == preimage.hash()) {}
        node.claim(&preimage);
    };
    let (paid, ()) = tokio::join!(car.pay(channel, invoice), claimed);
    assert!(matches!(paid, Report::Paid { .. }), "{paid:?}");
}

/// The gateway ends and begins again; the channel goes on, with a payment that is ordered before the bridge is connected. It has paid so often that LDK's monitor was written whole in between, and that
/// there are updates since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_begins_again_where_it_was() {
    let mut world = World::start().await;
    let mut car = enrolled(&world, 1).await;
    let channel = car.open(&world).await;
    for _ in 0..20 {
        let paid = car.pay(channel, world.destination.invoice(20_000_000)).await;
        assert!(matches!(paid, Report::Paid { .. }), "{paid:?}");
    }
    let (device, reports) = car.cut().await;
    let gate = Gate::before(world.bridge.address).await;
    world.restart_gateway_behind(gate.address);

    let mut car = world.reconnect(1, device);
    car.reports = reports;
    car.wishes.send(Do::Pay(channel, world.destination.invoice(10_000_000))).ok().unwrap();
    // Orders are taken in turn: what is answered first came last, and the payment waits.
    car.wishes.send(Do::Order(Order::Status { channel })).ok().unwrap();
    let status = car.report().await;
    assert!(matches!(status, Report::Channel { .. }), "{status:?}");
    gate.open();
    let begun = car.report().await;
    assert!(matches!(begun, Report::Paying(_)), "{begun:?}");
    let paid = car.report().await;
    assert!(matches!(paid, Report::Paid { .. }), "{paid:?}");
}
