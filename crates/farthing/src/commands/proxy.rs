//! `farthing proxy`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use farthing_http::listening::{self, Bounds};
use farthing_http::{client, proxy};
use farthing_protocol::Msat;
use serde_json::json;
use tokio::net::TcpListener;

use crate::cli::ProxyArguments;
use crate::commands::{blocking, call, sell, wallet};
use crate::config::Context;

/// The most for one call, unless somebody says otherwise: no person sees the prices that a program pays.
const MOST_COST: Msat = Msat::new(2_000_000);

/// Pays for what other programs call through it, until it is told to stop.
pub async fn run(context: &Context, arguments: ProxyArguments) -> anyhow::Result<()> {
    let ProxyArguments { url, listen, spending } = arguments;
    let target = client::address(&url, spending.allow_http)?;
    let buyer = wallet::start(context).await?;
    let means = call::means(context, &spending, Some(MOST_COST))?;
    let budget = means.budget;
    let caller = Arc::new(call::caller_with(context, means, buyer.clone()).await?);
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let local = listener.local_addr()?;
    let router = proxy::router(caller.clone(), target.clone(), local);
    let local = format!("http://{local}");
    let value = json!({ "url": local, "target": target.as_str() });
    let show = |limit: Option<Msat>| limit.map_or_else(|| "any amount".to_owned(), |limit| limit.to_string());
    let limits = format!("up to {} a call and {} in all", show(budget.call), show(budget.session));
    let line = format!(
        "Calls to\n\n    {local}\n\ngo to {target}, and this process pays for them, {limits}. Whoever reaches this address spends your \
         money: it listens on this machine only unless you say otherwise.\nStop with Ctrl-C; `farthing channels close` then ends the \
         channel and brings back what was not spent."
    );
    context.output.say(&value, &line)?;
    // Whoever reads slowly here is the user's own program, and may have been paused by the user.
    let bounds = Bounds { write_patience: Duration::from_secs(24 * 3_600), ..Bounds::default() };
    listening::serve(listener, router, bounds, sell::stopped()).await?;
    blocking(move || {
        drop((caller, buyer));
        Ok(())
    })
    .await
}
