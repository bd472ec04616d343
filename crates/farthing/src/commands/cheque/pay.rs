//! `farthing cheque pay`, and `farthing cheque release`: the payer pays a payee that is offline, or does not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bitcoin::hex::DisplayHex as _;
use farthing_http::cheques::Client;
use farthing_mailbox::{Address, Invitation, Letter};
use farthing_node::cheques::machine::ChequeChannel;
use farthing_node::cheques::paper::Bought;
use farthing_node::cheques::reverse::payer::Mail;
use farthing_node::entropy;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::reverse::purchase::State;
use farthing_protocol::{ChannelId, Msat};
use serde::Serialize;

use crate::cli::{PayArguments, ReleaseArguments, Spending};
use crate::commands::blocking;
use crate::commands::cheque::{self, post};
use crate::config::Context;
use crate::output::table;

const PACE: Duration = Duration::from_millis(100);
/// How long a block takes, in seconds.
const BLOCK: u64 = 600;

/// A payment as people and programs see it.
#[derive(Debug, Serialize)]
struct Row {
    payment: String,
    amount_msat: u64,
    /// What the agent gets: the amount and its fee.
    price_msat: Option<u64>,
    memo: String,
    state: &'static str,
    /// The channel that promises the price.
    channel: Option<String>,
    /// Until when that channel has to be watched.
    watch_until: Option<u32>,
    why: Option<String>,
}

/// Buys what a payee has authorised, and mails it; or goes on with everything that was begun.
pub async fn run(context: &Context, arguments: PayArguments) -> anyhow::Result<()> {
    let client = cheque::start(context, arguments.spending.allow_http).await?;
    let mut all = Vec::new();
    if let Some(invitation) = &arguments.invitation {
        let invitation = read(context, invitation)?;
        let bought = begin(&client, &invitation).await?;
        all.push(match bought.purchase.state() {
            State::Authorised => promise(&client, &arguments, &invitation).await?,
            State::Released => bail!("this invitation was given back"),
            State::Promised(_) | State::Paid(..) | State::Delivered(..) | State::Ended => bought,
        });
    } else {
        let teller = client.teller().clone();
        let begun = blocking(move || Ok(teller.purchases()?)).await?;
        all.extend(begun.into_iter().filter(|bought| match bought.purchase.state() {
            State::Promised(_) | State::Paid(..) => true,
            State::Authorised | State::Delivered(..) | State::Ended | State::Released => false,
        }));
    }
    let until = Instant::now() + Duration::from_secs(arguments.wait);
    let mut taken = Vec::new();
    for bought in all {
        taken.push(await_answer(&client, bought, until).await?);
    }
    let teller = client.teller().clone();
    let height = blocking(move || Ok(teller.height()?)).await?;
    cheque::end(client).await?;
    let mut rows = Vec::new();
    for (bought, why) in taken {
        let bought = deliver(context, &arguments.spending, bought, height).await?;
        rows.push(row(context, &bought, why)?);
    }
    show(context, &rows)
}

/// Gives an invitation back.
pub async fn release(context: &Context, arguments: ReleaseArguments) -> anyhow::Result<()> {
    let invitation = read(context, &arguments.invitation)?;
    let client = cheque::start(context, arguments.spending.allow_http).await?;
    let begun = begin(&client, &invitation).await?;
    let (teller, digest) = (client.teller().clone(), begun.purchase.authorisation().digest());
    let (bought, height) = blocking(move || Ok((teller.give_back(&digest)?, teller.height()?))).await?;
    cheque::end(client).await?;
    let bought = deliver(context, &arguments.spending, bought, height).await?;
    show(context, &[row(context, &bought, None)?])
}

fn read(context: &Context, text: &str) -> anyhow::Result<Invitation> {
    let invitation: Invitation = text.parse().context("this is no invitation to pay")?;
    ensure!(
        invitation.to().network == context.network(),
        "the invitation is for {}, and this is {}: use --network",
        invitation.to().network,
        context.network()
    );
    Ok(invitation)
}

async fn begin(client: &Client, invitation: &Invitation) -> anyhow::Result<Bought> {
    let agent = client.origin(invitation.agent())?;
    let (teller, to) = (client.teller().clone(), invitation.to().to_string());
    let authorisation = invitation.authorisation().clone();
    blocking(move || Ok(teller.begin_purchase(authorisation, agent, to)?)).await
}

/// Has the agent make its offer, and promises its price.
async fn promise(
    client: &Client,
    arguments: &PayArguments,
    invitation: &Invitation,
) -> anyhow::Result<Bought> {
    let authorisation = invitation.authorisation().clone();
    let agent = client.origin(invitation.agent())?;
    let offer = client.offer(&agent, &authorisation).await.context("the agent offers nothing")?;
    let most = authorisation.terms.amount.saturating_add(arguments.max_fee.0);
    // Before anything is locked for it.
    ensure!(offer.price <= most, "the agent wants {}, more than the amount and --max-fee", offer.price);
    let (teller, at, price, wanted) =
        (client.teller().clone(), agent.clone(), offer.price, authorisation.clone());
    let free = blocking(move || Ok(teller.buying_channels(&at, &wanted, price)?)).await?;
    let channel = match free.first() {
        Some(channel) => *channel,
        None => open(client, arguments, &agent, authorisation.terms.until.get(), price).await?,
    };
    let (teller, digest, payee) = (client.teller().clone(), authorisation.digest(), invitation.to().identity);
    blocking(move || Ok(teller.buy_signature(&digest, channel, offer, payee, most)?)).await
}

