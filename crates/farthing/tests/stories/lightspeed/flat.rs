//! Flat mode by the program: the seller chooses it, the buyer sees what it means, and every call has its output.

use anyhow::{Result, ensure};
use bitcoin::OutPoint;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::crashes::{TendedSeller, at_every_point};
use farthing_testkit::people::free_address;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, Service, World};

use super::{assert_closes_for, await_end, charged};
use crate::{COINS, PREPAID};

/// What the seller's wallet holds: it pays to publish the outputs.
const SELLERS: u64 = 50_000;

fn people() -> Result<(World, Person, Person)> {
    let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
    let payee = Person::new(&world, "seller", SELLERS)?;
    let payer = Person::new(&world, "buyer", COINS)?;
    Ok((world, payee, payer))
}

/// A buyer reads what flat mode costs and when its money would be back, before anything is locked.
fn assert_explained(said: &str) {
    for words in [
        "flat mode",
        "outputs: 3 (at most 2320",
        "unit: 1000 sat",
        "prepaid: 552 sat",
        "locked: 3000 sat",
        "delays:",
        "transactions:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// Batches of three calls: seven calls take three of them.
#[test]
fn calls_go_on_from_batch_to_batch_and_both_close_together() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1000sat/call", &["--flat", "3"])?;
    let miner = world.miner();
    let asked = payer.start(&["call", &api.at("/item"), "--dry-run"])?.wait()?;
    assert_explained(&asked.errors);
    assert_eq!(asked.result()?["cost_msat"], 1_000_000);
    assert!(payer.channels()?.is_empty(), "nothing is locked to see what it means");
    let first = payer.try_to_call(&api.at("/item"), &[])?;
    assert_explained(&first.errors);
    first.success()?;
    for call in 2..=7 {
        let answer = payer.call(&api.at("/item"), &[])?;
        assert_eq!((answer.status(), answer.body), (200, format!("/item {call}").into_bytes()));
    }
    drop(miner);
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (7, 7_000_000));

    assert_closes_for(&world, &payee, &payer, 7_000)?;
    api.kill()?;
    assert_eq!(payee.balance()?, SELLERS + 7_000);
    Ok(())
}

#[test]
fn the_buyer_vanishes_and_each_output_goes_to_whom_it_is_due() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (payee, margin) = (payee.with("FARTHING_SELL__MARGIN", "9"), 9);
    let payer = payer.with("FARTHING_BUY__MOST_LIFETIME", "60");
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1000sat/call", &["--flat", "8"])?;
    {
        let _miner = world.miner();
        for _ in 0..5 {
            payer.call(&api.at("/item"), &[])?;
        }
    }
    let channel = payee.channel()?;
    world.mine_to(channel.expiry - margin)?;
    let commitment = world.await_spend(&channel.funding)?;
    assert_eq!(commitment.output[0].value.to_sat(), PREPAID);
    assert_eq!(commitment.output[1].value.to_sat(), 8_000);
    world.mine(1)?;
    let spread = world.await_spend(&OutPoint { txid: commitment.compute_txid(), vout: 1 })?;
    world.mine(1)?;
    let output = |vout| OutPoint { txid: spread.compute_txid(), vout };
    let claim = world.await_spend(&output(0))?;
    assert_eq!(claim.input.len(), 5);
    world.make_final()?;
    let ending = await_end(&payee)?.ending.expect("it is over");
    api.kill()?;
    let accounts = Accounts::read(&world)?;
    let claimed = 5_000 - accounts.fee(claim.compute_txid())?;
    assert_eq!((ending.received_sat, ending.left_sat), (PREPAID + claimed, 0));
    let coin = accounts.fee(spread.input[1].previous_output.txid)?;
    let paid = coin + accounts.fee(spread.compute_txid())?;
    assert_eq!(payee.balance()?, SELLERS + PREPAID + claimed - paid);

    // The buyer comes back, after the delay.
    world.mine(margin)?;
    payer.run(&["channels", "refund"])?;
    let refund = world.await_spend(&output(5))?;
    assert_eq!(refund.input.len(), 3);
    world.make_final()?;
    let closed = || {
        payer.run(&["channels", "refund"])?;
        Ok(Some(payer.channel()?).filter(|channel| channel.state == "closed"))
    };
    let ending = until("the buyer sees the end", closed)?.ending.expect("it is over");
    assert_eq!(ending.left_sat, 0);
    let accounts = Accounts::read(&world)?;
    let fees = [channel.funding.txid, commitment.compute_txid(), refund.compute_txid()];
    let fees: u64 = fees.into_iter().map(|txid| accounts.fee(txid)).sum::<Result<u64>>()?;
    assert_eq!(payer.balance()?, COINS - PREPAID - 5_000 - fees);
    Ok(())
}

