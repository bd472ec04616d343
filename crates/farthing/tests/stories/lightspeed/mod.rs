//! Calls that are paid with a word each: the same sides, the same chain, and what stands behind the seller.

mod budgets;
mod crashes;
mod flat;
mod killed;
mod lost;
mod metered;
mod parallel;
mod prices;
mod refused;
mod sale;
mod unreliable;
mod vanished;

use anyhow::{Result, ensure};
use farthing_testkit::accounts::Accounts;
use farthing_testkit::people::ChannelRow;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, World};

use crate::COINS;

/// A world with a seller that has nothing and a buyer with [`COINS`].
fn people() -> Result<(World, Person, Person)> {
    let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
    let payee = Person::new(&world, "seller", 0)?;
    let payer = Person::new(&world, "buyer", COINS)?;
    Ok((world, payee, payer))
}

/// What the calls came to, in millisatoshi, in the only channel and by both sides' counts.
fn charged(payee: &Person, payer: &Person) -> Result<u64> {
    let (theirs, ours) = (payee.channel()?.spent_msat, payer.channel()?.spent_msat);
    ensure!(theirs == ours, "the seller charged {theirs}, and the buyer counts {ours}");
    Ok(theirs)
}

/// The seller has seen the channel's end.
fn await_end(payee: &Person) -> Result<ChannelRow> {
    until(
        "the seller sees the end",
        || Ok(Some(payee.channel()?).filter(|channel| channel.state == "closed")),
    )
}

/// The buyer closes together with the seller, for `due` satoshi, and each has its share.
fn assert_closes_for(world: &World, payee: &Person, payer: &Person, due: u64) -> Result<()> {
    let channel = payer.channel()?;
    payer.run(&["channels", "close", &channel.channel])?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    let ended = await_end(payee)?.ending.map(|ending| (ending.kind, ending.received_sat));
    ensure!(ended == Some(("closing".to_owned(), due)), "for the seller it ended with {ended:?}");
    let accounts = Accounts::read(world)?;
    let closing = accounts.spender(&channel.funding)?.compute_txid();
    let fees = accounts.fee(channel.funding.txid)? + accounts.fee(closing)?;
    let balance = payer.balance()?;
    ensure!(balance == COINS - due - fees, "the buyer has {balance} after {due} and {fees} in fees");
    Ok(())
}
