//! `farthing cheque write`.

use anyhow::{Context as _, ensure};
use bitcoin::Amount;
use farthing_http::cheques::Client;
use farthing_mailbox::{Address, Letter};
use farthing_node::cheques::paper::Issued;
use farthing_node::cheques::writing::{Order, WriteError};
use farthing_node::entropy;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::{ChannelId, Msat};
use serde_json::json;

use crate::cli::WriteArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, name, post};
use crate::config::Context;

/// What a channel has to hold beside the cheque: the fees of its commitment.
const BESIDE: Amount = Amount::from_sat(20_000);
/// How long a block takes, in seconds.
const BLOCK: u64 = 600;

/// Writes a cheque, has the agent take the promise, and mails it.
pub async fn run(context: &Context, arguments: WriteArguments) -> anyhow::Result<()> {
    let to: Address = arguments.to.parse().context("`--to` is no address of a payee")?;
    ensure!(
        to.network == context.network(),
        "the address is for {}, and this is {}: use --network",
        to.network,
        context.network()
    );
    let memo = Memo::new(arguments.memo.clone())?;
    // Before a prekey is used up for it.
    let agent = context.agent(arguments.agent.as_deref())?;
    let client = cheque::start(context, arguments.spending.allow_http).await?;
    let agent = client.origin(agent)?;
    let terms = client.terms(&agent).await;
    cheque::end(client).await?;
    let terms = terms.context("the agent tells no terms")?;
    let fees = Msat::new(terms.fee_msat.saturating_mul(arguments.hops.into()));
    ensure!(
        fees <= arguments.max_fee.0,
        "the agent wants {} from each of {} nodes, together more than --max-fee ({}): nothing was promised",
        Msat::new(terms.fee_msat),
        arguments.hops,
        arguments.max_fee.0
    );
    let prekey = post::prekey(context, &arguments.spending, &to).await?;

    let client = cheque::start(context, arguments.spending.allow_http).await?;
    let order = |channel: ChannelId| Order {
        identity: to.identity,
        to: arguments.to.clone(),
        prekey,
        amount: arguments.amount.0,
        fees,
        memo: memo.clone(),
        channel,
        agent: agent.clone(),
        delta: terms.delta,
    };
    let issued = promise(&client, &arguments, &agent, order).await?;
    let teller = client.teller().clone();
    let height = blocking(move || Ok(teller.height()?)).await?;
    cheque::end(client).await?;

    let letter = Letter::Cheque { cheque: Box::new(issued.written.cheque.clone()), agent };
    let blob = letter.seal(&to, entropy::bytes())?;
    let blocks = issued.written.cheque.latest.height().saturating_sub(height);
    post::letter(context, &arguments.spending, &to, &blob, u64::from(blocks) * BLOCK).await.context(
        "the agent has taken the cheque, but it is not mailed: take it back with `farthing cheque cancel`, and write another",
    )?;
    let client = cheque::start(context, arguments.spending.allow_http).await?;
    let (teller, point) = (client.teller().clone(), issued.written.point);
    blocking(move || Ok(teller.mailed(&point)?)).await?;
    cheque::end(client).await?;

    let cheque = &issued.written.cheque;
    let value = json!({
        "cheque": name(&issued.written.point),
        "amount_msat": cheque.terms.amount.get(),
        "promised_msat": issued.promised.get(),
        "channel": issued.channel.to_string(),
        "latest": cheque.latest.height(),
        "agent": issued.agent,
    });
    let line = format!(
        "Cheque {} over {} is with the agent, and on its way to the payee: with the fees of the nodes on its way, {} are promised. It can be \
         cashed in a channel that expires up to block {}. You may switch off.\nNext: `farthing cheque list` shows the receipt once it was \
         cashed; `farthing cheque cancel` takes it back until then.",
        &name(&issued.written.point)[..16],
        cheque.terms.amount,
        issued.promised,
        cheque.latest.height(),
    );
    context.output.say(&value, &line)
}

/// The cheque, promised in a channel that can, and taken by the agent.
async fn promise(
    client: &Client,
    arguments: &WriteArguments,
    agent: &str,
    order: impl Fn(ChannelId) -> Order,
) -> anyhow::Result<Issued> {
    let (teller, at) = (client.teller().clone(), agent.to_owned());
    let mut issued = None;
    for channel in blocking(move || Ok(teller.writing_channels(&at)?)).await? {
        // What was cashed since makes room.
        client.sync(channel).await?;
        let (teller, order) = (client.teller().clone(), order(channel));
        match blocking(move || Ok(teller.write_cheque(order))).await? {
            Ok(written) => {
                issued = Some(written);
                break;
            }
            Err(error) if error.wants_another_channel() => {}
            Err(error) => return Err(explained(error)),
        }
    }
    let issued = match issued {
        Some(issued) => issued,
        None => {
            let capacity =
                arguments.spending.deposit_or_usual().ceil().max(arguments.amount.0.ceil() + BESIDE);
            let channel = client.open(agent, capacity, Kind::Cheques, arguments.lifetime).await?;
            let (teller, order) = (client.teller().clone(), order(channel));
            blocking(move || Ok(teller.write_cheque(order))).await?.map_err(explained)?
        }
    };
    let not_taken =
        "the cheque is written, but the agent has not taken it: take it back with `farthing cheque cancel`";
    ensure!(client.sync(issued.channel).await.context(not_taken)?, not_taken);
    Ok(issued)
}

fn explained(error: WriteError) -> anyhow::Error {
    anyhow::Error::new(error).context(
        "no cheque was written; the first in a new channel must be large enough to be claimed on chain, with its fees",
    )
}
