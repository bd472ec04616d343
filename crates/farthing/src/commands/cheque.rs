//! `farthing cheque`.

mod address;
mod authorise;
mod cancel;
mod cash;
mod list;
mod pay;
mod post;
mod write;

use std::sync::Arc;

use anyhow::Context as _;
use farthing_http::cheques::Client;
use farthing_mailbox::address::Host;
use farthing_node::cheques::Teller;
use farthing_protocol::cheque::point::AdaptorPoint;

use crate::cli::ChequeCommand;
use crate::commands::blocking;
use crate::config::Context;

/// Runs a cheque command.
pub async fn run(context: &Context, command: ChequeCommand) -> anyhow::Result<()> {
    match command {
        ChequeCommand::Address(arguments) => address::run(context, *arguments).await,
        ChequeCommand::Write(arguments) => write::run(context, *arguments).await,
        ChequeCommand::Cash(arguments) => cash::run(context, arguments).await,
        ChequeCommand::List(arguments) => list::run(context, arguments).await,
        ChequeCommand::Cancel(arguments) => cancel::run(context, arguments).await,
        ChequeCommand::Payer => authorise::payer(context),
        ChequeCommand::Authorise(arguments) => authorise::run(context, arguments).await,
        ChequeCommand::Pay(arguments) => pay::run(context, *arguments).await,
        ChequeCommand::Release(arguments) => pay::release(context, *arguments).await,
    }
}

/// Opens the data folder as a program that carries cheques, with a client for what it says to others.
pub async fn start(context: &Context, allow_http: bool) -> anyhow::Result<Client> {
    let (home, pace, terms) = (context.home()?, context.pace(), context.cheque_terms());
    let chain = context.chain()?;
    let patience = context.download_pace().patience;
    let teller = blocking(move || Ok(Arc::new(Teller::start(&home, chain, pace, terms)?))).await?;
    let looking = teller.clone();
    blocking(move || Ok(looking.look()?)).await?;
    Ok(Client::new(teller, patience)?.allowing_http(allow_http))
}

/// Ends it in order, off the async threads.
pub async fn end(client: Client) -> anyhow::Result<()> {
    blocking(move || {
        drop(client);
        Ok(())
    })
    .await
}

/// A cheque's name: its point.
fn name(point: &AdaptorPoint) -> String {
    format!("{point:?}")
}

/// What a payee is told whose book of prekeys has forgotten some.
const OLD_COPY: &str = "the mailbox has prekeys that this folder does not know of, so the folder is an old copy: cheques that were written on \
                        those prekeys, or on this folder's, cannot be cashed any more";

/// The host of a mailbox's URL, or of a host as it is.
fn host(mailbox: &str) -> anyhow::Result<Host> {
    let after = mailbox.split_once("://").map_or(mailbox, |(_scheme, rest)| rest);
    Host::new(after.trim_end_matches('/')).with_context(|| format!("`{mailbox}` names no mailbox"))
}
