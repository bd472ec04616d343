//! One side is gone for good: the other gets what is due to it, without help.

use std::time::Duration;

use anyhow::Result;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::wait::{never, until};

use crate::{COINS, SLOWLY, scene};

#[test]
fn the_seller_vanishes_and_the_buyer_takes_its_money_back_at_the_expiry() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    {
        let _miner = world.miner();
        let mut buying =
            payer.start_buying(&seller.url, "out", &[&SLOWLY[..], &["--lifetime", "40"]].concat())?;
        buying.await_pieces(3)?;
        seller.kill()?;
        buying.wait()?.failure(4)?;
    }
    let channel = payer.channel()?;
    world.mine_to(channel.expiry - 1)?;
    let early = payer.run(&["channels", "refund"])?;
    assert_eq!(early["refunding"], serde_json::json!([]));
    assert_eq!(
        (early["height"].as_u64(), early["next_expiry"].as_u64()),
        (Some(u64::from(channel.expiry - 1)), Some(channel.expiry.into()))
    );
    assert!(world.mempool()?.is_empty());

    world.mine(1)?;
    let refunding = payer.run(&["channels", "refund"])?;
    assert_eq!(refunding["refunding"], serde_json::json!([channel.channel]));
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    let nothing_left = payer.run(&["channels", "refund"])?;
    assert_eq!(
        (&nothing_left["refunding"], &nothing_left["next_expiry"]),
        (&serde_json::json!([]), &serde_json::Value::Null)
    );
    let accounts = Accounts::read(&world)?;
    let refund = accounts.spender(&channel.funding)?.compute_txid();
    let fees = accounts.fee(channel.funding.txid)? + accounts.fee(refund)?;
    assert_eq!((payer.balance()?, payee.balance()?), (COINS - fees, 0));
    assert_eq!(payer.channel()?.ending.map(|ending| ending.kind), Some("refund".to_owned()));
    Ok(())
}

#[test]
fn the_buyer_vanishes_and_the_seller_closes_alone_a_margin_before_the_expiry() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let (payee, margin) = (payee.with("FARTHING_SELL__MARGIN", "9"), 9);
    let seller = payee.sell(&goods)?;
    {
        let _miner = world.miner();
        let mut buying =
            payer.start_buying(&seller.url, "out", &[&SLOWLY[..], &["--lifetime", "40"]].concat())?;
        buying.await_pieces(3)?;
        buying.kill()?;
    }
    let channel = payee.channel()?;
    assert_eq!(channel.state, "open");
    world.mine_to(channel.expiry - margin - 1)?;
    never("a close before its time", Duration::from_secs(1), || {
        Ok(world.chain().mempool_spender(&channel.funding)?)
    })?;
    world.mine(1)?;
    let commitment = world.await_spend(&channel.funding)?.compute_txid();
    world.make_final()?;
    until("the seller sees the end", || Ok((payee.channel()?.state == "closed").then_some(())))?;
    seller.kill()?;

    let paid = payee.channel()?.paid_msat / 1_000;
    assert_eq!(payee.balance()?, paid);
    let accounts = Accounts::read(&world)?;
    let fees = accounts.fee(channel.funding.txid)? + accounts.fee(commitment)?;
    assert_eq!(payer.balance()?, COINS - paid - fees);
    assert_eq!(payer.channel()?.ending.map(|ending| ending.kind), Some("commitment".to_owned()));
    Ok(())
}
