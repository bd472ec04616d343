//! `farthing cheque address`.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use farthing_http::client::ClientError;
use farthing_http::mailbox::{Client, OpenError, Owner, PublishError};
use farthing_http::problem::Kind;
use farthing_mailbox::Address;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;

use crate::cli::AddressArguments;
use crate::commands::cheque::{OLD_COPY, host};
use crate::commands::{blocking, call, wallet};
use crate::config::Context;

/// How many prekeys are issued and published at a time.
const SOME: u32 = 100;

/// Opens the payee's box, fills it up with prekeys, and prints the address.
pub async fn run(context: &Context, arguments: AddressArguments) -> anyhow::Result<()> {
    let (configured, prekeys) = context.payee_mailbox();
    let mailbox = arguments.mailbox.as_deref().or(configured).context(
        "an address needs a mailbox: name one with --mailbox URL, or `mailbox` in the configuration's [cheque]; to run one \
         yourself, `farthing mailbox serve --help`",
    )?;
    let wanted = arguments.prekeys.unwrap_or(prekeys);
    let home = context.home()?;
    let owner = Owner::new(&home.seed()?, host(mailbox)?);
    let allow_http = arguments.spending.allow_http;
    let client = Client::new(context.download_pace().patience)?.allowing_http(allow_http);
    let mut standing = match client.standing(&owner).await {
        Err(PublishError::NoBox) => {
            match client.open(&owner).await {
                Err(OpenError::Client(ClientError::Refused {
                    kind: Some(Kind::PaymentRequired), ..
                })) => open_paid(context, &arguments, &owner).await?,
                opened => opened?,
            }
            client.standing(&owner).await?
        }
        standing => standing?,
    };
    let wanted = wanted.min(client.terms(&owner.address().host).await?.most_prekeys);
    let mut book = blocking(move || Ok(home.prekeys()?)).await?;
    let mut has_begun_again = book.catch_up(standing.next)?;
    let ours = book.book()?.next().generation;
    // What another generation left there is worth nothing.
    let is_ours = standing.next.is_some_and(|theirs| theirs.generation == ours);
    let mut left = if is_ours { wanted.saturating_sub(standing.unused) } else { wanted };
    while left > 0 {
        let issued = book.issue(left.min(SOME))?;
        let last = issued.last().context("at least one is issued")?.prekey.id;
        standing = client.publish_prekeys(&owner, &issued).await?;
        if !book.confirm(last, standing.next)? {
            left -= left.min(SOME);
        } else if has_begun_again {
            bail!(
                "the mailbox does not keep the prekeys that are published: run this again, or choose another mailbox"
            );
        } else {
            (has_begun_again, left) = (true, wanted);
        }
    }
    if has_begun_again {
        eprintln!("farthing: {OLD_COPY}. New ones are published");
    }

    let (address, receipt_key) = (owner.address(), owner.receipt_key());
    let value = json!({
        "address": address.to_string(),
        "identity": address.identity,
        "receipt_key": receipt_key,
        "mailbox": address.host.as_str(),
        "prekeys": standing.unused,
        "new_generation": has_begun_again,
    });
    let line = format!(
        "{}\n{address}\n\nCheques to this address wait at {}, which holds {} prekeys for them. Whoever exchanges the address on its \
         way to a payer gets the payer's cheques: hand it over where you are trusted. Your receipts are signed by\n\n    \
         {receipt_key}\n\nNext: run this again now and then, since each cheque uses a prekey up.",
        qr(address)?,
        address.host.as_str(),
        standing.unused,
    );
    context.output.say(&value, &line)
}

/// Opens a box at a mailbox that asks to be paid for it.
async fn open_paid(context: &Context, arguments: &AddressArguments, owner: &Owner) -> anyhow::Result<()> {
    let buyer = wallet::start(context).await?;
    let caller = Arc::new(call::caller(context, &arguments.spending, buyer.clone()).await?);
    let client = Client::paying(caller).allowing_http(arguments.spending.allow_http);
    let opened = client.open(owner).await;
    drop(client);
    blocking(move || {
        drop(buyer);
        Ok(())
    })
    .await?;
    Ok(opened?)
}

/// A QR code for a dark or a light terminal. In capitals it is smaller, and means the same.
fn qr(address: &Address) -> anyhow::Result<String> {
    let code = QrCode::with_error_correction_level(address.to_string().to_uppercase(), EcLevel::L)?;
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}
