//! Postage: what is asked of somebody else's mailbox, paid for where it costs something.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use farthing_http::client::ClientError;
use farthing_http::mailbox::{Client, PostError, TakeError};
use farthing_http::problem::Kind;
use farthing_mailbox::{Address, Blob};
use farthing_node::buyer::Buyer;
use farthing_protocol::cheque::prekey::SignedPrekey;

use crate::cli::Spending;
use crate::commands::{blocking, call, wallet};
use crate::config::Context;

/// A prekey of the address's.
pub async fn prekey(context: &Context, spending: &Spending, of: &Address) -> anyhow::Result<SignedPrekey> {
    match free(context, spending)?.take_prekey(of).await {
        Err(TakeError::Client(error)) if asks_for_payment(&error) => {
            let (client, buyer) = paying(context, spending).await?;
            let taken = client.take_prekey(of).await;
            end(client, buyer).await?;
            Ok(taken?)
        }
        taken => Ok(taken?),
    }
}

/// Posts a letter, to be kept for so many seconds, as far as the mailbox does.
pub async fn letter(
    context: &Context,
    spending: &Spending,
    to: &Address,
    letter: &Blob,
    seconds: u64,
) -> anyhow::Result<()> {
    let client = free(context, spending)?;
    // Some seconds less, since two clocks are never alike.
    let most = client.terms(&to.host).await?.most_keep_seconds.saturating_sub(60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let expiry = now + seconds.min(most);
    match client.post(to, letter, expiry).await {
        Err(PostError::Client(error)) if asks_for_payment(&error) => {
            let (client, buyer) = paying(context, spending).await?;
            let posted = client.post(to, letter, expiry).await;
            end(client, buyer).await?;
            Ok(posted?)
        }
        posted => Ok(posted?),
    }
}

fn free(context: &Context, spending: &Spending) -> anyhow::Result<Client> {
    Ok(Client::new(context.download_pace().patience)?.allowing_http(spending.allow_http))
}

fn asks_for_payment(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { kind: Some(Kind::PaymentRequired), .. })
}

async fn paying(context: &Context, spending: &Spending) -> anyhow::Result<(Client, Arc<Buyer>)> {
    let buyer = wallet::start(context).await?;
    let caller = Arc::new(call::caller(context, spending, buyer.clone()).await?);
    Ok((Client::paying(caller).allowing_http(spending.allow_http), buyer))
}

async fn end(client: Client, buyer: Arc<Buyer>) -> anyhow::Result<()> {
    drop(client);
    blocking(move || {
        drop(buyer);
        Ok(())
    })
    .await
}
