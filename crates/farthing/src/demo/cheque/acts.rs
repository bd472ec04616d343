//! Five acts in which somebody goes away, or changes its mind.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::demo::cheque::{Cast, payee_gone};
use crate::demo::people::Person;
use crate::demo::stage::Stage;

/// In the acts a channel to the agent lives so many blocks.
pub(super) const SHORTLY: &[&str] = &["--lifetime", "100"];
/// A block is mined about three times a second, so these are the blocks of seconds.
pub(super) const FINAL: u32 = 8;

/// How an act ended.
pub struct Act {
    pub title: &'static str,
    pub ok: bool,
    pub outcome: String,
}

/// All of them.
pub fn play(stage: &Stage) -> anyhow::Result<[Act; 5]> {
    Ok([overwritten(stage)?, bounced(stage)?, agent_gone(stage)?, payee_gone::play(stage)?, expired(stage)?])
}

pub(super) fn name(written: &Value) -> anyhow::Result<String> {
    Ok(written["cheque"].as_str().context("a name")?.to_owned())
}

/// The payer takes a cheque back before it is cashed, and writes another over the same money: its channel holds 20,000 sat more than
/// the first, so both would not fit.
fn overwritten(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("\nAct 1: the payer comes back early, and writes another cheque over the same money …");
    let mut cast = Cast::new(stage, "overwritten")?;
    let _miner = stage.miner();
    let first = name(&cast.write("15000sat", &[])?)?;
    cast.cancel(&first)?;
    let second = name(&cast.write("25000sat", &[])?)?;
    let rows = cast.cash(&[])?;
    let cashed = |name: &str| rows.iter().any(|row| row["cheque"] == name && row["cashed"] == true);
    let ok = !cashed(&first) && cashed(&second);
    let outcome = "only the second is cashed, the first is held by nobody".to_owned();
    Ok(Act { title: "overwritten", ok, outcome })
}

/// The payee gets a cheque that nobody holds a promise for any more.
fn bounced(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 2: a cheque bounces …");
    let mut cast = Cast::new(stage, "bounced")?;
    let _miner = stage.miner();
    let bad = name(&cast.write("4000sat", &[])?)?;
    cast.cancel(&bad)?;
    let rows = cast.cash(&[])?;
    let row = rows.iter().find(|row| row["cheque"] == bad.as_str()).context("the cheque did not come")?;
    let is_refused = row["cashed"] == false && row["why"].is_string();
    // What it gave away is nothing: a good cheque is cashed as ever, and the bad one has no receipt.
    let good = name(&cast.write("4000sat", &[])?)?;
    let rows = cast.cash(&[])?;
    let is_paid = rows.iter().any(|row| row["cheque"] == good.as_str() && row["cashed"] == true);
    let ok = is_refused && is_paid && cast.listed(&bad)?["receipt"].is_null();
    let outcome = "the payee is told so, and gave nothing away for it".to_owned();
    Ok(Act { title: "bounced", ok, outcome })
}

/// The agent goes away before the sale; the payer takes its money back after the expiry.
fn agent_gone(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 3: the agent goes away before the sale …");
    let mut cast = Cast::new(stage, "agent-gone")?;
    let cheque = {
        let _miner = stage.miner();
        name(&cast.write("4000sat", SHORTLY)?)?
    };
    let (payer, payee, mailbox) = cast.without_agent()?;
    let rows = payee.run(&["cheque", "cash", "--mailbox", &mailbox.url, "--wait", "1"])?;
    let rows = rows.as_array().context("a list")?;
    let is_unpaid = rows.iter().any(|row| row["cheque"] == cheque.as_str() && row["cashed"] == false);
    let back = take_back(stage, &payer)?;
    let outcome = format!("the payee is not paid, and the payer has {back} sat back");
    Ok(Act { title: "agent gone", ok: is_unpaid && back > 0, outcome })
}

/// Nobody cashes the cheque before the payer's channel expires.
fn expired(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 5: the channel expires with an open cheque …");
    let mut cast = Cast::new(stage, "expired")?;
    let cheque = {
        let _miner = stage.miner();
        name(&cast.write("4000sat", SHORTLY)?)?
    };
    let back = take_back(stage, &cast.payer)?;
    let listed = cast.listed(&cheque)?;
    let rows = cast.cash(&["--wait", "1"])?;
    // It comes, too late, and nothing else does.
    let is_refused = match rows.as_slice() {
        [row] => row["amount_msat"] == 4_000_000 && row["cashed"] == false && row["why"].is_string(),
        _none_or_several => false,
    };
    let ok = back > 0 && listed["state"] == "ended" && is_refused;
    let outcome = format!("the payer has {back} sat back, and the cheque is worth nothing any more");
    Ok(Act { title: "expired", ok, outcome })
}

/// The payer comes back after the expiry of its channel, and takes back what is in it, in satoshi.
pub(super) fn take_back(stage: &Stage, payer: &Person) -> anyhow::Result<u64> {
    let channel = payer.channel()?;
    let expiry = channel["expiry"].as_u64().context("a height")?;
    let capacity = channel["capacity_sat"].as_u64().context("an amount")?;
    stage.mine_to(u32::try_from(expiry)?)?;
    // The refund is broadcast by looking; the second look sees it in a block.
    payer.run(&["cheque", "list", "--offline"])?;
    stage.node().mine(FINAL)?;
    payer.run(&["cheque", "list", "--offline"])?;
    let ending = payer.channel()?["ending"].clone();
    ensure!(ending["kind"] == "refund", "the channel ended otherwise: {ending}");
    let back = ending["received_sat"].as_u64().context("an amount")?;
    ensure!(back <= capacity && back + 2_000 > capacity, "of {capacity} sat only {back} came back");
    Ok(back)
}
