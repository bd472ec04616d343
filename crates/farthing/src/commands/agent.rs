//! `farthing agent`.

mod trunk;

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use trunk::Trunk;

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
    let most = context.cheque_terms().most_towards;
    let trunks = towards.into_iter().map(|node| Trunk::new(node, most)).collect();
    let tending = tokio::spawn(tend(client.clone(), trunks, towards_capacity.0.ceil(), pace));
    let counter = Arc::new(Counter::new(client.teller().clone(), client.clone()));
    let app: Router = counter.clone().routes();
    listening::serve(listener, app, context.listening(), sell::stopped()).await?;
    tending.abort();
    let _aborted = tending.await;
    drop(counter);
    cheque::end(client).await
}

/// Keeps channels to the nodes, and asks them what came of the locks there.
async fn tend(client: Client, mut trunks: Vec<Trunk>, capacity: Amount, pace: Duration) {
    for round in 0_u32.. {
        for trunk in &mut trunks {
            if let Err(error) = extend(&client, trunk, capacity).await {
                trunk.failed(Instant::now());
                tracing::info!(
                    node = trunk.node(),
                    error = format!("{error:#}"),
                    "no channel to the node yet"
                );
            }
        }
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

/// Opens a channel to a node where one is missing.
async fn extend(client: &Client, trunk: &mut Trunk, capacity: Amount) -> anyhow::Result<()> {
    let (teller, node) = (client.teller().clone(), trunk.node().to_owned());
    let (there_is, height) = blocking(move || Ok((teller.trunk(&node)?, teller.height()?))).await?;
    if !trunk.wants_another(&there_is.held, there_is.live, Instant::now()) {
        return Ok(());
    }
    // So much earlier than the longest channel of a writer that a lock in it ends in time, and in time for the cheques that wait.
    let terms = client.teller().terms();
    let longest = terms.paid.lifetime.1.min(terms.paying.most_lifetime).saturating_sub(terms.delta);
    let theirs = client.terms(trunk.node()).await?.offer.offer.lifetime.1;
    let lifetime = longest.min(theirs).min(there_is.latest.saturating_sub(height));
    client.open(trunk.node(), capacity, Kind::Lock, Some(lifetime)).await?;
    Ok(())
}
