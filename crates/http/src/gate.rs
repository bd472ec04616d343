//! The gate: a tower layer that puts a price on each request to the service behind it.
//!
//! ```text
//!   request ──▶ price? ──▶ call in `Lightspeed`? ──▶ admitted ──▶ service ──▶ charged, stored ──▶ answer + receipt
//!                 │ free        │ no: 402, challenge     │ refused: 402, 409, 429       │ failed: free
//! ```
//!
//! A call is charged when the service answers with a status below 400, and free otherwise: a fault of the service or of
//! the request is not paid for. The call's header does not reach the service. Work on a call goes on when the client has
//! left, and its answer is kept for the retry.

mod admission;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{self, Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use bitcoin::hashes::{Hash as _, sha256};
use farthing_node::books::OrderError;
use farthing_node::seller::Seller;
use farthing_node::tabs::Ended;
use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::{ChannelId, Msat};
use jiff::Timestamp;
use tower::{Layer, Service, ServiceExt as _};

use crate::answers::{Answer, Answers};
use crate::credential::Receipt;
use crate::meter::{Meter, Meters};
use crate::outlive::Outlive;
use crate::problem::{Kind, Problem};
use crate::tariff::{CallPrice, Tariff};
use crate::till::{Till, authority};
use crate::wire::{self, TopUpAnswer, TopUpBody};

static LIGHTSPEED: HeaderName = HeaderName::from_static(wire::LIGHTSPEED);
pub(crate) static RECEIPT: HeaderName = HeaderName::from_static(wire::RECEIPT);

/// How a gate behaves, beside its prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Let everything through for free, and only log what it would have cost.
    pub shadow: bool,
    /// The largest body of a paid request, in bytes: it is read before the call is admitted, since the payment covers it.
    pub most_body: usize,
    /// How long the body of a paid request may take to arrive.
    pub body_patience: Duration,
    /// How long the service may take to begin its answer, and to end one that is short enough to be kept. A call that takes
    /// longer is free.
    pub patience: Duration,
    /// The largest answer that is kept for a retry, in bytes. A retry of a call with a larger one gets the receipt.
    pub most_answer: usize,
    /// How long an answer that is charged as it flows waits for its payer to set more aside, before it is cut off.
    pub top_up_patience: Duration,
    /// How many bytes all kept answers may take.
    pub most_answers: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            shadow: false,
            most_body: 1 << 20,
            body_patience: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            most_answer: 64 << 10,
            top_up_patience: Duration::from_secs(30),
            most_answers: 64 << 20,
        }
    }
}

/// The layer. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) till: Arc<Till>,
    routes: Router,
    tariff: Tariff,
    pub(crate) manner: Manner,
    pub(crate) answers: Answers,
    pub(crate) meters: Meters,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("tariff", &self.0.tariff).finish_non_exhaustive()
    }
}

impl Gate {
    /// Puts prices on a service.
    pub fn new(seller: Arc<Seller>, tariff: Tariff) -> Self {
        Self::with_manner(seller, tariff, Manner::default())
    }

    /// Puts prices on a service, in that manner.
    pub fn with_manner(seller: Arc<Seller>, tariff: Tariff, manner: Manner) -> Self {
        let till = Arc::new(Till::new(seller));
        let routes = till.clone().routes();
        let (answers, meters) = (Answers::new(manner.most_answers), Meters::default());
        Self(Arc::new(Shared { till, routes, tariff, manner, answers, meters }))
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, shared: self.0.clone() }
    }
}

/// A service behind a gate.
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}

impl<S, B> Service<Request> for Gated<S>
where
    S: Service<Request, Response = Response<B>> + Clone + Send + 'static,
    S::Error: fmt::Display + Send,
    S::Future: Send,
    B: body::HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The service behind is asked to be ready for each call, once it is paid.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (inner, shared) = (self.inner.clone(), self.shared.clone());
        Box::pin(async move { Ok(shared.answer(inner, request).await) })
    }
}

/// What a call is charged and how it is found again.
#[derive(Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) channel: ChannelId,
    pub(crate) number: CallNumber,
    pub(crate) mac: [u8; 32],
    pub(crate) price: CallPrice,
    /// What is set aside for it.
    pub(crate) aside: Msat,
}

