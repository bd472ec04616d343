//! Whether a request is paid for, and what it gets when it is not.

use axum::body::{Body, HttpBody as _};
use axum::extract::{OriginalUri, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse as _, Response};
use farthing_node::books::OrderError;
use farthing_node::tabs::{Admission, CallError};
use farthing_protocol::lightspeed::call::{self, NO_BODY, Target};
use farthing_protocol::lightspeed::numbers::WINDOW;
use farthing_protocol::lightspeed::tab::Refused;
use farthing_protocol::lightspeed::{Call, CallNumber};
use farthing_protocol::{ChannelId, Msat};
use jiff::Timestamp;

use super::{Admitted, RECEIPT, Shared, digest, outcome};
use crate::challenge::{Calls, Challenge, Request as PaymentRequest};
use crate::encoding;
use crate::problem::{Kind, Problem};
use crate::tariff::CallPrice;
use crate::till::{self, authority};
use crate::wire;

/// Why a request does not reach the service.
pub(super) enum Stop {
    /// It carries no call that is known to be the payer's own. Says nothing of any call: who stands between payer and seller
    /// can damage a request, and its payer must not take the call for free because of that.
    Unheard(Problem),
    /// It is free, and its number will never be served.
    Refused(Problem),
    /// It is not settled: the same call may be sent again.
    Open(Problem),
    /// It is being served.
    Running(Problem),
    /// The channel takes no calls any more.
    Closed(Problem),
    /// It may have been served, too long ago to tell.
    Forgotten(Problem),
    /// It was served; here is the answer, or what is left of it.
    Served(Box<Response>),
}

impl Shared {
    /// Admits a call that nothing has to be waited for: its request has no body, and its tab is in memory. `None` for any
    /// other, of which nothing was decided.
    pub(super) fn admit_now(
        &self,
        (call, mac): &(Call, [u8; 32]),
        parts: &Parts,
        body: &Body,
        price: CallPrice,
    ) -> Option<Result<(Admitted, Admission), CallError>> {
        if !body.is_end_stream() || call.cost < price.least() {
            return None;
        }
        let authority = authority(&parts.headers, &parts.uri);
        let target = target(parts, authority, NO_BODY);
        let admitted = self.till.seller().admit_now(call, &target, mac)?;
        Some(admitted.map(|admission| (Admitted::new(call, *mac, price), admission)))
    }

    /// Decides whether a request is paid for.
    pub(super) async fn admit(
        &self,
        header: Option<HeaderValue>,
        parts: Parts,
        body: Body,
        price: CallPrice,
    ) -> Result<((Admitted, Admission), Request), Stop> {
        let Some(header) = header else {
            return Err(Stop::Unheard(Problem::new(Kind::PaymentRequired, format!("this costs {price}"))));
        };
        let (call, mac) = read_call(&header).map_err(Stop::Unheard)?;
        let held = if body.is_end_stream() {
            None
        } else {
            // Nobody has a body read who has no channel here.
            match self.till.seller().knows(call.channel).await {
                Ok(true) => {}
                Ok(false) => return Err(self.refusal(&call, CallError::Unknown(call.channel))),
                Err(error) => return Err(self.refusal(&call, error.into())),
            }
            let most = self.manner.most_body;
            let too_long = parts
                .headers
                .get(header::CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok());
            if too_long.is_some_and(|length: usize| length > most) {
                // Its MAC covers the body, so whoever passed it on may have stated that length: it is not free for good.
                let detail = format!("the body of a paid request is at most {most} bytes");
                return Err(Stop::Unheard(Problem::new(Kind::BadRequest, detail)));
            }
            let unread = |why: &str| {
                let detail = format!("the body was not read ({why}); the most is {most} bytes");
                Stop::Unheard(Problem::new(Kind::BadRequest, detail))
            };
            let read = self.till.bodies().read(body, most);
            match tokio::time::timeout(self.manner.body_patience, read).await {
                Ok(held) => Some(held.map_err(|error| unread(&error.to_string()))?),
                Err(_elapsed) => return Err(unread("it took too long")),
            }
        };
        // Its place is free again as soon as it is known to be the payer's own, or refused.
        let body = held.as_ref().map(|held| held.bytes.clone()).unwrap_or_default();
        let target = target(&parts, authority(&parts.headers, &parts.uri), digest(&body));
        let seller = self.till.seller();
        let least = price.least();
        if call.cost < least {
            // What was served at a lower price has its answer, whatever the price is now.
            if let Err(error) = seller.refuse(&call, &target, &mac).await {
                return Err(self.not_admitted(&call, &mac, error).await);
            }
            let detail =
                format!("this costs {price}: {least} must be set aside to begin with, and {} is", call.cost);
            return Err(Stop::Refused(Problem::new(Kind::PaymentInsufficient, detail)));
        }
        match seller.admit(&call, &target, &mac).await {
            Ok(admission) => {
                let request = Request::from_parts(parts, Body::from(body));
                Ok(((Admitted::new(&call, mac, price), admission), request))
            }
            Err(error) => Err(self.not_admitted(&call, &mac, error).await),
        }
    }

    /// What a call gets that was not admitted.
    pub(super) async fn not_admitted(&self, call: &Call, mac: &[u8; 32], error: CallError) -> Stop {
        match error {
            CallError::Refused(Refused::Served(number)) => {
                self.again(call.channel, number, mac, call.cost).await
            }
            error => self.refusal(call, error),
        }
    }

