//! `farthing cheque cancel`.

use anyhow::{Context as _, bail};
use farthing_node::cheques::paper::{Fate, Paper};
use serde_json::json;

use crate::cli::CancelArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, name};
use crate::config::Context;

/// Takes a cheque back, and has the agent say so.
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
    let heard = client.sync(channel).await;
    let teller = client.teller().clone();
    let is_back = blocking(move || Ok(teller.reinstated(&point)?)).await?;
    let teller = client.teller().clone();
    let papers = blocking(move || Ok(teller.papers()?)).await?;
    cheque::end(client).await?;
    heard.context(
        "the cheque is taken back here, but the agent has not said that it knows: until then it may be cashed; run this again",
    )?;
    let is_paid = papers.iter().any(|paper| match paper {
        Paper::Written(issued) => issued.written.point == point && matches!(issued.fate, Fate::Paid(_)),
        Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => false,
    });
    if is_paid {
        bail!("it was cashed before: see `farthing cheque list` for the receipt");
    }
    if is_back {
        bail!("the payee is cashing it just now, so it cannot be taken back");
    }
    let value = json!({ "cheque": name(&point), "cancelled": true });
    let line = format!(
        "Cheque {} is taken back, and the agent has said so. An agent that breaks its word could still have it cashed, and you would \
         get the receipt, until you have paid so much in that channel for something else, or it is closed.",
        &name(&point)[..16]
    );
    context.output.say(&value, &line)
}
