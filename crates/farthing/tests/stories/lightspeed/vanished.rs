//! One side is gone for good: the other gets what is due to it, without help.

use std::time::Duration;

use anyhow::Result;
use farthing_testkit::Service;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::wait::never;

use super::{await_end, people};
use crate::{COINS, PREPAID};

#[test]
fn the_seller_vanishes_and_the_buyer_takes_everything_back_at_the_expiry() -> Result<()> {
    let (world, payee, payer) = people()?;
    let payer = payer.with("FARTHING_BUY__MOST_LIFETIME", "40");
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1000sat/call", &[])?;
    {
        let _miner = world.miner();
        payer.call(&api.at("/item"), &[])?;
    }
    let url = api.at("/item");
    api.kill()?;
    payer.try_to_call(&url, &[])?.failure(4)?;
    let channel = payer.channel()?;
    payer.attempt(&["channels", "close", &channel.channel])?.failure(4)?;

    world.mine_to(channel.expiry)?;
    let refunding = payer.run(&["channels", "refund"])?;
    assert_eq!(refunding["refunding"], serde_json::json!([channel.channel]));
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    let accounts = Accounts::read(&world)?;
    let refund = accounts.spender(&channel.funding)?.compute_txid();
    let fees = accounts.fee(channel.funding.txid)? + accounts.fee(refund)?;
    assert_eq!((payer.balance()?, payee.balance()?), (COINS - fees, 0));
    assert_eq!(payer.channel()?.ending.map(|ending| ending.kind), Some("refund".to_owned()));
    Ok(())
}

#[test]
fn the_buyer_vanishes_and_the_seller_closes_alone_with_a_rung_and_its_claim() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (payee, margin) = (payee.with("FARTHING_SELL__MARGIN", "9"), 9);
    let payer = payer.with("FARTHING_BUY__MOST_LIFETIME", "60");
    let service = Service::counting()?;
    // A word is worth 100 sat, and five of them lie between two rungs.
    let api = payee.sell_calls(&service.url(), "1000sat/call", &["--route", "/cheap=100sat"])?;
    {
        let _miner = world.miner();
        for _ in 0..3 {
            payer.call(&api.at("/item"), &[])?;
        }
    }
    let channel = payee.channel()?;
    world.mine_to(channel.expiry - margin - 1)?;
    never("a close before its time", Duration::from_secs(1), || {
        Ok(world.chain().mempool_spender(&channel.funding)?)
    })?;
    world.mine(1)?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    let ended = await_end(&payee)?;
    api.kill()?;

    // 3,000 sat on top of the first payment take 25 words, which is the fifth rung.
    let accounts = Accounts::read(&world)?;
    let commitment = accounts.spender(&channel.funding)?.clone();
    assert_eq!(commitment.output[0].value.to_sat(), PREPAID + 2_500);
    let locked = bitcoin::OutPoint { txid: commitment.compute_txid(), vout: 0 };
    let claim = accounts.fee(accounts.spender(&locked)?.compute_txid())?;
    let received = PREPAID + 2_500 - claim;
    assert_eq!(payee.balance()?, received);
    let ending = ended.ending.map(|ending| (ending.kind, ending.txid, ending.received_sat));
    assert_eq!(ending, Some(("commitment".to_owned(), commitment.compute_txid(), received)));
    let fees = accounts.fee(channel.funding.txid)? + accounts.fee(commitment.compute_txid())?;
    assert_eq!(payer.balance()?, COINS - PREPAID - 2_500 - fees);
    Ok(())
}