/// A call that runs. However its work ends, also by a panic, what was set aside for it comes free.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) admitted: Admitted,
    has_ended: bool,
}

impl Running {
    fn new(shared: Arc<Shared>, admitted: Admitted) -> Self {
        Self { shared, admitted, has_ended: false }
    }

    /// It was served for `charged`. Its answer leaves once this is stored.
    pub(crate) fn served(mut self, charged: Msat) -> Ended {
        self.end(Some(charged))
    }

    fn end(&mut self, charged: Option<Msat>) -> Ended {
        self.has_ended = true;
        self.shared.till.seller().end(self.admitted.channel, self.admitted.number, charged)
    }

    /// What the payer hears of a call that failed: it is free.
    fn failed(mut self, response: Response) -> Response {
        let _nothing_to_store = self.end(None);
        outcome(response, wire::FREE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            let _nothing_to_store = self.end(None);
        }
    }
}

impl Shared {
    async fn answer<S, B>(self: Arc<Self>, inner: S, mut request: Request) -> Response
    where
        S: Service<Request, Response = Response<B>> + Send + 'static,
        S::Error: fmt::Display + Send,
        S::Future: Send,
        B: body::HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        if request.uri().path().starts_with(wire::ROOT) {
            return self.own(request).await;
        }
        let header = request.headers_mut().remove(&LIGHTSPEED);
        let (parts, body) = request.into_parts();
        let mut price = self.tariff.price(&parts, admission::asked(&parts).path());
        if self.manner.shadow && !price.is_free() {
            tracing::info!(method = %parts.method, path = parts.uri.path(), %price, "not charged: shadow mode");
            price = CallPrice::default();
        }
        // A call that its payer thought to be dearer is served as any other, and charged nothing: so a retry is no second call.
        let is_call = header.as_ref().is_some_and(|header| admission::read_call(header).is_ok());
        if price.is_free() && !is_call {
            return respond(inner, Request::from_parts(parts, body)).await;
        }
        let authority = authority(&parts.headers, &parts.uri);
        let (admitted, request) = match self.admit(header, parts, body, price, &authority).await {
            Ok(admitted) => admitted,
            Err(stop) => return self.stop(stop, price, &authority),
        };
        let running = Running::new(self, admitted);
        // It goes on when the client leaves and this future is dropped.
        match Outlive::new(running.serve(inner, request)).await {
            Ok(response) => response,
            Err(error) => outcome(Problem::new(Kind::Unavailable, error).into_response(), wire::OPEN),
        }
    }

    /// The routes that are the gate's own.
    async fn own(self: Arc<Self>, request: Request) -> Response {
        match request.uri().path() {
            wire::PRICES => match &self.tariff {
                Tariff::List(list) => Json(list.as_ref()).into_response(),
                Tariff::Function(_) => {
                    let detail =
                        "the price depends on the request: ask without paying, the challenge tells it";
                    Problem::new(Kind::NotFound, detail).into_response()
                }
            },
            wire::TOP_UP => self.top_up(request).await,
            wire::HEALTH => self.till.health(),
            _money => match self.routes.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        }
    }
}

impl Shared {
    /// `POST` [`wire::TOP_UP`]: sets more aside for a call that runs, paid by the words of the call that this request carries.
    async fn top_up(self: Arc<Self>, mut request: Request) -> Response {
        let header = request.headers_mut().remove(&LIGHTSPEED);
        let (parts, body) = request.into_parts();
        let authority = authority(&parts.headers, &parts.uri);
        let free = CallPrice::default();
        let (admitted, request) = match self.admit(header, parts, body, free, &authority).await {
            Ok(admitted) => admitted,
            Err(stop) => return self.stop(stop, free, &authority),
        };
        let running = Running::new(self.clone(), admitted);
        let body = body::to_bytes(request.into_body(), self.manner.most_body).await.unwrap_or_default();
        let asked: TopUpBody = match serde_json::from_slice(&body) {
            Ok(asked) => asked,
            Err(error) => return running.failed(Problem::new(Kind::BadRequest, error).into_response()),
        };
        let raised = self.till.seller().top_up(admitted.channel, asked.number, Msat::new(asked.by_msat));
        let aside = match raised {
            Ok(aside) => aside,
            Err(error) => {
                return running.failed(Problem::new(Kind::PaymentInsufficient, error).into_response());
            }
        };
        // What the answer has used so far is charged and stored with this, so that a crash forgets no more than comes after it.
        let used = self.meters.raise(admitted.channel, asked.number, aside);
        self.till.seller().charge_so_far(admitted.channel, asked.number, used);
        let ended = running.served(Msat::ZERO);
        let mut response = Json(TopUpAnswer { aside_msat: aside.get() }).into_response();
        let receipt = receipt(admitted.channel, Msat::ZERO);
        response.headers_mut().extend(receipt.map(|value| (RECEIPT.clone(), value)));
        once_stored(ended, response).await
    }
}

