//! The ladder: all calls in one channel, a part over HTTP through real processes and the rest in this one, then one close by
//! the payee alone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bitcoin::{Amount, OutPoint};
use farthing_protocol::Msat;

use crate::demo::lightspeed::in_process;
use crate::demo::lightspeed::traffic::{self, Carried, Service, Wire};
use crate::demo::people::Person;
use crate::demo::stage::Stage;

/// What a call costs.
const PRICE: Msat = Msat::new(100);
/// How many clients call at once.
const AT_ONCE: usize = 64;
/// How long calls go over HTTP, at most; the rest is made in this process.
const TIME: Duration = Duration::from_secs(20);

/// What was counted and measured.
#[derive(Debug)]
pub struct Ladder {
    pub ok: bool,
    pub price: Msat,
    pub calls: u64,
    pub over_http: u64,
    pub http_took: Duration,
    pub in_process_took: Duration,
    /// Requests between payer and payee for the first call, which opens the channel.
    pub opening: Carried,
    /// Requests between payer and payee for the other calls over HTTP.
    pub carried: Carried,
    /// Requests that reached the service behind the payee's process.
    pub upstream: u64,
    /// Signatures that the payer made for payments after the opening: plain payments, which calls do not need.
    pub signatures_in_calls: u64,
    pub chains: u64,
    /// Signatures on rungs, made ahead of the calls.
    pub rungs: u64,
    pub close_transactions: u64,
    pub close_vsize: u64,
    pub close_fee_sat: u64,
    pub payee_sat: u64,
    pub exposure_calls: u64,
    pub uncovered_calls: u64,
}

/// Plays it.
pub fn play(stage: &Stage, calls: u64) -> anyhow::Result<Ladder> {
    // Sellers want channels of 10,000 sat at least.
    let deposit = (PRICE.get() * calls / 1_000 + 5_000).max(10_000);
    eprintln!("\nThe ladder: {calls} calls at {PRICE} in one channel");
    let payer = Person::new(stage, "buyer", "ladder", Amount::from_sat(deposit + 100_000))?;
    let payee = Person::new(stage, "seller", "ladder", Amount::ZERO)?;
    let service = Service::start()?;
    let price = format!("{}msat/call", PRICE.get());
    let seller =
        payee.serve(&["sell", "--upstream", &service.url, "--price", &price, "--listen", "127.0.0.1:0"])?;
    let wire = Wire::to(&seller.url)?;
    let deposit = format!("{deposit}sat");
    let proxy = payer.serve(&["proxy", &wire.url, "--listen", "127.0.0.1:0", "--deposit", &deposit])?;
    let first = {
        let _miner = stage.miner();
        traffic::load(&proxy.url, 1, 1, TIME)?
    };
    let opening = wire.carried();
    let load = traffic::load(&proxy.url, AT_ONCE, calls / 10, TIME)?;
    ensure!(
        first.others.is_empty() && load.others.is_empty(),
        "a call was not answered: {:?}",
        first.others.iter().chain(&load.others).next()
    );
    let over_http = first.answered + load.answered;
    let (carried, upstream) = (wire.carried().since(&opening), service.requests());
    proxy.kill()?;
    seller.kill()?;
    eprintln!("  {over_http} over HTTP in {:.1} s, the rest in this process …", load.took.as_secs_f64());
    let counted = in_process::play(stage, &payer, &payee, PRICE, calls - over_http)?;
    eprintln!("  … in {:.1} s; the seller closes alone", counted.took.as_secs_f64());

    let row = payer.channel()?;
    let channel = row["channel"].as_str().context("a channel")?;
    let funding: OutPoint = row["funding"].as_str().context("a funding")?.parse()?;
    let spent = PRICE.get() * calls;
    let books_agree = [&row, &payee.channel()?].iter().all(|row| row["spent_msat"].as_u64() == Some(spent));
    payee.run(&["channels", "close", channel])?;
    let commitment = stage.await_spend(&funding)?;
    let claim = stage.await_spend(&OutPoint { txid: commitment.compute_txid(), vout: 0 })?;
    stage.node().mine(7)?;
    let chain = stage.transactions()?;
    let close = [&commitment, &claim];
    let on_chain = close.iter().filter(|transaction| chain.contains_key(&transaction.compute_txid()));
    let locked = commitment.output[0].value;
    let left = claim.output[0].value;
    let opened = row["capacity_sat"].as_u64().context("a capacity")?;
    let outputs: Amount = commitment.output.iter().map(|output| output.value).sum();
    let fee = Amount::from_sat(opened) - outputs + (locked - left);

    let payee_sat = payee.balance()?;
    let purse = &counted.purse;
    let uncovered = counted.standing.uncovered;
    let covered = Msat::new(spent).saturating_sub(uncovered).floor();
    let signatures_in_calls = carried.signed + u64::from(purse.plain().total > first_payment(&counted));
    Ok(Ladder {
        ok: books_agree
            && upstream == over_http
            && carried.calls == load.answered
            && signatures_in_calls == 0
            && payee_sat == left.to_sat()
            && locked >= covered,
        price: PRICE,
        calls,
        over_http,
        http_took: load.took,
        in_process_took: counted.took,
        opening,
        carried,
        upstream,
        signatures_in_calls,
        chains: purse.chains().len() as u64,
        rungs: purse.chains().iter().map(|(terms, _)| u64::from(terms.shape.rungs)).sum(),
        close_transactions: on_chain.count() as u64,
        close_vsize: close.iter().map(|transaction| transaction.vsize() as u64).sum(),
        close_fee_sat: fee.to_sat(),
        payee_sat,
        exposure_calls: counted.standing.exposure.get() / PRICE.get(),
        uncovered_calls: uncovered.get() / PRICE.get(),
    })
}

/// What the opening signed. The first chain stands on it.
fn first_payment(counted: &in_process::Counted) -> Msat {
    counted.purse.chains().first().map_or(Msat::ZERO, |(_, base)| *base)
}
