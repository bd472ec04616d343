//! The disk is full in the middle of a sale: what cannot be stored is not done.

use anyhow::Result;
use farthing_testkit::Goods;

use crate::{CHEAP, COINS, PIECE_MSAT, scene};

/// Room for some payments, but not for the whole sale.
const TOO_SMALL: u64 = 200 * 1_024;
/// What may be paid and not served: two pieces are in flight.
const EXPOSURE: u64 = 2 * PIECE_MSAT;

#[test]
fn a_seller_with_a_full_disk_serves_nothing_that_it_cannot_charge() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.with_disk_of(TOO_SMALL).sell(&goods)?;
    let (url, address, cost) = (seller.url.clone(), seller.address.clone(), seller.cost_msat);
    let _miner = world.miner();
    let said = payer.buy(&url, "out", &[])?.failure(3)?;
    assert!(said.contains("could not be stored"), "{said}");
    let (spent, charged) = (payer.channel()?.spent_msat, payee.channel()?.spent_msat);
    assert!(0 < charged && charged <= spent && spent <= charged + EXPOSURE, "{charged} {spent} {cost}");
    let complained = seller.process.stop()?;
    assert!(complained.errors.contains("could not store"), "{complained:?}");

    let seller = payee.sell_at(&goods, &address)?;
    payer.buy(&url, "out", &[])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (cost, cost));
    world.make_final()?;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost / 1_000);
    Ok(())
}

#[test]
fn a_buyer_with_a_full_disk_pays_nothing_that_it_cannot_note() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    let _miner = world.miner();
    let said = payer.with_disk_of(TOO_SMALL).buy(&seller.url, "out", &[])?.failure(3)?;
    assert!(said.contains("could not be stored"), "{said}");
    let (spent, charged) = (payer.channel()?.spent_msat, payee.channel()?.spent_msat);
    assert!(0 < charged && charged <= spent && spent <= charged + EXPOSURE, "{charged} {spent}");

    payer.buy(&seller.url, "out", &[])?.result()?;
    let cost = seller.cost_msat;
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (cost, cost));
    world.make_final()?;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost / 1_000);
    assert!(payer.balance()? > COINS - cost / 1_000 - 2_000, "only fees came on top");
    Ok(())
}

#[test]
fn a_disk_without_room_for_the_file_opens_no_channel() -> Result<()> {
    let (_world, payee, payer, goods) = scene(3_000_000)?;
    let seller = payee.sell(&Goods { price: CHEAP, piece: "64KiB", ..goods })?;
    let said = payer.with_disk_of(1 << 20).buy(&seller.url, "out", &[])?.failure(1)?;
    assert!(said.contains("out.part") && !payer.path("out.part").exists(), "{said}");
    assert_eq!((payer.channels()?.len(), payer.balance()?), (0, COINS));
    Ok(())
}
