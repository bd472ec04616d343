//! LNGate between nodes that nobody here wrote and nobody patched: LND is the bridge, and LND is paid, or Electrum ([`electrum`]). Each
//! party is restarted, and the channels end in each of the ways that BOLT 2 and 5 know.

mod electrum;
mod road;

use anyhow::{Context as _, Result};
use farthing_testkit::lnd;
use road::{Car, Road};

/// How often each of the four cars pays before anything happens: a hundred payments in all.
const PAYMENTS: usize = 25;
/// All of them.
const PAID: u64 = 4 * PAYMENTS as u64;
const TOLL_MSAT: u64 = 2_000_000;
/// Five per cent, which is the gateway's default.
const SERVICE_FEE_MSAT: u64 = 100_000;
/// What a closing may cost, in satoshi: LND wants 25 sat/vB where its bitcoind estimates nothing.
const MOST_FEES: u64 = 6_000;

#[test]
fn lnd_is_bridge_and_destination() -> Result<()> {
    let Some(program) = lnd::find() else { return Ok(()) };
    let mut road = Road::build(program, None)?;
    let cars = ["a", "b", "c", "d"].map(|name| Car::enrol(&road, name));
    let [a, b, c, d] = cars;
    let cars = [a?, b?, c?, d?];
    for (place, car) in cars.iter().enumerate() {
        car.open()?;
        if place == 0 {
            // LND has one pending channel with a peer at a time, and what it says reaches the device.
            let refused = cars[1].wish()?.failure(1)?;
            assert!(refused.contains("ending channels exceed"), "{refused}");
        }
        road.world.make_final()?;
        road.await_usable(place + 1)?;
    }

    road.drive(&cars, PAYMENTS)?;
    road.await_paid(cars.len() * PAYMENTS)?;
    // The cheaper way round the ordinary node was not taken.
    road.await_earned(PAID * SERVICE_FEE_MSAT)?;

    type Restart = fn(&mut Road) -> Result<()>;
    let restarts: [(&str, Restart); 3] = [
        ("the bridge", Road::restart_bridge),
        ("the destination", Road::restart_destination),
        ("the gateway", Road::restart_gateway),
    ];
    for (who, restart) in restarts {
        restart(&mut road).with_context(|| format!("restart of {who}"))?;
        road.await_usable(cars.len()).with_context(|| format!("after the restart of {who}"))?;
        // The device is a new process each time.
        road.drive(&cars[..1], 1)?;
    }
    road.await_earned((PAID + 3) * SERVICE_FEE_MSAT).context("remembered over the restart")?;
    // What is left of a channel after so many payments, less the fees of whatever closes it and brings it home.
    let is_left = |sat: u64, payments: u64| {
        let most = road::CAPACITY - payments * (TOLL_MSAT + SERVICE_FEE_MSAT) / 1_000;
        sat < most && sat + MOST_FEES > most
    };

    // Together, because the device wants it.
    let before = cars[0].owner.balance()?;
    cars[0].device.run(&["device", "close"])?;
    road.world.make_final()?;
    let arrived = cars[0].owner.balance()? - before;
    assert!(is_left(arrived, PAID / 4 + 3), "{arrived}");

    // Together, because the bridge wants it. The device is asked when it is there.
    let before = cars[1].owner.balance()?;
    let closing = road.bridge_closes(cars[1].funding()?, false)?;
    let device = cars[1].device.start(&["device", "run"])?;
    road.await_spent(&cars[1])?;
    device.kill()?;
    drop(closing);
    road.world.make_final()?;
    let arrived = cars[1].owner.balance()? - before;
    assert!(is_left(arrived, PAID / 4), "{arrived}");

    // By the bridge alone, without asking. What is the device's goes to the owner's cold key, at once.
    let closing = road.bridge_closes(cars[2].funding()?, true)?;
    road.await_spent(&cars[2])?;
    drop(closing);
    road.world.make_final()?;
    let (arrived, delay) = cars[2].claims_what_is_left(&road)?;
    assert_eq!(delay, 0);
    assert!(is_left(arrived, PAID / 4), "{arrived}");

    // By the device alone. There is no gateway any more.
    road.gateway_is_gone()?;
    let (arrived, delay) = cars[3].claims_what_is_left(&road)?;
    assert!(delay > 0);
    assert!(is_left(arrived, PAID / 4), "{arrived}");
    Ok(())
}
