//! `farthing channels`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bitcoin::OutPoint;
use farthing_chain::OutputStatus;
use farthing_http::client::Client;
use farthing_node::books::Entry;
use farthing_node::cheques::machine::ChequeChannel;
use farthing_node::home::HomeError;
use farthing_node::machine::{Machine, Payee, Payer};
use farthing_node::store::Store;
use farthing_protocol::channel::Ending;
use farthing_protocol::{ChannelId, Msat, Params, payee, payer};
use serde::Serialize;
use serde_json::json;

use crate::cli::ChannelsCommand;
use crate::commands::{blocking, cheque, sell, wallet};
use crate::config::Context;
use crate::output::{facts, table};

/// How long a close or refund may take to reach the mempool.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the two sides of a channel that carries cheques are called.
const CHEQUE_PAYEE: &str = "cheque payee";
const CHEQUE_PAYER: &str = "cheque payer";

/// A channel as people and programs see it.
#[derive(Clone, Debug, Serialize)]
struct Row {
    channel: String,
    role: &'static str,
    state: &'static str,
    capacity_sat: u64,
    paid_msat: u64,
    spent_msat: u64,
    expiry: u32,
    funding: String,
    peer: Option<String>,
    ending: Option<Ended>,
    opened_at: u64,
    #[serde(skip)]
    id: ChannelId,
}

#[derive(Clone, Debug, Serialize)]
struct Ended {
    kind: String,
    txid: String,
    received_sat: u64,
    /// What was not taken, since to take it costs more than it brings.
    left_sat: u64,
}

/// Runs a channels command.
pub async fn run(context: &Context, command: ChannelsCommand) -> anyhow::Result<()> {
    let rows = rows(&context.home()?.store()?)?;
    match command {
        ChannelsCommand::List => list(context, &rows),
        ChannelsCommand::Show { channel } => show(context, find(&rows, &channel)?),
        ChannelsCommand::Close { channel } => close(context, find(&rows, &channel)?).await,
        ChannelsCommand::Refund { channel } => {
            let only = channel.map(|channel| find(&rows, &channel)).transpose()?;
            refund(context, only.map(|row| row.id)).await
        }
    }
}

fn rows(store: &Store) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for stored in store.channels::<Payer>()? {
        let ending = match &stored.state {
            payer::State::Closed(closed) => Some(closed.ending),
            _open => None,
        };
        let peer = Some(stored.record.peer.clone());
        rows.push(row::<Payer>(
            stored.id,
            &stored.record.params,
            &stored.state,
            ending,
            peer,
            stored.opened_at,
        ));
    }
    for stored in store.channels::<Payee>()? {
        let ending = match &stored.state {
            payee::State::Closed(closed) => closed.ending,
            _open => None,
        };
        rows.push(row::<Payee>(
            stored.id,
            &stored.record.params,
            &stored.state,
            ending,
            None,
            stored.opened_at,
        ));
    }
    for stored in store.channels::<ChequeChannel>()? {
        let ending = stored.state.ending();
        let (params, peer) = (stored.record.params(), stored.record.peer().map(str::to_owned));
        let role = if stored.state.holder().is_some() { CHEQUE_PAYEE } else { CHEQUE_PAYER };
        let row = row::<ChequeChannel>(stored.id, params, &stored.state, ending, peer, stored.opened_at);
        rows.push(Row { role, ..row });
    }
    Ok(rows)
}

fn row<M: Machine>(
    id: ChannelId,
    params: &Params,
    state: &M::State,
    ending: Option<Ending>,
    peer: Option<String>,
    opened_at: u64,
) -> Row {
    let ledger = M::ledger(state);
    Row {
        channel: id.to_string(),
        role: M::ROLE.name(),
        state: M::name(state),
        capacity_sat: params.capacity.to_sat(),
        paid_msat: ledger.paid().get(),
        spent_msat: ledger.spent.get(),
        expiry: params.expiry.height(),
        funding: params.funding.to_string(),
        peer,
        ending: ending.map(|ending| Ended {
            kind: ending.kind.to_string(),
            txid: ending.txid.to_string(),
            received_sat: ending.received.to_sat(),
            left_sat: ending.left.to_sat(),
        }),
        opened_at,
        id,
    }
}

