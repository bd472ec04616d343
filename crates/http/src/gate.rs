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

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{self, Body, HttpBody as _};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use bitcoin::hashes::{Hash as _, sha256};
use farthing_node::books::OrderError;
use farthing_node::seller::Seller;
use farthing_node::tabs::CallError;
use farthing_protocol::lightspeed::call::{self, Target};
use farthing_protocol::lightspeed::numbers::WINDOW;
use farthing_protocol::lightspeed::tab::Refused;
use farthing_protocol::lightspeed::{Call, CallNumber};
use farthing_protocol::{ChannelId, Msat};
use jiff::Timestamp;
use tower::{Layer, Service, ServiceExt as _};

use crate::answers::{Answer, Answers};
use crate::challenge::{Calls, Challenge, Request as PaymentRequest};
use crate::credential::Receipt;
use crate::encoding;
use crate::problem::{Kind, Problem};
use crate::tariff::Tariff;
use crate::till::{Till, authority};
use crate::wire;

static LIGHTSPEED: HeaderName = HeaderName::from_static(wire::LIGHTSPEED);
static RECEIPT: HeaderName = HeaderName::from_static(wire::RECEIPT);

/// How a gate behaves, beside its prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Let everything through for free, and only log what it would have cost.
    pub shadow: bool,
    /// The largest body of a paid request, in bytes: it is read before the call is admitted, since the payment covers it.
    pub most_body: usize,
    /// How long the service may take to begin its answer. A call that takes longer is free.
    pub patience: Duration,
    /// The largest answer that is kept for a retry, in bytes. A retry of a call with a larger one gets the receipt.
    pub most_answer: usize,
    /// How many bytes all kept answers may take.
    pub most_answers: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            shadow: false,
            most_body: 1 << 20,
            patience: Duration::from_secs(60),
            most_answer: 64 << 10,
            most_answers: 64 << 20,
        }
    }
}

/// The layer. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    till: Arc<Till>,
    routes: Router,
    tariff: Tariff,
    manner: Manner,
    answers: Answers,
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
        Self(Arc::new(Shared { till, routes, tariff, manner, answers: Answers::new(manner.most_answers) }))
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
struct Admitted {
    channel: ChannelId,
    number: CallNumber,
    mac: [u8; 32],
    price: Msat,
}

/// A call that runs. However its work ends, also by a panic, what was set aside for it comes free.
struct Running {
    shared: Arc<Shared>,
    admitted: Admitted,
    has_ended: bool,
}

impl Running {
    fn end(mut self, charged: Option<Msat>) -> Msat {
        self.has_ended = true;
        self.shared.till.seller().end(self.admitted.channel, self.admitted.number, charged)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.till.seller().end(self.admitted.channel, self.admitted.number, None);
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
        let price = self.tariff.price(&parts);
        if price == Msat::ZERO {
            return respond(inner, Request::from_parts(parts, body)).await;
        }
        if self.manner.shadow {
            tracing::info!(method = %parts.method, path = parts.uri.path(), %price, "not charged: shadow mode");
            return respond(inner, Request::from_parts(parts, body)).await;
        }
        let authority = authority(&parts.headers, &parts.uri);
        let (admitted, request) = match self.admit(header, parts, body, price, &authority).await {
            Ok(admitted) => admitted,
            Err(Stop::Again(answer)) => return answer.respond(),
            Err(Stop::Served(response)) => return *response,
            Err(Stop::Open(problem)) => return outcome(problem.into_response(), wire::OPEN),
            Err(Stop::Forgotten(problem)) => return outcome(problem.into_response(), wire::FORGOTTEN),
            Err(Stop::Refused(problem)) => {
                let mut response = outcome(self.refuse(problem, price, &authority), wire::REFUSED);
                let epoch = HeaderValue::from(self.till.seller().epoch());
                response.headers_mut().insert(HeaderName::from_static(wire::EPOCH), epoch);
                return response;
            }
        };
        let running = Running { shared: self, admitted, has_ended: false };
        // A task of its own goes on when the client leaves and this future is dropped.
        match tokio::spawn(running.serve(inner, request)).await {
            Ok(response) => response,
            Err(error) => outcome(Problem::new(Kind::Unavailable, error).into_response(), wire::OPEN),
        }
    }

