//! `farthing device`.

pub mod alone;
pub mod files;

mod enroll;
mod open;
mod pay;
mod restore;

use std::time::Duration;

use anyhow::{Context as _, bail};
use bitcoin::hex::DisplayHex as _;
use farthing_node::device::store::Outcome;
use farthing_node::device::{Connection, ConnectionError, Device, DeviceHome, Said};
use farthing_node::home::Lock;
use farthing_node::link::LinkError;
use farthing_protocol::Msat;
use farthing_protocol::device::State;
use farthing_protocol::device::wire::{ChannelKeysId, Order, Report, Standing};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::DeviceCommand;
use crate::config::Context;
use crate::output::facts;

/// Runs a command of the device.
pub async fn run(context: &Context, command: DeviceCommand) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Enroll { gateway, owner, backup, invitation, store } => {
            enroll::run(context, gateway, &owner, &backup, invitation, store).await
        }
        DeviceCommand::Restore { backup } => restore::run(context, &backup),
        DeviceCommand::Open { capacity, output } => open::open(context, capacity, &output).await,
        DeviceCommand::Fund { funding, output } => open::fund(context, &funding, &output).await,
        DeviceCommand::Pay { invoice, relayed, patience } => {
            pay::run(context, &invoice, relayed, Duration::from_secs(patience)).await
        }
        DeviceCommand::Run => stay(context).await,
        DeviceCommand::Status => status(context),
        DeviceCommand::Policy { policy } => {
            let (_lock, mut device) = here(context)?;
            device.set_policy(files::read(&policy)?)?;
            let policy = device.enrolled().policy.clone();
            let mut connection = Connection::dial(device).await?;
            let order = connection.order(Order::Policy(policy)).await?;
            until_done(context, &mut connection, order, Duration::from_secs(30)).await?;
            context
                .output
                .say(&json!({ "policy": "taken" }), "The policy is in force, here and at the gateway.")
        }
        DeviceCommand::Close { patience } => close(context, Duration::from_secs(patience)).await,
        DeviceCommand::ForceClose { output } => alone::run(context, &output),
    }
}

/// The device of this data folder, for this process alone.
fn here(context: &Context) -> anyhow::Result<(Lock, Device)> {
    let home = DeviceHome::of(context.data(), context.network());
    anyhow::ensure!(
        home.is_there(),
        "there is no device in {}: run `farthing device enroll` first",
        home.path().display()
    );
    let lock = home.lock()?;
    let mut device = home.device()?;
    for (id, _publication) in device.resume()? {
        eprintln!("farthing: channel {} is being closed: see `farthing device force-close`", short(id));
    }
    Ok((lock, device))
}

/// Waits for the reports about an order until one is the last; what else is said is carried out or shown on the way.
async fn reports<T>(
    context: &Context,
    connection: &mut Connection,
    until: Instant,
    mut take: impl FnMut(&mut Connection, &Said) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    loop {
        for said in connection.next(until).await? {
            show(context, &said);
            if let Some(last) = take(connection, &said)? {
                return Ok(last);
            }
        }
    }
}

async fn until_done(
    context: &Context,
    connection: &mut Connection,
    order: u64,
    patience: Duration,
) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    reports(context, connection, until, |_, said| match said {
        Said::Report(id, Report::Done) if *id == order => Ok(Some(())),
        Said::Report(id, Report::Refused { why }) if *id == order => bail!("the gateway refuses: {why}"),
        _other => Ok(None),
    })
    .await
}

/// What nobody waits for.
fn show(context: &Context, said: &Said) {
    match said {
        Said::Refused { why, .. } => eprintln!("farthing: refused what the gateway asked for: {why}"),
        Said::Publish(id, publication) => {
            eprintln!("farthing: channel {} is closed alone", short(*id));
            match context.chain().map(|chain| chain.broadcast(&publication.commitment)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("farthing: its commitment is not in a mempool: {error}"),
                Err(_no_node) => {
                    eprintln!("farthing: run `farthing device force-close` where there is a bitcoind");
                }
            }
        }
        Said::ClosedByBridge(id, _) => eprintln!(
            "farthing: the gateway says that the bridge has closed channel {}: it was given what brings the money back. What the \
             owner can claim, and whether anything is left to send: `farthing device force-close -o claims.json`, where there is a bitcoind",
            short(*id)
        ),
        Said::Send(_) | Said::Keep(_) | Said::Welcome(_) | Said::Report(..) | Said::Funded(..) => {}
    }
}

