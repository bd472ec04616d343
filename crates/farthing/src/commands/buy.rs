//! `farthing buy`.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::sync::Arc;
use std::time::Instant;

use bitcoin::{Amount, Transaction};
use farthing_http::client::{Client, ClientError, Plan, Quote, Terms};
use farthing_http::download::{self, Progress, Report};
use farthing_http::manifest::Manifest;
use farthing_node::books::Entry;
use farthing_node::buyer::Buyer;
use farthing_node::machine::{Machine as _, Payer};
use farthing_protocol::opening::Limits;
use farthing_protocol::{ChannelId, Msat, payer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::amounts::human_size;
use crate::cli::BuyArguments;
use crate::commands::{blocking, wallet};
use crate::config::Context;
use crate::output::facts;

/// Buys a file: opens a channel or uses an open one, pays for each piece, closes.
pub async fn run(context: &Context, arguments: BuyArguments) -> anyhow::Result<()> {
    let buyer = wallet::start(context).await?;
    let bought = buy(context, &arguments, buyer.clone()).await;
    blocking(move || {
        drop(buyer);
        Ok(())
    })
    .await?;
    bought
}

async fn buy(context: &Context, arguments: &BuyArguments, buyer: Arc<Buyer>) -> anyhow::Result<()> {
    let started = Instant::now();
    let looking = buyer.clone();
    blocking(move || Ok(looking.look()?)).await?;
    let client = Client::new(buyer, context.download_pace().patience)?;
    let quote = client.quote(&arguments.url, arguments.allow_http).await?;
    let mut limits = context.limits();
    if let Some(lifetime) = arguments.lifetime {
        limits.most_lifetime = lifetime;
    }
    if arguments.dry_run {
        return dry_run(context, &client, &quote, limits, arguments.max_cost.0).await;
    }
    let events = Events { on: arguments.events };
    let (out, root) = (arguments.output.clone(), quote.manifest.blake3);
    let whole = blocking(move || Ok(out.is_file() && download::has_root(&out, &root)?)).await?;
    let mut place = None;
    let channel = match &quote.terms {
        // A crash may have left only the closing to be done.
        Some(_) if whole => bought_in(&client, &quote).await?.first().copied(),
        Some(terms) => {
            let most = arguments.max_cost.0;
            if terms.cost > most {
                return Err(ClientError::OverCost { cost: terms.cost, most }.into());
            }
            let prepared = download::prepare(&client, &quote, &arguments.output).await?;
            match channel_for(&client, &quote, terms, &limits, most, &events).await {
                Ok(channel) => {
                    place = Some(prepared);
                    Some(channel)
                }
                Err(error) => {
                    prepared.give_up();
                    return Err(error);
                }
            }
        }
        None => None,
    };
    let at_risk = match (&quote.terms, channel) {
        (Some(terms), Some(id)) => at_risk(context, &quote, terms, left_of_first(&client, id).await?),
        (_, None) | (None, _) => Msat::ZERO,
    };
    let bar = Bar::new(&quote.manifest, &events);
    let pace = download::Pace {
        bytes_per_second: arguments.limit_rate.map(|rate| rate.0),
        ..context.download_pace()
    };
    let downloaded = match whole {
        true => Ok(Report::default()),
        false => {
            let place = match place {
                Some(place) => place,
                None => download::prepare(&client, &quote, &arguments.output).await?,
            };
            download::download(&client, &quote, channel, place, pace, |step| bar.step(step)).await
        }
    };
    bar.finish();
    let report = match downloaded {
        Ok(report) => report,
        Err(error) => return Err(advise(&client, channel, arguments, error).await),
    };
    let closed = match channel {
        Some(id) if !arguments.keep_open => {
            let closing = close(&client, id, &quote).await?;
            // A price that rose may have taken a second channel.
            for other in bought_in(&client, &quote).await?.into_iter().filter(|other| *other != id) {
                close(&client, other, &quote).await?;
            }
            closing
        }
        Some(_) | None => None,
    };
    let fees = match channel {
        Some(id) => fees(&client, id, closed.as_ref()).await?,
        None => json!({}),
    };
    let value = json!({
        "file": arguments.output,
        "bytes": quote.manifest.size,
        "blake3": hex(&quote.manifest.blake3),
        "pieces": report.pieces,
        "payments": report.payments,
        "signatures": report.signatures,
        "again": report.again,
        "cost_msat": report.cost.get(),
        "at_risk_msat": at_risk.get(),
        "channel": channel.map(|id| id.to_string()),
        "closing_txid": closed.as_ref().map(Transaction::compute_txid),
        "fees_sat": fees,
        "transfer_seconds": report.transfer.as_secs_f64(),
        "seconds": started.elapsed().as_secs_f64(),
    });
    context.output.print(&value, || summary(&quote, &report, arguments, closed.as_ref(), (&fees, at_risk)))
}

fn summary(
    quote: &Quote,
    report: &Report,
    arguments: &BuyArguments,
    closed: Option<&Transaction>,
    (fees, at_risk): (&Value, Msat),
) -> comfy_table::Table {
    let fee = |kind: &str| fees[kind].as_u64().map(|sat| format!("{sat} sat for the {kind}"));
    let fees: Vec<String> = ["funding", "closing"].into_iter().filter_map(fee).collect();
    facts([
        ("file", arguments.output.display().to_string()),
        ("size", human_size(quote.manifest.size)),
        ("pieces fetched", report.pieces.to_string()),
        ("payments", format!("{}, {} signatures for them", report.payments, report.signatures)),
        ("paid", report.cost.to_string()),
        ("at risk at any time", format!("at most {at_risk}: {RISK}")),
        (
            "closing",
            closed.map_or_else(|| "none of its own".to_owned(), |closing| closing.compute_txid().to_string()),
        ),
        ("to miners", fees.join(", ")),
    ])
}

/// What a seller may take that vanishes.
const RISK: &str = "the larger of the pieces in flight and what is left of the first payment";

/// Shows what the same command would do, and ends as it would: above `--max-cost`, nothing is bought.
async fn dry_run(
    context: &Context,
    client: &Client,
    quote: &Quote,
    limits: Limits,
    most: Msat,
) -> anyhow::Result<()> {
    let Some(terms) = quote.terms.clone() else {
        return context.output.say(&json!({ "cost_msat": 0 }), "The file is free. Nothing would be locked.");
    };
    let is_too_dear = terms.cost > most;
    let too_dear = ClientError::OverCost { cost: terms.cost, most };
    if let Some(open) = open_channel(client, quote, &terms).await? {
        let at_risk = at_risk(context, quote, &terms, left_of_first(client, open).await?);
        let value = json!({
            "cost_msat": terms.cost.get(),
            "reuses": open.to_string(),
            "capacity_sat": 0,
            "at_risk_msat": at_risk.get(),
        });
        context.output.print(&value, || {
            facts([
                ("size", human_size(quote.manifest.size)),
                ("price", terms.cost.to_string()),
                ("would be locked", format!("nothing more: channel {open} is open and can pay for it")),
                ("you can lose", format!("{at_risk}: {RISK}")),
            ])
        })?;
        return if is_too_dear { Err(too_dear.into()) } else { Ok(()) };
    }
    let cost = terms.cost;
    let (planning, offer) = (client.clone(), terms.offer.clone());
    let plan = blocking(move || Ok(planning.plan(&offer, &limits, cost)?)).await?;
    let Plan { capacity, commitment_fee, prepaid, lifetime, confirmations, fee_rate } = plan;
    let at_risk = at_risk(context, quote, &terms, msat(prepaid));
    let value = json!({
        "cost_msat": cost.get(),
        "capacity_sat": capacity.to_sat(),
        "commitment_fee_sat": commitment_fee.to_sat(),
        "prepaid_sat": prepaid.to_sat(),
        "lifetime_blocks": lifetime,
        "confirmations": confirmations,
        "fee_rate_sat_per_kwu": fee_rate.to_sat_per_kwu(),
        "at_risk_msat": at_risk.get(),
    });
    context.output.print(&value, || {
        facts([
            ("size", human_size(quote.manifest.size)),
            ("price", cost.to_string()),
            ("would be locked", format!("{} sat for at most {lifetime} blocks", capacity.to_sat())),
            ("commitment fee within it", format!("{} sat", commitment_fee.to_sat())),
            ("first payment at least", format!("{} sat", prepaid.to_sat())),
            ("the seller waits for", format!("{confirmations} confirmations")),
            ("you can lose", format!("{at_risk}: {RISK}")),
        ])
    })?;
    if is_too_dear {
        return Err(too_dear.into());
    }
    let first = msat(prepaid);
    if first > most { Err(ClientError::OverPrepaid { cost, prepaid: first, most }.into()) } else { Ok(()) }
}

/// What a seller could take without giving anything for it: what the pieces in flight cost, or what is left of the first payment.
fn at_risk(context: &Context, quote: &Quote, terms: &Terms, left: Msat) -> Msat {
    let piece = quote.manifest.piece.min(quote.manifest.size);
    let in_flight = context.download_pace().in_flight as u64;
    let pieces = terms.price.of(piece).and_then(|cost| cost.checked_mul(in_flight));
    pieces.map_or(terms.cost, |pieces| pieces.min(terms.cost)).max(left)
}

fn msat(amount: Amount) -> Msat {
    Msat::from_amount(amount).unwrap_or(Msat::ZERO)
}

/// What is left of a channel's first payment.
async fn left_of_first(client: &Client, id: ChannelId) -> anyhow::Result<Msat> {
    let entries = client.buyer().channels().await?;
    let left = |entry: &Entry<Payer>| {
        let prepaid = msat(entry.record.params.prepaid);
        prepaid.saturating_sub(entry.state.ledger().spent)
    };
    Ok(entries.iter().find(|entry| entry.id == id).map_or(Msat::ZERO, left))
}

/// A channel to this seller that can still pay for the file, or a new one.
async fn channel_for(
    client: &Client,
    quote: &Quote,
    terms: &Terms,
    limits: &Limits,
    most: Msat,
    events: &Events,
) -> anyhow::Result<ChannelId> {
    if let Some(open) = open_channel(client, quote, terms).await? {
        events.emit(&json!({ "event": "reuse", "channel": open.to_string() }));
        return Ok(open);
    }
    let id = client.open(quote, terms, limits, most).await?;
    if let Some(params) = client.buyer().params(id) {
        events.emit(&json!({
            "event": "open",
            "channel": id.to_string(),
            "funding": params.funding.to_string(),
            "capacity_sat": params.capacity.to_sat(),
            "expiry": params.expiry.height(),
        }));
    }
    Ok(id)
}

/// A channel to this seller that can still pay for the file.
async fn open_channel(client: &Client, quote: &Quote, terms: &Terms) -> anyhow::Result<Option<ChannelId>> {
    let peer = quote.url.origin().ascii_serialization();
    for entry in client.buyer().channels().await? {
        if entry.record.peer == peer && can_pay(client, &entry, quote, terms).await? {
            return Ok(Some(entry.id));
        }
    }
    Ok(None)
}

/// The channels that are not over in which pieces of the file were bought.
async fn bought_in(client: &Client, quote: &Quote) -> anyhow::Result<Vec<ChannelId>> {
    let mut channels = Vec::new();
    for entry in client.buyer().channels().await?.iter().filter(|entry| Payer::is_live(&entry.state)) {
        if download::bought_before(client, entry.id, &quote.manifest).await? > Msat::ZERO {
            channels.push(entry.id);
        }
    }
    Ok(channels)
}

/// Whether a channel is open and can pay for everything of the file that was not bought in it already.
async fn can_pay(
    client: &Client,
    entry: &Entry<Payer>,
    quote: &Quote,
    terms: &Terms,
) -> anyhow::Result<bool> {
    // A channel that pays for calls pays for nothing else.
    let open = matches!(entry.state, payer::State::AwaitingFunding(_) | payer::State::Open(_))
        && entry.state.purse().is_none();
    let Some(most) = client.buyer().max_total(entry.id).filter(|_| open) else { return Ok(false) };
    let bought = download::bought_before(client, entry.id, &quote.manifest).await?;
    let missing = terms.cost.saturating_sub(bought);
    let spent = entry.state.ledger().spent;
    Ok(spent.checked_add(missing).is_some_and(|needed| needed <= most))
}

/// What the channel's transactions pay to miners, in satoshi.
async fn fees(client: &Client, id: ChannelId, closing: Option<&Transaction>) -> anyhow::Result<Value> {
    let funding = client.buyer().funding_fee(id).await?;
    let capacity = client.buyer().params(id).map(|params| params.capacity);
    let closing = closing.zip(capacity).and_then(|(closing, capacity)| {
        capacity.checked_sub(closing.output.iter().map(|output| output.value).sum())
    });
    Ok(json!({ "funding": funding.map(Amount::to_sat), "closing": closing.map(Amount::to_sat) }))
}

async fn close(client: &Client, id: ChannelId, quote: &Quote) -> anyhow::Result<Option<Transaction>> {
    let peer = quote.url.origin().ascii_serialization();
    match client.close(id, &peer).await {
        Ok(transaction) => Ok(transaction),
        Err(error) => Err(anyhow::Error::from(error).context(format!(
            "the file is complete, but channel {id} was not closed: run `farthing channels close {id}`, or \
             `farthing channels refund` after its expiry"
        ))),
    }
}

/// Says what a failed purchase leaves behind and what to do.
async fn advise(
    client: &Client,
    channel: Option<ChannelId>,
    arguments: &BuyArguments,
    error: ClientError,
) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let Some((id, params)) = channel.and_then(|id| Some((id, client.buyer().params(id)?))) else {
        return error;
    };
    let spent = match client.buyer().channels().await {
        Ok(entries) => entries.iter().find(|entry| entry.id == id).map(|entry| entry.state.ledger().spent),
        Err(_) => None,
    };
    error.context(format!(
        "the purchase stopped; {} of {} sat in channel {id} is spent, and what has arrived is kept in {}. The same command goes \
         on without paying twice; `farthing channels close {id}` ends it together with the seller; without the seller, \
         `farthing channels refund` takes back what it has not claimed from block {} on",
        spent.unwrap_or(Msat::ZERO),
        params.capacity.to_sat(),
        download::part_path(&arguments.output).display(),
        params.expiry.height(),
    ))
}