    /// Decides whether a request is paid for.
    async fn admit(
        &self,
        header: Option<HeaderValue>,
        parts: Parts,
        body: Body,
        price: Msat,
        authority: &str,
    ) -> Result<(Admitted, Request), Stop> {
        let Some(header) = header else {
            return Err(Problem::new(Kind::PaymentRequired, format!("{price} for this call")).into());
        };
        let (call, mac) = read_call(&header)?;
        let body = if body.is_end_stream() {
            bytes::Bytes::new()
        } else {
            let most = self.manner.most_body;
            let too_large = |_| Problem::new(Kind::BadRequest, format!("the body is above {most} bytes"));
            body::to_bytes(body, most).await.map_err(too_large)?
        };
        let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = Target { method: parts.method.as_str(), authority, uri, body: digest(&body) };
        let seller = self.till.seller();
        if call.cost < price {
            seller.refuse(&call, &target, &mac).await.map_err(|error| self.refusal(&call, error))?;
            let detail = format!("this call costs {price}, and {} is the most that it may cost", call.cost);
            return Err(Problem::new(Kind::PaymentInsufficient, detail).into());
        }
        match seller.admit(&call, &target, &mac).await {
            Ok(()) => {}
            Err(CallError::Refused(Refused::Served(number))) => {
                return Err(self.again(call.channel, number, &mac, call.cost).await);
            }
            Err(error) => return Err(self.refusal(&call, error)),
        }
        let admitted = Admitted { channel: call.channel, number: call.number, mac, price };
        Ok((admitted, Request::from_parts(parts, Body::from(body))))
    }

    /// What a call gets that was served before. Nothing leaves before the tab that has it as served is stored.
    async fn again(&self, channel: ChannelId, number: CallNumber, mac: &[u8; 32], cost: Msat) -> Stop {
        if let Err(error) = self.till.seller().stored(channel).await {
            return Stop::Open(Problem::new(Kind::Unavailable, error).retry_after(1));
        }
        match self.answers.find(channel, number, mac) {
            Some(answer) => Stop::Again(Box::new(answer)),
            None => {
                let detail = "this call was served and charged; its answer is not kept any more";
                let mut response = Problem::new(Kind::AlreadyServed, detail).into_response();
                response.headers_mut().extend(receipt(channel, cost).map(|value| (RECEIPT.clone(), value)));
                Stop::Served(Box::new(response))
            }
        }
    }

    fn refusal(&self, call: &Call, error: CallError) -> Stop {
        let kind = match &error {
            CallError::Unknown(_) | CallError::Closing => Kind::ChannelNotOpen,
            CallError::NotAuthentic(_) => Kind::VerificationFailed,
            CallError::Refused(refused) => match refused {
                Refused::Served(_) => Kind::AlreadyServed,
                Refused::Running(_) => {
                    return Stop::Open(Problem::new(Kind::CallRunning, error).retry_after(1));
                }
                Refused::Forgotten { .. } => {
                    return Stop::Forgotten(Problem::new(Kind::CallForgotten, error));
                }
                Refused::Void { .. } => Kind::CallVoid,
                Refused::TooMany => {
                    return Problem::new(Kind::TooManyCalls, error).retry_after(1).into();
                }
                Refused::NotDeepEnough { .. } => {
                    return Problem::new(Kind::FundingNotDeep, error).retry_after(1).into();
                }
                Refused::LyingRung { .. } => {
                    tracing::warn!(channel = %call.channel, %error, "closing the channel");
                    let (seller, channel) = (self.till.seller().clone(), call.channel);
                    tokio::spawn(async move {
                        if let Err(error) = seller.close(channel).await {
                            tracing::warn!(%channel, %error, "the channel is not closed yet");
                        }
                    });
                    Kind::VerificationFailed
                }
                Refused::Unpaid { .. } => Kind::PaymentInsufficient,
                _wrong_words => Kind::VerificationFailed,
            },
            _ours => return Stop::Open(Problem::new(Kind::Unavailable, error).retry_after(1)),
        };
        Problem::new(kind, error).into()
    }

