//! Three acts in which somebody is gone, with real processes. The fourth is in [`super::lying`].

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::{Amount, OutPoint};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::demo::lightspeed::traffic::{self, Service, Wire};
use crate::demo::people;
use crate::demo::people::Person;
use crate::demo::stage::{PATIENCE, Stage};

const COINS: Amount = Amount::from_sat(1_000_000);
/// Dear enough that a few calls are worth a close.
const DEAR: &str = "100sat/call";
const DEAR_SAT: u64 = 100;

/// What came of an act.
pub struct Act {
    pub title: &'static str,
    pub ok: bool,
    pub outcome: String,
}

/// Payer and payee, and a channel in which calls were paid.
struct Scene {
    payer: Person,
    payee: Person,
    seller: people::Service,
    proxy: people::Service,
    wire: Wire,
    service: Service,
}

impl Scene {
    fn new(stage: &Stage, act: &'static str, price: &str) -> anyhow::Result<Self> {
        let short = |person: Person| person.with("FARTHING_BUY__MOST_LIFETIME", "60");
        let payer = short(Person::new(stage, "buyer", act, COINS)?);
        let payee = Person::new(stage, "seller", act, Amount::ZERO)?;
        let service = Service::start()?;
        let seller = sell(&payee, &service, price)?;
        let wire = Wire::to(&seller.url)?;
        let proxy = payer.serve(&["proxy", &wire.url, "--listen", "127.0.0.1:0"])?;
        Ok(Self { payer, payee, seller, proxy, wire, service })
    }

    /// Calls one after another; the first opens the channel.
    fn call(&self, stage: &Stage, calls: u64) -> anyhow::Result<()> {
        let _miner = stage.miner();
        let load = traffic::load(&self.proxy.url, 1, calls, PATIENCE)?;
        ensure!(
            load.answered == calls,
            "{} of {calls} calls were answered: {:?}",
            load.answered,
            load.others
        );
        Ok(())
    }
}

fn sell(payee: &Person, service: &Service, price: &str) -> anyhow::Result<people::Service> {
    payee.serve(&["sell", "--upstream", &service.url, "--price", price, "--listen", "127.0.0.1:0"])
}

fn funding(channel: &Value) -> anyhow::Result<OutPoint> {
    Ok(channel["funding"].as_str().context("a funding")?.parse()?)
}

fn number(value: &Value, key: &str) -> anyhow::Result<u64> {
    value[key].as_u64().with_context(|| format!("no number {key}"))
}

/// The seller is gone for good: the buyer takes everything back after the expiry.
pub fn payee_gone(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 1: the seller is gone …");
    let scene = Scene::new(stage, "payee-gone", DEAR)?;
    scene.call(stage, 20)?;
    scene.seller.kill()?;
    scene.proxy.kill()?;
    let channel = scene.payer.channel()?;
    let (capacity, expiry) = (number(&channel, "capacity_sat")?, number(&channel, "expiry")?);
    stage.mine_to(u32::try_from(expiry)?)?;
    scene.payer.run(&["channels", "refund"])?;
    let refund = stage.await_spend(&funding(&channel)?)?;
    stage.node().mine(7)?;
    scene.payer.run(&["channels", "refund"])?;
    let back: Amount = refund.output.iter().map(|output| output.value).sum();
    let ended = scene.payer.channel()?["ending"]["kind"] == "refund";
    let outcome =
        format!("the buyer has {} of {capacity} sat back; the rest is the refund's fee", back.to_sat());
    let fee = Amount::from_sat(capacity) - back;
    Ok(Act { title: "seller gone, buyer refunds", ok: ended && fee < Amount::from_sat(1_000), outcome })
}

/// The buyer is gone for good: the seller closes by itself a margin before the expiry, with a rung and its claim.
pub fn payer_gone(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 2: the buyer is gone …");
    let scene = Scene::new(stage, "payer-gone", DEAR)?;
    let calls = 30;
    scene.call(stage, calls)?;
    scene.proxy.kill()?;
    let channel = scene.payee.channel()?;
    let expiry = u32::try_from(number(&channel, "expiry")?)?;
    stage.mine_to(expiry - 6)?;
    let (locked, left) = closed_alone(stage, &funding(&channel)?)?;
    stage.node().mine(7)?;
    scene.seller.kill()?;
    let earned = scene.payee.balance()?;
    let spent = calls * DEAR_SAT;
    let outcome = format!(
        "{calls} calls for {spent} sat: the seller's best rung holds {} sat, and it has {earned} of them after the fee",
        locked.to_sat()
    );
    // Words pay in steps of a call on top of the first payment: up to one more than was spent.
    let is_covered = (spent / 2..spent + DEAR_SAT).contains(&locked.to_sat());
    Ok(Act {
        title: "buyer gone, seller closes",
        ok: is_covered && earned == left.to_sat() && earned > 0,
        outcome,
    })
}

/// Waits for a rung and its claim. What the rung locks, and what its claim brings.
pub fn closed_alone(stage: &Stage, funding: &OutPoint) -> anyhow::Result<(Amount, Amount)> {
    let commitment = stage.await_spend(funding)?;
    let claim = stage.await_spend(&OutPoint { txid: commitment.compute_txid(), vout: 0 })?;
    Ok((commitment.output[0].value, claim.output[0].value))
}

/// The seller is killed while calls are under way and starts again; then both close together.
pub fn crash(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 4: the seller is killed in the middle of calls and starts again …");
    let price_msat = 1_000;
    let scene = Scene::new(stage, "crash", "1sat/call")?;
    scene.call(stage, 1)?;
    let Scene { payer, payee, seller, proxy, wire, service } = scene;
    let calls = 3_000;
    let url = proxy.url.clone();
    let load = Handle::current().spawn(traffic::load_within(url, 16, calls - 1, PATIENCE));
    let deadline = Instant::now() + PATIENCE;
    while service.requests() < calls / 3 {
        ensure!(Instant::now() < deadline && !load.is_finished(), "the calls do not go on");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    seller.kill()?;
    let reached = service.requests();
    let seller = sell(&payee, &service, "1sat/call")?;
    wire.turn_to(&seller.url)?;
    let load = Handle::current().block_on(load)??;
    // The channel must take calls again after it all.
    let last = traffic::load(&proxy.url, 1, 1, PATIENCE)?;
    proxy.kill()?;
    // Served and charged; the answers went down with the process.
    let lost = load.others.iter().filter(|text| text.contains("was served and cost")).count() as u64;
    let answered = 1 + load.answered + last.answered;
    let channel = payer.channel()?;
    payer.run(&["channels", "close", channel["channel"].as_str().context("a channel")?])?;
    let closing = stage.await_spend(&funding(&channel)?)?;
    stage.node().mine(7)?;
    let [of_payer, of_payee] = [&payer, &payee].map(|person| person.channel());
    let [of_payer, of_payee] = [number(&of_payer?, "spent_msat")?, number(&of_payee?, "spent_msat")?];
    seller.kill()?;
    let earned = payee.balance()?;
    let outcome = format!(
        "killed after {reached} calls: {answered} of {} answered, {lost} charged with the answer lost, none charged twice; \
         closed together with {} vB, and the seller has {earned} sat",
        calls + 1,
        closing.vsize()
    );
    let paid = (answered + lost) * price_msat;
    let ok = of_payer == of_payee
        && of_payer == paid
        && earned == paid / 1_000
        && last.answered == 1
        && load.answered + load.others.len() as u64 == calls - 1
        && closing.input[0].witness.len() == 1;
    Ok(Act { title: "seller killed -9, goes on", ok, outcome })
}
