//! Whole stories: a stock bridge and a stock destination, a gateway, a device, and a real bitcoind.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod world;

use farthing_protocol::device::bolt3::keys::secret_key;
use farthing_protocol::device::wire::Report;
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
