//! A seller that cheats, or that cannot be understood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use farthing_testkit::relay::{Fate, Relay};

use crate::{COINS, PIECE_MSAT, scene};

#[test]
fn a_wrong_piece_costs_that_piece_and_nothing_more() -> Result<()> {
    let (world, payee, payer, goods) = scene(20_000)?;
    let seller = payee.sell(&goods)?;
    let cheats = Arc::new(AtomicBool::new(true));
    let cheating = cheats.clone();
    let relay = Relay::before(&seller.address, move |_, answer| {
        if answer.status() == 206 && cheating.load(Ordering::SeqCst) {
            answer.body[500] ^= 1;
        }
        Fate::Deliver
    })?;
    let url = relay.url(&seller.url);
    let _miner = world.miner();
    let careful = payer.with("FARTHING_BUY__IN_FLIGHT", "1");
    let said = careful.buy(&url, "out", &[])?.failure(3)?;
    assert!(said.contains("not a piece of the file"), "{said}");
    assert!(!payer.path("out").exists());
    assert_eq!(payer.channel()?.spent_msat, PIECE_MSAT);

    let usual = payer.buy(&url, "out", &[])?.failure(3)?;
    assert!(payer.channel()?.spent_msat <= 2 * PIECE_MSAT, "two pieces are in flight: {usual}");
    cheats.store(false, Ordering::SeqCst);
    payer.buy(&url, "out", &[])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(
        (payer.channel()?.spent_msat, payee.channel()?.spent_msat),
        (seller.cost_msat, seller.cost_msat)
    );
    Ok(())
}

#[test]
fn a_seller_that_falls_silent_costs_the_pieces_in_flight() -> Result<()> {
    let (world, payee, payer, goods) = scene(20_000)?;
    let seller = payee.sell(&goods)?;
    let served = AtomicU64::new(0);
    let relay = Relay::before(&seller.address, move |_, answer| {
        let silent = answer.status() == 206 && served.fetch_add(1, Ordering::SeqCst) >= 3;
        if silent { Fate::Swallow } else { Fate::Deliver }
    })?;
    let _miner = world.miner();
    let said = payer.buy(&relay.url(&seller.url), "out", &[])?.failure(4)?;
    let spent = payer.channel()?.spent_msat;
    assert!((3 * PIECE_MSAT..=5 * PIECE_MSAT).contains(&spent), "{spent} is spent");
    assert!(
        said.contains("channels refund") && said.contains(&payer.channel()?.expiry.to_string()),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_challenge_that_makes_no_sense_locks_nothing() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    for garbage in [
        "Payment",
        "Basic realm=\"x\"",
        "Payment id=\"x\", request=\"!!!\"",
        "Payment id=\"x\", method=\"bitcoin\", intent=\"session\", request=\"e30\"",
        "Payment id=\"x\", method=\"tempo\", intent=\"charge\", request=\"e30\"",
    ] {
        let relay = Relay::before(&seller.address, move |_, answer| {
            *answer = answer.clone().with("www-authenticate", garbage);
            Fate::Deliver
        })?;
        payer.buy(&relay.url(&seller.url), "out", &[])?.failure(3)?;
    }
    assert_eq!((payer.channels()?.len(), world.mempool()?.len(), payer.balance()?), (0, 0, COINS));
    Ok(())
}
