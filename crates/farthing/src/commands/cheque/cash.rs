//! `farthing cheque cash`: cheques, and what payers have bought that this payee had authorised.

mod selling;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farthing_http::cheques::{CarryError, Client};
use farthing_http::client::ClientError;
use farthing_http::mailbox::{self, Owner};
use farthing_mailbox::Letter;
use farthing_node::books::OrderError;
use farthing_node::cheques::cashing::CashError;
use farthing_node::cheques::opening::Direction;
use farthing_node::cheques::paper::{Paper, Presented};
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::reverse::purchase::Delivery;
use farthing_protocol::cheque::side::Side;
use farthing_protocol::{ChannelId, Msat};
use serde::Serialize;

use crate::cli::CashArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, OLD_COPY, host, name};
use crate::config::Context;
use crate::output::table;

/// What a channel has to hold beside the cheque: the fees of its commitment.
pub(super) const BESIDE: Msat = Msat::new(20_000_000);
const PACE: Duration = Duration::from_millis(100);
/// How long one agent is spoken to about one cheque, beside the wait for fundings.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often a mailbox is asked for more in one run: one that never says that it is empty keeps nobody from cashing.
const MOST_PAGES: u32 = 1_000;

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
    let mut emptied = Ok(());
    if let Some(mailbox) = mailbox {
        let owner = Owner::new(&seed, mailbox);
        emptied = collect(context, &arguments, &client, &owner, &mut rows).await;
    }
    rows.extend(paid_plainly(&client).await?);
    let via = arguments.via.iter().map(|node| client.origin(node)).collect::<Result<Vec<String>, _>>()?;
    // For all of them together, or one that names an agent which funds nothing would keep the others waiting. What was asked for meanwhile
    // is there the next time.
    let until = Instant::now() + Duration::from_secs(arguments.wait);
    let teller = client.teller().clone();
    let mut waiting = Vec::new();
    for paper in blocking(move || Ok(teller.papers()?)).await? {
        let Paper::Got(presented) = paper else { continue };
        let is_handed_over = presented.cashed && !owes(&client, &presented).await?;
        if !is_handed_over {
            waiting.push(presented);
        }
    }
    rows.extend(selling::sell_all(&client, waiting, &via, until).await?);
    cheque::end(client).await?;
    // A mailbox that is gone, or lies, keeps nobody from cashing what was fetched before.
    let emptied = emptied.context("the mailbox was not emptied: run `farthing cheque cash` again");
    if rows.is_empty() {
        emptied?;
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
    })?;
    emptied
}

/// Takes in what waits at the mailbox. What was stored here, or is of no use, is deleted there.
async fn collect(
    context: &Context,
    arguments: &CashArguments,
    client: &Client,
    owner: &Owner,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let mail = mailbox::Client::new(context.download_pace().patience)?.allowing_http(arguments.allow_http);
    let mut after = 0;
    for _page in 0..MOST_PAGES {
        let letters = mail.fetch(owner, after).await?;
        let Some(last) = letters.last() else { return Ok(()) };
        if last.cursor <= after {
            bail!("the mailbox hands out the same letters again and again");
        }
        if after == 0 {
            confirm_book(context, &mail, owner).await?;
        }
        after = last.cursor;
        for fetched in &letters {
            let mut stays = false;
            match owner.open(&fetched.blob) {
                Ok(Letter::Cheque { cheque, agent }) => {
                    if let Err(refused) = receive(client, *cheque, &agent).await? {
                        stays = refused.may_pass;
                        rows.push(refused.row);
                    }
                }
                Ok(Letter::Payment { channel, delivery }) => {
                    match bought(client, channel, *delivery).await? {
                        Ok(row) => rows.push(row),
                        Err(refused) => {
                            stays = refused.may_pass;
                            rows.push(refused.row);
                        }
                    }
                }
                Ok(Letter::Release(release)) => {
                    let teller = client.teller().clone();
                    if let Err(error) = blocking(move || Ok(teller.take_release(release))).await? {
                        tracing::warn!(%error, "an authorisation was not taken back");
                        stays = CashError::from(error).may_pass();
                    }
                }
                Ok(_other) => {
                    tracing::warn!("a letter of an unknown kind is left for a newer version");
                    stays = true;
                }
                Err(error) => tracing::warn!(%error, "a letter is no cheque: it is deleted"),
            }
            if !stays {
                mail.delete(owner, fetched.id()).await?;
            }
        }
    }
    bail!("the mailbox has more than {MOST_PAGES} pages of letters")
}

