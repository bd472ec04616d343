//! Cashes all cheques that wait. Letters of strangers name agents of their choice, which may answer slowly, falsely, or not at all: so many agents
//! are spoken to at once, and one that does not answer keeps only its own cheques waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use farthing_http::cheques::{CarryError, Client};
use farthing_http::client::ClientError;
use farthing_http::problem::Kind;
use farthing_node::cheques::cashing::amounts as amounts_of;
use farthing_node::cheques::paper::Presented;
use farthing_node::cheques::selling::{Ask, Towards};
use farthing_protocol::cheque::route::Route;
use farthing_protocol::{ChannelId, Msat};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::error::Elapsed;

use super::{PACE, PATIENCE, Row, channel, hand_over, opened};
use crate::commands::blocking;
use crate::commands::cheque::name;

/// How many agents are spoken to at once.
const AT_ONCE: usize = 64;

/// Cashes these, those of one agent one after the other. What became of each, in their order.
pub(super) async fn sell_all(
    client: &Client,
    waiting: Vec<Presented>,
    via: &[String],
    until: Instant,
) -> anyhow::Result<Vec<Row>> {
    let mut agents: BTreeMap<String, Vec<(usize, Presented)>> = BTreeMap::new();
    for (place, presented) in waiting.into_iter().enumerate() {
        agents.entry(presented.agent.clone()).or_default().push((place, presented));
    }
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    // Cheques that are paid by the same node are cashed in the same channels.
    let shared = (!via.is_empty()).then(|| Arc::new(Mutex::new(())));
    let (here, mut agents_done) = (LocalSet::new(), JoinSet::new());
    for cheques in agents.into_values() {
        let (client, via, seats) = (client.clone(), via.to_vec(), seats.clone());
        let turn = shared.clone().unwrap_or_default();
        let each = async move {
            let _seat = seats.acquire().await;
            sell_each(&client, cheques, &via, until, &turn).await
        };
        agents_done.spawn_local_on(each, &here);
    }
    let all = here.run_until(async move {
        let mut all = Vec::new();
        while let Some(rows) = agents_done.join_next().await {
            all.extend(rows?);
        }
        anyhow::Ok(all)
    });
    let mut all = all.await?;
    all.sort_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, row)| row).collect())
}

/// Cashes the cheques of one agent. When it does not answer the others wait for the next run.
async fn sell_each(
    client: &Client,
    cheques: Vec<(usize, Presented)>,
    via: &[String],
    until: Instant,
    turn: &Mutex<()>,
) -> Vec<(usize, Row)> {
    let (mut rows, mut is_silent) = (Vec::new(), false);
    for (place, presented) in cheques {
        let outcome = if is_silent {
            Err(anyhow::anyhow!("its agent has not answered for another cheque: run this again"))
        } else {
            sell(client, &presented, via, until, turn).await
        };
        is_silent |= outcome.as_ref().is_err_and(is_silence);
        rows.push((place, row(&presented, outcome)));
    }
    rows
}

