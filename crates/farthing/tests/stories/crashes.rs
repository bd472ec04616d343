//! A crash before each save, and between each save and what follows from it: nobody has more or less in the end.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::accounts::Accounts;
use farthing_testkit::crashes::{TendedSeller, at_every_point};
use farthing_testkit::people::{ChannelRow, free_address};
use farthing_testkit::wait::until;
use farthing_testkit::{Goods, Person, World};

use crate::{COINS, DEATH, PIECE_MSAT, PRICE, bad_seller, closing, repriced, sale};

/// What the file costs: two pieces of 1 KiB and one of 452 bytes, the last rounded up.
const COST_MSAT: u64 = 2 * PIECE_MSAT + (PIECE_MSAT * 452).div_ceil(1_024);
/// What one funding and one closing cost at most, with some room for the node's estimates.
const MOST_FEES: u64 = 1_000;

/// How a story ended.
struct Ending {
    /// The program was at its crash point.
    crashed: bool,
    payee: Person,
    payer: Person,
    /// What the payee is to have, in millisatoshi.
    paid: u64,
}

type Told = Result<Ending>;

/// A lifetime that a story waits for, and the margin within it.
const LIFETIME: u32 = 8;
const MARGIN: u32 = 3;

/// Where one thread's stories play.
struct Stage {
    world: World,
    goods: Goods,
}

impl Stage {
    fn new() -> Result<Self> {
        let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
        let goods = Goods { file: world.file("file", 2_500)?, price: PRICE, piece: "1KiB" };
        Ok(Self { world, goods })
    }

    fn people(&self, point: u64) -> Result<(Person, Person)> {
        let payee = Person::new(&self.world, &format!("seller-{point}"), 0)?
            .with("FARTHING_SELL__LIFETIME", &format!("[{LIFETIME}, 1000]"))
            .with("FARTHING_SELL__MARGIN", &MARGIN.to_string());
        let payer = Person::new(&self.world, &format!("buyer-{point}"), COINS)?
            .with("FARTHING_BUY__PATIENCE_SECONDS", "60");
        Ok((payee, payer))
    }

    /// A buyer that has one of three pieces is gone, and so is the seller.
    fn interrupted_sale(&self, payee: &Person, payer: &Person) -> Result<ChannelRow> {
        let seller = payee.sell(&self.goods)?;
        let _miner = self.world.miner();
        let payer = payer.with("FARTHING_BUY__IN_FLIGHT", "1");
        let options = ["--limit-rate", "1KiB", "--lifetime", &LIFETIME.to_string()];
        let mut buying = payer.start_buying(&seller.url, "out", &options)?;
        buying.await_pieces(1)?;
        buying.kill()?;
        seller.kill()?;
        payee.channel()
    }

    /// What was sold was charged once, in one channel. Returns what it cost.
    fn sold_once(&self, payee: &Person, payer: &Person) -> Result<u64> {
        let charged = |channels: Vec<ChannelRow>| -> Vec<u64> {
            channels.iter().map(|channel| channel.spent_msat).filter(|spent| *spent > 0).collect()
        };
        let (theirs, ours) = (charged(payee.channels()?), charged(payer.channels()?));
        ensure!(theirs == [COST_MSAT] && ours == [COST_MSAT], "charged {theirs:?}, paid {ours:?}");
        let (sold, bought) = (std::fs::read(&self.goods.file)?, std::fs::read(payer.path("out"))?);
        ensure!(sold == bought, "another file was bought");
        Ok(COST_MSAT)
    }

    /// The payee has exactly what was paid, and the payer the rest less what its one channel's transactions cost. So
    /// nothing else was locked or paid, and an opening that was given up cost nothing.
    fn assert_balances(&self, since: u32, payee: &Person, payer: &Person, paid: u64) -> Result<()> {
        let accounts = Accounts::since(&self.world, since)?;
        let got = (payer.balance()?, payee.balance()?);
        let (mut fees, mut hurry) = (0, 0);
        for channel in payer.channels()?.iter().filter(|channel| channel.state != "abandoned") {
            let end = accounts.spender(&channel.funding)?.compute_txid();
            fees += accounts.fee(channel.funding.txid)? + accounts.fee(end)?;
            // The node's estimate may have risen since the opening.
            hurry += accounts.child(end).map_or(Ok(0), |child| accounts.fee(child))?;
        }
        let expected = (COINS - paid / 1_000 - fees, paid / 1_000 - hurry);
        ensure!(got == expected, "payer and payee have {got:?} instead of {expected:?}, fees {fees}");
        ensure!(fees + hurry < MOST_FEES, "the fees are {fees} and {hurry} sat");
        Ok(())
    }
}

/// Every channel that was ever funded has ended.
fn all_ended(person: &Person) -> Result<Option<()>> {
    Ok((!person.channels()?.iter().any(is_live)).then_some(()))
}

fn is_live(channel: &ChannelRow) -> bool {
    channel.spent_msat > 0 && channel.state != "closed"
}

/// Tells a story with every crash, and adds up what everybody has in the end.
fn nobody_loses(story: fn(&Stage, u64) -> Told) -> Result<()> {
    let told = |stage: &Stage, point: u64| {
        let since = stage.world.height()?;
        let Ending { crashed, payee, payer, paid } = story(stage, point)?;
        stage.assert_balances(since, &payee, &payer, paid)?;
        Ok(crashed)
    };
    let points = at_every_point(Stage::new, told)?;
    ensure!(points >= 8, "only {points} points crashed");
    Ok(())
}