/// Stays connected, and connects again when the connection was cut.
async fn stay(context: &Context) -> anyhow::Result<()> {
    let (_lock, mut device) = here(context)?;
    loop {
        let home = DeviceHome::of(context.data(), context.network());
        match Connection::dial(device).await {
            Ok(mut connection) => {
                eprintln!("farthing: connected to the gateway");
                loop {
                    match connection.next(Instant::now() + Duration::from_secs(60)).await {
                        Ok(said) => said.iter().for_each(|said| pay::note(context, &mut connection, said)),
                        Err(ConnectionError::Link(LinkError::Silent)) => {}
                        Err(ConnectionError::Store(error)) => return Err(error.into()),
                        Err(error) => {
                            eprintln!("farthing: {error}");
                            break;
                        }
                    }
                }
            }
            Err(ConnectionError::Store(error)) => return Err(error.into()),
            Err(error) => eprintln!("farthing: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        device = home.device()?;
    }
}

async fn close(context: &Context, patience: Duration) -> anyhow::Result<()> {
    let (_lock, device) = here(context)?;
    // The one that pays, or one whose closing was interrupted.
    let closing = || device.lives().find(|(_, life)| matches!(life.state(), State::Closing(_)));
    let channel = device.paying().or_else(closing).map(|(id, _)| id);
    let channel = channel.context("there is no channel to close")?;
    let mut connection = Connection::dial(device).await?;
    let order = connection.order(Order::Close { channel }).await?;
    let until = Instant::now() + patience;
    let txid = reports(context, &mut connection, until, |_, said| match said {
        Said::Report(id, Report::Closed(txid)) if *id == order => Ok(Some(*txid)),
        Said::Report(id, Report::Refused { why }) if *id == order => bail!("the gateway refuses: {why}"),
        _other => Ok(None),
    })
    .await?;
    context.output.say(&json!({ "closed": true, "txid": txid }), &format!("closed by transaction {txid}"))
}

fn status(context: &Context) -> anyhow::Result<()> {
    let (_lock, device) = here(context)?;
    let tip = device.headers().tip();
    let enrolled = device.enrolled().clone();
    let policy = enrolled.policy.clone().verify(&enrolled.enrolment.owner);
    let policy = policy.context("the stored policy is not the owner's")?;
    let channels: Vec<Value> = device
        .lives()
        .map(|(id, life)| {
            let account = life.state().account();
            json!({
                "channel": id.0.to_lower_hex_string(),
                "stage": life.state().name(),
                "funding": life.setup().terms.funding,
                "capacity_sat": life.setup().terms.capacity.to_sat(),
                "balance_msat": account.balance().map(Msat::get),
                "settled": account.is_settled(),
                "banned": life.state().is_banned(),
            })
        })
        .collect();
    let ready = device.standings().iter().filter(|(_, standing)| *standing == Standing::Ready).count();
    let paid = device.payments(20)?;
    let payments: Vec<Value> = paid.iter().map(payment).collect();
    let value = json!({
        "name": enrolled.name,
        "gateway": enrolled.gateway,
        "owner_store": device.owner_store().map(ToString::to_string),
        "height": tip.height,
        "keys_ready": ready,
        "channels": channels,
        "policy": {
            "version": policy.version,
            "paused": policy.paused,
            "per_payment_msat": policy.per_payment.get(),
            "per_hour_msat": policy.per_hour.get(),
            "per_day_msat": policy.per_day.get(),
        },
        "payments": payments,
    });
    context.output.print(&value, || {
        let mut rows = vec![
            ("device", enrolled.name.clone()),
            ("gateway", enrolled.gateway.clone()),
            ("waits for", device.owner_store().map_or("nobody".to_owned(), ToString::to_string)),
            ("height", tip.height.to_string()),
            ("keys ready", ready.to_string()),
            ("policy", format!("{}{}", policy.version, if policy.paused { ", paused" } else { "" })),
            ("per payment", sat(policy.per_payment)),
            ("per hour", sat(policy.per_hour)),
            ("per day", sat(policy.per_day)),
        ];
        for (id, life) in device.lives() {
            let balance = life.state().account().balance().unwrap_or_default();
            rows.push(("channel", format!("{} {} {}", short(id), life.state().name(), sat(balance))));
        }
        for paid in &paid {
            rows.push(("payment", format!("{} {}", sat(Msat::new(paid.amount_msat)), outcome(paid))));
        }
        facts(rows)
    })
}

fn payment(paid: &farthing_node::device::store::Paid) -> Value {
    let detail = match &paid.outcome {
        Outcome::Pending => Value::Null,
        Outcome::Paid { preimage, fee_msat } => {
            json!({ "preimage": preimage.to_lower_hex_string(), "fee_msat": fee_msat })
        }
        Outcome::Failed(why) => json!(why),
    };
    json!({ "amount_msat": paid.amount_msat, "outcome": outcome(paid), "detail": detail })
}

fn outcome(paid: &farthing_node::device::store::Paid) -> &'static str {
    match &paid.outcome {
        Outcome::Pending => "pending",
        Outcome::Paid { .. } => "paid",
        Outcome::Failed(_) => "failed",
    }
}

fn sat(amount: Msat) -> String {
    format!("{} sat", amount.get() / 1_000)
}

fn short(id: ChannelKeysId) -> String {
    id.0[..4].to_lower_hex_string()
}
