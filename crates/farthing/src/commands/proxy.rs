//! `farthing proxy`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use farthing_http::listening::{self, Bounds};
use farthing_http::{client, proxy};
use serde_json::json;
use tokio::net::TcpListener;

use crate::cli::ProxyArguments;
use crate::commands::{blocking, call, sell, wallet};
use crate::config::Context;

/// Pays for what other programs call through it, until it is told to stop.
pub async fn run(context: &Context, arguments: ProxyArguments) -> anyhow::Result<()> {
    let ProxyArguments { url, listen, spending } = arguments;
    let target = client::address(&url, spending.allow_http)?;
    let buyer = wallet::start(context).await?;
    let caller = Arc::new(call::caller(context, &spending, buyer.clone()).await?);
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let local = format!("http://{}", listener.local_addr()?);
    let value = json!({ "url": local, "target": target.as_str() });
    let limits = match (spending.max_cost, spending.budget) {
        (None, None) => "without a limit, one deposit after another: set --max-cost and --budget".to_owned(),
        (call, all) => {
            let show = |limit: Option<crate::amounts::AmountArgument>| {
                limit.map_or_else(|| "any amount".to_owned(), |limit| limit.0.to_string())
            };
            format!("up to {} a call and {} in all", show(call), show(all))
        }
    };
    let line = format!(
        "Calls to\n\n    {local}\n\ngo to {target}, and this process pays for them, {limits}. Whoever reaches this address spends your \
         money: it listens on this machine only unless you say otherwise.\nStop with Ctrl-C; `farthing channels close` then ends the \
         channel and brings back what was not spent."
    );
    context.output.say(&value, &line)?;
    let router = proxy::router(caller.clone(), target);
    // Whoever reads slowly here is the user's own program, and may have been paused by the user.
    let bounds = Bounds { write_patience: Duration::from_secs(24 * 3_600), ..Bounds::default() };
    listening::serve(listener, router, bounds, sell::stopped()).await?;
    blocking(move || {
        drop((caller, buyer));
        Ok(())
    })
    .await
}