/// Begins a new book if the folder is an old copy, as far as the mailbox knows: a prekey that is used twice gives the receipt key away. Before
/// any is used, one more is published, so that the mailbox knows more than every copy that was made until now.
async fn confirm_book(context: &Context, mail: &mailbox::Client, owner: &Owner) -> anyhow::Result<()> {
    let standing = mail.standing(owner).await?;
    let home = context.home()?;
    let one_more = blocking(move || {
        let mut book = home.prekeys()?;
        Ok(if book.catch_up(standing.next)? { Vec::new() } else { book.issue(1)? })
    });
    let one_more = one_more.await?;
    let is_old = match one_more.first().map(|one_more| one_more.prekey.id) {
        Some(published) => {
            let (answered, home) = (mail.publish_prekeys(owner, &one_more).await?.next, context.home()?);
            blocking(move || Ok(home.prekeys()?.confirm(published, answered)?)).await?
        }
        None => true,
    };
    if is_old {
        eprintln!("farthing: {OLD_COPY}. Next: `farthing cheque address` publishes new ones");
    }
    Ok(())
}

/// What was not taken out of a letter.
struct Refused {
    row: Row,
    /// Whether it may be taken another time: then the letter stays.
    may_pass: bool,
}

/// Takes what a payer has bought, or says why it is worth nothing.
async fn bought(
    client: &Client,
    channel: ChannelId,
    delivery: Delivery,
) -> anyhow::Result<Result<Row, Refused>> {
    let terms = &delivery.update.signed.terms;
    let amount = terms.promises.first().map_or(Msat::ZERO, |promise| promise.amount);
    let (point, serial) = (delivery.secret.point(), delivery.serial);
    let teller = client.teller().clone();
    // While the authorisation that it names is open, whatever is wrong with it may be right another time: somebody has paid for it.
    let (collected, is_open) = blocking(move || {
        let collected = teller.collect(channel, delivery);
        Ok((collected, teller.is_authorised(channel, serial)?))
    })
    .await?;
    let row = |cashed, paid: Msat, why| {
        let (cheque, memo) = (name(&point), String::new());
        Row { cheque, amount_msat: amount.get(), memo, cashed, paid_msat: paid.get(), why }
    };
    Ok(match collected {
        // What such a letter says was looked at by nobody, not even its amount: anybody can write one.
        Ok(paid) if paid == Msat::ZERO => {
            let why = "nothing came of this letter: what it speaks of was paid before, or never".to_owned();
            Ok(Row { amount_msat: 0, ..row(false, Msat::ZERO, Some(why)) })
        }
        Ok(paid) => Ok(row(true, paid, None)),
        Err(error) => {
            let row = row(false, Msat::ZERO, Some(error.to_string()));
            Err(Refused { row, may_pass: error.may_pass() || is_open })
        }
    })
}

/// Hears the agents of channels in which a payer is authorised, or has paid: an honest one pays plainly, without any mail.
async fn paid_plainly(client: &Client) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let teller = client.teller().clone();
    for (channel, terms) in blocking(move || Ok(teller.to_answer()?)).await? {
        let earned = || {
            let teller = client.teller().clone();
            blocking(move || Ok(teller.earned(channel)?))
        };
        let before = earned().await?;
        hand_over(client, channel).await;
        let paid = earned().await?.saturating_sub(before);
        if let (Some(terms), true) = (terms, paid > Msat::ZERO) {
            rows.push(Row {
                cheque: "-".to_owned(),
                amount_msat: terms.amount.get(),
                memo: terms.memo.as_str().to_owned(),
                cashed: true,
                paid_msat: paid.get(),
                why: None,
            });
        }
    }
    let teller = client.teller().clone();
    blocking(move || Ok(teller.end_authorisations()?)).await?;
    Ok(rows)
}

