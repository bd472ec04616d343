//! A seller that cheats, or that cannot be understood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use farthing_testkit::Goods;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::relay::{Fate, Relay};
use farthing_testkit::wait::until;
use serde_json::Value;

use crate::{CHEAP, CHEAP_PIECE_MSAT, COINS, PIECE_MSAT, PREPAID, scene};

/// A seller that lies, while it does, when a buyer asks before closing what was charged in all.
pub(crate) fn overstating(seller: &str, msat: u64, lies: &Arc<AtomicBool>) -> Result<Relay> {
    let lies = lies.clone();
    Relay::before(seller, move |request, answer| {
        if request.target().ends_with("/standing") && lies.load(Ordering::SeqCst) {
            let mut standing: Value = serde_json::from_slice(&answer.body).expect("the seller's own answer");
            standing["spentMsat"] = msat.into();
            *answer = answer.clone().with_body(standing.to_string().into_bytes());
        }
        Fate::Deliver
    })
}

/// It is free, so it is checked first.
#[test]
fn a_false_list_of_pieces_opens_no_channel() -> Result<()> {
    let (_world, payee, payer, goods) = scene(20_000)?;
    let seller = payee.sell(&goods)?;
    let relay = Relay::before(&seller.address, move |request, answer| {
        if request.target().starts_with("/.well-known/farthing/pieces/") {
            answer.body[40] ^= 1;
        }
        Fate::Deliver
    })?;
    let said = payer.buy(&relay.url(&seller.url), "out", &[])?.failure(3)?;
    ensure!(said.contains("list of pieces"), "{said}");
    ensure!(payer.channels()?.is_empty() && payer.balance()? == COINS, "a channel was opened");
    Ok(())
}

#[test]
pub(crate) fn a_wrong_piece_costs_that_piece_and_nothing_more() -> Result<()> {
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

/// The first payment is larger than what was bought with it. The seller says that it charged all of it, or more than there is.
#[test]
pub(crate) fn a_seller_that_states_more_than_was_bought_is_paid_what_was_bought() -> Result<()> {
    for lie in [PREPAID * 1_000, u64::MAX] {
        let (world, payee, payer, goods) = scene(4 * 1_024)?;
        let seller = payee.sell(&Goods { price: CHEAP, ..goods })?;
        let relay = overstating(&seller.address, lie, &Arc::new(AtomicBool::new(true)))?;
        {
            let _miner = world.miner();
            payer.buy(&relay.url(&seller.url), "out", &["--keep-open"])?.result()?;
        }
        let channel = payer.channel()?;
        let counted = (channel.paid_msat, channel.spent_msat);
        ensure!(counted == (PREPAID * 1_000, 4 * CHEAP_PIECE_MSAT), "{counted:?} is paid and spent");
        payer.run(&["channels", "close", &channel.channel])?;
        let asked = relay.requests().iter().any(|request| request.target().ends_with("/standing"));
        ensure!(asked, "the seller was not asked, so it told no lie");

        world.await_spend(&channel.funding)?;
        world.make_final()?;
        until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
        seller.kill()?;
        let accounts = Accounts::read(&world)?;
        let closing = accounts.spender(&channel.funding)?.compute_txid();
        let fees = accounts.fee(channel.funding.txid)? + accounts.fee(closing)?;
        let (got, bought) = ((payer.balance()?, payee.balance()?), 4 * CHEAP_PIECE_MSAT / 1_000);
        let due = (COINS - bought - fees, bought);
        ensure!(got == due, "after {lie} was stated, payer and payee have {got:?} instead of {due:?}");
    }
    Ok(())
}
