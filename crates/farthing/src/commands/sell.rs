//! `farthing sell`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bitcoin::{Amount, FeeRate};
use farthing_http::challenge::Price;
use farthing_http::gate::{Gate, Manner};
use farthing_http::listening;
use farthing_http::server::Shop;
use farthing_http::tariff::{CallPrice, Tariff};
use farthing_http::upstream::Upstream;
use farthing_node::seller::{self, Seller};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::opening::Offer;
use farthing_protocol::{Msat, flat};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower::Layer as _;

use crate::amounts::{PriceArgument, human_size};
use crate::cli::SellArguments;
use crate::commands::blocking;
use crate::config::Context;

/// How long a first look at the chain is waited for.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Sells until it is told to stop. Channels stay open over a stop; the next start goes on with them.
pub async fn run(context: &Context, arguments: SellArguments) -> anyhow::Result<()> {
    match (&arguments.file, &arguments.upstream, arguments.price) {
        (_, Some(upstream), PriceArgument::Call(price)) => calls(context, &arguments, upstream, price).await,
        (_, Some(upstream), PriceArgument::Free) => {
            calls(context, &arguments, upstream, CallPrice::default()).await
        }
        (_, Some(_), PriceArgument::Bytes(_)) => bail!("calls have a price for each: --price 10msat/call"),
        (Some(file), None, PriceArgument::Bytes(price)) => pieces(context, &arguments, file, price).await,
        (Some(file), None, PriceArgument::Free) => {
            pieces(context, &arguments, file, Price { amount: Msat::ZERO, unit: 1 }).await
        }
        (Some(_), None, PriceArgument::Call(_)) => bail!("a file has a price by size: --price 100msat/KiB"),
        (None, None, _) => bail!("name a file, or a server with --upstream"),
    }
}

/// Puts a price on another server's calls.
async fn calls(
    context: &Context,
    arguments: &SellArguments,
    upstream: &str,
    price: CallPrice,
) -> anyhow::Result<()> {
    let SellArguments { listen, route, shadow, timeout, .. } = arguments;
    let service = Upstream::new(upstream)?;
    let flat = flat(context, arguments, price)?;
    let seller = start_with(context, flat).await?;
    if let Some(explanation) = explained(&seller).await? {
        eprintln!("farthing: flat mode, in the largest channel that is accepted:\n{explanation}");
    }
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let rules = route.iter().map(|route| route.0.clone()).collect();
    let manner = Manner { shadow: *shadow, patience: Duration::from_secs(*timeout), ..Manner::default() };
    let gate = Gate::with_manner(seller.clone(), Tariff::list(rules, price), manner);
    let url = format!("http://{}/", listener.local_addr()?);
    let terms = context.terms();
    let (floor, exposure) = (Offer::prepaid(terms.fee_rate.0), terms.most_exposure);
    let value = json!({
        "url": url,
        "upstream": upstream,
        "price_msat": price.call.get(),
        "shadow": shadow,
        "most_exposure_msat": exposure.get(),
        "flat_outputs": flat.map(|terms| terms.outputs),
    });
    let lost = match flat {
        Some(terms) => format!(
            "what it called on its present batch, at most {} sat, while too few of the batch's outputs are paid for to be worth \
             their fees; the fee of publishing them comes from this wallet",
            terms.locked().unwrap_or_default().to_sat()
        ),
        None => format!(
            "what it called since its last rung, at most {exposure} (`most_exposure`), and what a rung's claim costs, 154 vB at \
             the agreed fee rate"
        ),
    };
    let line = format!(
        "Calls to {upstream} cost {price} at\n\n    {url}\n\n\
         What you can lose with one payer: {lost}; and below {floor} \
         a channel is not worth closing alone, so that is the least first payment. This process closes each channel by itself {} \
         blocks before it expires: keep it running, or start it at least that often.\n\
         Stop with Ctrl-C. `farthing channels list` shows what it earned.",
        terms.margin,
    );
    context.output.say(&value, &line)?;
    let app = axum::Router::new().fallback_service(gate.layer(service));
    listening::serve(listener, app, context.listening(), stopped()).await?;
    blocking(move || {
        drop((gate, seller));
        Ok(())
    })
    .await
}

