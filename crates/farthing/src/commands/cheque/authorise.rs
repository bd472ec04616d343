//! `farthing cheque authorise`, and `farthing cheque payer`: the payee invites a payer before it goes offline.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use farthing_http::cheques::Client;
use farthing_http::mailbox::{self, Owner};
use farthing_mailbox::Invitation;
use farthing_node::cheques::opening::Direction;
use farthing_node::cheques::reverse::payee::Permit;
use farthing_protocol::ChannelId;
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::reverse::authorisation::{Terms, Until};
use farthing_protocol::cheque::side::Side;
use serde_json::json;

use crate::cli::AuthoriseArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, cash, host};
use crate::config::Context;

/// Prints the key by which payees authorise this payer.
pub fn payer(context: &Context) -> anyhow::Result<()> {
    let key = context.home()?.seed()?.cheque_keys().identity();
    let line = format!("{key}\n\nNext: a payee runs `farthing cheque authorise --to-payer KEY …` with it.");
    context.output.say(&json!({ "payer": key }), &line)
}

/// Authorises a payer in a channel from the agent, and prints the invitation.
pub async fn run(context: &Context, arguments: AuthoriseArguments) -> anyhow::Result<()> {
    let memo = Memo::new(arguments.memo.clone())?;
    let mailbox = arguments.mailbox.as_deref().or(context.payee_mailbox().0).context(
        "the payer needs a mailbox to write to: name one with --mailbox URL, or `mailbox` in the configuration's [cheque]",
    )?;
    let owner = Owner::new(&context.home()?.seed()?, host(mailbox)?);
    let mail = mailbox::Client::new(context.download_pace().patience)?.allowing_http(arguments.allow_http);
    mail.standing(&owner)
        .await
        .context("there is no box to write to: run `farthing cheque address` first")?;

    let client = cheque::start(context, arguments.allow_http).await?;
    let agent = client.origin(context.agent(arguments.agent.as_deref())?)?;
    let until = Instant::now() + Duration::from_secs(arguments.wait);
    let pick = async || channel(&client, &agent, &arguments, &memo).await;
    let channel = cash::opened(&client, until, pick).await?;
    // What the agent has paid meanwhile belongs to the total that the payer adds to.
    client.answer(channel).await?;
    let teller = client.teller().clone();
    let (payer, amount, blocks) = (arguments.to_payer, arguments.amount.0, arguments.blocks);
    let authorised = blocking(move || {
        let height = teller.height()?;
        let until = blocks.map(|blocks| Until::height(height.saturating_add(blocks)));
        Ok(teller.authorise(Permit { channel, payer, amount, until, memo })?)
    });
    let authorisation = authorised.await?;
    cheque::end(client).await?;

    let terms = authorisation.terms.clone();
    let invitation = Invitation::new(owner.address().clone(), agent, authorisation)?;
    let value = json!({
        "invitation": invitation.to_string(),
        "channel": terms.channel.to_string(),
        "amount_msat": terms.amount.get(),
        "until": terms.until.get(),
    });
    let line = format!(
        "{invitation}\n\nWith it, the payer adds {} to your channel {}, up to block {}. Until then, until it has paid, or until it \
         gives the invitation back, that channel takes nothing else. You may switch off.\nNext: `farthing cheque cash` when you are \
         back, before block {}, and as often as you like.",
        terms.amount,
        terms.channel,
        terms.until.get(),
        terms.until.get(),
    );
    context.output.say(&value, &line)
}

/// A channel from the agent in which the payer is authorised already, one that is free, or a new one.
async fn channel(
    client: &Client,
    agent: &str,
    arguments: &AuthoriseArguments,
    memo: &Memo,
) -> anyhow::Result<ChannelId> {
    let (teller, at, memo) = (client.teller().clone(), agent.to_owned(), memo.clone());
    let (payer, amount) = (arguments.to_payer, arguments.amount.0);
    let theirs = client.terms(agent).await.context("the agent tells no terms")?;
    // The payer may need a channel of its own to the agent, which must end so much earlier.
    let shortest = theirs.offer.offer.lifetime.0.saturating_add(theirs.delta);
    let blocks = arguments.blocks;
    let known = blocking(move || {
        let height = teller.height()?;
        let margin = teller.terms().paid.margin;
        let needed = blocks.unwrap_or(shortest.saturating_add(margin));
        let channels = teller.cashing_channels(&at)?;
        let is_same = |open: &Terms| open.payer == payer && open.amount == amount && open.memo == memo;
        let open = |state: &Side| state.holder().and_then(|holder| holder.held().authorised()).cloned();
        let same = channels.iter().find(|(_, state)| open(state).is_some_and(|terms| is_same(&terms)));
        let free = channels.iter().find(|(id, state)| {
            let Some(params) = teller.params(*id) else { return false };
            let is_free = teller.is_free(*id).unwrap_or(false);
            let left = params.capacity.to_sat().saturating_sub(state.ledger().paid().ceil().to_sat());
            let latest = params.expiry.height().saturating_sub(margin);
            is_free
                && left >= amount.ceil().to_sat() + cash::commitment_fee(&params)
                && height.saturating_add(needed) <= latest
        });
        let found = same.or(free).map(|(id, _)| *id);
        Ok((found, height.saturating_add(teller.terms().paid.lifetime.1)))
    });
    match known.await? {
        (Some(channel), _) => Ok(channel),
        (None, latest) => {
            let least = amount.saturating_add(cash::BESIDE);
            let asked = client.request(agent, least, latest, Direction::Authorised).await;
            asked.context("there is no channel to be paid in")
        }
    }
}
