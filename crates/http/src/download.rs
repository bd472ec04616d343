//! Buys a file: pays for each piece, checks it as it arrives, writes it to its place.
//!
//! At most `in_flight` pieces are paid for and not yet here: that is what the buyer can lose to a seller that takes the
//! money and vanishes. A piece that was paid for and did not arrive is asked for again with the same payment, and the
//! seller charges it once.
//!
//! The file grows in `OUT.part`. After an interruption the pieces that are there are recognised by their hashes; `OUT`
//! appears only when it is whole and on disk.

mod allowance;
mod part;
mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farthing_node::books::Item;
use farthing_node::buyer::Bought;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{ChannelId, Msat};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::{Response, Url};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{self, Client, ClientError, Quote, Terms};
use crate::credential::{Credential, Payload};
use crate::download::allowance::Allowance;
use crate::download::part::finish;
pub use crate::download::part::{Place, part_path};
use crate::download::writer::Writer;
use crate::manifest::{Manifest, PieceCheck, Pieces, WrongPiece};
use crate::problem::Kind;
use crate::wire;

/// How often a seller may send wrong bytes for one piece.
const WRONG_TRIES: u32 = 2;

/// How long it waits before it asks again, the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How long a funding may take to be as deep as the seller wants it. Its fee may have been too low for the market.
const DEPTH_PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// How slow a seller may be, in bytes a second: below it, it counts as one that keeps silent.
pub const LEAST_RATE: u64 = 1024;

/// How a download goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How many pieces may be paid for and not yet here.
    pub in_flight: usize,
    /// How long the seller may fail before the download gives up. A piece may take that long, and what its bytes take at
    /// [`LEAST_RATE`].
    pub patience: Duration,
    /// The most bytes to fetch in a second; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

/// Something that a progress bar shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// These bytes were here already.
    Present(u64),
    /// A payment left.
    Paid {
        /// What it added.
        cost: Msat,
    },
    /// Bytes arrived.
    Arrived(u64),
    /// A piece is whole and written.
    Piece,
    /// The seller waits for the funding to be deeper.
    AwaitingDepth,
}

/// What came of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pieces that were fetched.
    pub pieces: u64,
    /// Pieces that were paid for.
    pub payments: u64,
    /// Signatures that were made for them: one each, but none while what is prepaid covers the next piece.
    pub signatures: u64,
    /// What was paid for them.
    pub cost: Msat,
    /// Pieces that had been paid for before and were asked for again, free.
    pub again: u64,
    /// From the first request for a piece until the last piece was checked and written. Waiting for the funding to be
    /// deep enough, before anything is served, does not count.
    pub transfer: Duration,
}

/// How a piece is paid for.
struct Means {
    channel: ChannelId,
    key: CallKey,
    terms: Mutex<Terms>,
    authority: String,
    /// The newest total that was signed before this download.
    before: Option<Msat>,
    /// The totals that pieces were paid with since.
    totals: Mutex<BTreeSet<Msat>>,
}

impl Means {
    fn paid_with(&self, total: Msat) {
        self.totals.lock().expect("no holder of this lock panics").insert(total);
    }

    /// A total is signed once; while what is prepaid covers the next piece, no other is.
    fn signatures(&self) -> u64 {
        let totals = self.totals.lock().expect("no holder of this lock panics");
        totals.iter().filter(|total| Some(**total) != self.before).count() as u64
    }
}

/// Fetches and checks the list of a file's pieces, and makes its place ready: what would stop a purchase whatever is paid stops it before
/// anything is.
///
/// # Errors
/// When the list is not that of the file, or `OUT.part` cannot be written.
pub async fn prepare(client: &Client, quote: &Quote, out: &Path) -> Result<Place, ClientError> {
    let pieces = Arc::new(client.pieces(quote).await?);
    let out = out.to_owned();
    client::blocking(move || Place::prepare(pieces, &out)).await
}

