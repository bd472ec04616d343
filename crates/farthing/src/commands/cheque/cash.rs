//! `farthing cheque cash`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farthing_http::cheques::Client;
use farthing_http::client::ClientError;
use farthing_http::mailbox::{self, Owner};
use farthing_http::problem::Kind;
use farthing_mailbox::Letter;
use farthing_node::cheques::paper::{Paper, Presented};
use farthing_node::cheques::selling::{Ask, Towards};
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::side::Side;
use farthing_protocol::{ChannelId, Msat};
use serde::Serialize;

use crate::cli::CashArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, host, name};
use crate::config::Context;
use crate::output::table;

/// What a channel has to hold beside the cheque: the fees of its commitment.
const BESIDE: Msat = Msat::new(20_000_000);
const PACE: Duration = Duration::from_millis(100);

/// What became of a cheque.
#[derive(Debug, Serialize)]
struct Row {
    cheque: String,
    amount_msat: u64,
    memo: String,
    cashed: bool,
    paid_msat: u64,
    /// Why it is not.
    why: Option<String>,
}

/// Looks into the mailbox, and cashes whatever is to be cashed.
pub async fn run(context: &Context, arguments: CashArguments) -> anyhow::Result<()> {
    let seed = context.home()?.seed()?;
    let client = cheque::start(context, arguments.allow_http).await?;
    let mailbox = arguments.mailbox.as_deref().or(context.payee_mailbox().0).map(host).transpose()?;
    let mut rows = Vec::new();
    if let Some(mailbox) = mailbox {
        let owner = Owner::new(&seed, mailbox);
        rows = collect(context, &arguments, &client, &owner).await.context("the mailbox was not emptied")?;
    }
    let via = arguments.via.as_ref().map(|via| client.origin(via)).transpose()?;
    let teller = client.teller().clone();
    for paper in blocking(move || Ok(teller.papers()?)).await? {
        let Paper::Got(presented) = paper else { continue };
        let is_handed_over = presented.cashed && !owes(&client, &presented).await?;
        if is_handed_over {
            continue;
        }
        let wait = Duration::from_secs(arguments.wait);
        let outcome = sell(&client, &presented, via.as_deref(), wait).await;
        rows.push(row(&presented, outcome));
    }
    cheque::end(client).await?;
    if rows.is_empty() {
        let line = "no cheque waits: payers write them to what `farthing cheque address` prints";
        return context.output.say(&rows, line);
    }
    context.output.print(&rows, || {
        let mut table = table(&["cheque", "amount", "memo", "paid", ""]);
        for row in &rows {
            let paid = if row.cashed { Msat::new(row.paid_msat).to_string() } else { "-".to_owned() };
            table.add_row([
                row.cheque.chars().take(16).collect(),
                Msat::new(row.amount_msat).to_string(),
                row.memo.clone(),
                paid,
                row.why.clone().unwrap_or_default(),
            ]);
        }
        table
    })
}

/// Takes in what waits at the mailbox. What was stored here, or is of no use, is deleted there.
async fn collect(
    context: &Context,
    arguments: &CashArguments,
    client: &Client,
    owner: &Owner,
) -> anyhow::Result<Vec<Row>> {
    let mail = mailbox::Client::new(context.download_pace().patience)?.allowing_http(arguments.allow_http);
    let mut rows = Vec::new();
    let mut after = 0;
    loop {
        let letters = mail.fetch(owner, after).await?;
        let Some(last) = letters.last() else { return Ok(rows) };
        after = last.cursor;
        for fetched in &letters {
            match owner.open(&fetched.blob) {
                Ok(Letter::Cheque { cheque, agent }) => {
                    rows.extend(receive(client, *cheque, &agent).await?);
                }
                Ok(_other) => tracing::warn!("a letter of an unknown kind was left unread"),
                Err(error) => tracing::warn!(%error, "a letter is no cheque: it is deleted"),
            }
            mail.delete(owner, fetched.id()).await?;
        }
    }
}

/// Stores a cheque, or says why it is worth nothing.
async fn receive(client: &Client, cheque: Cheque, agent: &str) -> anyhow::Result<Option<Row>> {
    let origin = match client.origin(agent) {
        Ok(origin) => origin,
        Err(error) => return Ok(Some(refused(&cheque, &error))),
    };
    let (teller, taken) = (client.teller().clone(), cheque.clone());
    let received = blocking(move || match teller.receive(taken, origin) {
        Err(farthing_node::cheques::cashing::CashError::Chain(error)) => Err(error.into()),
        received => Ok(received),
    });
    match received.await? {
        Ok(_stored) => Ok(None),
        Err(error) => Ok(Some(refused(&cheque, &error))),
    }
}

fn refused(cheque: &Cheque, error: &dyn std::error::Error) -> Row {
    Row {
        cheque: "-".to_owned(),
        amount_msat: cheque.terms.amount.get(),
        memo: cheque.terms.memo.as_str().to_owned(),
        cashed: false,
        paid_msat: 0,
        why: Some(error.to_string()),
    }
}