/// Stores a cheque, or says why it is worth nothing.
async fn receive(client: &Client, cheque: Cheque, agent: &str) -> anyhow::Result<Result<(), Refused>> {
    let refused = |error: &dyn std::error::Error, may_pass| {
        let row = Row {
            cheque: "-".to_owned(),
            amount_msat: cheque.terms.amount.get(),
            memo: cheque.terms.memo.as_str().to_owned(),
            cashed: false,
            paid_msat: 0,
            why: Some(error.to_string()),
        };
        Refused { row, may_pass }
    };
    let origin = match client.origin(agent) {
        Ok(origin) => origin,
        Err(error) => return Ok(Err(refused(&error, false))),
    };
    let (teller, taken) = (client.teller().clone(), cheque.clone());
    let received = blocking(move || Ok(teller.receive(taken, origin))).await?;
    Ok(received.map(drop).map_err(|error| refused(&error, error.may_pass())))
}

/// Whether the payer of a cashed lock may not have its secret yet.
async fn owes(client: &Client, presented: &Presented) -> anyhow::Result<bool> {
    let Some(sale) = presented.sale.clone() else { return Ok(false) };
    let teller = client.teller().clone();
    blocking(move || match teller.secrets(sale.channel) {
        // A channel that is over owes none.
        Err(OrderError::NoChannel(_)) => Ok(false),
        secrets => Ok(!secrets?.is_empty()),
    })
    .await
}

/// Nothing is lost when it fails: the completed lock is stored, and can be claimed on chain.
async fn hand_over(client: &Client, channel: ChannelId) {
    let answered = tokio::time::timeout(PATIENCE, client.answer(channel)).await;
    let error = match answered {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::warn!(%error, "the payer has not taken the secret: run `farthing cheque cash` again");
}

/// A channel in which a cheque can be cashed: the one that was planned, another that fits, or a new one.
async fn channel(
    client: &Client,
    presented: &Presented,
    payer: &str,
    latest: u32,
) -> anyhow::Result<ChannelId> {
    let (teller, at) = (client.teller().clone(), payer.to_owned());
    let planned = presented.sale.as_ref().map(|sale| sale.channel);
    let amount = presented.cheque.terms.amount;
    let known = blocking(move || {
        let height = teller.height()?;
        let margin = teller.terms().paid.margin;
        let mut fitting = teller.cashing_channels(&at)?;
        fitting.retain(|(id, state)| {
            let Some(params) = teller.params(*id) else { return false };
            // A channel in which a payer is authorised takes no lock.
            let is_free = state.holder().is_some_and(|holder| holder.held().authorised().is_none());
            let left = params.capacity.to_sat().saturating_sub(state.ledger().paid().ceil().to_sat());
            let expiry = params.expiry.height();
            is_free
                && expiry <= latest
                && height.saturating_add(margin) < expiry
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
                .request(payer, least, latest, Direction::Cheques)
                .await
                .context("there is no channel to be paid in")?)
        }
    }
}

pub(super) fn commitment_fee(params: &farthing_protocol::Params) -> u64 {
    params
        .fee_rate
        .checked_mul_by_weight(farthing_protocol::commitment::WEIGHT)
        .map_or(u64::MAX / 2, bitcoin::Amount::to_sat)
}

/// The channel that is picked, open. If its payer has given up the proposal that it was, it is forgotten, and another is picked.
pub(super) async fn opened(
    client: &Client,
    until: Instant,
    pick: impl AsyncFn() -> anyhow::Result<ChannelId>,
) -> anyhow::Result<ChannelId> {
    let first = pick().await?;
    match open(client, first, until).await {
        Ok(()) => return Ok(first),
        Err(error) => match error.downcast_ref::<CarryError>() {
            Some(CarryError::Client(ClientError::Refused { status: 404, .. })) => {
                let teller = client.teller().clone();
                let is_gone = blocking(move || Ok(teller.forget_unfunded(first)?)).await?;
                if !is_gone {
                    return Err(error);
                }
            }
            Some(_) | None => return Err(error),
        },
    }
    let second = pick().await?;
    open(client, second, until).await?;
    Ok(second)
}

/// Waits until a channel's funding is deep enough.
async fn open(client: &Client, channel: ChannelId, until: Instant) -> anyhow::Result<()> {
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
                bail!("the funding of channel {channel} is not deep enough yet: run this again later")
            }
            Some(other) => bail!("channel {channel} is {other}"),
            None => bail!("there is no channel {channel}"),
        }
    }
}