/// A new channel to the agent, over early enough to see what it took and to mail it.
async fn open(
    client: &Client,
    arguments: &PayArguments,
    agent: &str,
    until: u32,
    price: Msat,
) -> anyhow::Result<ChannelId> {
    let theirs = client.terms(agent).await.context("the agent tells no terms")?.offer.offer.lifetime;
    let teller = client.teller().clone();
    let (height, delta, ours) = blocking(move || {
        let terms = teller.terms();
        Ok((teller.height()?, terms.delta, terms.paying.most_lifetime))
    })
    .await?;
    let longest = until.saturating_sub(delta).saturating_sub(height).min(theirs.1).min(ours);
    let lifetime = arguments.lifetime.unwrap_or(longest).min(longest);
    ensure!(
        lifetime >= theirs.0,
        "the invitation ends at block {until}, {delta} blocks after this channel must, and the agent wants channels of {} blocks: \
         it is too late to pay",
        theirs.0
    );
    let least = price.saturating_add(cheque::cash::BESIDE).ceil();
    let capacity = arguments.spending.deposit_or_usual().ceil().max(least);
    Ok(client.open(agent, capacity, Kind::Purchase, Some(lifetime)).await?)
}

/// Asks the agent, and looks at the chain, until the price is taken, cannot be taken any more, or time is up.
async fn await_answer(
    client: &Client,
    bought: Bought,
    until: Instant,
) -> anyhow::Result<(Bought, Option<String>)> {
    let digest = bought.purchase.authorisation().digest();
    let mut now = bought;
    while let (State::Promised(_), Some(channel)) = (now.purchase.state(), now.channel) {
        let heard = client.sync(channel).await;
        let teller = client.teller().clone();
        let found = blocking(move || {
            teller.look()?;
            let all = teller.purchases()?;
            Ok(all.into_iter().find(|bought| bought.purchase.authorisation().digest() == digest))
        });
        now = found.await?.context("a purchase is not forgotten")?;
        let is_waiting = matches!(now.purchase.state(), State::Promised(_));
        if is_waiting && Instant::now() >= until {
            let why = match heard {
                Ok(_) => "the agent has not taken the price yet: run `farthing cheque pay` again".to_owned(),
                Err(error) => format!("{error:#}: run `farthing cheque pay` again"),
            };
            return Ok((now, Some(why)));
        }
        if is_waiting {
            tokio::time::sleep(PACE).await;
        }
    }
    Ok((now, None))
}

/// Mails what there is to be mailed.
async fn deliver(
    context: &Context,
    spending: &Spending,
    bought: Bought,
    height: u32,
) -> anyhow::Result<Bought> {
    match bought.purchase.state() {
        State::Paid(..) | State::Released => {}
        State::Authorised | State::Promised(_) | State::Delivered(..) | State::Ended => return Ok(bought),
    }
    let digest = bought.purchase.authorisation().digest();
    let client = cheque::start(context, spending.allow_http).await?;
    let mail = client.teller().to_mail(&bought);
    cheque::end(client).await?;
    let (letter, last) = match mail {
        None => return Ok(bought),
        Some(Mail::Release(release)) => {
            (Letter::Release(release), bought.purchase.authorisation().terms.until.get())
        }
        Some(Mail::Delivery(channel, delivery)) => {
            let expiry = bought.purchase.proof().map(|(params, _)| params.expiry.height());
            let last = expiry.unwrap_or(bought.purchase.authorisation().terms.until.get());
            (Letter::Payment { channel, delivery: Box::new(delivery) }, last)
        }
    };
    let to: Address = bought.to.parse().context("the payee's address is none")?;
    let blob = letter.seal(&to, entropy::bytes())?;
    let blocks = u64::from(last.saturating_sub(height)).max(1);
    post::letter(context, spending, &to, &blob, blocks * BLOCK)
        .await
        .context("the payee does not know of it yet: run `farthing cheque pay` again")?;
    let client = cheque::start(context, spending.allow_http).await?;
    let teller = client.teller().clone();
    let delivered = blocking(move || Ok(teller.delivered(&digest)?)).await;
    cheque::end(client).await?;
    delivered
}

fn row(context: &Context, bought: &Bought, why: Option<String>) -> anyhow::Result<Row> {
    let authorisation = bought.purchase.authorisation();
    let store = context.home()?.store()?;
    let channels = store.channels::<ChequeChannel>()?;
    let expiry = channels.iter().find(|stored| Some(stored.id) == bought.channel);
    let is_waiting = matches!(bought.purchase.state(), State::Promised(_));
    Ok(Row {
        payment: authorisation.digest().to_lower_hex_string(),
        amount_msat: authorisation.terms.amount.get(),
        price_msat: bought.purchase.promise().map(|promise| promise.amount.get()),
        memo: authorisation.terms.memo.as_str().to_owned(),
        state: bought.state(),
        channel: bought.channel.map(|channel| channel.to_string()),
        watch_until: expiry.filter(|_| is_waiting).map(|stored| stored.record.params().expiry.height()),
        why,
    })
}

fn show(context: &Context, rows: &[Row]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return context
            .output
            .say(&rows, "nothing waits: payees invite you by what `farthing cheque authorise` prints");
    }
    context.output.print(&rows, || {
        let mut table = table(&["payment", "amount", "memo", "state", ""]);
        for row in rows {
            let watch = row.watch_until.map(|block| format!("until block {block}, look now and then"));
            table.add_row([
                row.payment.chars().take(16).collect(),
                Msat::new(row.amount_msat).to_string(),
                row.memo.clone(),
                row.state.to_owned(),
                row.why.clone().or(watch).unwrap_or_default(),
            ]);
        }
        table
    })
}