/// Steps as lines of JSON, for programs that watch.
struct Events {
    on: bool,
}

impl Events {
    fn emit(&self, event: &Value) {
        if self.on {
            // Nobody reads any more: the purchase goes on all the same.
            let _closed_pipe = writeln!(stdout(), "{event}");
        }
    }
}

struct Bar<'a> {
    bar: ProgressBar,
    paid: Cell<Msat>,
    pieces: Cell<u64>,
    all: u64,
    events: &'a Events,
}

impl<'a> Bar<'a> {
    fn new(manifest: &Manifest, events: &'a Events) -> Self {
        let bar = ProgressBar::new(manifest.size);
        let target =
            if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        let style = ProgressStyle::with_template(
            "{bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
        );
        bar.set_style(style.expect("the template is well-formed"));
        Self { bar, paid: Cell::new(Msat::ZERO), pieces: Cell::new(0), all: manifest.pieces(), events }
    }

    fn step(&self, step: Progress) {
        match step {
            Progress::Present(bytes) => {
                self.bar.set_position(bytes);
                self.bar.reset_eta();
            }
            Progress::Arrived(bytes) => self.bar.inc(bytes),
            Progress::Paid { cost } => {
                self.paid.set(self.paid.get().checked_add(cost).unwrap_or(cost));
                self.events.emit(&json!({ "event": "paid", "cost_msat": cost.get() }));
            }
            Progress::Piece => {
                self.pieces.set(self.pieces.get() + 1);
                self.events.emit(&json!({ "event": "piece", "pieces": self.pieces.get() }));
            }
            Progress::AwaitingDepth => {
                self.bar.set_message("waiting for the funding to confirm");
                self.events.emit(&json!({ "event": "awaiting_depth" }));
                return;
            }
        }
        self.bar.set_message(format!("piece {}/{}  paid {}", self.pieces.get(), self.all, self.paid.get()));
    }

    fn finish(&self) {
        self.bar.finish();
    }
}

fn hex(bytes: &[u8]) -> String {
    use bitcoin::hex::DisplayHex as _;
    bytes.to_lower_hex_string()
}