impl Running {
    /// Has the service answer, and charges for it.
    async fn serve<S, B>(self, inner: S, request: Request) -> Response
    where
        S: Service<Request, Response = Response<B>> + Send,
        S::Error: fmt::Display,
        S::Future: Send,
        B: body::HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let manner = self.shared.manner;
        let until = tokio::time::Instant::now() + manner.patience;
        let Ok(response) = tokio::time::timeout_at(until, respond(inner, request)).await else {
            return self.failed(too_slow());
        };
        if response.status().as_u16() >= 400 {
            return self.failed(response);
        }
        if self.admitted.price.is_metered() {
            return Meter::start(self, response);
        }
        let (mut parts, body) = response.into_parts();
        let is_short = body.size_hint().upper().is_some_and(|size| size <= manner.most_answer as u64);
        // A short answer is read to its end before anything is charged for it, and kept.
        let body = if is_short {
            match tokio::time::timeout_at(until, body::to_bytes(body, manner.most_answer)).await {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => {
                    return self.failed(Problem::new(Kind::Unavailable, error).into_response());
                }
                Err(_elapsed) => return self.failed(too_slow()),
            }
        } else {
            Err(body)
        };
        let shared = self.shared.clone();
        let Admitted { channel, number, mac, price, .. } = self.admitted;
        let ended = self.served(price.call);
        parts.headers.extend(receipt(channel, ended.charged).map(|value| (RECEIPT.clone(), value)));
        parts.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        let response = match body {
            Ok(bytes) => {
                let answer =
                    Answer { mac, status: parts.status, headers: parts.headers.clone(), body: bytes.clone() };
                shared.answers.keep(channel, number, answer);
                Response::from_parts(parts, Body::from(bytes))
            }
            Err(streaming) => Response::from_parts(parts, streaming),
        };
        once_stored(ended, response).await
    }
}

/// An answer, once the call that it is for is stored.
async fn once_stored(ended: Ended, response: Response) -> Response {
    match ended.stored().await {
        Ok(()) => response,
        // The channel is closed and the call is not in what was settled.
        Err(error @ (OrderError::Rejected(_) | OrderError::NoChannel(_))) => {
            outcome(Problem::new(Kind::ChannelNotOpen, error).into_response(), wire::REFUSED)
        }
        Err(error) => {
            outcome(Problem::new(Kind::Unavailable, error).retry_after(1).into_response(), wire::OPEN)
        }
    }
}

fn too_slow() -> Response {
    let detail = "the service behind took too long; this call costs nothing";
    Problem::new(Kind::Unavailable, detail).into_response()
}

/// Says what became of a call that has no receipt.
pub(crate) fn outcome(mut response: Response, outcome: &'static str) -> Response {
    response.headers_mut().insert(LIGHTSPEED.clone(), HeaderValue::from_static(outcome));
    response
}

/// SHA256 of a body, as a call's MAC covers it.
pub(crate) fn digest(body: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(body).to_byte_array()
}

pub(crate) fn receipt(channel: ChannelId, cost: Msat) -> Option<HeaderValue> {
    HeaderValue::try_from(Receipt::header(channel, cost, Timestamp::now())).ok()
}

/// The service's answer, or what came in its place.
async fn respond<S, B>(inner: S, request: Request) -> Response
where
    S: Service<Request, Response = Response<B>>,
    S::Error: fmt::Display,
    B: body::HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    match inner.oneshot(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            // What is said of a payment is the gate's.
            for name in [wire::LIGHTSPEED, wire::RECEIPT, wire::EPOCH] {
                response.headers_mut().remove(name);
            }
            response
        }
        Err(error) => Problem::new(Kind::Unavailable, error).into_response(),
    }
}
