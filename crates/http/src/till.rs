//! The seller's routes for money: opening, chains of words, closing. Whatever is sold, they are the same.
//!
//! | request | answer |
//! |---|---|
//! | `POST …/channels` | opens a channel under a challenge |
//! | `POST …/channels/ID/chains` | takes a chain of words with its rungs |
//! | `POST …/channels/ID/batches` | takes a batch of preimages with its locks and signatures, in flat mode |
//! | `POST …/channels/ID/standing` | where the payer stands |
//! | `POST …/channels/ID/close` | the seller's half of a cooperative close |
//! | `POST …/channels/ID/closed` | takes the finished closing |

mod bodies;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest as _, Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bitcoin::Transaction;
use bitcoin::consensus::encode::deserialize_hex;
use farthing_node::books::OrderError;
use farthing_node::seller::{AcceptError, Seller, SettleError};
use farthing_node::tabs::{AnnounceError, Announced, CallError};
use farthing_protocol::closing::PublicNonce;
use farthing_protocol::lightspeed::tab::BadPay;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{ChannelId, Msat, Payment};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::arriving;
use crate::problem::{Kind, Problem};
pub(crate) use crate::till::bodies::Bodies;
use crate::wire::{
    self, AcceptedBody, BatchBody, ChainBody, ChainTaken, CloseBody, ClosedBody, ClosingBody, OpenBody,
    StandingAnswer, StandingBody,
};

/// The largest body of an opening, or of a finished closing, in bytes: a challenge of at most 16 KiB, and the opening.
const MOST_OPENING: usize = 24 * 1024;
/// The largest body of a request to close, or of a question, in bytes: a few numbers, a nonce and a MAC.
const MOST_REQUEST: usize = 4 * 1024;
/// The largest announcement of a chain, in bytes: 4,096 rungs in base64.
const MOST_CHAIN: usize = 640 * 1024;
/// How long a close waits for the calls that run.
const DRAIN: Duration = Duration::from_secs(20);

/// Where money is taken.
pub struct Till {
    seller: Arc<Seller>,
    secret: [u8; 32],
    bodies: Bodies,
}

impl Till {
    /// The till of a seller.
    pub fn new(seller: Arc<Seller>) -> Self {
        let secret = seller.challenge_secret();
        Self { seller, secret, bodies: Bodies::default() }
    }

    /// The seller.
    pub fn seller(&self) -> &Arc<Seller> {
        &self.seller
    }

