//! Sells a file, piece by piece.
//!
//! | request | answer |
//! |---|---|
//! | `GET /NAME` | 402 with a challenge: price, terms, manifest |
//! | `GET /NAME`, `Range` of one piece, credential | 206 with the piece, once it is charged and stored |
//! | `POST …/channels…` | money ([`crate::till`]) |
//! | `GET …/pieces/ROOT` | the list of the pieces' hashes, free |
//! | `GET …/manifest/NAME` | the manifest, free |
//!
//! A piece is charged to a channel once. Asked for again, with the same or a later payment, also after a crash of either
//! side, it is served again and costs nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, RwLock};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use farthing_node::books::{Item, OrderError};
use farthing_node::seller::Seller;
use farthing_protocol::payee::Reject;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{ChannelId, Msat};
use futures_util::stream;
use jiff::Timestamp;

use crate::challenge::{Challenge, Price, Request};
use crate::credential::{Credential, Payload, Receipt};
use crate::manifest::{HashError, Manifest, Pieces};
use crate::problem::{Kind, Problem};
use crate::span::Span;
use crate::till::{self, Till, authority};
use crate::wire;

/// The largest body that is read, in bytes.
const MOST_BODY: usize = 64 * 1024;
/// How much of a piece is read and sent at a time: enough that handing the work to another thread and back costs little
/// beside the reading.
const BLOCK: usize = 512 * 1024;
/// How many channels' keys are remembered.
const MOST_KEYS: usize = 16_384;

/// A file on sale.
pub struct Shop {
    till: Arc<Till>,
    name: String,
    file: Arc<File>,
    pieces: Pieces,
    list: Bytes,
    price: Price,
    /// The keys of channels that have paid here since the start: agreeing on one costs more than checking a payment.
    keys: RwLock<HashMap<ChannelId, Arc<CallKey>>>,
}

impl Shop {
    /// Puts a file on sale. Reads it once to hash it; it must not change from then on. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or sold.
    pub fn new(seller: Arc<Seller>, path: &Path, price: Price, piece: u64) -> Result<Self, HashError> {
        let file = File::open(path)?;
        let pieces = Pieces::of_file(&file, piece)?;
        let name =
            path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
        let list = Bytes::from(pieces.to_bytes());
        let till = Arc::new(Till::new(seller));
        Ok(Self { till, name, file: Arc::new(file), pieces, list, price, keys: RwLock::default() })
    }

