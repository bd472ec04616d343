//! The sale, and three acts in which somebody fails.

use std::path::Path;

use anyhow::{Context as _, ensure};
use bitcoin::{Amount, OutPoint, Transaction};
use farthing_http::download;
use farthing_http::manifest::Pieces;
use serde_json::Value;

use crate::amounts::human_size;
use crate::demo::people::Person;
use crate::demo::stage::Stage;

const PRICE: &str = "100msat/KiB";
const PIECE: &str = "64KiB";
/// The other acts stop a sale in its middle: eight pieces.
const LEAST: u64 = 8 << 16;
/// In the acts the buyer takes its time, so that something can happen in the middle.
const SLOWLY: &str = "1MiB";
const COINS: Amount = Amount::from_sat(1_000_000);

/// What one party had.
#[derive(Clone, Copy, Debug)]
pub struct BeforeAfter {
    pub before_sat: u64,
    pub after_sat: u64,
}

/// The sale.
pub struct Sale {
    pub bytes: u64,
    pub pieces: u64,
    pub payments: u64,
    pub signatures: u64,
    pub cost_msat: u64,
    pub sha_ok: bool,
    pub payer: BeforeAfter,
    pub payee: BeforeAfter,
    pub funding: OutPoint,
}

/// One of the other acts.
pub struct Act {
    pub title: &'static str,
    pub ok: bool,
    pub outcome: String,
    pub funding: OutPoint,
}

/// A file is sold, and the channel closed together.
pub fn sale(stage: &Stage, file: &Path) -> anyhow::Result<Sale> {
    let bytes = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    ensure!(
        bytes >= LEAST,
        "{} has {} and the demo stops sales in their middle: choose a file of at least {}",
        file.display(),
        human_size(bytes),
        human_size(LEAST)
    );
    eprintln!("\nThe sale: {} ({}) at {PRICE}, in pieces of {PIECE}", file.display(), human_size(bytes));
    let payer = Person::new(stage, "buyer", "sale", COINS)?;
    let payee = Person::new(stage, "seller", "sale", Amount::ZERO)?;
    let (payer_before, payee_before) = (payer.balance()?, payee.balance()?);
    let seller = payee.sell(file, PRICE, PIECE)?;
    let bought = {
        let _miner = stage.miner();
        payer.buy(&seller.url, "file", &[])?.finish()?
    };
    stage.node().mine(7)?;
    let funding = funding(&payer)?;
    seller.kill()?;
    let manifest = *Pieces::of_file(std::fs::File::open(file)?, 1 << 20)?.manifest();
    let count = |key: &str| bought[key].as_u64().context("a number");
    Ok(Sale {
        bytes,
        pieces: count("pieces")?,
        payments: count("payments")?,
        signatures: count("signatures")?,
        cost_msat: count("cost_msat")?,
        sha_ok: download::has_root(&payer.path("file"), &manifest.blake3)?,
        payer: BeforeAfter { before_sat: payer_before, after_sat: payer.balance()? },
        payee: BeforeAfter { before_sat: payee_before, after_sat: payee.balance()? },
        funding,
    })
}

/// The seller vanishes; the buyer takes its refund after the expiry.
pub fn seller_vanishes(stage: &Stage, file: &Path) -> anyhow::Result<Act> {
    eprintln!("Act 1: the seller vanishes in the middle …");
    let payer = Person::new(stage, "buyer", "refund", COINS)?;
    let payee = Person::new(stage, "seller", "refund", Amount::ZERO)?;
    let seller = payee.sell(file, PRICE, PIECE)?;
    let code = {
        // The refund is not due before the buyer has given up.
        let miner = stage.miner();
        let mut buyer = payer.buy(&seller.url, "file", &["--limit-rate", SLOWLY, "--lifetime", "60"])?;
        buyer.await_pieces(3)?;
        drop(miner);
        seller.kill()?;
        buyer.await_failure()?
    };
    ensure!(code == 4, "the buyer should say that the seller cannot be reached, but ended with {code}");
    let channel = payer.channel()?;
    let (capacity, expiry) = (number(&channel, "capacity_sat")?, number(&channel, "expiry")?);
    let funding = outpoint(&channel)?;
    stage.mine_to(expiry as u32)?;
    payer.run(&["channels", "refund"])?;
    let refund = stage.await_spend(&funding)?;
    stage.node().mine(7)?;
    let back: Amount = refund.output.iter().map(|output| output.value).sum();
    payer.run(&["channels", "refund"])?;
    let ended = payer.channel()?["ending"]["kind"] == "refund";
    let outcome =
        format!("the buyer has {} of {capacity} sat back, the rest is the refund's fee", back.to_sat());
    Ok(Act { title: "seller vanishes, buyer refunds", ok: ended && back.to_sat() > 0, outcome, funding })
}