#[test]
fn a_sale_in_which_the_buyer_crashes() -> Result<()> {
    fn story(stage: &Stage, point: u64) -> Told {
        let (payee, payer) = stage.people(point)?;
        let seller = payee.sell(&stage.goods)?;
        let miner = stage.world.miner();
        let first = payer.crashing_at(point).buy(&seller.url, "out", &[])?;
        let crashed = first.has_crashed();
        let last = if crashed { payer.buy(&seller.url, "out", &[])? } else { first };
        last.success()?;
        drop(miner);
        stage.world.make_final()?;
        until("the seller sees the end", || all_ended(&payee))?;
        seller.kill()?;
        let paid = stage.sold_once(&payee, &payer)?;
        Ok(Ending { crashed, payee, payer, paid })
    }
    nobody_loses(story)
}

#[test]
fn a_sale_in_which_the_seller_crashes() -> Result<()> {
    fn story(stage: &Stage, point: u64) -> Told {
        let (payee, payer) = stage.people(point)?;
        let mut seller = TendedSeller::crashing_at(point, &payee, &stage.goods, &free_address()?)?;
        let miner = stage.world.miner();
        // What a person does who reads what the program says: the same again, or close what stayed open.
        let mut tries = 0..500;
        while !payer.path("out").is_file() {
            tries.next().context("the file is never bought")?;
            seller.outlive(payer.start_buying(&seller.url()?, "out", &[])?)?;
        }
        for channel in payer.channels()?.iter().filter(|channel| is_live(channel)) {
            while !seller.outlive(payer.start(&["channels", "close", &channel.channel])?)?.success() {
                tries.next().context("the channel is never closed")?;
            }
        }
        drop(miner);
        stage.world.make_final()?;
        seller.until("the seller sees the end", || all_ended(&payee))?;
        let crashed = seller.has_crashed();
        seller.kill()?;
        let paid = stage.sold_once(&payee, &payer)?;
        Ok(Ending { crashed, payee, payer, paid })
    }
    nobody_loses(story)
}

#[test]
fn a_close_without_the_buyer_in_which_the_seller_crashes() -> Result<()> {
    fn story(stage: &Stage, point: u64) -> Told {
        let (payee, payer) = stage.people(point)?;
        let channel = stage.interrupted_sale(&payee, &payer)?;
        let mut seller = TendedSeller::crashing_at(point, &payee, &stage.goods, &free_address()?)?;
        stage.world.mine_to(channel.expiry - MARGIN)?;
        let chain = stage.world.chain();
        seller.until("the commitment", || Ok(chain.mempool_spender(&channel.funding)?))?;
        stage.world.make_final()?;
        seller.until("the seller sees the end", || all_ended(&payee))?;
        let crashed = seller.has_crashed();
        seller.kill()?;
        Ok(Ending { crashed, payee, payer, paid: channel.paid_msat })
    }
    nobody_loses(story)
}

#[test]
fn a_refund_in_which_the_buyer_crashes() -> Result<()> {
    fn story(stage: &Stage, point: u64) -> Told {
        let (payee, payer) = stage.people(point)?;
        let channel = stage.interrupted_sale(&payee, &payer)?;
        stage.world.mine_to(channel.expiry)?;
        let refund = ["channels", "refund"];
        let first = payer.crashing_at(point).attempt(&refund)?;
        let crashed = first.has_crashed();
        let last = if crashed { payer.attempt(&refund)? } else { first };
        let told = last.result()?;
        ensure!(told["refunding"] == serde_json::json!([channel.channel]), "refunds {told}");
        stage.world.await_spend(&channel.funding)?;
        stage.world.make_final()?;
        payer.run(&refund)?;
        ensure!(payer.channel()?.ending.is_some_and(|ending| ending.kind == "refund"), "no refund");
        Ok(Ending { crashed, payee, payer, paid: 0 })
    }
    nobody_loses(story)
}

/// Tells a story again and again: each program in it dies at its first crash point and begins anew, then at its second, and so on until none
/// dies any more.
fn retold(story: fn() -> Result<()>) -> Result<()> {
    let folder = farthing_chain::temporary_folder("farthing-deaths-")?;
    let points = at_every_point(
        || Ok(()),
        |(), point| {
            let mark = folder.path().join(point.to_string());
            DEATH.set(Some((point, mark.clone())));
            let told = story();
            DEATH.set(None);
            told?;
            Ok(mark.exists())
        },
    )?;
    ensure!(points >= 8, "only {points} points crashed");
    Ok(())
}

macro_rules! retold {
    ($($file:ident: $($story:ident)+;)+) => {
        $($(
            #[test]
            fn $story() -> Result<()> {
                retold($file::$story)
            }
        )+)+
    };
}

retold! {
    bad_seller: a_seller_that_states_more_than_was_bought_is_paid_what_was_bought a_wrong_piece_costs_that_piece_and_nothing_more;
    closing: the_seller_closes_while_it_does_not_sell the_seller_closes_while_it_sells;
    repriced: a_payment_at_a_lower_price_that_was_lost_is_made_up_to_the_new_one a_piece_that_was_charged_at_a_lower_price_comes_for_it;
    sale: a_channel_that_was_kept_open_pays_for_the_next_file;
}
