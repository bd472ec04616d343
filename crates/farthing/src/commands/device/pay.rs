//! `farthing device pay`.

use std::io::{BufRead as _, stdin};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bitcoin::hex::DisplayHex as _;
use farthing_node::device::connection::now;
use farthing_node::device::fate::Fate;
use farthing_node::device::store::{Outcome, Paid};
use farthing_node::device::{Connection, ConnectionError, Said};
use farthing_node::link::LinkError;
use farthing_protocol::device::bolt3::PaymentHash;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::wire::{Order, Report};
use farthing_protocol::device::{Effect, Input, Invoice};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::{here, show};
use crate::config::Context;
use crate::exit::Unpaid;

/// How long the states may take to settle after the proof of payment has come: what is left then is done at the next connection.
const SETTLING: Duration = Duration::from_secs(60);

/// How long the gateway is listened to between two looks for an invoice.
const MOMENT: Duration = Duration::from_millis(20);

/// Pays one invoice, or one after the other from standard input.
pub async fn run(context: &Context, text: &str, relayed: bool, patience: Duration) -> anyhow::Result<()> {
    let source = if relayed { Source::Gateway } else { Source::Direct };
    let (_lock, device) = here(context)?;
    let mut connection = Connection::dial(device).await?;
    if text != "-" {
        let outcome = pay(context, &mut connection, text, source, patience).await?;
        // It is paid, whatever comes of the connection.
        said(context, outcome)?;
        return settle(context, &mut connection).await;
    }
    let mut lines = lines();
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line?,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                idle(context, &mut connection).await?;
                continue;
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        let value = match pay(context, &mut connection, line.trim(), source, patience).await {
            Ok(value) => value,
            Err(error) if error.is::<Unpaid>() => json!({ "paid": false, "why": format!("{error:#}") }),
            Err(error) => return Err(error),
        };
        said(context, value)?;
    }
    settle(context, &mut connection).await?;
    let (sent, received) = connection.traffic();
    let value = json!({
        "bytes_sent": sent.bytes,
        "bytes_received": received.bytes,
        "messages": sent.messages + received.messages,
    });
    let line = format!("{} bytes sent, {} received", sent.bytes, received.bytes);
    context.output.say(&value, &line)
}