#[test]
fn terms_that_break_a_limit_are_refused_at_the_start() -> Result<()> {
    let (_world, payee, _payer) = people()?;
    let service = Service::counting()?;
    for (price, options, words) in [
        ("100sat/call", &["--flat", "20"][..], "worth its refund and its claim"),
        ("1000sat/call", &["--flat", "2321"][..], "from 1 to 2320"),
        ("1000sat/call+1sat/KiB", &["--flat", "20"][..], "one price"),
    ] {
        let process = payee.start_selling_calls(&service.url(), price, options, "127.0.0.1:0")?;
        let said = process.wait()?.failure(1)?;
        assert!(said.contains(words), "{price}: {said}");
    }
    Ok(())
}

/// The seller closes alone and dies before a save, or between a save and its effects: it has the same in the end.
#[test]
fn a_close_in_which_the_seller_crashes() -> Result<()> {
    const MARGIN: u32 = 9;
    const FLAT: &[&str] = &["--flat", "6"];
    let points = at_every_point(
        || Ok(()),
        |(), point| {
            // A chain for each: on a longer one the node would know what others pay.
            let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
            let payee = Person::new(&world, &format!("seller-{point}"), SELLERS)?;
            let payee = payee.with("FARTHING_SELL__MARGIN", "9");
            let payer = Person::new(&world, &format!("buyer-{point}"), COINS)?;
            let payer = payer.with("FARTHING_BUY__MOST_LIFETIME", "60");
            let service = Service::counting()?;
            let api = payee.sell_calls(&service.url(), "1000sat/call", FLAT)?;
            {
                let _miner = world.miner();
                for _ in 0..4 {
                    payer.call(&api.at("/item"), &[])?;
                }
            }
            api.kill()?;
            let channel = payee.channel()?;
            world.mine_to(channel.expiry - MARGIN)?;
            let (price, address) = (("1000sat/call", FLAT), free_address()?);
            let mut seller = TendedSeller::of_calls(point, &payee, &service.url(), price, &address)?;
            let mut spent = |what: &str, outpoint: OutPoint| {
                let spender = seller.until(what, || Ok(world.chain().mempool_spender(&outpoint)?))?;
                world.mine(1)?;
                anyhow::Ok(spender)
            };
            let commitment = spent("the commitment", channel.funding)?;
            let spread = spent("the outputs", OutPoint { txid: commitment.compute_txid(), vout: 1 })?;
            let claim = spent("the claim", OutPoint { txid: spread.compute_txid(), vout: 0 })?;
            world.make_final()?;
            let is_over = || Ok(Some(payee.channel()?).filter(|channel| channel.state == "closed"));
            let ending = seller.until("the seller sees the end", is_over)?.ending.expect("it is over");
            let crashed = seller.has_crashed();
            seller.kill()?;
            let accounts = Accounts::read(&world)?;
            let claimed = 4_000 - accounts.fee(claim.compute_txid())?;
            ensure!(ending.received_sat == PREPAID + claimed, "it received {}", ending.received_sat);
            let coin = accounts.fee(spread.input[1].previous_output.txid)?;
            let paid = coin + accounts.fee(spread.compute_txid())?;
            let (got, expected) = (payee.balance()?, SELLERS + PREPAID + claimed - paid);
            ensure!(got == expected, "the seller has {got} instead of {expected}");
            Ok(crashed)
        },
    )?;
    ensure!(points >= 8, "only {points} points crashed");
    Ok(())
}