    /// The file's name in URLs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.pieces.manifest()
    }

    /// The routes.
    pub fn router(self) -> Router {
        let shop = Arc::new(self);
        Router::new()
            .route(&format!("{}/{{root}}", wire::PIECES), get(list))
            .route(&format!("{}/{{name}}", wire::MANIFEST), get(manifest))
            .route(wire::HEALTH, get(async |State(shop): State<Arc<Self>>| shop.till.health()))
            .route("/{name}", get(piece))
            .layer(DefaultBodyLimit::max(MOST_BODY))
            .with_state(shop.clone())
            .merge(shop.till.clone().routes())
    }

    fn challenge(&self, authority: &str) -> String {
        let (offer, key) = self.till.seller().offer();
        let request = Request::new(self.price, offer, key, *self.manifest());
        Challenge::issue(self.till.secret(), authority, &request, Timestamp::now()).to_header()
    }

    /// What the credential agreed to pay for that many bytes of this file.
    fn agreed_cost(&self, challenge: &Challenge, authority: &str, length: u64) -> Result<Msat, Problem> {
        let foreign = |detail: &str| Problem::new(Kind::InvalidChallenge, detail);
        let request = challenge
            .check(self.till.secret(), Timestamp::now())
            .map_err(|error| Problem::new(Kind::InvalidChallenge, error))?;
        if challenge.realm != authority {
            return Err(foreign("this challenge is for another host"));
        }
        if request.method_details.file != Some(*self.manifest()) {
            return Err(foreign("this challenge is for another file, or the file has changed"));
        }
        let price = request.price().map_err(|error| Problem::new(Kind::InvalidChallenge, error))?;
        price.of(length).ok_or_else(|| foreign("the price overflows"))
    }

    /// The key of a channel; `None` if there is no such channel.
    fn call_key(&self, id: ChannelId) -> Option<Arc<CallKey>> {
        let known = self.keys.read().expect("no holder of this lock panics").get(&id).cloned();
        known.or_else(|| {
            let key = Arc::new(self.till.seller().call_key(id)?);
            let mut keys = self.keys.write().expect("no holder of this lock panics");
            if keys.len() >= MOST_KEYS {
                keys.clear(); // those that pay now are back with their next payment
            }
            keys.insert(id, key.clone());
            Some(key)
        })
    }

    async fn charge(&self, payload: &Payload, call: &Call<'_>, cost: Msat) -> Result<Msat, Problem> {
        let unknown = || {
            Problem::new(
                Kind::VerificationFailed,
                "no channel of that name is open here, or its funding is not what was agreed: open one",
            )
        };
        let key = self.call_key(payload.channel).ok_or_else(unknown)?;
        key.verify(call, &payload.mac).map_err(|error| Problem::new(Kind::VerificationFailed, error))?;
        // A price may have changed since the payer agreed: a piece that was charged before is served at any, and one that
        // was agreed to be dearer is not made cheaper, or the two would count differently.
        if payload.cost < cost && self.charged(payload.channel, call.item).await? == Msat::ZERO {
            let detail = format!("this piece costs {cost}, the credential says {}", payload.cost);
            return Err(Problem::new(Kind::PaymentInsufficient, detail));
        }
        let item = Item { id: call.item, cost: payload.cost };
        self.till
            .seller()
            .charge(payload.channel, item, Some(payload.payment()))
            .await
            .map_err(charge_problem)
    }

    async fn charged(&self, channel: ChannelId, item: [u8; 32]) -> Result<Msat, Problem> {
        self.till.seller().charged(channel, item).await.map_err(charge_problem)
    }

    /// The bytes of a piece, a block at a time, so that memory stays small.
    fn body(&self, start: u64, length: u64) -> Body {
        let file = self.file.clone();
        let end = start + length;
        let blocks = stream::try_unfold(start, move |at| {
            let file = file.clone();
            async move {
                if at == end {
                    return Ok::<_, io::Error>(None);
                }
                let size = (end - at).min(BLOCK as u64);
                let block = tokio::task::spawn_blocking(move || {
                    let mut block = vec![0; size as usize];
                    file.read_exact_at(&mut block, at).map(|()| Bytes::from(block))
                });
                let block = block.await.map_err(io::Error::other)??;
                Ok(Some((block, at + size)))
            }
        });
        Body::from_stream(blocks)
    }
}

/// `GET /NAME`.
async fn piece(
    State(shop): State<Arc<Shop>>,
    UrlPath(name): UrlPath<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if name != shop.name {
        return Problem::new(Kind::NotFound, format!("there is no file {name} here")).into_response();
    }
    let authority = authority(&headers, &uri);
    match serve(&shop, &method, &uri, &headers, authority).await {
        Ok(response) => response,
        Err(problem) => refuse(&shop, problem, authority),
    }
}

fn refuse(shop: &Shop, problem: Problem, authority: &str) -> Response {
    match problem.asks_for_payment() {
        true => problem.with_challenge(&shop.challenge(authority)),
        false => problem.into_response(),
    }
}

