//! A channel is closed by hand.

use anyhow::{Result, ensure};
use farthing_testkit::wait::until;
use farthing_testkit::{Goods, Person, Seller, World};

use crate::{PIECE_MSAT, SLOWLY, scene};

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

/// The buyer is killed with payments under way, and one that was signed and never sent. It does not go on, but closes: it pays
/// what the seller has charged, and no piece more.
#[test]
fn a_purchase_that_was_broken_off_is_settled_for_what_was_charged() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    let miner = world.miner();
    let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
    buying.await_pieces(5)?;
    buying.kill()?;
    drop(miner);
    let (channel, charged) = (payer.channel()?, payee.channel()?.spent_msat);
    let ahead = channel.spent_msat - charged;
    ensure!(
        (1..=3).map(|pieces| pieces * PIECE_MSAT).any(|msat| msat == ahead),
        "{ahead} msat were paid ahead"
    );
    payer.run(&["channels", "close", &channel.channel])?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    seller.kill()?;
    assert_eq!(payee.balance()?, charged / 1_000);
    Ok(())
}
