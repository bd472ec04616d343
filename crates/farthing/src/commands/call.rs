//! `farthing call`.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use farthing_http::caller::{Answer, Budget, Caller, Means, Outgoing, Quote};
use farthing_http::client::{self, Client, ClientError, Plan};
use farthing_node::buyer::Buyer;
use farthing_protocol::flat::Explanation;
use farthing_protocol::{ChannelId, Msat};
use serde_json::json;

use crate::amounts::AmountArgument;
use crate::cli::{CallArguments, Spending};
use crate::commands::{blocking, wallet};
use crate::config::Context;
use crate::output::facts;

/// Calls once, and pays for it.
pub async fn run(context: &Context, arguments: CallArguments) -> anyhow::Result<()> {
    let outgoing = outgoing(&arguments)?;
    let buyer = wallet::start(context).await?;
    let called = call(context, &arguments, &outgoing, buyer.clone()).await;
    blocking(move || {
        drop(buyer);
        Ok(())
    })
    .await?;
    called
}

async fn call(
    context: &Context,
    arguments: &CallArguments,
    outgoing: &Outgoing,
    buyer: Arc<Buyer>,
) -> anyhow::Result<()> {
    let caller = Arc::new(caller(context, &arguments.spending, buyer).await?);
    if arguments.dry_run {
        return dry_run(context, &caller, outgoing, arguments).await;
    }
    if arguments.no_pay {
        return print(arguments, caller.unpaid(outgoing).await?).await;
    }
    check_out(arguments)?;
    let mut paid = caller.call(outgoing).await?;
    let mut out = out(arguments)?;
    if arguments.include {
        print_head(&mut out, paid.status(), paid.headers())?;
    }
    while let Some(part) = paid.chunk().await? {
        out.write_all(&part)?;
    }
    out.flush()?;
    tracing::info!(cost = %paid.cost(), "called");
    Ok(())
}

async fn print(arguments: &CallArguments, mut response: Answer) -> anyhow::Result<()> {
    let mut out = out(arguments)?;
    if arguments.include {
        print_head(&mut out, response.status(), response.headers())?;
    }
    while let Some(part) = response.chunk().await.context("the answer broke off")? {
        out.write_all(&part)?;
    }
    Ok(out.flush()?)
}

/// An answer that cannot be written is paid all the same. What the file holds stays until there is one.
fn check_out(arguments: &CallArguments) -> anyhow::Result<()> {
    let Some(file) = &arguments.output else { return Ok(()) };
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.map(drop).with_context(|| format!("cannot write {}: nothing was paid", file.display()))
}

fn out(arguments: &CallArguments) -> anyhow::Result<Box<dyn std::io::Write>> {
    Ok(match &arguments.output {
        Some(file) => {
            Box::new(std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?)
        }
        None => Box::new(stdout()),
    })
}

fn print_head(out: &mut impl std::io::Write, status: StatusCode, headers: &HeaderMap) -> anyhow::Result<()> {
    writeln!(out, "HTTP/1.1 {status}")?;
    for (name, value) in headers {
        writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
    }
    Ok(writeln!(out)?)
}

async fn dry_run(
    context: &Context,
    caller: &Caller,
    outgoing: &Outgoing,
    arguments: &CallArguments,
) -> anyhow::Result<()> {
    let Some(Quote { price, offer, flat }) = caller.quote(outgoing).await? else {
        return context.output.say(&json!({ "cost_msat": 0 }), "This call is free. Nothing would be locked.");
    };
    let means = means(context, &arguments.spending, None)?;
    means.budget.check(price.call)?;
    let (client, limits, deposit) = (caller.client().clone(), means.limits, means.deposit);
    if let Some(flat) = flat {
        explain(&client.explain(&offer, &limits, deposit, flat).await?);
    }
    let plan = blocking(move || Ok(client.plan(&offer, &limits, deposit)?)).await?;
    let value = json!({
        "cost_msat": price.call.get(),
        "kib_msat": price.kib.get(),
        "event_msat": price.event.get(),
        "capacity_sat": plan.capacity.to_sat(),
        "commitment_fee_sat": plan.commitment_fee.to_sat(),
        "prepaid_sat": plan.prepaid.to_sat(),
        "lifetime_blocks": plan.lifetime,
        "confirmations": plan.confirmations,
    });
    context.output.print(&value, || {
        facts([
            ("price of this call", price.to_string()),
            (
                "a new channel would lock",
                format!("{} sat for at most {} blocks", plan.capacity.to_sat(), plan.lifetime),
            ),
            ("commitment fee within it", format!("{} sat", plan.commitment_fee.to_sat())),
            ("first payment, credited to calls", format!("{} sat", plan.prepaid.to_sat())),
            ("the seller waits for", format!("{} confirmations", plan.confirmations)),
            (
                "you can lose",
                "calls that were not answered; and the first payment, if the seller closes alone".into(),
            ),
        ])
    })
}

