//! `farthing cheque cancel`.

use anyhow::{Context as _, bail};
use farthing_http::cheques::Client;
use farthing_node::cheques::paper::{Fate, Issued, Paper};
use farthing_protocol::ChannelId;
use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::point::AdaptorPoint;
use serde_json::json;

use crate::cli::CancelArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, name};
use crate::config::Context;

/// Takes a cheque back, and has the agent sign so.
pub async fn run(context: &Context, arguments: CancelArguments) -> anyhow::Result<()> {
    let client = cheque::start(context, arguments.allow_http).await?;
    let teller = client.teller().clone();
    let papers = blocking(move || Ok(teller.papers()?)).await?;
    let written = papers.into_iter().filter_map(|paper| match paper {
        Paper::Written(issued) if name(&issued.written.point).starts_with(&arguments.cheque) => Some(issued),
        Paper::Written(_) | Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => None,
    });
    let written: Vec<_> = written.collect();
    let issued = match written.as_slice() {
        [one] => one.clone(),
        [] => bail!("no cheque {} was written here: see `farthing cheque list`", arguments.cheque),
        _several => {
            bail!("{} is the beginning of several cheques' names: write more of it", arguments.cheque)
        }
    };
    let (teller, point) = (client.teller().clone(), issued.written.point);
    let channel = blocking(move || Ok(teller.cancel(&point)?)).await?;
    let taken_back = match issued.fate.word() {
        Some(word) => Ok(word.clone()),
        None => take_back(&client, channel, point).await,
    };
    cheque::end(client).await?;
    let word = taken_back?;
    let value = json!({ "cheque": name(&point), "cancelled": true, "cancellation": word });
    let line = format!(
        "Cheque {} is taken back, and the agent has signed so. An agent that breaks its word could still have it cashed, and you would \
         get the receipt, until you have paid so much in that channel for something else, or it is closed.",
        &name(&point)[..16]
    );
    context.output.say(&value, &line)
}

/// Brings the agent the update that leaves the cheque out, and gets its signature for that.
async fn take_back(client: &Client, channel: ChannelId, point: AdaptorPoint) -> anyhow::Result<Cancellation> {
    let not_signed = "the cheque is taken back here, but the agent has not signed that it knows: until then it may be cashed; run \
                      this again";
    client.sync(channel).await.context(not_signed)?;
    let teller = client.teller().clone();
    let (is_back, papers) = blocking(move || Ok((teller.reinstated(&point)?, teller.papers()?))).await?;
    let is_paid = papers.iter().any(|paper| match paper {
        Paper::Written(Issued { written, fate: Fate::Paid(_) | Fate::PaidAllTheSame(..), .. }) => {
            written.point == point
        }
        Paper::Written(_) | Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => false,
    });
    if is_paid {
        bail!("it was cashed before: see `farthing cheque list` for the receipt");
    }
    if is_back {
        bail!("the payee is cashing it just now, so it cannot be taken back");
    }
    let word = client.cancelled(channel, point).await.context(not_signed)?;
    let (teller, kept) = (client.teller().clone(), word.clone());
    blocking(move || Ok(teller.given_up(&point, kept)?)).await.context(not_signed)?;
    Ok(word)
}
