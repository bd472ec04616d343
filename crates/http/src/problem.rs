//! Why a request was not served: problem bodies (RFC 9457) of the draft's types, with what was expected and what came.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The draft's base of problem types.
const BASE: &str = "https://paymentauth.org/problems/";

/// The kinds of problem that a program may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No credential came.
    PaymentRequired,
    /// The total does not cover the cost.
    PaymentInsufficient,
    /// A signature, a MAC or the channel is wrong.
    VerificationFailed,
    /// The credential does not decode.
    MalformedCredential,
    /// The challenge is foreign, changed or expired. A fresh one comes along.
    InvalidChallenge,
    /// The funding is not deep enough yet; try again later.
    FundingNotDeep,
    /// The channel takes no payment any more; open another.
    ChannelNotOpen,
    /// The call was served and charged before, and its answer is not kept.
    AlreadyServed,
    /// The call is being served at this moment; ask again.
    CallRunning,
    /// The call was not served, never will be, and cost nothing.
    CallVoid,
    /// It is not known any more whether the call was served.
    CallForgotten,
    /// Too many calls at once; try again later.
    TooManyCalls,
    /// The request itself is wrong; nothing was charged.
    BadRequest,
    /// There is no such thing.
    NotFound,
    /// Not from there; nothing was asked or paid.
    Forbidden,
    /// Nobody has opened a box for this address at this mailbox.
    NoBox,
    /// The address has no prekeys left at this mailbox.
    NoPrekeys,
    /// An owner's request that came before, or whose time another overtook.
    StaleRequest,
    /// The letter was posted before.
    AlreadyKept,
    /// A promise, a lock or a channel that the rules of cheques do not allow; nothing was locked.
    ChequeRefused,
    /// The mailbox, or a box in it, has no room.
    MailboxFull,
    /// The seller could not be reached or paid.
    BadGateway,
    /// The seller cannot store or read something; try again later.
    Unavailable,
}

impl Kind {
    const ALL: [Self; 23] = [
        Self::PaymentRequired,
        Self::PaymentInsufficient,
        Self::VerificationFailed,
        Self::MalformedCredential,
        Self::InvalidChallenge,
        Self::FundingNotDeep,
        Self::ChannelNotOpen,
        Self::AlreadyServed,
        Self::CallRunning,
        Self::CallVoid,
        Self::CallForgotten,
        Self::TooManyCalls,
        Self::BadRequest,
        Self::NotFound,
        Self::Forbidden,
        Self::NoBox,
        Self::NoPrekeys,
        Self::StaleRequest,
        Self::AlreadyKept,
        Self::ChequeRefused,
        Self::MailboxFull,
        Self::BadGateway,
        Self::Unavailable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PaymentRequired => "payment-required",
            Self::PaymentInsufficient => "payment-insufficient",
            Self::VerificationFailed => "verification-failed",
            Self::MalformedCredential => "malformed-credential",
            Self::InvalidChallenge => "invalid-challenge",
            Self::FundingNotDeep => "funding-not-deep",
            Self::ChannelNotOpen => "channel-not-open",
            Self::AlreadyServed => "already-served",
            Self::CallRunning => "call-running",
            Self::CallVoid => "call-void",
            Self::CallForgotten => "call-forgotten",
            Self::TooManyCalls => "too-many-calls",
            Self::BadRequest => "bad-request",
            Self::NotFound => "not-found",
            Self::Forbidden => "forbidden",
            Self::NoBox => "no-box",
            Self::NoPrekeys => "no-prekeys",
            Self::StaleRequest => "stale-request",
            Self::AlreadyKept => "already-kept",
            Self::ChequeRefused => "cheque-refused",
            Self::MailboxFull => "mailbox-full",
            Self::BadGateway => "bad-gateway",
            Self::Unavailable => "unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::PaymentRequired
            | Self::PaymentInsufficient
            | Self::VerificationFailed
            | Self::MalformedCredential
            | Self::InvalidChallenge
            | Self::FundingNotDeep
            | Self::ChannelNotOpen => StatusCode::PAYMENT_REQUIRED,
            Self::AlreadyServed
            | Self::CallRunning
            | Self::CallVoid
            | Self::CallForgotten
            | Self::StaleRequest
            | Self::AlreadyKept
            | Self::ChequeRefused => StatusCode::CONFLICT,
            Self::TooManyCalls => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::NoBox | Self::NoPrekeys => StatusCode::NOT_FOUND,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::MailboxFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A problem, ready to be sent.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// What happened, for people.
    pub detail: String,
    /// In how many seconds another try makes sense.
    pub retry_after: Option<u32>,
}

/// A problem as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// A URI of the draft.
    #[serde(rename = "type")]
    pub uri: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
}

impl Problem {
    /// A problem.
    pub fn new(kind: Kind, detail: impl ToString) -> Self {
        Self { kind, detail: detail.to_string(), retry_after: None }
    }

    /// And when to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Whether it is answered with 402, and so with a fresh challenge.
    pub fn asks_for_payment(&self) -> bool {
        self.kind.status() == StatusCode::PAYMENT_REQUIRED
    }

    /// With a fresh challenge, which every 402 must carry.
    pub fn with_challenge(self, challenge: &str) -> Response {
        let mut response = self.into_response();
        if let Ok(challenge) = HeaderValue::from_str(challenge) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl Body {
    /// The kind, if it is one of ours.
    pub fn kind(&self) -> Option<Kind> {
        let name = self.uri.strip_prefix(BASE)?;
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let body = Body {
            uri: format!("{BASE}{}", self.kind.name()),
            title: self.kind.name().replace('-', " "),
            status: status.as_u16(),
            detail: self.detail,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