fn find<'a>(rows: &'a [Row], name: &str) -> anyhow::Result<&'a Row> {
    let matching: Vec<&Row> = rows.iter().filter(|row| row.channel.starts_with(name)).collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => bail!("there is no channel {name}: see `farthing channels list`"),
        _several => bail!("{name} is the beginning of several channels' names: write more of it"),
    }
}

fn list(context: &Context, rows: &[Row]) -> anyhow::Result<()> {
    context.output.print(&rows, || {
        let mut table = table(&["channel", "role", "state", "capacity", "paid", "spent", "expiry"]);
        for row in rows {
            table.add_row([
                row.channel[..16].to_owned(),
                row.role.to_owned(),
                row.state.to_owned(),
                format!("{} sat", row.capacity_sat),
                Msat::new(row.paid_msat).to_string(),
                Msat::new(row.spent_msat).to_string(),
                row.expiry.to_string(),
            ]);
        }
        table
    })
}

fn show(context: &Context, row: &Row) -> anyhow::Result<()> {
    context.output.print(row, || {
        facts([
            ("channel", row.channel.clone()),
            ("role", row.role.to_owned()),
            ("state", row.state.to_owned()),
            ("funding", row.funding.clone()),
            ("capacity", format!("{} sat", row.capacity_sat)),
            ("paid", Msat::new(row.paid_msat).to_string()),
            ("spent", Msat::new(row.spent_msat).to_string()),
            ("refund from block", row.expiry.to_string()),
            ("peer", row.peer.clone().unwrap_or_else(|| "-".to_owned())),
            (
                "ended by",
                row.ending.as_ref().map_or_else(
                    || "-".to_owned(),
                    |ended| {
                        let left = match ended.left_sat {
                            0 => String::new(),
                            left => format!(", {left} sat left: to take them costs more than they bring"),
                        };
                        format!("{} {}, {} sat received{left}", ended.kind, ended.txid, ended.received_sat)
                    },
                ),
            ),
        ])
    })
}

async fn close(context: &Context, row: &Row) -> anyhow::Result<()> {
    let id = row.id;
    if row.role == CHEQUE_PAYEE {
        return close_cheques(context, id).await;
    }
    if row.role == CHEQUE_PAYER {
        bail!(
            "the payee closes a channel that carries cheques; from block {} on, `farthing cheque list` takes back what is left",
            row.expiry
        );
    }
    if row.role == "payee" {
        return close_as_payee(context, id).await;
    }
    let buyer = wallet::start(context).await?;
    let looking = buyer.clone();
    blocking(move || Ok(looking.look()?)).await?;
    let client = Client::new(buyer, context.download_pace().patience)?;
    let peer = row.peer.clone().context("a payer's channel has a peer")?;
    let entries = client.buyer().channels().await?;
    let entry = entries.iter().find(|entry| entry.id == id).context("the channel that was found")?;
    let advice = match &entry.state {
        payer::State::AwaitingAcceptance | payer::State::AwaitingFunding(_) | payer::State::Open(_) => {
            format!(
                "channel {id} is not closed; try again when the seller answers, or run `farthing channels refund` from block {} on",
                row.expiry
            )
        }
        payer::State::Closing(_)
        | payer::State::Refunding(_)
        | payer::State::Closed(_)
        | payer::State::Abandoned => {
            format!(
                "channel {id} is {} already; `farthing channels list` tells how it ends",
                entry.state.name()
            )
        }
    };
    let closing = client.close(id, &peer).await.context(advice)?;
    let txid = closing.map(|transaction| transaction.compute_txid());
    let line =
        txid.map_or_else(|| "the closing was broadcast again".to_owned(), |txid| format!("closed by {txid}"));
    context.output.say(&json!({ "channel": id.to_string(), "txid": txid }), &line)
}