/// Buys `quote`'s file into its place, through `channel` unless it is free.
///
/// # Errors
/// When the seller stays away longer than the patience, or a piece cannot be paid, checked or written. What is here
/// stays in `OUT.part`, and what was paid stays paid.
pub async fn download(
    client: &Client,
    quote: &Quote,
    channel: Option<ChannelId>,
    place: Place,
    pace: Pace,
    progress: impl Fn(Progress),
) -> Result<Report, ClientError> {
    let Place { pieces, target, missing, part, out, .. } = place;
    let manifest = *pieces.manifest();
    let present = manifest.size
        - missing.iter().filter_map(|piece| manifest.span(*piece)).map(|span| span.1).sum::<u64>();
    progress(Progress::Present(present));
    let means = match (channel, &quote.terms) {
        (Some(channel), Some(terms)) => {
            let key = client
                .buyer()
                .call_key(channel)
                .ok_or(ClientError::Order(farthing_node::books::OrderError::NoChannel(channel)))?;
            let authority = client::authority(&quote.url);
            let channels = client.buyer().channels().await?;
            let ledger = channels.iter().find(|entry| entry.id == channel).map(|entry| entry.state.ledger());
            let before = ledger.and_then(|ledger| ledger.newest).map(|newest| newest.total);
            let (terms, totals) = (Mutex::new(terms.clone()), Mutex::default());
            Some(Means { channel, key, terms, authority, before, totals })
        }
        (None, _) | (_, None) => None,
    };
    let started = Mutex::new(Instant::now());
    let fetched = AtomicU64::new(0);
    let fetch = Fetch {
        client,
        url: &quote.url,
        pieces: &pieces,
        target: &target,
        means,
        pace,
        progress: &progress,
        started,
        fetched,
        turn: tokio::sync::Mutex::default(),
    };
    let report = fetch.all(missing).await?;
    client::blocking(move || finish(&target, &part, &out)).await?;
    Ok(report)
}

struct Fetch<'a, P: Fn(Progress)> {
    client: &'a Client,
    url: &'a Url,
    pieces: &'a Pieces,
    target: &'a Arc<File>,
    means: Option<Means>,
    pace: Pace,
    progress: &'a P,
    /// When the transfer began.
    started: Mutex<Instant>,
    /// Bytes since then.
    fetched: AtomicU64,
    /// Whose answer is read. Answers that were read side by side would end together, and the payments for what follows them would be
    /// stored while nothing flows.
    turn: tokio::sync::Mutex<()>,
}