/// The buyer vanishes; the seller closes with the newest commitment.
pub fn buyer_vanishes(stage: &Stage, file: &Path) -> anyhow::Result<Act> {
    eprintln!("Act 2: the buyer vanishes in the middle …");
    let payer = Person::new(stage, "buyer", "alone", COINS)?;
    let payee = Person::new(stage, "seller", "alone", Amount::ZERO)?;
    let seller = payee.sell(file, PRICE, PIECE)?;
    {
        let _miner = stage.miner();
        let mut buyer = payer.buy(&seller.url, "file", &["--limit-rate", SLOWLY, "--lifetime", "60"])?;
        buyer.await_pieces(3)?;
        buyer.kill()?;
    }
    let channel = payee.channel()?;
    let (expiry, funding) = (number(&channel, "expiry")?, outpoint(&channel)?);
    stage.mine_to(expiry as u32 - 6)?;
    let commitment = stage.await_spend(&funding)?;
    stage.node().mine(7)?;
    seller.kill()?;
    // Read now: a payment that the buyer sent before it was killed may have come after that.
    let paid = number(&payee.channel()?, "paid_msat")? / 1_000;
    let chain = stage.transactions()?;
    let txid = commitment.compute_txid();
    // If the commitment's fee was not enough by then, the seller's child has paid the rest out of what it earned.
    let is_child = |child: &&Transaction| {
        child.version.0 == 3 && child.input.iter().any(|input| input.previous_output.txid == txid)
    };
    let left = chain.values().find(is_child).unwrap_or(&commitment).output[0].value.to_sat();
    let earned = payee.balance()?;
    let outcome = format!("the seller closed by itself and has {earned} sat of the {paid} sat paid");
    let ok = paid > 0 && commitment.output[0].value.to_sat() == paid && earned == left;
    Ok(Act { title: "buyer vanishes, seller closes alone", ok, outcome, funding })
}

/// The buyer is killed in the middle and goes on without paying for a piece twice.
pub fn buyer_is_killed(stage: &Stage, file: &Path) -> anyhow::Result<Act> {
    eprintln!("Act 3: the buyer is killed in the middle and goes on …");
    let payer = Person::new(stage, "buyer", "resume", COINS)?;
    let payee = Person::new(stage, "seller", "resume", Amount::ZERO)?;
    let seller = payee.sell(file, PRICE, PIECE)?;
    let _miner = stage.miner();
    let mut buyer = payer.buy(&seller.url, "file", &["--limit-rate", SLOWLY])?;
    buyer.await_pieces(3)?;
    buyer.kill()?;
    let again = payer.buy(&seller.url, "file", &[])?.finish()?;
    stage.node().mine(1)?; // its closing is on the chain, where the report looks for it
    let channel = payer.channel()?;
    let (spent, cost) = (number(&channel, "spent_msat")?, seller.cost_msat);
    let later = number(&again, "payments")?;
    let outcome = format!(
        "{} pieces cost {spent} msat in all, as without the crash; {later} of them were paid after it",
        seller.pieces
    );
    let ok = spent == cost && later < seller.pieces && payer.path("file").is_file();
    Ok(Act { title: "buyer is killed, goes on", ok, outcome, funding: outpoint(&channel)? })
}

fn funding(person: &Person) -> anyhow::Result<OutPoint> {
    outpoint(&person.channel()?)
}

fn outpoint(channel: &Value) -> anyhow::Result<OutPoint> {
    Ok(channel["funding"].as_str().context("a funding")?.parse()?)
}

fn number(value: &Value, key: &str) -> anyhow::Result<u64> {
    value[key].as_u64().with_context(|| format!("no number {key}"))
}