fn row(presented: &Presented, outcome: anyhow::Result<Msat>) -> Row {
    let terms = &presented.cheque.terms;
    let (paid, why) = match outcome {
        Ok(paid) => (Some(paid), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Row {
        cheque: name(&presented.point),
        amount_msat: terms.amount.get(),
        memo: terms.memo.as_str().to_owned(),
        cashed: paid.is_some(),
        paid_msat: paid.unwrap_or_default().get(),
        why,
    }
}

/// Whether the payer of a cashed lock may not have its secret yet.
async fn owes(client: &Client, presented: &Presented) -> anyhow::Result<bool> {
    let Some(sale) = presented.sale.clone() else { return Ok(false) };
    let teller = client.teller().clone();
    blocking(move || Ok(!teller.secrets(sale.channel)?.is_empty())).await
}

/// Has a lock made for a cheque, completes it, and hands its secret over.
async fn sell(
    client: &Client,
    presented: &Presented,
    via: Option<&str>,
    wait: Duration,
) -> anyhow::Result<Msat> {
    let amount = presented.cheque.terms.amount;
    if let (true, Some(sale)) = (presented.cashed, &presented.sale) {
        hand_over(client, sale.channel).await;
        return Ok(amount);
    }
    let payer = via.unwrap_or(&presented.agent);
    let channel = channel(client, presented, payer).await?;
    open(client, channel, wait).await?;
    let (teller, point, through) = (client.teller().clone(), presented.point, via.map(str::to_owned));
    let (_, route) = blocking(move || Ok(teller.plan_sale(&point, channel, through)?)).await?;
    let until = Instant::now() + wait;
    let mut fees = Vec::new();
    if let Some(node) = via {
        fees.push(Msat::new(client.terms(node).await.context("the node tells no terms")?.fee_msat));
    }
    let mut held = point;
    let mut at = presented.agent.clone();
    for (index, hop) in route.hops.iter().enumerate() {
        let behind: Msat = fees.iter().skip(index).copied().sum();
        let towards = match via.filter(|_| index + 1 < route.hops.len()) {
            Some(node) => Towards::Node(node.to_owned()),
            None => Towards::Channel(channel),
        };
        let amount = amount.saturating_add(behind);
        let ask = Ask { held, point: hop.point, tweak: hop.tweak.clone(), amount, towards };
        lock(client, &at, &ask, until).await.with_context(|| format!("{at} makes no lock"))?;
        held = hop.point;
        at = payer.to_owned();
    }
    client.answer(channel).await?;
    let teller = client.teller().clone();
    let paid = blocking(move || Ok(teller.cash(&point)?)).await?;
    hand_over(client, channel).await;
    Ok(paid)
}

/// Has a lock made. A cheque that was written a moment ago waits for its channel's funding, like a lock does.
async fn lock(client: &Client, at: &str, ask: &Ask, until: Instant) -> Result<(), ClientError> {
    loop {
        match client.ask(at, ask).await {
            Err(ClientError::Refused { kind: Some(Kind::FundingNotDeep), .. }) if Instant::now() < until => {
                tokio::time::sleep(PACE).await;
            }
            asked => return asked,
        }
    }
}

/// Nothing is lost when it fails: the completed lock is stored, and can be claimed on chain.
async fn hand_over(client: &Client, channel: ChannelId) {
    if let Err(error) = client.answer(channel).await {
        tracing::warn!(%error, "the payer has not taken the secret: run `farthing cheque cash` again");
    }
}

/// A channel in which a cheque can be cashed: the one that was planned, another that fits, or a new one.
async fn channel(client: &Client, presented: &Presented, payer: &str) -> anyhow::Result<ChannelId> {
    let (teller, at, latest) = (client.teller().clone(), payer.to_owned(), presented.cheque.latest);
    let planned = presented.sale.as_ref().map(|sale| sale.channel);
    let amount = presented.cheque.terms.amount;
    let known = blocking(move || {
        let height = teller.height()?;
        let margin = teller.terms().paid.margin;
        let mut fitting = teller.cashing_channels(&at)?;
        fitting.retain(|(id, state)| {
            let Some(params) = teller.params(*id) else { return false };
            let left = params.capacity.to_sat().saturating_sub(state.ledger().paid().ceil().to_sat());
            let expiry = params.expiry;
            expiry <= latest
                && height.saturating_add(margin) < expiry.height()
                && left > amount.ceil().to_sat() + commitment_fee(&params)
        });
        let ids: Vec<ChannelId> = fitting.into_iter().map(|(id, _)| id).collect();
        Ok(planned.filter(|planned| ids.contains(planned)).or(ids.first().copied()))
    });
    match known.await? {
        Some(channel) => Ok(channel),
        None => {
            let least = amount.saturating_add(BESIDE);
            Ok(client
                .request(payer, least, latest.height())
                .await
                .context("there is no channel to be paid in")?)
        }
    }
}

fn commitment_fee(params: &farthing_protocol::Params) -> u64 {
    params
        .fee_rate
        .checked_mul_by_weight(farthing_protocol::commitment::WEIGHT)
        .map_or(u64::MAX / 2, bitcoin::Amount::to_sat)
}

/// Waits until a channel's funding is deep enough.
async fn open(client: &Client, channel: ChannelId, wait: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + wait;
    let mut said_again = false;
    loop {
        let teller = client.teller().clone();
        let state = blocking(move || {
            teller.look()?;
            let entry = teller.channels()?.into_iter().find(|entry| entry.id == channel);
            let is_unfunded = |state: &Side| state.holder().is_some_and(|holder| holder.life().is_unfunded());
            Ok(entry.map(|entry| (entry.state.name(), is_unfunded(&entry.state))))
        });
        let state = state.await?;
        if state.is_some_and(|(_, is_unfunded)| is_unfunded) && !said_again {
            client.accept_again(channel).await?;
            said_again = true;
        }
        match state.map(|(name, _)| name) {
            Some("open") => return Ok(()),
            Some("awaiting depth") if Instant::now() < until => tokio::time::sleep(PACE).await,
            Some("awaiting depth") => {
                bail!(
                    "the funding of channel {channel} is not deep enough yet: run `farthing cheque cash` again later"
                )
            }
            Some(other) => bail!("channel {channel} is {other}"),
            None => bail!("there is no channel {channel}"),
        }
    }
}