    fn refuse(&self, problem: Problem, price: Msat, authority: &str) -> Response {
        if !problem.asks_for_payment() {
            return problem.into_response();
        }
        let (offer, key) = self.till.seller().offer();
        let calls = Calls { most_exposure: self.till.seller().most_exposure(), replay_window: WINDOW };
        let request = PaymentRequest::for_call(price, offer, key, calls);
        let challenge = Challenge::issue(self.till.secret(), authority, &request, Timestamp::now());
        problem.with_challenge(&challenge.to_header())
    }

    /// The routes that are the gate's own.
    async fn own(&self, request: Request) -> Response {
        match request.uri().path() {
            wire::PRICES => match &self.tariff {
                Tariff::List(list) => Json(list.as_ref()).into_response(),
                Tariff::Function(_) => {
                    let detail =
                        "the price depends on the request: ask without paying, the challenge tells it";
                    Problem::new(Kind::NotFound, detail).into_response()
                }
            },
            wire::HEALTH => Json(serde_json::json!({ "status": "pass" })).into_response(),
            _money => match self.routes.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        }
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
        let response = match tokio::time::timeout(manner.patience, respond(inner, request)).await {
            Ok(response) => response,
            Err(_elapsed) => {
                self.end(None);
                let detail = "the service behind took too long; this call costs nothing";
                return outcome(Problem::new(Kind::Unavailable, detail).into_response(), wire::FREE);
            }
        };
        if response.status().as_u16() >= 400 {
            self.end(None);
            return outcome(response, wire::FREE);
        }
        let (parts, body) = response.into_parts();
        let size = body.size_hint().upper().filter(|size| *size <= manner.most_answer as u64);
        // A short answer is read to its end before anything is charged for it, and kept.
        let body = match size {
            Some(_) => match body::to_bytes(body, manner.most_answer).await {
                Ok(bytes) => Ok(bytes),
                Err(error) => {
                    self.end(None);
                    return outcome(Problem::new(Kind::Unavailable, error).into_response(), wire::FREE);
                }
            },
            None => Err(body),
        };
        let shared = self.shared.clone();
        let Admitted { channel, number, mac, price } = self.admitted;
        let charged = self.end(Some(price));
        let mut parts = parts;
        parts.headers.extend(receipt(channel, charged).map(|value| (RECEIPT.clone(), value)));
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
        match shared.till.seller().stored(channel).await {
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
}

/// Says what became of a call that has no receipt.
fn outcome(mut response: Response, outcome: &'static str) -> Response {
    response.headers_mut().insert(LIGHTSPEED.clone(), HeaderValue::from_static(outcome));
    response
}

/// Why a request does not reach the service.
enum Stop {
    /// It is free, and its number will never be served.
    Refused(Problem),
    /// It is not settled: the same call may be sent again.
    Open(Problem),
    /// It may have been served, too long ago to tell.
    Forgotten(Problem),
    /// It was served; here is the answer.
    Again(Box<Answer>),
    /// It was served, and only the receipt is left.
    Served(Box<Response>),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

fn read_call(header: &HeaderValue) -> Result<(Call, [u8; 32]), Problem> {
    const MOST: usize = call::LENGTH_WITH_LAST.div_ceil(3) * 4;
    let malformed = |detail: String| Problem::new(Kind::MalformedCredential, detail);
    let text = header.to_str().map_err(|error| malformed(error.to_string()))?;
    if text.len() > MOST {
        return Err(malformed(format!("a call is at most {MOST} characters, got {}", text.len())));
    }
    let bytes = encoding::decode_bytes(text).map_err(|error| malformed(error.to_string()))?;
    Call::from_bytes(&bytes).map_err(|error| malformed(error.to_string()))
}

/// SHA256 of a body, as a call's MAC covers it.
pub(crate) fn digest(body: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(body).to_byte_array()
}

fn receipt(channel: ChannelId, cost: Msat) -> Option<HeaderValue> {
    HeaderValue::from_str(&Receipt::new(channel, cost, Timestamp::now()).to_header()).ok()
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
        Ok(response) => response.map(Body::new),
        Err(error) => Problem::new(Kind::Unavailable, error).into_response(),
    }
}