/// The lines of standard input, read by a thread of its own: the device goes on answering while it waits for one.
fn lines() -> UnboundedReceiver<std::io::Result<String>> {
    let (sender, lines) = unbounded_channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Answers the gateway for a moment.
async fn idle(context: &Context, connection: &mut Connection) -> anyhow::Result<()> {
    match connection.next(Instant::now() + MOMENT).await {
        Ok(heard) => heard.iter().for_each(|said| note(context, connection, said)),
        Err(ConnectionError::Link(LinkError::Silent)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn said(context: &Context, value: Value) -> anyhow::Result<()> {
    let line = format!("paid, with proof {}", value["preimage"].as_str().unwrap_or_default());
    context.output.say(&value, &line)
}

/// Pays an invoice and waits for its proof.
async fn pay(
    context: &Context,
    connection: &mut Connection,
    text: &str,
    source: Source,
    patience: Duration,
) -> anyhow::Result<Value> {
    let began = Instant::now();
    let device = connection.device();
    let network = device.enrolled().enrolment.network;
    let invoice = Invoice::parse(text, network).context("this invoice cannot be paid")?;
    let hash = invoice.payment_hash();
    if let Some(Paid { outcome: Outcome::Paid { preimage, fee_msat }, .. }) =
        device.store().payment(&hash.0)?
    {
        return Ok(outcome(&hash.0, &preimage, fee_msat, None));
    }
    let record = |outcome| Paid { invoice: text.to_owned(), amount_msat: invoice.amount().get(), outcome };
    // The proof came with the channel's states, and the report about it to nobody: the program had ended.
    if let Fate::Paid { channel, preimage, cost } = device.fate(&hash) {
        let fee_msat = Some(cost.saturating_sub(invoice.amount()).get());
        let paid = record(Outcome::Paid { preimage: preimage.0, fee_msat });
        device.store().note(&hash.0, channel, &paid, now())?;
        return Ok(outcome(&hash.0, &preimage.0, fee_msat, None));
    }
    let (channel, _) =
        device.paying().context("there is no open channel: run `farthing device open` first")?;
    let tip = device.headers().tip();
    let effects = device.give(channel, Input::Approve { invoice, source, tip }).map_err(Unpaid::by_rule)?;
    ensure!(effects.contains(&Effect::Approved(hash)), "the machine approves or refuses");
    device.store().note(&hash.0, channel, &record(Outcome::Pending), now())?;

    let order =
        connection.order(Order::Pay { channel, invoice: text.to_owned() }).await.map_err(Unpaid::cut)?;
    let mut until = began + patience;
    // What the gateway says of a failure counts when the channel has nothing left by which the payee could take it, or has taken it.
    let mut given_up: Option<String> = None;
    loop {
        if let Some(why) = &given_up {
            match connection.device().failed(&hash, why, now())? {
                Some(Outcome::Paid { preimage, fee_msat }) => {
                    return Ok(outcome(&hash.0, &preimage, fee_msat, Some(began.elapsed())));
                }
                Some(Outcome::Failed(why)) => bail!(Unpaid::failed(&why)),
                Some(Outcome::Pending) | None => {}
            }
        }
        let heard = match (connection.next(until).await, &given_up) {
            (Ok(heard), _) => heard,
            (Err(ConnectionError::Link(LinkError::Silent)), Some(why)) => bail!(Unpaid::doubtful(why)),
            (Err(ConnectionError::Link(LinkError::Silent)), None) => bail!(Unpaid::pending()),
            (Err(error), _) => return Err(Unpaid::cut(error)),
        };
        for said in heard {
            show(context, &said);
            match said {
                Said::Report(id, report) if id == order && !is_about(&report, hash) => {
                    learn(connection, &Said::Report(id, report));
                }
                Said::Report(id, Report::Paid { preimage, fee }) if id == order => {
                    let outcome_ = Outcome::Paid { preimage: preimage.0, fee_msat: Some(fee.get()) };
                    connection.device().store().note(&hash.0, channel, &record(outcome_), now())?;
                    return Ok(outcome(&hash.0, &preimage.0, Some(fee.get()), Some(began.elapsed())));
                }
                Said::Report(id, Report::Failed { why, .. } | Report::Refused { why }) if id == order => {
                    given_up = Some(why);
                    until = Instant::now() + SETTLING;
                }
                other => learn(connection, &other),
            }
        }
    }
}

/// Whether a report can be about this payment. Numbers of orders begin anew with each connection, so a payment of before may end under the
/// number of this one's order.
fn is_about(report: &Report, hash: PaymentHash) -> bool {
    match report {
        Report::Paid { preimage, .. } => preimage.hash() == hash,
        Report::Failed { payment_hash, .. } | Report::Paying(payment_hash) => *payment_hash == hash,
        _other => true,
    }
}

fn outcome(hash: &[u8; 32], preimage: &[u8; 32], fee_msat: Option<u64>, took: Option<Duration>) -> Value {
    json!({
        "paid": true,
        "payment_hash": hash.to_lower_hex_string(),
        "preimage": preimage.to_lower_hex_string(),
        "fee_msat": fee_msat,
        "ms": took.map(|took| took.as_secs_f64() * 1_000.0),
    })
}

/// Stays until both sides have one state again.
async fn settle(context: &Context, connection: &mut Connection) -> anyhow::Result<()> {
    let until = Instant::now() + SETTLING;
    let is_settled = |connection: &mut Connection| {
        connection.device().paying().is_none_or(|(_, life)| life.state().account().is_settled())
    };
    while !is_settled(connection) {
        match connection.next(until).await {
            Ok(heard) => heard.iter().for_each(|said| show(context, said)),
            Err(ConnectionError::Store(error)) => return Err(error.into()),
            Err(error) => {
                if !matches!(error, ConnectionError::Link(LinkError::Silent)) {
                    eprintln!("farthing: {error}");
                }
                eprintln!(
                    "farthing: the channel's states are not settled yet; that goes on when the device is connected again"
                );
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What is said while nobody waits: a payment of before may end.
pub fn note(context: &Context, connection: &mut Connection, said: &Said) {
    show(context, said);
    learn(connection, said);
}

fn learn(connection: &mut Connection, said: &Said) {
    if let Said::Report(_, report) = said
        && let Err(error) = connection.device().hear(report, now())
    {
        eprintln!("farthing: {error}");
    }
}

#[cfg(test)]
mod tests {
    use farthing_protocol::Msat;
    use farthing_protocol::device::bolt3::Preimage;

    use super::*;

    #[test]
    fn what_became_of_a_payment_of_before_is_not_about_this_one() {
        let (preimage, before) = (Preimage([1; 32]), Preimage([2; 32]));
        let hash = preimage.hash();
        let paid = |preimage| Report::Paid { preimage, fee: Msat::ZERO };
        let failed = |payment_hash| Report::Failed { payment_hash, why: "no route".into() };
        let of_before = before.hash();
        assert!(
            [paid(preimage), failed(hash), Report::Paying(hash)].iter().all(|report| is_about(report, hash))
        );
        assert!(
            [paid(before), failed(of_before), Report::Paying(of_before)]
                .iter()
                .all(|report| !is_about(report, hash))
        );
        assert!(is_about(&Report::Refused { why: "this device is not enrolled here".into() }, hash));
    }
}
