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
mod gathering;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::response::Parts as ResponseParts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use bitcoin::hashes::{Hash as _, sha256};
use bytes::Bytes;
use farthing_node::books::OrderError;
use farthing_node::seller::Seller;
use farthing_node::tabs::{Admission, Ended};
use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::{ChannelId, Msat};
use tokio::time::error::Elapsed;
use tower::{Layer, Service, ServiceExt as _};

use crate::answers::{Answer, Answers};
use crate::clock::Clock;
use crate::credential::Receipt;
use crate::gate::gathering::{Broken, Gathered, gather};
use crate::meter::{Meter, Meters};
use crate::outlive::{Outlive, Panicked};
use crate::problem::{Kind, Problem};
use crate::tariff::{CallPrice, Tariff};
use crate::till::{Till, authority};
use crate::wire::{self, TopUpAnswer, TopUpBody};

static LIGHTSPEED: HeaderName = HeaderName::from_static(wire::LIGHTSPEED);
pub(crate) static RECEIPT: HeaderName = HeaderName::from_static(wire::RECEIPT);
static EPOCH: HeaderName = HeaderName::from_static(wire::EPOCH);

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
    clock: Clock,
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
        let clock = Clock::default();
        Self(Arc::new(Shared { till, routes, tariff, manner, answers, meters, clock }))
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
    B: body::HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The service behind is asked to be ready for each call, once it is paid.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Answering {
        let (inner, shared) = (self.inner.clone(), &self.shared);
        if request.uri().path().starts_with(wire::ROOT) {
            return Answering::later(shared.clone().own(request));
        }
        let header = request.headers_mut().remove(&LIGHTSPEED);
        let (parts, body) = request.into_parts();
        if shared.tariff.is_ambiguous(admission::asked(&parts).path()) {
            let detail = "this path can be read in two ways, which may have two prices: send it without dot segments, empty \
                          segments, backslashes or encoded slashes";
            return Answering::later(async move { Problem::new(Kind::BadRequest, detail).into_response() });
        }
        let price = shared.price(&parts);
        // A call that its payer thought to be dearer is served as any other, and charged nothing: so a retry is no second call.
        let call = header.as_ref().and_then(|header| admission::read_call(header).ok());
        if price.is_free() && call.is_none() {
            let answer = inner.oneshot(Request::from_parts(parts, body));
            return Answering::later(async { own_words(answer.await) });
        }
        let admitted = call.as_ref().and_then(|call| shared.admit_now(call, &parts, &body, price));
        match (call, admitted) {
            (Some(_), Some(Ok((admitted, admission)))) => {
                let running = Running::new(shared.clone(), admitted, admission);
                Answering(Inside::Works(running.serve(inner, Request::from_parts(parts, body))))
            }
            (Some((call, mac)), Some(Err(error))) => {
                let (shared, authority) = (shared.clone(), authority(&parts.headers, &parts.uri).to_owned());
                Answering::later(async move {
                    let stop = shared.not_admitted(&call, &mac, error).await;
                    shared.stop(stop, price, &authority)
                })
            }
            (_, None) | (None, _) => {
                Answering::later(shared.clone().answer(inner, header, parts, body, price))
            }
        }
    }
}

/// An answer of a [`Gated`] service that is on its way.
pub struct Answering(Inside);

enum Inside {
    /// The call was admitted, and the service works on it.
    Works(Outlive<Response>),
    /// Everything else.
    Later(Pin<Box<dyn Future<Output = Response> + Send>>),
}

impl Answering {
    fn later(answer: impl Future<Output = Response> + Send + 'static) -> Self {
        Self(Inside::Later(Box::pin(answer)))
    }
}

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inside::Works(work) => Pin::new(work).poll(context).map(|done| Ok(unless_panicked(done))),
            Inside::Later(answer) => answer.as_mut().poll(context).map(Ok),
        }
    }
}

fn unless_panicked(done: Result<Response, Panicked>) -> Response {
    done.unwrap_or_else(|error| outcome(Problem::new(Kind::Unavailable, error).into_response(), wire::OPEN))
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
    /// Until it has ended.
    admission: Option<Admission>,
}

impl Running {
    fn new(shared: Arc<Shared>, admitted: Admitted, admission: Admission) -> Self {
        Self { shared, admitted, admission: Some(admission) }
    }

    /// It was served for `charged`. Its answer leaves once this is stored.
    pub(crate) fn served(mut self, charged: Msat) -> Ended {
        let admission = self.admission.take().expect("a call that runs has not ended");
        self.shared.till.seller().end(admission, Some(charged))
    }

    /// What the payer hears of a call that failed: it is free.
    fn failed(self, response: Response) -> Response {
        drop(self);
        outcome(response, wire::FREE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            let _nothing_to_store = self.shared.till.seller().end(admission, None);
        }
    }
}

impl Shared {
    /// The receipt for a call.
    pub(crate) fn receipt(&self, channel: ChannelId, cost: Msat) -> HeaderValue {
        self.clock.tell(|now| Receipt::header(channel, cost, now))
    }

