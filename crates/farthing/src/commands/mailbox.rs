//! `farthing mailbox`.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use axum::Router;
use bitcoin::Network;
use farthing_http::gate::{Gate, Manner};
use farthing_http::{listening, mailbox};
use farthing_mailbox::blob;
use farthing_protocol::Msat;
use serde_json::json;
use tokio::net::TcpListener;
use tower::Layer as _;

use crate::cli::{MailboxCommand, ServeArguments};
use crate::commands::{blocking, sell};
use crate::config::Context;

/// Runs a mailbox command.
pub async fn run(context: &Context, command: MailboxCommand) -> anyhow::Result<()> {
    match command {
        MailboxCommand::Serve(arguments) => serve(context, arguments).await,
    }
}

/// Keeps mail until it is told to stop. What it keeps outlives a stop.
async fn serve(context: &Context, arguments: ServeArguments) -> anyhow::Result<()> {
    let ServeArguments { price, box_price, free, listen } = arguments;
    let (price, opening) = (price.0, box_price.0);
    ensure!(
        price > Msat::ZERO || free || context.network() == Network::Regtest,
        "without postage anybody can fill boxes and use prekeys up: set a price, or add --free if that is what you want"
    );
    let is_free = price == Msat::ZERO && opening == Msat::ZERO;
    let home = context.home()?;
    // A seller has the folder's lock; who sells nothing needs no node, and takes it as well.
    let (seller, lock) =
        if is_free { (None, Some(home.lock()?)) } else { (Some(sell::start(context).await?), None) };
    let bounds = context.mailbox_bounds();
    let mailroom = blocking(move || Ok(Arc::new(home.mailroom(bounds)?))).await?;
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let routes = mailbox::router(mailroom.clone());
    let app = match &seller {
        None => routes,
        Some(seller) => {
            let manner = Manner { most_body: blob::LENGTH, ..Manner::default() };
            let gate = Gate::with_manner(seller.clone(), mailbox::tariff(price, opening), manner);
            Router::new().fallback_service(gate.layer(routes))
        }
    };
    let value = json!({
        "mailbox": address.to_string(),
        "url": format!("http://{address}"),
        "price_msat": price.get(),
        "box_price_msat": opening.get(),
        "most_bytes": bounds.most_bytes,
    });
    let postage = match is_free {
        true => "for free".to_owned(),
        false => format!("for {price} a letter or prekey, and {opening} for opening a box"),
    };
    let closing = match is_free {
        true => String::new(),
        false => format!(
            " It closes each channel by itself {} blocks before it expires: keep it running, or start it at least that often.",
            context.terms().margin
        ),
    };
    let line = format!(
        "A mailbox keeps sealed letters and prekeys {postage} at\n\n    http://{address}\n\nIt cannot read them, and takes no \
         note of who posts. It fills at most {} MiB of disk.{closing}\nNext: payees run `farthing cheque address --mailbox URL`, \
         where URL is this address, or that of the TLS server before it. Stop with Ctrl-C.",
        bounds.most_bytes >> 20
    );
    context.output.say(&value, &line)?;
    listening::serve(listener, app, context.listening(), sell::stopped()).await?;
    blocking(move || {
        drop((mailroom, seller, lock));
        Ok(())
    })
    .await
}