    /// What binds its challenges.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The places for large bodies, whatever is sold.
    pub(crate) fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// Whether it sells, in the words of draft-inadarei-api-health-check: `pass`, or `fail` with status 503.
    pub fn health(&self) -> Response {
        match self.seller.sees() {
            Ok(()) => Json(serde_json::json!({ "status": "pass" })).into_response(),
            Err(blind) => {
                let body = serde_json::json!({ "status": "fail", "output": blind.to_string() });
                (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
            }
        }
    }

    /// The routes.
    pub fn routes(self: Arc<Self>) -> Router {
        let below = |last: &str| format!("{}/{{id}}/{last}", wire::CHANNELS);
        Router::new()
            .route(wire::CHANNELS, post(open))
            .route(&below("standing"), post(standing))
            .route(&below("close"), post(close))
            .route(&below("closed"), post(closed))
            .route(&below("chains"), post(chain))
            .route(&below("batches"), post(batch))
            .with_state(self)
    }

    /// The body of a request to a channel. Nobody has a body read who has no channel here.
    async fn read<T: DeserializeOwned>(
        &self,
        id: &str,
        request: Request,
        most: usize,
    ) -> Result<(ChannelId, T), Problem> {
        let id = channel(id)?;
        if !self.seller.has(id) {
            return Err(not_open());
        }
        Ok((id, in_time(&self.bodies, request, most).await?))
    }

    /// The body of an announcement. It is large and read before the MAC over all of it can be checked, so nobody has it read who
    /// has locked nothing: a channel without a funding costs its opener nothing.
    async fn read_announcement<T: DeserializeOwned>(
        &self,
        id: &str,
        request: Request,
    ) -> Result<(ChannelId, T), Problem> {
        self.seller.check_funded(channel(id)?).await.map_err(not_taken)?;
        self.read(id, request, MOST_CHAIN).await
    }

    fn verify(&self, id: ChannelId, mac: &[u8; 32], call: &Call<'_>) -> Result<CallKey, Problem> {
        let key = self.seller.call_key(id).ok_or_else(not_open)?;
        key.verify(call, mac).map_err(|error| Problem::new(Kind::BadRequest, error))?;
        Ok(key)
    }
}

/// `POST …/channels`.
async fn open(State(till): State<Arc<Till>>, request: Request) -> Result<Response, Problem> {
    let OpenBody { challenge, opening } = in_time(&till.bodies, request, MOST_OPENING).await?;
    let request = challenge
        .check(&till.secret, Timestamp::now())
        .map_err(|error| Problem::new(Kind::InvalidChallenge, error))?;
    let details = request.method_details;
    let seller = till.seller.clone();
    let accepted = blocking(move || seller.accept(&details.offer, details.key, opening)).await?;
    let (channel, signature) = accepted.map_err(|error| match &error {
        AcceptError::BadParams(_)
        | AcceptError::Refused(_)
        | AcceptError::OtherOutput(_)
        | AcceptError::Order(OrderError::FundingTaken(_)) => Problem::new(Kind::BadRequest, error),
        AcceptError::TooManyUnfunded(_) => Problem::new(Kind::Unavailable, error).retry_after(5),
        AcceptError::Order(OrderError::Blind(since)) => blind(&error, *since),
        _ours => unavailable(&error).retry_after(5),
    })?;
    Ok((StatusCode::CREATED, Json(AcceptedBody { channel, signature })).into_response())
}

/// `POST …/channels/ID/chains`.
async fn chain(
    State(till): State<Arc<Till>>,
    UrlPath(id): UrlPath<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<ChainTaken>, Problem> {
    let (id, body): (_, ChainBody) = till.read_announcement(&id, request).await?;
    // Before anything is looked at: whoever could announce for another would take its numbers away.
    till.verify(id, &body.mac, &body.call(id, authority(&headers, &uri), uri.path()))?;
    let (rungs, payment) = body.read().map_err(|error| Problem::new(Kind::BadRequest, error))?;
    take(&till, id, Announced::Chain(body.terms, rungs), payment).await
}

/// `POST …/channels/ID/batches`.
async fn batch(
    State(till): State<Arc<Till>>,
    UrlPath(id): UrlPath<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<ChainTaken>, Problem> {
    let (id, body): (_, BatchBody) = till.read_announcement(&id, request).await?;
    till.verify(id, &body.mac, &body.call(id, authority(&headers, &uri), uri.path()))?;
    let (signed, payment) = body.read().map_err(|error| Problem::new(Kind::BadRequest, error))?;
    take(&till, id, Announced::Batch(body.batch, signed), payment).await
}

async fn take(
    till: &Till,
    id: ChannelId,
    announced: Announced,
    payment: Payment,
) -> Result<Json<ChainTaken>, Problem> {
    let epoch = till.seller.announce(id, announced, payment).await.map_err(not_taken)?;
    Ok(Json(ChainTaken { epoch }))
}

fn not_taken(error: AnnounceError) -> Problem {
    match &error {
        AnnounceError::BadPay(BadPay::Waiting(_)) => Problem::new(Kind::Unavailable, error).retry_after(1),
        AnnounceError::Unfunded => Problem::new(Kind::FundingNotDeep, error).retry_after(1),
        AnnounceError::Order(OrderError::Store(_) | OrderError::Ended) => {
            Problem::new(Kind::Unavailable, error).retry_after(1)
        }
        AnnounceError::Order(OrderError::NoChannel(_)) | AnnounceError::Unknown(_) => not_open(),
        _theirs => Problem::new(Kind::BadRequest, error),
    }
}

/// `POST …/channels/ID/standing`.
async fn standing(
    State(till): State<Arc<Till>>,
    UrlPath(id): UrlPath<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<StandingAnswer>, Problem> {
    let (id, body): (_, StandingBody) = till.read(&id, request, MOST_REQUEST).await?;
    till.verify(id, &body.mac, &body.call(id, authority(&headers, &uri), uri.path()))?;
    let spent = till.seller.reconcile(id, body.last).await;
    let spent = spent.map_err(|error| match &error {
        CallError::Unknown(_) => not_open(),
        _ours => Problem::new(Kind::Unavailable, error).retry_after(1),
    })?;
    Ok(Json(StandingAnswer { epoch: till.seller.epoch(), spent_msat: spent.map(Msat::get) }))
}

/// `POST …/channels/ID/close`.
async fn close(
    State(till): State<Arc<Till>>,
    UrlPath(id): UrlPath<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<ClosingBody>, Problem> {
    let (id, body): (_, CloseBody) = till.read(&id, request, MOST_REQUEST).await?;
    let mut scratch = String::new();
    till.verify(id, &body.mac, &body.call(id, authority(&headers, &uri), uri.path(), &mut scratch))?;
    let Some(_drained) = till.seller.drain(id, DRAIN).await else {
        let detail = "calls of this channel are still being served: ask again when they are done";
        return Err(Problem::new(Kind::Unavailable, detail).retry_after(5));
    };
    let (seller, settlement, nonce) = (till.seller.clone(), body.settlement(), PublicNonce(body.nonce));
    let answer = blocking(move || seller.settle(id, settlement, &nonce)).await?;
    let answer = answer.map_err(|error| match &error {
        SettleError::Unfunded => Problem::new(Kind::FundingNotDeep, error).retry_after(1),
        SettleError::Order(OrderError::Rejected(_)) | SettleError::Bad(_) => {
            Problem::new(Kind::BadRequest, error)
        }
        _ours => unavailable(&error).retry_after(1),
    })?;
    Ok(Json(answer.into()))
}

/// `POST …/channels/ID/closed`.
async fn closed(
    State(till): State<Arc<Till>>,
    UrlPath(id): UrlPath<String>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (id, body): (_, ClosedBody) = till.read(&id, request, MOST_OPENING).await?;
    let transaction: Transaction =
        deserialize_hex(&body.transaction).map_err(|error| Problem::new(Kind::BadRequest, error))?;
    till.seller.settled(id, transaction).await.map_err(|error| Problem::new(Kind::BadRequest, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The channel is over, or was never here: whoever pays looks anew which of its channels are open.
fn not_open() -> Problem {
    Problem::new(Kind::ChannelNotOpen, "this channel is not open here")
}

/// Nothing is sold by whoever does not see the chain. A seller that has just started looks at once.
pub(crate) fn blind(error: &dyn std::fmt::Display, since: Option<Duration>) -> Problem {
    Problem::new(Kind::Unavailable, error).retry_after(since.map_or(1, |_| 5))
}

/// Something of the seller's own fails. Why is for the seller to know: it names its node and its folders.
fn unavailable(error: impl std::fmt::Display) -> Problem {
    tracing::warn!(%error, "a request could not be served");
    Problem::new(Kind::Unavailable, "the seller's node or disk does not answer; try again later")
}

pub(crate) fn channel(id: &str) -> Result<ChannelId, Problem> {
    id.parse().map_err(|_| Problem::new(Kind::NotFound, "a channel is named by 64 hexadecimal digits"))
}

/// The host and port that the request is for.
pub(crate) fn authority<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

/// A body that has to arrive in time, or a peer that sends it byte by byte would have its seat for as long as it wants.
async fn in_time<T: DeserializeOwned>(bodies: &Bodies, request: Request, most: usize) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    let held = arriving::in_time(bodies.read(body, most)).await?;
    let held = held.map_err(|unread| Problem::new(Kind::BadRequest, unread))?;
    let request = Request::from_parts(parts, Body::from(held.bytes.clone()));
    arriving::read(Json::from_request(request, &()).await)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::new(Kind::Unavailable, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arriving::tests::drips;

    fn posts(body: Body) -> Request {
        Request::post("/").header(header::CONTENT_TYPE, "application/json").body(body).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let bodies = Bodies::default();
        let refused = in_time::<ClosedBody>(&bodies, posts(drips()), 1_000).await;
        assert_eq!(refused.map(drop).unwrap_err().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let ends = posts(Body::from(r#"{"transaction":""}"#));
        assert!(in_time::<ClosedBody>(&bodies, ends, 1_000).await.is_ok());
    }
}