    /// What a request costs here.
    fn price(&self, parts: &Parts) -> CallPrice {
        let price = self.tariff.price(parts, admission::asked(parts).path());
        if self.manner.shadow && !price.is_free() {
            tracing::info!(method = %parts.method, path = parts.uri.path(), %price, "not charged: shadow mode");
            return CallPrice::default();
        }
        price
    }

    /// The answer to a request for which something has to be waited for before it is known whether it is paid for.
    async fn answer<S, B>(
        self: Arc<Self>,
        inner: S,
        header: Option<HeaderValue>,
        parts: Parts,
        body: Body,
        price: CallPrice,
    ) -> Response
    where
        S: Service<Request, Response = Response<B>> + Send + 'static,
        S::Error: fmt::Display + Send,
        S::Future: Send,
        B: body::HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let authority = authority(&parts.headers, &parts.uri).to_owned();
        match self.admit(header, parts, body, price).await {
            Ok(((admitted, admission), request)) => {
                let running = Running::new(self, admitted, admission);
                unless_panicked(running.serve(inner, request).await)
            }
            Err(stop) => self.stop(stop, price, &authority),
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
        let authority = authority(&parts.headers, &parts.uri).to_owned();
        let free = CallPrice::default();
        let ((admitted, admission), request) = match self.admit(header, parts, body, free).await {
            Ok(admitted) => admitted,
            Err(stop) => return self.stop(stop, free, &authority),
        };
        let running = Running::new(self.clone(), admitted, admission);
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
        response.headers_mut().insert(RECEIPT.clone(), self.receipt(admitted.channel, Msat::ZERO));
        once_stored(ended, response).await
    }
}

impl Running {
    /// Has the service answer, and charges for it. This goes on when the client leaves and nobody waits for it any more.
    fn serve<S, B>(self, inner: S, request: Request) -> Outlive<Response>
    where
        S: Service<Request, Response = Response<B>> + Send + 'static,
        S::Error: fmt::Display + Send,
        S::Future: Send,
        B: body::HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let until = tokio::time::Instant::now() + self.shared.manner.patience;
        Outlive::new(self.work(until, tokio::time::timeout_at(until, inner.oneshot(request))))
    }

    async fn work<B, E>(
        self,
        until: tokio::time::Instant,
        answering: impl Future<Output = Result<Result<Response<B>, E>, Elapsed>> + Send,
    ) -> Response
    where
        E: fmt::Display + Send,
        B: body::HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let Ok(answer) = answering.await else {
            return self.failed(too_slow());
        };
        let response = own_words(answer);
        if response.status().as_u16() >= 400 {
            return self.failed(response);
        }
        if self.admitted.price.is_metered() {
            return Meter::start(self, response);
        }
        let (parts, body) = response.into_parts();
        let most = self.shared.manner.most_answer;
        let (ended, response) = match gather(body, most, until).await {
            Ok(Gathered::Whole(bytes)) => self.charge_and_keep(parts, bytes),
            Ok(Gathered::Begun(body)) => {
                let (ended, parts) = self.charge(parts);
                (ended, Response::from_parts(parts, body))
            }
            Err(Broken::Off(error)) => {
                return self.failed(Problem::new(Kind::Unavailable, error).into_response());
            }
            Err(Broken::TooSlow) => return self.failed(too_slow()),
        };
        once_stored(ended, response).await
    }

    /// Charges for an answer, and puts the receipt into it.
    fn charge(self, mut parts: ResponseParts) -> (Ended, ResponseParts) {
        let (shared, Admitted { channel, price, .. }) = (self.shared.clone(), self.admitted);
        let ended = self.served(price.call);
        parts.headers.insert(RECEIPT.clone(), shared.receipt(channel, ended.charged));
        parts.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        (ended, parts)
    }

    fn charge_and_keep(self, parts: ResponseParts, body: Bytes) -> (Ended, Response) {
        let (shared, Admitted { channel, number, mac, .. }) = (self.shared.clone(), self.admitted);
        let (ended, parts) = self.charge(parts);
        // One that cost nothing can be asked for again without end, and would take the place of those that were paid.
        if ended.charged > Msat::ZERO {
            let answer = Answer { mac: &mac, status: parts.status, headers: &parts.headers, body: &body };
            shared.answers.keep(channel, number, answer);
        }
        (ended, Response::from_parts(parts, Body::from(body)))
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

/// The service's answer, or what came in its place. What is said of a payment is the gate's.
fn own_words<B, E>(answer: Result<Response<B>, E>) -> Response
where
    E: fmt::Display,
    B: body::HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    match answer {
        Ok(response) => {
            let mut response = response.map(Body::new);
            for name in [&LIGHTSPEED, &RECEIPT, &EPOCH] {
                response.headers_mut().remove(name);
            }
            response
        }
        Err(error) => Problem::new(Kind::Unavailable, error).into_response(),
    }
}
