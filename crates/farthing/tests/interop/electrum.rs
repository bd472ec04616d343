//! Electrum is paid: a wallet that is a Lightning node on a user's machine, with a server between it and the chain. LND is the bridge,
//! which opens the channels to it. Electrum announces none, also where its peer would: payers go by what its invoices say.

use anyhow::{Context as _, Result};
use farthing_testkit::wait::until;
use farthing_testkit::{electrum, lnd};

use crate::TOLL_MSAT;
use crate::road::{Car, Road, TRUNK};

/// How often each of the two cars pays over the first channel between LND and Electrum, and over the second: a hundred payments in all.
const PAYMENTS: usize = 30;
const PAYMENTS_AGAIN: usize = 20;
/// How long Electrum's money is locked when it closes alone, in blocks.
const DELAY: u32 = 10;
/// What bringing that home may cost, in satoshi: on regtest Electrum always pays 180 sat/vB.
const MOST_FEES: u64 = 30_000;

#[test]
fn electrum_is_the_destination() -> Result<()> {
    let (Some(lnd), Some(programs)) = (lnd::find(), electrum::find()) else { return Ok(()) };
    let mut road = Road::build(lnd, Some(&programs))?;
    let cars = [Car::enrol(&road, "a")?, Car::enrol(&road, "b")?];
    for (place, car) in cars.iter().enumerate() {
        car.open()?;
        road.world.make_final()?;
        road.await_usable(place + 1)?;
    }

    let mut count = cars.len() * PAYMENTS;
    road.drive(&cars, PAYMENTS)?;
    road.await_paid(count)?;
    road.restart_destination()?;
    road.await_usable(cars.len()).context("after the restart")?;
    road.drive(&cars[..1], 1)?;
    count += 1;
    road.await_paid(count)?;

    // Together, because Electrum wants it. All that was paid arrives: who opened a channel pays for its end.
    let wallet = road.destination.electrum().context("it is Electrum")?;
    assert_eq!(wallet.balance()?, 0);
    wallet.close_channel(road.trunk, false)?;
    road.world.make_final()?;
    let before = await_balance(&road, received_sat(count), 0)?;

    // Another one, which Electrum closes alone.
    let delay = DELAY.to_string();
    let options = ["--private", "--remote_csv_delay", &delay];
    road.trunk = road.bridge.open_channel(&road.world, &road.destination.uri(), TRUNK, &options)?;
    road.await_usable(cars.len()).context("after the second opening")?;
    road.drive(&cars, PAYMENTS_AGAIN)?;
    count += cars.len() * PAYMENTS_AGAIN;
    road.await_paid(count)?;
    // Told to do so within moments of a payment, it has been seen to publish a state that it had revoked.
    road.restart_destination()?;
    road.await_usable(cars.len()).context("after the second restart")?;
    let wallet = road.destination.electrum().context("it is Electrum")?;
    wallet.close_channel(road.trunk, true)?;
    road.world.await_spend(&road.trunk)?;
    assert_eq!(wallet.balance()?, before);
    road.world.mine(DELAY)?;
    await_balance(&road, received_sat(count), MOST_FEES).map(drop)
}

/// What so many payments bring.
fn received_sat(payments: usize) -> u64 {
    payments as u64 * TOLL_MSAT / 1_000
}

/// Waits until Electrum's wallet holds that, less at most so much in fees. Gives what it holds.
fn await_balance(road: &Road, sat: u64, most_fees: u64) -> Result<u64> {
    let wallet = road.destination.electrum().context("it is Electrum")?;
    let _what_it_publishes = road.world.miner();
    let mut held = 0;
    let waited = until("what was paid is in Electrum's wallet", || {
        held = wallet.balance()?;
        Ok((held <= sat && held + most_fees >= sat).then_some(held))
    });
    waited.with_context(|| format!("{held} instead of {sat}"))
}
