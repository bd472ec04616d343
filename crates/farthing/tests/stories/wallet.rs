//! The on-chain wallet by the program: what it holds, what it sends and what it does not, and how its words bring it back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Network, Txid};
use farthing_testkit::accounts::Accounts;
use farthing_testkit::crashes::at_every_point;
use farthing_testkit::{Ended, Person, World};
use serde_json::{Value, json};

use crate::{COINS, scene};

/// What `wallet balance` says of a wallet without coinbases.
fn held(confirmed: u64, pending: u64) -> Value {
    json!({ "confirmed_sat": confirmed, "pending_sat": pending, "immature_sat": 0 })
}

fn balance(person: &Person) -> Result<Value> {
    person.run(&["wallet", "balance"])
}

fn send(person: &Person, address: &str, amount: &str) -> Result<Txid> {
    let sent = person.run(&["wallet", "send", address, amount])?;
    Ok(sent["txid"].as_str().context("a transaction")?.parse()?)
}

#[test]
fn exact_amounts_arrive_and_the_sender_keeps_the_rest_less_the_fees() -> Result<()> {
    let (world, payee, payer, _) = scene(1)?;
    assert_eq!((balance(&payer)?, balance(&payee)?), (held(COINS, 0), held(0, 0)));
    let (mut left, mut arrived, mut addresses) = (COINS, 0, BTreeSet::new());
    for (amount, sat) in [("123456sat", 123_456), ("0.001btc", 100_000), ("5000000msat", 5_000)] {
        let address = payee.address()?;
        let txid = send(&payer, &address, amount)?;
        addresses.insert(address);
        assert_eq!(world.mempool()?, [txid]);
        // The change can be spent at once; what comes from others counts when a block has it.
        let waiting = (balance(&payer)?, balance(&payee)?);
        world.mine(1)?;
        let fee = Accounts::read(&world)?.fee(txid)?;
        ensure!((1..1_000).contains(&fee), "{amount} cost {fee} sat");
        left -= sat + fee;
        ensure!(waiting == (held(0, left), held(arrived, 0)), "{amount} on its way: {waiting:?}");
        arrived += sat;
        let mined = (balance(&payer)?, balance(&payee)?);
        ensure!(mined == (held(left, 0), held(arrived, 0)), "{amount} in a block: {mined:?}");
    }
    assert_eq!(addresses.len(), 3, "an address was handed out twice: {addresses:?}");
    Ok(())
}

#[test]
fn all_is_every_coin_and_leaves_nothing() -> Result<()> {
    let (world, payee, payer, _) = scene(1)?;
    world.give(&payer.address()?, 50_000)?;
    let address = payee.address()?;
    let txid = send(&payer, &address, "all")?;
    assert_eq!((world.mempool()?, balance(&payer)?), (vec![txid], held(0, 0)));
    world.mine(1)?;
    let fee = Accounts::read(&world)?.fee(txid)?;
    assert_eq!((balance(&payer)?, balance(&payee)?), (held(0, 0), held(COINS + 50_000 - fee, 0)));

    let said = payer.attempt(&["wallet", "send", &address, "all"])?.failure(1)?;
    assert!(said.contains("to spend") && said.contains("farthing wallet address"), "{said}");
    assert_eq!((world.mempool()?.len(), balance(&payer)?), (0, held(0, 0)));
    Ok(())
}

/// What was stored is sent by the next command, whichever it is, and once; what was not never was.
#[test]
fn a_payment_that_was_cut_off_is_sent_by_the_next_command_or_never_was() -> Result<()> {
    let sent_later = AtomicU64::new(0);
    let points = at_every_point(
        || World::new(env!("CARGO_BIN_EXE_farthing")),
        |world, point| {
            let payer = Person::new(world, &format!("payer-{point}"), COINS)?;
            let payee = Person::new(world, &format!("payee-{point}"), 0)?;
            let to = payee.address()?;
            let first = payer.crashing_at(point).attempt(&["wallet", "send", &to, "123456sat"])?;
            let (crashed, before) = (first.has_crashed(), world.mempool()?);
            if !crashed {
                first.success()?;
            }
            let left = balance(&payer)?;
            let after = world.mempool()?;
            let is_paid = left["confirmed_sat"] == 0;
            ensure!(after.len() == usize::from(is_paid), "{left}, and in the mempool {after:?}");
            sent_later.fetch_add(u64::from(is_paid && before.is_empty()), Ordering::Relaxed);
            balance(&payer)?;
            assert_eq!(world.mempool()?, after);
            world.mine(1)?;
            assert_eq!(balance(&payee)?, held(if is_paid { 123_456 } else { 0 }, 0));
            Ok(crashed)
        },
    )?;
    ensure!(
        points >= 3 && sent_later.load(Ordering::Relaxed) > 0,
        "{points} crashed, {sent_later:?} sent later"
    );
    Ok(())
}

