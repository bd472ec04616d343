//! A channel is closed by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::until;
use farthing_testkit::{Goods, Person, Seller, World};

use crate::scene;

/// A channel that a purchase left open.
fn kept_open() -> Result<(World, Person, Person, Goods, Seller)> {
    let (world, payee, payer, goods) = scene(3_000)?;
    let seller = payee.sell(&goods)?;
    let miner = world.miner();
    payer.buy(&seller.url, "out", &["--keep-open"])?.result()?;
    drop(miner);
    Ok((world, payee, payer, goods, seller))
}

#[test]
fn the_buyer_closes_together_with_the_seller() -> Result<()> {
    let (world, payee, payer, _, seller) = kept_open()?;
    let channel = payer.channel()?;
    let closed = payer.run(&["channels", "close", &channel.channel[..8]])?;
    let closing = world.await_spend(&channel.funding)?.compute_txid();
    assert_eq!(closed["txid"], closing.to_string());
    world.make_final()?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    let cost = seller.cost_msat / 1_000;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost);
    assert_eq!(
        payee.channel()?.ending.map(|ending| (ending.kind, ending.received_sat)),
        Some(("closing".to_owned(), cost))
    );
    Ok(())
}

#[test]
fn the_seller_closes_while_it_sells() -> Result<()> {
    let (world, payee, payer, _, seller) = kept_open()?;
    let channel = payee.channel()?;
    let closed = payee.run(&["channels", "close", &channel.channel])?;
    assert_eq!(closed["requested"], true);
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    let cost = seller.cost_msat / 1_000;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost);
    payer.balance()?;
    assert_eq!(payer.channel()?.ending.map(|ending| ending.kind), Some("commitment".to_owned()));
    Ok(())
}

#[test]
fn the_seller_closes_while_it_does_not_sell() -> Result<()> {
    let (world, payee, _, goods, seller) = kept_open()?;
    let cost = seller.cost_msat / 1_000;
    seller.process.stop()?.success()?;
    let channel = payee.channel()?;
    let closed = payee.run(&["channels", "close", &channel.channel])?;
    assert_eq!(closed["requested"], false);
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    let seller = payee.sell(&goods)?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost);
    Ok(())
}

/// The seller refuses pieces that were paid for. The buyer does not ask again, but closes: it pays what was charged, and no piece
/// more.
#[test]
fn a_purchase_that_was_broken_off_is_settled_for_what_was_charged() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    let paid = AtomicU64::new(0);
    let relay = Relay::instead_of(&seller.address, move |request| {
        let is_paid = request.header("authorization").is_some();
        let is_refused = is_paid && paid.fetch_add(1, Ordering::SeqCst) >= 6;
        is_refused.then(|| Message::refusal(404, "not-found"))
    })?;
    let miner = world.miner();
    payer.buy(&relay.url(&seller.url), "out", &[])?.failure(3)?;
    drop(miner);
    let (channel, charged) = (payer.channel()?, payee.channel()?.spent_msat);
    ensure!(channel.spent_msat > charged && charged > 0, "{} paid and {charged} charged", channel.spent_msat);
    payer.run(&["channels", "close", &channel.channel])?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    seller.kill()?;
    assert_eq!(payee.balance()?, charged / 1_000);
    Ok(())
}
