//! A payee that lets payments hang, until they expire if it wants.

use farthing_protocol::Msat;
use farthing_protocol::device::Policy;
use farthing_protocol::device::bolt3::Preimage;
use farthing_protocol::device::wire::Report;

use crate::car::Car;
use crate::world::*;

/// What the gateway's node has been given it cannot take back, so a device that refused to sign for it would stop the channel. What would be
/// more than the owner allows at once is not begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_hangs_stops_no_channel_though_another_would_be_too_much_with_it() {
    let mut world = World::start().await;
    // As `farthing owner card` makes it: as much at once as for one payment.
    let mut car = Car::with(Policy { in_flight: policy().per_payment, ..policy() });
    car.connect(&world.gateway).await;
    car.open(&world).await;
    let (hanging, amount) = (Preimage([7; 32]), 40_000_000);
    let first = car.lock_in(&mut world, &hanging, amount).await;
    let second = car.begin_to_pay(&world.destination.invoice(amount)).await;
    let report = car.report(second).await;
    assert!(matches!(&report, Report::Failed { why, .. } if why.contains("allows at once")), "{report:?}");

    world.destination.node.claim(&hanging);
    let report = car.report(first).await;
    let Report::Paid { fee, .. } = report else { panic!("paid, not {report:?}") };
    car.spent = car.spent.saturating_add(Msat::new(amount)).saturating_add(fee);
    car.settle().await;
    car.pay(&world.destination.invoice(amount)).await;
    car.finish_together(&world).await;
}

/// The same for how many there are: the bridge may add some of its own, and all of them stand in one commitment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_payments_hang_at_once_and_no_more() {
    const AT_ONCE: u8 = 5;
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    let (preimages, amount): (Vec<Preimage>, _) =
        ((1..=AT_ONCE).map(|byte| Preimage([byte; 32])).collect(), 1_000_000);
    let mut orders = Vec::new();
    for preimage in &preimages {
        orders.push(car.lock_in(&mut world, preimage, amount).await);
    }
    let report = car.begin_to_pay(&world.destination.invoice(amount)).await;
    let report = car.report(report).await;
    assert!(matches!(&report, Report::Failed { why, .. } if why.contains("5 payments")), "{report:?}");
    for (preimage, order) in preimages.iter().zip(orders) {
        world.destination.node.claim(preimage);
        let report = car.report(order).await;
        let Report::Paid { fee, .. } = report else { panic!("paid, not {report:?}") };
        car.spent = car.spent.saturating_add(Msat::new(amount)).saturating_add(fee);
    }
    car.settle().await;
    car.pay(&world.destination.invoice(amount)).await;
    car.finish_together(&world).await;
}