#[test]
fn what_cannot_be_sent_is_refused_and_the_wallet_stays_as_it_is() -> Result<()> {
    let (world, payee, payer, _) = scene(1)?;
    let to = payee.address()?;
    let own: Address<NetworkUnchecked> = to.parse()?;
    let script = own.require_network(Network::Regtest)?.script_pubkey();
    // The payee's own key, as other networks write it.
    let mainnet = Address::from_script(&script, Network::Bitcoin)?.to_string();
    let signet = Address::from_script(&script, Network::Signet)?.to_string();
    let (everything, more) = (format!("{COINS}sat"), format!("{}sat", COINS + 1));
    let (foreign, too_little) = ("is not valid on regtest", "send more to `farthing wallet address`");
    for (address, amount, words) in [
        (to.as_str(), "1000500msat", "whole satoshi"),
        (to.as_str(), "0.5sat", "whole satoshi"),
        (to.as_str(), "5000", "is no amount"),
        (to.as_str(), "everything", "is no amount"),
        (to.as_str(), "100sat", "dust limit"),
        // It leaves nothing for the fee.
        (to.as_str(), everything.as_str(), too_little),
        (to.as_str(), more.as_str(), too_little),
        (mainnet.as_str(), "5000sat", foreign),
        (mainnet.as_str(), "all", foreign),
        (signet.as_str(), "5000sat", foreign),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "5000sat", foreign),
        ("bcrt1nobody", "5000sat", "this is no Bitcoin address"),
    ] {
        let said = payer.attempt(&["wallet", "send", address, amount])?.failure(1)?;
        ensure!(said.contains(words), "{amount} to {address}: no {words:?} in: {said}");
        let after = (world.mempool()?.len(), balance(&payer)?);
        ensure!(after == (0, held(COINS, 0)), "{amount} to {address}: {after:?}");
    }

    // No coin was set aside for any of them.
    let txid = send(&payer, &to, "all")?;
    world.mine(1)?;
    let fee = Accounts::read(&world)?.fee(txid)?;
    assert_eq!((balance(&payer)?, balance(&payee)?), (held(0, 0), held(COINS - fee, 0)));
    Ok(())
}

/// Restores these words into a data folder of their own.
fn try_to_restore(person: &Person, name: &str, words: &str, options: &[&str]) -> Result<(Person, Ended)> {
    let restored = person.with("FARTHING_DATA", &person.path(name).display().to_string());
    let arguments = [&["init", "--restore"][..], options].concat();
    let ended = restored.feed(&arguments, &[words.to_owned()])?.wait()?;
    Ok((restored, ended))
}

fn restore(person: &Person, name: &str, words: &str, birthday: u32) -> Result<Person> {
    let options = ["--birthday", &birthday.to_string()];
    let (restored, ended) = try_to_restore(person, name, words, &options)?;
    ended.success()?;
    Ok(restored)
}

/// Somebody without coins, and the words of the wallet.
fn owner() -> Result<(World, Person, String)> {
    let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
    let owner = Person::new(&world, "owner", 0)?;
    let words = std::fs::read_to_string(owner.path("regtest/seed"))?;
    Ok((world, owner, words))
}

#[test]
fn the_words_bring_back_the_same_wallet() -> Result<()> {
    let (world, owner, words) = owner()?;
    let first = owner.address()?;
    let restored = restore(&owner, "restored", &words, world.height()?)?;
    assert_eq!(std::fs::read_to_string(restored.path("restored/regtest/seed"))?, words);
    assert_eq!(restored.address()?, first);
    world.give(&first, 70_000)?;
    assert_eq!((balance(&owner)?, balance(&restored)?), (held(70_000, 0), held(70_000, 0)));

    // It has the keys too; and the one who never restored sees in the next block what became of the coins.
    let second = restored.address()?;
    let txid = send(&restored, &second, "all")?;
    world.mine(1)?;
    let left = 70_000 - Accounts::read(&world)?.fee(txid)?;
    assert_eq!((balance(&owner)?, balance(&restored)?), (held(left, 0), held(left, 0)));
    Ok(())
}

/// The birthday is the first block that is looked at, so the height of the oldest coin's block will do.
#[test]
fn a_restored_wallet_finds_its_coins_from_its_birthday_on() -> Result<()> {
    let (world, owner, words) = owner()?;
    world.give(&owner.address()?, 70_000)?;
    let height = world.height()?;
    world.mine(3)?;
    for (birthday, found) in [(0, 70_000), (height - 1, 70_000), (height, 70_000), (height + 1, 0)] {
        let restored = restore(&owner, &format!("from-{birthday}"), &words, birthday)?;
        let got = balance(&restored)?;
        ensure!(got == held(found, 0), "from {birthday} on, with a coin at {height}: {got}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_restored_is_refused_and_makes_no_wallet() -> Result<()> {
    let (world, owner, words) = owner()?;
    for (name, words) in [("no-words", "these are not the words of any wallet"), ("nothing", "")] {
        let (restored, ended) = try_to_restore(&owner, name, words, &[])?;
        let said = ended.failure(1)?;
        ensure!(said.contains("not a BIP39 mnemonic"), "{name}: {said}");
        ensure!(balance(&restored).is_err() && !owner.path(name).join("regtest/seed").exists(), "{name}");
    }
    let over = owner.feed(&["init", "--restore"], std::slice::from_ref(&words))?.wait()?.failure(1)?;
    assert!(over.contains("already") && over.contains("nothing was changed"), "{over}");
    assert_eq!(std::fs::read_to_string(owner.path("regtest/seed"))?, words);
    let alone = owner.attempt(&["init", "--birthday", "7"])?.failure(1)?;
    assert!(alone.contains("--restore"), "{alone}");

    // The node may still be synchronising: it is waited for, instead of beginning at another block.
    let ahead = restore(&owner, "ahead", &words, world.height()? + 10)?;
    let said = ahead.attempt(&["wallet", "balance"])?;
    assert!(!said.status.success() && said.errors.contains("which the node does not have yet"), "{said:?}");
    world.mine(10)?;
    assert_eq!(balance(&ahead)?, held(0, 0));
    Ok(())
}
