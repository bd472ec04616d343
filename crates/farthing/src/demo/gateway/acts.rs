//! The acts in which somebody fails or steals. Each says what it saw, and whether that is what it should be.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::hex::DisplayHex as _;
use serde_json::Value;

use crate::demo::gateway::TOLL_MSAT;
use crate::demo::gateway::cars::Car;
use crate::demo::gateway::road::{Road, until};
use crate::demo::stage::Stage;

/// How one act ended.
#[derive(Debug)]
pub struct Act {
    /// Its name in the report.
    pub name: &'static str,
    /// Whether it ended as it should.
    pub ok: bool,
    /// What was seen.
    pub outcome: String,
}

/// What the gateway knows of a payment.
fn payment(road: &Road, invoice: &str) -> anyhow::Result<Option<Value>> {
    let hash = hash_of(invoice)?;
    let payments = road.ask("payments")?;
    let payments = payments.as_array().context("a list of payments")?;
    Ok(payments.iter().find(|payment| payment["payment_hash"] == hash.as_str()).cloned())
}

fn hash_of(invoice: &str) -> anyhow::Result<String> {
    let read = farthing_protocol::device::Invoice::parse(invoice, bitcoin::Network::Regtest)?;
    Ok(read.payment_hash().0.to_lower_hex_string())
}

/// A car loses its connection, and its power, in the middle of a payment. When it is back, the payment goes on by itself.
pub fn device_offline_resume(road: &Road, car: &Car) -> anyhow::Result<Act> {
    // A payment is quick: it takes a few attempts to cut one in the middle.
    'attempts: for attempt in 1..=20 {
        let invoice = road.invoice(TOLL_MSAT)?;
        let paying = car.device.talk(&["device", "pay", &invoice])?;
        until("the gateway has the order", || Ok(payment(road, &invoice)?.is_some()))?;
        paying.kill()?;
        let is_pending = || {
            Ok::<bool, anyhow::Error>(
                payment(road, &invoice)?.is_some_and(|payment| payment["outcome"] == "pending"),
            )
        };
        until("the gateway sees that no car is there", || {
            let devices = road.ask("devices")?;
            Ok(devices.as_array().context("a list")?.iter().all(|device| device["online"] == false))
        })?;
        // It stays so while the car is away, unless the car had signed all that its part takes before it was cut. Nothing is signed
        // without it.
        let (away, at_cut) = (Instant::now(), joint_signatures(road)?);
        while away.elapsed() < Duration::from_secs(2) {
            ensure!(joint_signatures(road)? == at_cut, "something was signed without the device");
            if !is_pending()? {
                continue 'attempts;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        let running = car.device.talk(&["device", "run"])?;
        until("the payment is paid", || {
            Ok(payment(road, &invoice)?.is_some_and(|payment| payment["outcome"] == "paid"))
        })?;
        settled(road)?;
        running.kill()?;
        // The device has the proof, too, and says so when it is asked to pay again.
        let again = car.pay(&invoice)?;
        let outcome = format!("cut at attempt {attempt}, pending while away, paid after the return");
        return Ok(Act { name: "device_offline_resume", ok: again["paid"] == true, outcome });
    }
    let outcome = "no payment could be cut in the middle".to_owned();
    Ok(Act { name: "device_offline_resume", ok: false, outcome })
}

fn joint_signatures(road: &Road) -> anyhow::Result<u64> {
    road.ask("status")?["joint_signatures"].as_u64().context("a number")
}

/// Waits until nothing is signed any more: both sides of every channel have one state.
fn settled(road: &Road) -> anyhow::Result<()> {
    let (mut before, mut since) = (joint_signatures(road)?, Instant::now());
    until("the states settle", || {
        let now = joint_signatures(road)?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        Ok(since.elapsed() > Duration::from_secs(2))
    })
}

/// A thief has the car. It pays what the owner's policy allows, and no more; when the owner says stop, the gateway pays nothing for it,
/// though the device itself has not heard of it.
pub fn stolen_device(road: &Road, car: &Car) -> anyhow::Result<Act> {
    let too_much = road.invoice(6_000_000)?;
    let refused = car.pay(&too_much).err().map(|error| error.to_string()).unwrap_or_default();
    let is_limited = refused.contains("payment-amount");
    let allowed = car.pay(&road.invoice(TOLL_MSAT)?)?["paid"] == true;

    let stop = car.path("stop")?;
    car.owner.run(&["owner", "policy", car.name, "--paused", "-o", &stop])?;
    road.operator.run(&["gateway", "policy", &stop])?;
    let stopped = road.invoice(TOLL_MSAT)?;
    let after = car.pay(&stopped).err().map(|error| error.to_string()).unwrap_or_default();
    let is_stopped = after.contains("policy-paused");
    let nothing_left = payment(road, &stopped)?.is_none();
    Ok(Act {
        name: "stolen_device",
        ok: is_limited && allowed && is_stopped && nothing_left,
        outcome: format!(
            "above the limit: {}; after the owner's stop, which the device never saw: {}",
            short(&refused),
            short(&after)
        ),
    })
}

fn short(error: &str) -> &str {
    if error.is_empty() { "PAID" } else { error.rsplit_once("failed: ").map_or(error, |(_, why)| why) }
}

/// The gateway is gone for good. The car closes with nothing but a bitcoind, and the money arrives at its owner.
pub fn gateway_gone_force_close(stage: &Stage, road: &mut Road, car: &Car) -> anyhow::Result<Act> {
    road.kill_gateway()?;
    let before = car.owner.balance()?;
    let claims = car.path("claims")?;
    let closed = car.device.run(&["device", "force-close", "-o", &claims])?;
    let delay = closed["delay_blocks"].as_u64().context("a delay")?;
    let worth = closed["claim_sat"].as_u64().context("what can be claimed")?;
    stage.node().mine(u32::try_from(delay)?)?;
    let swept = car.owner.run(&["owner", "sweep", car.name, &claims])?;
    let value = swept["value_sat"].as_u64().context("what was swept")?;
    stage.node().mine(1)?;
    let after = car.owner.balance()?;
    let arrived = after.saturating_sub(before);
    Ok(Act {
        name: "gateway_gone_force_close",
        ok: arrived == value && value + 2_000 > worth && worth > 500_000,
        outcome: format!(
            "{arrived} sat arrived at the owner {delay} blocks later, {} sat of fees",
            worth - value
        ),
    })
}