/// A caller that pays from this data folder.
pub async fn caller(context: &Context, spending: &Spending, buyer: Arc<Buyer>) -> anyhow::Result<Caller> {
    caller_with(context, means(context, spending, None)?, buyer).await
}

/// A caller that pays from this data folder by these means.
pub async fn caller_with(context: &Context, means: Means, buyer: Arc<Buyer>) -> anyhow::Result<Caller> {
    let looking = buyer.clone();
    blocking(move || Ok(looking.look()?)).await?;
    let patience = context.download_pace().patience;
    let client = Client::new(buyer, patience)?;
    Ok(Caller::new(client, means).await?)
}

/// How calls are paid: as the command line says, else the configuration, and for one call else `most`.
pub fn means(context: &Context, spending: &Spending, most: Option<Msat>) -> anyhow::Result<Means> {
    let configured = context.spending()?;
    let first = |given: Option<AmountArgument>, else_: Option<AmountArgument>| given.or(else_).map(|it| it.0);
    let budget = Budget {
        call: first(spending.max_cost, configured.max_cost).or(most),
        session: first(spending.budget, configured.budget),
        day: first(spending.day_budget, configured.day_budget),
        payee: first(spending.payee_budget, configured.payee_budget),
    };
    let (limits, usual) = (context.limits(), Means::default());
    let deposit = first(spending.deposit, configured.deposit).unwrap_or(usual.deposit);
    Ok(Means { limits, deposit, budget, explain, opened, ..usual })
}

/// Shown before anything is locked.
fn explain(explanation: &Explanation) {
    eprintln!(
        "farthing: this seller is paid in flat mode, one output on the chain for each call:\n{explanation}"
    );
}

/// A block may take its time, and whoever waits for one in silence does not know what is locked already.
fn opened(channel: ChannelId, plan: &Plan) {
    let what = format!("{} sat are locked in channel {channel}", plan.capacity.to_sat());
    match plan.confirmations {
        0 => eprintln!("farthing: {what}"),
        1 => {
            eprintln!("farthing: {what}, and the seller waits for a block: the same command goes on with it")
        }
        blocks => eprintln!(
            "farthing: {what}, and the seller waits for {blocks} blocks: the same command goes on with it"
        ),
    }
}

fn outgoing(arguments: &CallArguments) -> anyhow::Result<Outgoing> {
    let url = client::address(&arguments.url, arguments.spending.allow_http)?;
    let body = match arguments.body.as_deref() {
        None => Vec::new(),
        Some("@-") => {
            let mut body = Vec::new();
            stdin().read_to_end(&mut body)?;
            body
        }
        Some(data) => match data.strip_prefix('@') {
            Some(file) => std::fs::read(file).with_context(|| format!("cannot read {file}"))?,
            None => data.as_bytes().to_vec(),
        },
    };
    let default = if arguments.body.is_some() { "POST" } else { "GET" };
    let method = arguments.request.as_deref().unwrap_or(default);
    let method: Method = method.parse().map_err(|_| ClientError::Url(method.to_owned()))?;
    let mut headers = HeaderMap::new();
    if arguments.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    let mut named = HeaderMap::new();
    for header in &arguments.header {
        let Some((name, value)) = header.split_once(':') else {
            bail!("`{header}` is no header: write `Name: value`");
        };
        let name: HeaderName = name.trim().parse().with_context(|| format!("`{name}` names no header"))?;
        let value = HeaderValue::from_str(value.trim()).with_context(|| format!("`{value}` is no value"))?;
        headers.remove(&name);
        named.append(name, value);
    }
    headers.extend(named);
    Ok(Outgoing { method, url, headers, body: body.into() })
}