/// Whether somebody did not answer, or not in time.
fn is_silence(error: &anyhow::Error) -> bool {
    let client = match error.downcast_ref::<CarryError>() {
        Some(CarryError::Client(error)) => Some(error),
        Some(_) | None => error.downcast_ref::<ClientError>(),
    };
    matches!(client, Some(ClientError::Network { .. })) || error.is::<Elapsed>()
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

/// Has a lock made for a cheque, completes it, and hands its secret over. Meanwhile nobody else has his turn at the payer's channels.
async fn sell(
    client: &Client,
    presented: &Presented,
    via: &[String],
    until: Instant,
    turn: &Mutex<()>,
) -> anyhow::Result<Msat> {
    let amount = presented.cheque.terms.amount;
    if let (true, Some(sale)) = (presented.cashed, &presented.sale) {
        hand_over(client, sale.channel).await;
        return Ok(amount);
    }
    let teller = client.teller().clone();
    let (latest, height) = (presented.cheque.latest.height(), blocking(move || Ok(teller.height()?)).await?);
    if height >= latest {
        bail!("it could be cashed up to block {latest}, and this is block {height}");
    }
    let (fees, latest) = way(client, presented, via).await?;
    let _turn = turn.lock().await;
    let patience = until.saturating_duration_since(Instant::now()) + PATIENCE;
    // Everything is stored before it is said, so nothing is lost by stopping anywhere.
    let sold = tokio::time::timeout(patience, sell_over(client, presented, via, until, (fees, latest)));
    sold.await.context("whoever is asked takes too long: run this again")?
}

async fn sell_over(
    client: &Client,
    presented: &Presented,
    via: &[String],
    until: Instant,
    (fees, latest): (Vec<Msat>, u32),
) -> anyhow::Result<Msat> {
    let amount = presented.cheque.terms.amount;
    let payer = via.last().unwrap_or(&presented.agent);
    let pick = async || channel(client, presented, payer, latest).await;
    let channel = opened(client, until, pick).await?;
    is_enforceable(client, channel, amount).await?;
    let (teller, point, through) = (client.teller().clone(), presented.point, via.to_vec());
    let planned = blocking(move || Ok(teller.plan_sale(&point, channel, through, &fees)?));
    let (planned, route) = planned.await?;
    let amounts = planned.sale.map(|sale| sale.amounts).context("what was planned has a sale")?;
    let mut held = point;
    let whom = std::iter::once(&presented.agent).chain(via);
    for (index, ((at, hop), amount)) in whom.zip(&route.hops).zip(amounts).enumerate() {
        let towards = match via.get(index) {
            Some(next) => Towards::Node(next.clone()),
            None => Towards::Channel(channel),
        };
        let ask = Ask { held, point: hop.point, tweak: hop.tweak.clone(), amount, towards };
        lock(client, at, &ask, until).await.with_context(|| format!("{at} makes no lock"))?;
        held = hop.point;
    }
    client.answer(channel).await?;
    let teller = client.teller().clone();
    let paid = blocking(move || Ok(teller.cash(&point)?)).await?;
    hand_over(client, channel).await;
    Ok(paid)
}

/// What each node on the way wants, and when the payee's own channel must expire at the latest. A lock that was made cannot be given back,
/// so everybody is asked before anybody locks; one that was made before is named, since nobody else may have its channel.
async fn way(client: &Client, presented: &Presented, via: &[String]) -> anyhow::Result<(Vec<Msat>, u32)> {
    let (mut fees, mut deltas) = (Vec::new(), Vec::new());
    for node in via {
        let terms = client.terms(node).await.with_context(|| format!("{node} tells no terms"))?;
        fees.push(Msat::new(terms.fee_msat));
        deltas.push(terms.delta);
    }
    let mut latest = presented.cheque.latest.height();
    let planned = presented.sale.as_ref().filter(|sale| sale.via == via);
    let route = planned.and_then(|sale| Route::new(&presented.point, &sale.tweaks));
    let amounts = planned.map(|sale| sale.amounts.clone());
    let amounts = amounts.unwrap_or_else(|| amounts_of(presented.cheque.terms.amount, &fees));
    let mut locked = route.into_iter().flat_map(|route| route.hops).map(|hop| hop.point);
    let mut held = Some(presented.point);
    let whom = std::iter::once(&presented.agent).chain(via);
    for ((at, (node, delta)), amount) in whom.zip(via.iter().zip(deltas)).zip(amounts) {
        let expiry = client.way(at, node, amount, latest, held).await;
        held = locked.next();
        latest = expiry.with_context(|| format!("{at} has no way to {node}"))?.saturating_sub(delta);
    }
    Ok((fees, latest))
}

/// Whether the channel's total is worth its closing with so much more. Else nobody would lock anything in it, or only those before.
async fn is_enforceable(client: &Client, channel: ChannelId, amount: Msat) -> anyhow::Result<()> {
    let teller = client.teller().clone();
    let (params, paid) = blocking(move || Ok((teller.params(channel), teller.earned(channel)?))).await?;
    let least = params.map_or(0, |params| params.prepaid.to_sat());
    if paid.saturating_add(amount).floor().to_sat() < least {
        bail!(
            "the first cheque in a new channel must be over {least} sat, or it could not be claimed on the chain"
        );
    }
    Ok(())
}

/// Has a lock made. A cheque that was written a moment ago waits for its channel's funding, like a lock does.
async fn lock(client: &Client, at: &str, ask: &Ask, until: Instant) -> Result<(), CarryError> {
    loop {
        match client.ask(at, ask).await {
            Err(CarryError::Client(ClientError::Refused { kind: Some(Kind::FundingNotDeep), .. }))
                if Instant::now() < until =>
            {
                tokio::time::sleep(PACE).await;
            }
            asked => return asked,
        }
    }
}