/// A running `farthing sell` holds the folder; then it is told to close, else this process does it.
async fn close_as_payee(context: &Context, id: ChannelId) -> anyhow::Result<()> {
    let seller = match sell::start(context).await {
        Ok(seller) => seller,
        Err(error) if error.chain().any(is_locked) => {
            context.home()?.store()?.wish_close(id)?;
            let line = "the running `farthing sell` closes it now: see `farthing channels show`";
            return context.output.say(&json!({ "channel": id.to_string(), "requested": true }), line);
        }
        Err(error) => return Err(error),
    };
    seller.close(id).await?;
    blocking(move || {
        seller.look()?;
        drop(seller);
        Ok(())
    })
    .await?;
    let line = "the newest commitment is broadcast: run `farthing sell` or this again until it has confirmed";
    context.output.say(&json!({ "channel": id.to_string(), "requested": false }), line)
}

/// With the best that came of its cheques.
async fn close_cheques(context: &Context, id: ChannelId) -> anyhow::Result<()> {
    let client = match cheque::start(context, false).await {
        Ok(client) => client,
        Err(error) if error.chain().any(is_locked) => {
            context.home()?.store()?.wish_close(id)?;
            let line = "the running `farthing agent` closes it now: see `farthing channels show`";
            return context.output.say(&json!({ "channel": id.to_string(), "requested": true }), line);
        }
        Err(error) => return Err(error),
    };
    let teller = client.teller().clone();
    blocking(move || {
        teller.close(id)?;
        teller.look()?;
        Ok(())
    })
    .await?;
    cheque::end(client).await?;
    let line =
        "the newest commitment is broadcast: run `farthing cheque list` or this again until it has confirmed";
    context.output.say(&json!({ "channel": id.to_string(), "requested": false }), line)
}

fn is_locked(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref::<HomeError>(), Some(HomeError::Locked { .. }))
        || matches!(
            error.downcast_ref::<farthing_node::start::StartError>(),
            Some(farthing_node::start::StartError::Home(HomeError::Locked { .. }))
        )
}

/// The watch refunds by itself; this runs it until the refund of every channel whose expiry has passed is out.
async fn refund(context: &Context, only: Option<ChannelId>) -> anyhow::Result<()> {
    let (buyer, chain) = (wallet::start(context).await?, context.chain()?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let looking = buyer.clone();
        let height = blocking(move || {
            looking.look()?;
            Ok(looking.height()?)
        });
        let height = height.await?;
        let entries = buyer.channels().await?;
        let entries = entries.into_iter().filter(|entry| only.is_none_or(|only| only == entry.id));
        let live: Vec<_> = entries.filter(|entry| Payer::is_live(&entry.state)).collect();
        let refunding: Vec<_> =
            live.iter().filter(|entry| matches!(entry.state, payer::State::Refunding(_))).collect();
        // A channel that the seller is closing has nothing to take back but the buyer's share of that.
        let is_due = |entry: &&Entry<Payer>| {
            entry.record.params.expiry.height() <= height && !matches!(entry.state, payer::State::Closing(_))
        };
        let due = live.iter().filter(is_due).count();
        let fundings: Vec<OutPoint> = refunding.iter().map(|entry| entry.record.params.funding).collect();
        let asked = chain.clone();
        let waiting = blocking(move || {
            fundings.iter().try_fold(0_usize, |waiting, funding| {
                let is_unspent = matches!(asked.output(funding)?, OutputStatus::Confirmed { .. });
                Ok(waiting + usize::from(is_unspent))
            })
        })
        .await?;
        let is_late = Instant::now() > deadline;
        if is_late && waiting > 0 {
            bail!(
                "the node does not take {waiting} of {due} refunds yet, and the log says why. Until they are in a block the seller may still \
                 close with what it was paid, and no more. Run this again, or keep `farthing proxy` running, which tries with each block"
            );
        }
        if is_late || (refunding.len() == due && waiting == 0) {
            let ids: Vec<String> = refunding.iter().map(|entry| entry.id.to_string()).collect();
            let next =
                live.iter().map(|entry| entry.record.params.expiry.height()).filter(|at| *at > height).min();
            let value = json!({ "refunding": ids, "height": height, "next_expiry": next });
            let line = match (ids.len(), next) {
                (0, None) => "no channel holds anything to take back".to_owned(),
                (0, Some(next)) => {
                    format!("nothing has expired yet: the next channel does at block {next}, now is {height}")
                }
                (count, _) => {
                    format!("{count} refunds are broadcast; run this again until they have confirmed")
                }
            };
            return context.output.say(&value, &line);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
