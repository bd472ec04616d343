//! `farthing sell`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use farthing_http::challenge::Price;
use farthing_http::gate::{Gate, Manner};
use farthing_http::server::{self, Shop};
use farthing_http::tariff::{CallPrice, Tariff};
use farthing_http::upstream::Upstream;
use farthing_node::seller::Seller;
use farthing_protocol::Msat;
use farthing_protocol::opening::Offer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower::Layer as _;

use crate::amounts::{PriceArgument, human_size};
use crate::cli::SellArguments;
use crate::commands::blocking;
use crate::config::Context;

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
    let SellArguments { listen, route, shadow, .. } = arguments;
    let service = Upstream::new(upstream)?;
    let seller = start(context).await?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let rules = route.iter().map(|route| route.0.clone()).collect();
    let manner = Manner { shadow: *shadow, ..Manner::default() };
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
    });
    let line = format!(
        "Calls to {upstream} cost {price} at\n\n    {url}\n\n\
         What you can lose with one payer: what it called since its last rung, at most {exposure} (`most_exposure`); and below {floor} \
         a channel is not worth closing alone, so that is the least first payment. This process closes each channel by itself {} \
         blocks before it expires: keep it running, or start it at least that often.\n\
         Stop with Ctrl-C. `farthing channels list` shows what it earned.",
        terms.margin,
    );
    context.output.say(&value, &line)?;
    let app = axum::Router::new().fallback_service(gate.layer(service));
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;
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
    server::run(shop, listener, stopped()).await?;
    // The watch and the books end in order, off the async threads.
    blocking(move || {
        drop(seller);
        Ok(())
    })
    .await
}

/// Opens the data folder as a seller.
pub async fn start(context: &Context) -> anyhow::Result<Arc<Seller>> {
    let (home, pace, terms) = (context.home()?, context.pace(), context.terms());
    let chain = context.chain()?;
    blocking(move || Ok(Arc::new(Seller::start(&home, chain, pace, terms)?))).await
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