/// Sells a file.
async fn pieces(
    context: &Context,
    arguments: &SellArguments,
    file: &Path,
    price: Price,
) -> anyhow::Result<()> {
    let SellArguments { listen, piece, .. } = arguments;
    let seller = start(context).await?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let shop = {
        let (seller, file, piece) = (seller.clone(), file.to_owned(), piece.0);
        blocking(move || {
            Shop::new(seller, &file, price, piece).with_context(|| format!("cannot sell {}", file.display()))
        })
        .await?
    };
    let manifest = *shop.manifest();
    let url = format!("http://{}/{}", listener.local_addr()?, shop.name());
    let cost = price.of(manifest.size).context("the whole file costs more than will exist")?;
    let terms = context.terms();
    let floor = Offer::prepaid(terms.fee_rate.0);
    let value = json!({
        "url": url,
        "bytes": manifest.size,
        "pieces": manifest.pieces(),
        "cost_msat": cost.get(),
        "least_prepaid_sat": floor.to_sat(),
    });
    let line = format!(
        "Selling {} ({} in {} pieces, {cost} in all) at\n\n    {url}\n\n\
         What you can lose: nothing that a buyer has not paid for, but below {} a channel is not worth closing alone, so \
         that is the least first payment. This process closes each channel by itself {} blocks before it expires: keep it \
         running, or start it at least that often.\n\
         Stop with Ctrl-C. `farthing channels list` shows what it earned.",
        file.display(),
        human_size(manifest.size),
        manifest.pieces(),
        floor,
        terms.margin,
    );
    context.output.say(&value, &line)?;
    listening::serve(listener, shop.router(), context.listening(), stopped()).await?;
    // The watch and the books end in order, off the async threads.
    blocking(move || {
        drop(seller);
        Ok(())
    })
    .await
}

/// The terms of flat mode, if that is asked for: an output holds what the dearest call costs.
fn flat(
    context: &Context,
    arguments: &SellArguments,
    price: CallPrice,
) -> anyhow::Result<Option<flat::Terms>> {
    let Some(outputs) = arguments.flat else { return Ok(None) };
    let prices = arguments.route.iter().map(|route| route.0.price).chain([price]);
    let prices: Vec<CallPrice> = prices.collect();
    if prices.iter().any(CallPrice::is_metered) {
        bail!("in flat mode a call has one price: nothing for each KiB or event");
    }
    let unit = prices.iter().map(|price| price.call.ceil()).max().unwrap_or_default();
    let margin = u16::try_from(context.terms().margin).unwrap_or(u16::MAX);
    Ok(Some(flat::Terms {
        outputs,
        unit,
        prepaid: Amount::ZERO,
        d1: Delay::blocks(margin),
        d2: Delay::blocks(margin),
        most_fee_rate: FeeRate::from_sat_per_vb_u32(arguments.flat_fee_rate),
    }))
}

async fn explained(seller: &Arc<Seller>) -> anyhow::Result<Option<flat::Explanation>> {
    let seller = seller.clone();
    blocking(move || seller.explain_flat().context("these terms of flat mode cannot be kept")).await
}

/// Opens the data folder as a seller.
pub async fn start(context: &Context) -> anyhow::Result<Arc<Seller>> {
    start_with(context, None).await
}

async fn start_with(context: &Context, flat: Option<flat::Terms>) -> anyhow::Result<Arc<Seller>> {
    let (home, pace) = (context.home()?, context.pace());
    let terms = seller::Terms { flat, ..context.terms() };
    let chain = context.chain()?;
    let seller = blocking(move || Ok(Arc::new(Seller::start(&home, chain, pace, terms)?))).await?;
    // Whoever comes at once is not told to come again: nothing is sold before the first look. A long one goes on while it listens.
    let begun = Instant::now();
    while seller.sees().is_err() && begun.elapsed() < FIRST_LOOK {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(seller)
}

/// Ready when the process is told to stop.
pub async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