impl<P: Fn(Progress)> Fetch<'_, P> {
    async fn all(&self, missing: VecDeque<u64>) -> Result<Report, ClientError> {
        let mut waiting = missing.into_iter();
        let mut running = FuturesUnordered::new();
        let mut report = Report::default();
        loop {
            while running.len() < self.pace.in_flight.max(1) {
                let Some(piece) = waiting.next() else { break };
                running.push(self.piece(piece));
            }
            let Some(fetched) = running.next().await else {
                report.transfer = self.started().elapsed();
                report.signatures = self.means.as_ref().map_or(0, Means::signatures);
                return Ok(report);
            };
            let Fetched { cost, again, payment, .. } = fetched?;
            report.pieces += 1;
            report.payments += u64::from(payment);
            report.again += u64::from(again);
            report.cost = report.cost.checked_add(cost).unwrap_or(report.cost);
        }
    }

    /// Fetches one piece, however often it takes.
    async fn piece(&self, piece: u64) -> Result<Fetched, ClientError> {
        let mut fetched = Fetched::default();
        let mut wrong = 0;
        let began = Instant::now();
        let mut deadline = began + self.pace.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.attempt(piece, &mut fetched).await {
                Ok(()) => {
                    (self.progress)(Progress::Piece);
                    return Ok(fetched);
                }
                Err(Attempt::Wrong(error)) => {
                    wrong += 1;
                    if wrong >= WRONG_TRIES {
                        return Err(ClientError::WrongPieces(error, wrong));
                    }
                    continue;
                }
                Err(Attempt::Client(error)) => error,
            };
            // A seller need not keep an answer that nobody reads, so the time that one waited for its turn is none of its failures.
            deadline += fetched.queued;
            if fetched.queued >= self.pace.patience {
                pause = FIRST_PAUSE;
            }
            let error = match error {
                ClientError::Refused { kind: Some(Kind::InvalidChallenge), .. }
                    if Instant::now() < deadline =>
                {
                    self.renew_terms().await.err()
                }
                other => Some(other),
            };
            let wait = match error {
                None => pause,
                Some(ClientError::Refused { kind: Some(Kind::FundingNotDeep), retry_after, .. })
                    if began.elapsed() < DEPTH_PATIENCE =>
                {
                    (self.progress)(Progress::AwaitingDepth);
                    let wait = Duration::from_millis(200)
                        .max(Duration::from_secs(retry_after.unwrap_or(1)).min(pause * 4));
                    deadline = Instant::now() + self.pace.patience;
                    self.begin_at(Instant::now() + wait);
                    wait
                }
                Some(ClientError::Refused { kind: Some(Kind::PaymentInsufficient), .. })
                    if fetched.again && !fetched.made_up =>
                {
                    fetched.made_up = true;
                    Duration::ZERO
                }
                Some(error) if error.is_transient() && Instant::now() < deadline => pause,
                Some(error) => return Err(error),
            };
            sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn attempt(&self, piece: u64, fetched: &mut Fetched) -> Result<(), Attempt> {
        fetched.queued = Duration::ZERO;
        let span = self.pieces.manifest().span(piece).expect("the piece is one of the file's");
        let credential = match &self.means {
            Some(means) => Some(self.pay(means, piece, span.1, fetched).await?),
            None => None,
        };
        let mut allowance = Allowance::of(span.1, self.pace.patience);
        let response = allowance.wait(self.client.piece(self.url, span, credential)).await??;
        let arrived = Instant::now();
        let _turn = self.turn.lock().await;
        fetched.queued = arrived.elapsed();
        let mut check = self.pieces.check(piece).expect("the piece is one of the file's");
        let mut writer = Writer::new(self.target.clone(), span.0);
        let received = self.receive(response, allowance, &mut check, &mut writer).await;
        // Also after a failure: nothing of this attempt may be written after bytes of the next one.
        let written = writer.finish().await;
        received?;
        written?;
        check.finish().map_err(Attempt::Wrong)
    }

    async fn receive(
        &self,
        mut response: Response,
        mut allowance: Allowance,
        check: &mut PieceCheck,
        writer: &mut Writer,
    ) -> Result<(), Attempt> {
        let lost = |source| Attempt::Client(client::network(self.url, source));
        while let Some(bytes) = allowance.wait(response.chunk()).await?.map_err(lost)? {
            check.update(&bytes).map_err(Attempt::Wrong)?;
            let length = bytes.len() as u64;
            writer.push(bytes).await?;
            (self.progress)(Progress::Arrived(length));
            self.hold_back(length).await;
        }
        Ok(())
    }

    /// Waits until so many bytes are due, where the rate is limited.
    async fn hold_back(&self, length: u64) {
        let fetched = self.fetched.fetch_add(length, Ordering::Relaxed) + length;
        if let Some(rate) = self.pace.bytes_per_second {
            let due = Duration::from_secs_f64(fetched as f64 / rate.max(1) as f64);
            sleep_until(self.started() + due).await;
        }
    }

    fn started(&self) -> Instant {
        *self.started.lock().expect("no holder of this lock panics")
    }

    /// The transfer begins later, unless it has begun.
    fn begin_at(&self, start: Instant) {
        if self.fetched.load(Ordering::Relaxed) == 0 {
            *self.started.lock().expect("no holder of this lock panics") = start;
        }
    }

    /// Pays for a piece, or repeats the payment for it, and writes the credential.
    async fn pay(
        &self,
        means: &Means,
        piece: u64,
        length: u64,
        fetched: &mut Fetched,
    ) -> Result<String, ClientError> {
        let terms = means.terms.lock().expect("no holder of this lock panics").clone();
        let cost = terms.price.of(length);
        let cost = cost.ok_or_else(|| ClientError::Nonsense("the price overflows".to_owned()))?;
        let manifest = self.pieces.manifest();
        let item = Item { id: wire::piece_item(&manifest.blake3, manifest.piece, piece), cost };
        let mut bought = self.client.buyer().buy(means.channel, item).await?;
        if bought.again {
            fetched.again |= !fetched.payment;
        } else {
            (fetched.cost, fetched.payment) = (bought.cost, true);
            means.paid_with(bought.payment.total);
            (self.progress)(Progress::Paid { cost: bought.cost });
        }
        if let Some(missing) = cost.checked_sub(bought.cost).filter(|_| fetched.made_up) {
            let rest = Item { id: wire::made_up_item(&item.id, cost), cost: missing };
            let more = self.client.buyer().buy(means.channel, rest).await?;
            if !more.again {
                (fetched.cost, fetched.payment) = (missing, true);
                means.paid_with(more.payment.total);
                (self.progress)(Progress::Paid { cost: missing });
            }
            bought = Bought { cost, ..more };
        }
        let call = Call {
            channel: means.channel,
            item: item.id,
            cost: bought.cost,
            total: bought.payment.total,
            method: "GET",
            authority: &means.authority,
            target: self.url.path(),
            challenge: &terms.challenge.id,
        };
        let payload = Payload {
            channel: means.channel,
            total: bought.payment.total,
            cost: bought.cost,
            signature: bought.payment.signature,
            mac: means.key.mac(&call),
        };
        Ok(Credential { challenge: terms.challenge, payload }.to_header())
    }

    /// Takes a fresh challenge when the old one has expired, if it offers the same.
    async fn renew_terms(&self) -> Result<(), ClientError> {
        let Some(means) = &self.means else { return Ok(()) };
        let quote = self.client.quote(self.url.as_str(), true).await?;
        let Some(fresh) = quote.terms else { return Err(ClientError::TermsChanged("the file is free")) };
        if quote.manifest != *self.pieces.manifest() {
            return Err(ClientError::TermsChanged("another file"));
        }
        let mut terms = means.terms.lock().expect("no holder of this lock panics");
        if fresh.price != terms.price {
            return Err(ClientError::TermsChanged("another price"));
        }
        *terms = fresh;
        Ok(())
    }
}

#[derive(Default)]
struct Fetched {
    /// How long the newest answer waited for its turn.
    queued: Duration,
    cost: Msat,
    again: bool,
    payment: bool,
    /// It was paid for at a lower price, and the seller had not charged that: the rest is paid as well.
    made_up: bool,
}

enum Attempt {
    Wrong(WrongPiece),
    Client(ClientError),
}

impl From<ClientError> for Attempt {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// What was paid in a channel for pieces of a file.
///
/// # Errors
/// When the database cannot be read.
pub async fn bought_before(
    client: &Client,
    channel: ChannelId,
    manifest: &Manifest,
) -> Result<Msat, ClientError> {
    let item = |piece| wire::piece_item(&manifest.blake3, manifest.piece, piece);
    let items = (0..manifest.pieces()).map(item).collect();
    Ok(client.buyer().bought(channel, items).await?)
}

/// Whether a file has that BLAKE3 hash.
///
/// # Errors
/// When it cannot be read.
pub fn has_root(path: &Path, root: &[u8; 32]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(hasher.finalize().as_bytes() == root);
        }
        hasher.update(&buffer[..got]);
    }
}