    /// What a call gets that was served before. Nothing leaves before the tab that has it as served is stored.
    async fn again(&self, channel: ChannelId, number: CallNumber, mac: &[u8; 32], cost: Msat) -> Stop {
        if let Err(error) = self.till.seller().stored(channel).await {
            return Stop::Open(Problem::new(Kind::Unavailable, error).retry_after(1));
        }
        match self.answers.find(channel, number, mac) {
            Some(answer) => Stop::Served(Box::new(answer)),
            None => {
                let detail = "this call was served and charged; its answer is not kept";
                let mut response = Problem::new(Kind::AlreadyServed, detail).into_response();
                let cost = self.till.seller().other_cost(channel, number).unwrap_or(cost);
                response.headers_mut().insert(RECEIPT.clone(), self.receipt(channel, cost));
                Stop::Served(Box::new(response))
            }
        }
    }

    fn refusal(&self, call: &Call, error: CallError) -> Stop {
        let kind = match &error {
            // Whether it was served before the close is not known here any more.
            CallError::Unknown(_) => return Stop::Closed(Problem::new(Kind::ChannelNotOpen, error)),
            CallError::Closing => Kind::ChannelNotOpen,
            CallError::NotAuthentic(_) => {
                return Stop::Unheard(Problem::new(Kind::VerificationFailed, error));
            }
            CallError::Refused(refused) => match refused {
                Refused::Served(_) => Kind::AlreadyServed,
                Refused::Running(_) => {
                    return Stop::Running(Problem::new(Kind::CallRunning, error).retry_after(1));
                }
                Refused::Forgotten { .. } => {
                    return Stop::Forgotten(Problem::new(Kind::CallForgotten, error));
                }
                Refused::Void { .. } => Kind::CallVoid,
                Refused::TooMany => {
                    return Stop::Refused(Problem::new(Kind::TooManyCalls, error).retry_after(1));
                }
                Refused::NotDeepEnough { .. } => {
                    return Stop::Refused(Problem::new(Kind::FundingNotDeep, error).retry_after(1));
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
            CallError::Order(OrderError::Blind(since)) => {
                return Stop::Refused(till::blind(&error, *since));
            }
            _ours => return Stop::Open(Problem::new(Kind::Unavailable, error).retry_after(1)),
        };
        Stop::Refused(Problem::new(kind, error))
    }

    fn refuse(&self, problem: Problem, price: CallPrice, authority: &str) -> Response {
        if !problem.asks_for_payment() {
            return problem.into_response();
        }
        let (offer, key) = self.till.seller().offer();
        let seller = self.till.seller();
        let (most_exposure, flat) = (seller.most_exposure(), seller.flat().copied());
        let calls = Calls { most_exposure, replay_window: WINDOW, price, flat };
        let request = PaymentRequest::for_call(offer, key, calls);
        let challenge = Challenge::issue(self.till.secret(), authority, &request, Timestamp::now());
        problem.with_challenge(&challenge.to_header())
    }

    /// What a request gets that does not reach the service.
    pub(super) fn stop(&self, stop: Stop, price: CallPrice, authority: &str) -> Response {
        let mut response = match stop {
            Stop::Unheard(problem) => return self.refuse(problem, price, authority),
            Stop::Served(response) => *response,
            Stop::Open(problem) => outcome(problem.into_response(), wire::OPEN),
            Stop::Running(problem) => outcome(problem.into_response(), wire::RUNNING),
            Stop::Forgotten(problem) => outcome(problem.into_response(), wire::FORGOTTEN),
            Stop::Closed(problem) => outcome(self.refuse(problem, price, authority), wire::CLOSED),
            Stop::Refused(problem) => outcome(self.refuse(problem, price, authority), wire::REFUSED),
        };
        // A payer that does not hear of a new epoch goes on in the old one, where nothing is served.
        let epoch = HeaderValue::from(self.till.seller().epoch());
        response.headers_mut().insert(HeaderName::from_static(wire::EPOCH), epoch);
        response
    }
}

impl Admitted {
    fn new(call: &Call, mac: [u8; 32], price: CallPrice) -> Self {
        Self { channel: call.channel, number: call.number, mac, price, aside: call.cost }
    }
}

fn target<'a>(parts: &'a Parts, authority: &'a str, body: [u8; 32]) -> Target<'a> {
    let uri = asked(parts).path_and_query().map_or("/", |path| path.as_str());
    Target { method: parts.method.as_str(), authority, uri, body }
}

/// What the client asked for. A router that has taken a part of the path off tells the whole.
pub(super) fn asked(parts: &Parts) -> &Uri {
    parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0)
}

pub(super) fn read_call(header: &HeaderValue) -> Result<(Call, [u8; 32]), Problem> {
    const MOST: usize = call::LENGTH_WITH_LAST.div_ceil(3) * 4;
    let malformed = |detail: String| Problem::new(Kind::MalformedCredential, detail);
    let text = header.to_str().map_err(|error| malformed(error.to_string()))?;
    if text.len() > MOST {
        return Err(malformed(format!("a call is at most {MOST} characters, got {}", text.len())));
    }
    let mut bytes = [0; MOST];
    let length = encoding::decode_into(text, &mut bytes).map_err(|error| malformed(error.to_string()))?;
    Call::from_bytes(&bytes[..length]).map_err(|error| malformed(error.to_string()))
}