async fn serve(
    shop: &Shop,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    authority: &str,
) -> Result<Response, Problem> {
    let manifest = *shop.manifest();
    let credential = headers.get(header::AUTHORIZATION);
    let span = span(headers, &manifest);
    if shop.price.amount == Msat::ZERO {
        let Span { start, length } = span?.unwrap_or(Span { start: 0, length: manifest.size });
        return Ok(content(shop, method, start, length));
    }
    let Some(credential) = credential else {
        let detail = format!("{} for each {} bytes", shop.price.amount, shop.price.unit);
        return Err(Problem::new(Kind::PaymentRequired, detail));
    };
    let credential = credential.to_str().unwrap_or_default();
    let Credential { challenge, payload } = Credential::from_header(credential)
        .map_err(|error| Problem::new(Kind::MalformedCredential, error))?;
    let one_piece =
        || Problem::new(Kind::BadRequest, format!("ask for one piece: a Range of {} bytes", manifest.piece));
    let Span { start, length } = span?.ok_or_else(one_piece)?;
    let piece = manifest.piece_at(start, length).ok_or_else(one_piece)?;
    let cost = shop.agreed_cost(&challenge, authority, length)?;
    let call = Call {
        channel: payload.channel,
        item: wire::piece_item(&manifest.blake3, manifest.piece, piece),
        cost: payload.cost,
        total: payload.total,
        method: method.as_str(),
        authority,
        target: uri.path(),
        challenge: &challenge.id,
    };
    let charged = shop.charge(&payload, &call, cost).await?;
    let mut response = content(shop, method, start, length);
    let receipt = Receipt::new(payload.channel, charged, Timestamp::now()).to_header();
    let receipt = HeaderValue::from_str(&receipt).map_err(|error| Problem::new(Kind::Unavailable, error))?;
    response.headers_mut().insert("payment-receipt", receipt);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    Ok(response)
}

fn content(shop: &Shop, method: &Method, start: u64, length: u64) -> Response {
    let manifest = shop.manifest();
    let body = if *method == Method::HEAD { Body::empty() } else { shop.body(start, length) };
    let whole = length == manifest.size;
    let mut response = Response::new(body);
    *response.status_mut() = if whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if !whole {
        let range = format!("bytes {start}-{}/{}", start + length - 1, manifest.size);
        headers.extend(HeaderValue::from_str(&range).ok().map(|range| (header::CONTENT_RANGE, range)));
    }
    response
}

/// What a `Range` asks for; `None` without one.
fn span(headers: &HeaderMap, manifest: &Manifest) -> Result<Option<Span>, Problem> {
    let Some(range) = headers.get(header::RANGE) else { return Ok(None) };
    let span = Span::parse(range.to_str().unwrap_or_default(), manifest.size);
    span.map(Some).map_err(|error| Problem::new(Kind::BadRequest, error))
}

fn charge_problem(error: OrderError<Reject>) -> Problem {
    let kind = match &error {
        OrderError::Rejected(Reject::NotDeepEnough { .. }) => {
            return Problem::new(Kind::FundingNotDeep, error).retry_after(1);
        }
        OrderError::Store(_) | OrderError::Ended => {
            return Problem::new(Kind::Unavailable, error).retry_after(1);
        }
        OrderError::Blind(since) => return till::blind(&error, *since),
        OrderError::Rejected(Reject::NotOpen(_)) => Kind::ChannelNotOpen,
        OrderError::Rejected(
            Reject::Unpaid { .. } | Reject::NotIncreasing { .. } | Reject::FirstTooSmall { .. },
        ) => Kind::PaymentInsufficient,
        OrderError::NoChannel(_) | OrderError::Rejected(_) => Kind::VerificationFailed,
        _other => Kind::Unavailable,
    };
    Problem::new(kind, error)
}

/// `GET …/pieces/ROOT`.
async fn list(State(shop): State<Arc<Shop>>, UrlPath(root): UrlPath<String>) -> Result<Response, Problem> {
    let known = blake3::Hash::from(shop.manifest().blake3).to_hex();
    if known.as_str() != root {
        return Err(Problem::new(Kind::NotFound, "there is no file of that hash here"));
    }
    let content_type = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((content_type, shop.list.clone()).into_response())
}

/// `GET …/manifest/NAME`.
async fn manifest(
    State(shop): State<Arc<Shop>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Manifest>, Problem> {
    if name == shop.name {
        Ok(Json(*shop.manifest()))
    } else {
        Err(Problem::new(Kind::NotFound, format!("there is no file {name} here")))
    }
}
