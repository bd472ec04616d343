//! `farthing sell`.

use std::sync::Arc;

use anyhow::Context as _;
use farthing_http::server::{self, Shop};
use farthing_node::seller::Seller;
use farthing_protocol::opening::Offer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::amounts::human_size;
use crate::cli::SellArguments;
use crate::commands::blocking;
use crate::config::Context;

/// Sells until it is told to stop. Channels stay open over a stop; the next start goes on with them.
pub async fn run(context: &Context, arguments: SellArguments) -> anyhow::Result<()> {
    let SellArguments { file, price, listen, piece } = arguments;
    let seller = start(context).await?;
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let shop = {
        let (seller, file, piece) = (seller.clone(), file.clone(), piece.0);
        blocking(move || {
            Shop::new(seller, &file, price.0, piece)
                .with_context(|| format!("cannot sell {}", file.display()))
        })
        .await?
    };
    let manifest = *shop.manifest();
    let url = format!("http://{}/{}", listener.local_addr()?, shop.name());
    let cost = price.0.of(manifest.size).context("the whole file costs more than will exist")?;
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

async fn stopped() {
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
