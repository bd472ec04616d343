//! Who looks sees tables; whoever reads through a pipe, or asks for it, gets JSON.

use anyhow::{Result, ensure};
use farthing_testkit::{Goods, Person};
use serde_json::Value;

use crate::{CHEAP, CHEAP_PIECE_MSAT, COINS, PIECE_MSAT, PREPAID, scene};

/// Each of these is somewhere in what was shown.
fn ensure_shows(shown: &str, all: &[&str]) -> Result<()> {
    let missing: Vec<_> = all.iter().filter(|text| !shown.contains(**text)).collect();
    ensure!(missing.is_empty(), "{missing:?} cannot be seen:\n{shown}");
    Ok(())
}

#[test]
fn who_looks_sees_tables() -> Result<()> {
    let (world, payee, payer, goods) = scene(2_500)?;
    ensure_shows(&payer.watch(&["wallet", "balance"])?, &["confirmed", &format!("{COINS} sat"), "│"])?;
    ensure_shows(&payer.watch(&["channels", "list"])?, &["channel", "capacity", "expiry", "│"])?;

    let seller = payee.sell(&goods)?;
    let out = payer.path("out").display().to_string();
    let buy = ["buy", &seller.url, "-o", &out, "--max-cost", "1btc"];
    let at_risk = format!("{}.{:03} sat", 2 * PIECE_MSAT / 1_000, 2 * PIECE_MSAT % 1_000);
    let plan = payer.watch(&[&buy[..], &["--dry-run"]].concat())?;
    ensure_shows(&plan, &["would be locked", "you can lose", &at_risk])?;
    let miner = world.miner();
    let bought = payer.watch(&buy)?;
    drop(miner);
    ensure_shows(&bought, &["pieces fetched", "at risk at any time", &at_risk, "3/3", "│"])?;

    let row = payer.channel()?;
    let state = [row.state.as_str(), &row.channel[..16], "payer"];
    ensure_shows(&payer.watch(&["channels", "list"])?, &state)?;
    ensure_shows(&payer.watch(&["channels", "show", &row.channel])?, &[&row.channel, "refund from block"])
}

#[test]
fn who_asks_for_json_gets_it_on_a_terminal_as_well() -> Result<()> {
    let (_world, _, payer, _) = scene(1)?;
    let balance = |person: &Person| -> Result<Value> {
        Ok(serde_json::from_str(&person.watch(&["wallet", "balance", "--json"])?)?)
    };
    ensure!(balance(&payer)? == payer.run(&["wallet", "balance"])?, "another answer");
    Ok(())
}

#[test]
fn what_is_at_risk_is_the_larger_of_the_pieces_in_flight_and_what_is_left_of_the_first_payment() -> Result<()>
{
    let (world, payee, payer, goods) = scene(9_000)?;
    let dear = payee.sell(&goods)?;
    let cheap = Person::new(&world, "second seller", 0)?.sell(&Goods { price: CHEAP, ..goods })?;
    let plan = |url: &str| payer.buy(url, "out", &["--dry-run"])?.result();
    ensure!(plan(&dear.url)?["at_risk_msat"] == 2 * PIECE_MSAT, "two pieces are more than the first payment");
    let prepaid = PREPAID * 1_000;
    ensure!(
        plan(&cheap.url)?["at_risk_msat"] == prepaid && prepaid > 2 * CHEAP_PIECE_MSAT,
        "{}",
        plan(&cheap.url)?
    );

    let _miner = world.miner();
    let bought = payer.buy(&cheap.url, "out", &["--keep-open"])?.result()?;
    ensure!(bought["at_risk_msat"] == prepaid, "{bought}");
    std::fs::remove_file(payer.path("out"))?;
    let again = plan(&cheap.url)?;
    ensure!(again["at_risk_msat"] == 2 * CHEAP_PIECE_MSAT, "the first payment is used up: {again}");
    Ok(())
}

/// Whatever would stop the purchase in any case stops it before anything is locked.
#[test]
fn a_file_that_cannot_be_written_opens_no_channel() -> Result<()> {
    let (_world, payee, payer, goods) = scene(2_500)?;
    let seller = payee.sell(&goods)?;
    let refused = payer.buy(&seller.url, "no/such/folder/out", &[])?;
    let said = refused.failure(1)?;
    ensure!(said.contains("no/such/folder/out.part"), "{said}");
    ensure!(payer.channels()?.is_empty() && payer.balance()? == COINS, "a channel was opened");
    Ok(())
}

#[test]
fn a_purchase_that_is_refused_leaves_no_file_behind() -> Result<()> {
    let (_world, payee, payer, goods) = scene(2_500)?;
    let seller = payee.sell(&goods)?;
    let poor = payer.with("FARTHING_BUY__MOST_PREPAID", "1");
    poor.buy(&seller.url, "out", &[])?.failure(3)?;
    ensure!(!payer.path("out.part").exists() && payer.channels()?.is_empty(), "something is left");
    Ok(())
}
