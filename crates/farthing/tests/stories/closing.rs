//! A channel is looked at, and closed by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail, ensure};
use farthing_chain::OutputStatus;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::message::Message;
use farthing_testkit::people::ChannelRow;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::until;
use farthing_testkit::{Goods, Person, Seller, World};
use serde_json::{Value, json};

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

/// One side's channel, as `channels show` has it by the beginning of its name. The list has no more and nothing else.
fn shown(person: &Person, name: &str) -> Result<Value> {
    let shown = person.run(&["channels", "show", &name[..8]])?;
    ensure!(
        person.run(&["channels", "list"])? == json!([shown]),
        "the list has another channel than {shown}"
    );
    Ok(shown)
}

#[test]
fn a_channel_is_shown_with_what_it_has_and_with_how_it_ended() -> Result<()> {
    let (world, payee, payer, _, seller) = kept_open()?;
    payer.balance()?; // which looks at the chain
    let (channel, cost) = (payer.channel()?, seller.cost_msat);
    let OutputStatus::Confirmed { output, .. } = world.chain().output(&channel.funding)? else {
        bail!("the funding is in no block");
    };
    assert_eq!(output.value.to_sat(), channel.capacity_sat);
    let at_seller = json!(format!("http://{}", seller.address));
    for (person, role, peer) in [(&payer, "payer", &at_seller), (&payee, "payee", &Value::Null)] {
        let shown = shown(person, &channel.channel)?;
        let expected = ChannelRow {
            role: role.to_owned(),
            state: "open".to_owned(),
            paid_msat: cost,
            spent_msat: cost,
            ending: None,
            ..channel.clone()
        };
        ensure!(serde_json::from_value::<ChannelRow>(shown.clone())? == expected, "{role}: {shown}");
        ensure!(shown["peer"] == *peer && shown["opened_at"].is_u64(), "{role}: {shown}");
    }
    let said = payer.attempt(&["channels", "show", "nobody"])?.failure(1)?;
    assert!(said.contains("there is no channel nobody") && said.contains("channels list"), "{said}");

    payer.run(&["channels", "close", &channel.channel])?;
    let closing = world.await_spend(&channel.funding)?.compute_txid();
    world.make_final()?;
    until("the seller sees it", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    seller.kill()?;
    payer.balance()?;
    let sold = cost / 1_000;
    let back = channel.capacity_sat - sold - Accounts::read(&world)?.fee(closing)?;
    for (person, received) in [(&payer, back), (&payee, sold)] {
        let shown = shown(person, &channel.channel)?;
        let ending = json!({ "kind": "closing", "txid": closing, "received_sat": received, "left_sat": 0 });
        ensure!(shown["state"] == "closed" && shown["ending"] == ending, "{shown}");
        ensure!(shown["spent_msat"] == cost, "{shown}");
    }
    Ok(())
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
pub(crate) fn the_seller_closes_while_it_sells() -> Result<()> {
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
pub(crate) fn the_seller_closes_while_it_does_not_sell() -> Result<()> {
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
