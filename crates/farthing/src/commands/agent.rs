//! `farthing agent`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use bitcoin::Amount;
use farthing_http::cheques::{Client, Counter};
use farthing_http::listening;
use farthing_protocol::cheque::drawn::Kind;
use serde_json::json;
use tokio::net::TcpListener;

use crate::cli::AgentArguments;
use crate::commands::{blocking, cheque, sell};
use crate::config::Context;

/// How many rounds of asking the nodes go by before everything is looked after.
const TEND_EVERY: u32 = 20;

/// Holds and passes on cheques until it is told to stop. Channels stay open over a stop.
pub async fn run(context: &Context, arguments: AgentArguments) -> anyhow::Result<()> {
    let AgentArguments { listen, towards, towards_capacity, allow_http } = arguments;
    let client = cheque::start(context, allow_http).await?;
    let towards: Vec<String> = towards.iter().map(|url| client.origin(url)).collect::<Result<_, _>>()?;
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let terms = *client.teller().terms();
    let (margin, fee, delta) = (terms.paid.margin, terms.fee, terms.delta);
    let value = json!({
        "url": url, "fee_msat": fee.get(), "delta": delta, "most_onward_sat": terms.most_onward.to_sat(),
    });
    let line = format!(
        "Cheques are held and passed on for {fee} each at\n\n    {url}\n\n\
         What you can lose: nothing, while this process runs or is started often enough: it closes each channel by itself {margin} \
         blocks before it expires. What it locks towards payees, at most {} sat, is tied up until those channels expire, {delta} \
         blocks before the writers' do, if a payee stays away.\n\
         Next: writers run `farthing cheque write --agent URL`, where URL is this address, or that of the TLS server before it. \
         Stop with Ctrl-C. `farthing channels list` shows what it earned.",
        terms.most_onward.to_sat(),
    );
    context.output.say(&value, &line)?;
    let pace = context.pace().interval.max(Duration::from_millis(200));
    let tending = tokio::spawn(tend(client.clone(), towards, towards_capacity.0.ceil(), pace));
    let counter = Arc::new(Counter::new(client.teller().clone(), client.clone()));
    let app: Router = counter.clone().routes();
    listening::serve(listener, app, context.listening(), sell::stopped()).await?;
    tending.abort();
    let _aborted = tending.await;
    drop(counter);
    cheque::end(client).await
}

/// Keeps channels to the nodes, and asks them what came of the locks there.
async fn tend(client: Client, towards: Vec<String>, capacity: Amount, pace: Duration) {
    let mut missing = towards;
    for round in 0_u32.. {
        let mut still = Vec::new();
        for node in missing {
            if let Err(error) = reach(&client, &node, capacity).await {
                tracing::info!(node, error = format!("{error:#}"), "no channel to the node yet");
                still.push(node);
            }
        }
        missing = still;
        if let Err(error) = client.sync_all().await {
            tracing::warn!(%error, "the nodes were not asked");
        }
        if round.is_multiple_of(TEND_EVERY) {
            let teller = client.teller().clone();
            if let Err(error) = blocking(move || Ok(teller.tend()?)).await {
                tracing::warn!(%error, "the locks were not looked after");
            }
        }
        tokio::time::sleep(pace).await;
    }
}

/// A channel to a node, a new one where there is none.
async fn reach(client: &Client, node: &str, capacity: Amount) -> anyhow::Result<()> {
    let (teller, at) = (client.teller().clone(), node.to_owned());
    let known = blocking(move || {
        let channels = teller.channels()?;
        Ok(channels.iter().any(|entry| {
            entry.record.peer() == Some(&at) && entry.state.drawer().is_some() && entry.state.is_live()
        }))
    });
    if known.await? {
        return Ok(());
    }
    // So much earlier than the longest channel of a writer that a lock in it ends in time.
    let terms = client.teller().terms();
    let longest = terms.paid.lifetime.1.min(terms.paying.most_lifetime).saturating_sub(terms.delta);
    let theirs = client.terms(node).await?.offer.offer.lifetime.1;
    client.open(node, capacity, Kind::Lock, Some(longest.min(theirs))).await?;
    Ok(())
}
