//! Calls, with a crash before each save and between each save and its effects: nobody has more or less in the end.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::accounts::Accounts;
use farthing_testkit::crashes::{TendedSeller, at_every_point};
use farthing_testkit::people::{ChannelRow, free_address};
use farthing_testkit::wait::until;
use farthing_testkit::{Person, Service, World};

use crate::COINS;

const PRICE: &str = "500sat/call";
const PRICE_SAT: u64 = 500;

/// Where one thread's stories play.
struct Stage {
    world: World,
}

impl Stage {
    fn new() -> Result<Self> {
        Ok(Self { world: World::new(env!("CARGO_BIN_EXE_farthing"))? })
    }

    fn people(&self, point: u64) -> Result<(Person, Person)> {
        let payee = Person::new(&self.world, &format!("seller-{point}"), 0)?;
        Ok((payee, Person::new(&self.world, &format!("buyer-{point}"), COINS)?))
    }

    /// Each has what so many calls come to, less what the buyer's channels cost on the chain.
    fn assert_balances(&self, since: u32, payee: &Person, payer: &Person, calls: u64) -> Result<()> {
        let due = calls * PRICE_SAT;
        let spent =
            |channels: Vec<ChannelRow>| channels.iter().map(|channel| channel.spent_msat).sum::<u64>();
        let counts = (spent(payee.channels()?), spent(payer.channels()?));
        ensure!(counts == (due * 1_000, due * 1_000), "{calls} calls came to {counts:?}");
        let accounts = Accounts::since(&self.world, since)?;
        let funded = payer.channels()?.iter().filter(|channel| channel.state != "abandoned").count();
        ensure!(funded == 1, "{funded} channels were funded");
        let mut fees = 0;
        for channel in payer.channels()?.iter().filter(|channel| channel.state != "abandoned") {
            let end = accounts.spender(&channel.funding)?.compute_txid();
            fees += accounts.fee(channel.funding.txid)? + accounts.fee(end)?;
        }
        let (got, expected) = ((payer.balance()?, payee.balance()?), (COINS - due - fees, due));
        ensure!(got == expected, "payer and payee have {got:?} instead of {expected:?}, fees {fees}");
        Ok(())
    }
}

fn is_open(channel: &ChannelRow) -> bool {
    !matches!(channel.state.as_str(), "closed" | "abandoned")
}

/// The seller has seen the end of every channel that was funded.
fn all_ended(payee: &Person) -> Result<Option<()>> {
    Ok((!payee.channels()?.iter().any(|channel| channel.spent_msat > 0 && is_open(channel))).then_some(()))
}

/// The buyer calls twice and closes, and dies at a point of one of the three commands. What was served is paid once.
fn the_buyer_crashes_in(command: usize) -> Result<()> {
    let points = at_every_point(Stage::new, |stage, point| {
        let since = stage.world.height()?;
        let (payee, payer) = stage.people(point)?;
        let service = Service::counting()?;
        let api = payee.sell_calls(&service.url(), PRICE, &[])?;
        let miner = stage.world.miner();
        let (url, mut crashed) = (api.at("/item"), false);
        for turn in 0..2 {
            let dying = if turn == command { payer.crashing_at(point) } else { payer.clone() };
            let first = dying.try_to_call(&url, &[])?;
            crashed |= first.has_crashed();
            if first.has_crashed() { payer.call(&url, &[]).map(drop)? } else { first.success()? }
        }
        for channel in payer.channels()?.iter().filter(|channel| is_open(channel)) {
            let close = ["channels", "close", &channel.channel];
            let dying = if command == 2 { payer.crashing_at(point) } else { payer.clone() };
            let first = dying.attempt(&close)?;
            crashed |= first.has_crashed();
            if first.has_crashed() { payer.run(&close).map(drop)? } else { first.success()? }
        }
        drop(miner);
        stage.world.make_final()?;
        until("the seller sees the end", || all_ended(&payee))?;
        api.kill()?;
        stage.assert_balances(since, &payee, &payer, service.requests().len() as u64)?;
        Ok(crashed)
    })?;
    ensure!(points >= 4, "only {points} points crashed");
    Ok(())
}

#[test]
fn a_first_call_in_which_the_buyer_crashes() -> Result<()> {
    the_buyer_crashes_in(0)
}

#[test]
fn a_later_call_in_which_the_buyer_crashes() -> Result<()> {
    the_buyer_crashes_in(1)
}

#[test]
fn a_close_of_paid_calls_in_which_the_buyer_crashes() -> Result<()> {
    the_buyer_crashes_in(2)
}

/// The buyer calls twice and closes while the seller dies once. The service may be asked twice for a call that was not stored;
/// it is paid once.
#[test]
fn calls_in_which_the_seller_crashes() -> Result<()> {
    let points = at_every_point(Stage::new, |stage, point| {
        let since = stage.world.height()?;
        let (payee, payer) = stage.people(point)?;
        let service = Service::counting()?;
        let mut seller =
            TendedSeller::of_calls(point, &payee, &service.url(), (PRICE, &[]), &free_address()?)?;
        let miner = stage.world.miner();
        let (url, mut served, mut tries) = (format!("{}/item", seller.url()?), 0, 0..500);
        while served < 2 {
            tries.next().context("the calls are never served")?;
            served += u64::from(seller.outlive(payer.start_calling(&url, &[])?)?.success());
        }
        for channel in payer.channels()?.iter().filter(|channel| is_open(channel)) {
            let close = ["channels", "close", &channel.channel];
            while !seller.outlive(payer.start(&close)?)?.success() {
                tries.next().context("the channel is never closed")?;
            }
        }
        drop(miner);
        stage.world.make_final()?;
        seller.until("the seller sees the end", || all_ended(&payee))?;
        let crashed = seller.has_crashed();
        seller.kill()?;
        let paid =
            payee.channels()?.iter().map(|channel| channel.spent_msat).sum::<u64>() / 1_000 / PRICE_SAT;
        ensure!((2..=3).contains(&paid), "{paid} calls are paid");
        stage.assert_balances(since, &payee, &payer, paid)?;
        Ok(crashed)
    })?;
    ensure!(points >= 8, "only {points} points crashed");
    Ok(())
}
