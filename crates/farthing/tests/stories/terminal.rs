//! Who looks sees tables; whoever reads through a pipe, or asks for it, gets JSON.

use anyhow::{Result, ensure};
use farthing_testkit::Person;
use serde_json::Value;

use crate::{COINS, PIECE_MSAT, scene};

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
