//! The mailbox's routes. Nothing here logs an address, a letter or who asks.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::hex::FromHex as _;
use farthing_mailbox::{Blob, Proof, Request, blob};
use farthing_node::mail::{MailError, Mailroom, Owned, Posted, Refused, Standing};
use farthing_protocol::cheque::book;
use farthing_protocol::cheque::prekey::SignedPrekey;
use secp256k1::XOnlyPublicKey;
use url::form_urlencoded;

use super::{MOST_PREKEYS, PAGE, RECORD, ROOT, StandingBody, TIME, TermsBody};
use crate::arriving::PostedBytes;
use crate::problem::{Kind, Problem};
use crate::till::authority;

/// The largest body with prekeys, in bytes.
const MOST_PUBLISHED: usize = 128 * 1024;

/// The routes of a mailbox.
pub fn router(mailroom: Arc<Mailroom>) -> Router {
    let letters = get(fetch).merge(post(keep).layer(DefaultBodyLimit::max(blob::LENGTH)));
    let prekeys = get(standing).post(take).put(publish).layer(DefaultBodyLimit::max(MOST_PUBLISHED));
    Router::new()
        .route(ROOT, get(terms))
        .route(&format!("{ROOT}/boxes/{{owner}}"), post(open).layer(DefaultBodyLimit::max(0)))
        .route(&format!("{ROOT}/letters/{{owner}}"), letters)
        .route(&format!("{ROOT}/letters/{{owner}}/{{id}}"), delete(forget))
        .route(&format!("{ROOT}/prekeys/{{owner}}"), prekeys)
        .fallback(async || Problem::new(Kind::NotFound, format!("this is a mailbox: {ROOT} tells its terms")))
        .with_state(mailroom)
}

/// `GET /mailbox`.
async fn terms(State(mailroom): State<Arc<Mailroom>>) -> Json<TermsBody> {
    let bounds = mailroom.bounds();
    Json(TermsBody {
        letter_bytes: blob::LENGTH as u64,
        most_keep_seconds: bounds.most_keep,
        most_letters: bounds.most_letters,
        most_prekeys: bounds.most_prekeys,
    })
}

/// `POST …/boxes/BOX`.
async fn open(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
    asked: Asked,
    PostedBytes(body): PostedBytes,
) -> Result<StatusCode, Refusal> {
    let owned = asked.owned(&owner, &body)?;
    mailroom.open_box(owned).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/letters/BOX`.
async fn keep(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
    uri: Uri,
    PostedBytes(body): PostedBytes,
) -> Result<StatusCode, Refusal> {
    let to = identity(&owner)?;
    let expiry = number(&uri, "expiry")?
        .ok_or_else(|| bad("a letter needs an expiry: ?expiry=SECONDS, counted from 1970"))?;
    let blob = Blob::from_bytes(&body).map_err(bad)?;
    let id = sha256::Hash::hash(blob.as_bytes()).to_byte_array();
    match mailroom.post(to, id, blob.as_bytes().to_vec(), expiry).await? {
        Posted::New => Ok(StatusCode::CREATED),
        Posted::Before => {
            let detail = "this very letter was posted before: it is kept, or was delivered";
            Err(Problem::new(Kind::AlreadyKept, detail).into())
        }
    }
}

/// `GET …/letters/BOX`.
async fn fetch(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
    asked: Asked,
) -> Result<Response, Refusal> {
    let owned = asked.owned(&owner, &[])?;
    let after = number(&asked.uri, "after")?.unwrap_or(0);
    let kept = mailroom.fetch(owned, after, PAGE).await?;
    let mut records = Vec::with_capacity(kept.len() * RECORD);
    for letter in kept {
        records.extend_from_slice(&letter.cursor.to_be_bytes());
        records.extend_from_slice(&letter.blob);
    }
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, records).into_response())
}

/// `DELETE …/letters/BOX/ID`.
async fn forget(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath((owner, id)): UrlPath<(String, String)>,
    asked: Asked,
) -> Result<StatusCode, Refusal> {
    let owned = asked.owned(&owner, &[])?;
    let id = <[u8; 32]>::from_hex(&id)
        .map_err(|_| bad("a letter is named by the 64 hexadecimal digits of its SHA-256"))?;
    mailroom.delete(owned, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT …/prekeys/BOX`.
async fn publish(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
    asked: Asked,
    PostedBytes(body): PostedBytes,
) -> Result<Json<StandingBody>, Refusal> {
    let owned = asked.owned(&owner, &body)?;
    let prekeys: Vec<SignedPrekey> = serde_json::from_slice(&body).map_err(bad)?;
    if prekeys.len() > MOST_PREKEYS {
        return Err(bad(format!("at most {MOST_PREKEYS} prekeys come in one request")).into());
    }
    for prekey in &prekeys {
        if prekey.prekey.id.number >= book::MOST_PREKEYS {
            return Err(bad(book::Reject::Full).into());
        }
        prekey.verify(&owned.identity).map_err(bad)?;
    }
    Ok(Json(mailroom.publish(owned, prekeys).await?.into()))
}

/// `GET …/prekeys/BOX`.
async fn standing(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
    asked: Asked,
) -> Result<Json<StandingBody>, Refusal> {
    let owned = asked.owned(&owner, &[])?;
    Ok(Json(mailroom.standing(owned).await?.into()))
}

/// `POST …/prekeys/BOX`.
async fn take(
    State(mailroom): State<Arc<Mailroom>>,
    UrlPath(owner): UrlPath<String>,
) -> Result<Response, Refusal> {
    let prekey = mailroom.take(identity(&owner)?).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(prekey)).into_response())
}

impl From<Standing> for StandingBody {
    fn from(Standing { unused, next }: Standing) -> Self {
        Self { unused, next }
    }
}

/// What an owner's signature covers, but for the body.
struct Asked {
    method: Method,
    uri: Uri,
    authority: String,
    proof: Option<HeaderValue>,
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Asked {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _state: &S,
    ) -> Result<Self, Self::Rejection> {
        let headers: &HeaderMap = &parts.headers;
        Ok(Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            authority: authority(headers, &parts.uri).to_owned(),
            proof: headers.get(header::AUTHORIZATION).cloned(),
        })
    }
}

impl Asked {
    /// The request's owner, if it is signed by the identity that the path names.
    fn owned(&self, owner: &str, body: &[u8]) -> Result<Owned, Problem> {
        let identity = identity(owner)?;
        let forbidden = |error: &dyn std::fmt::Display| Problem::new(Kind::Forbidden, error);
        let header = self.proof.as_ref().and_then(|proof| proof.to_str().ok()).unwrap_or_default();
        let proof = Proof::from_header(header).map_err(|error| forbidden(&error))?;
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Request { authority: &self.authority, method: self.method.as_str(), target, body };
        proof.verify(&identity, &request).map_err(|error| forbidden(&error))?;
        Ok(Owned { identity, time: proof.time })
    }
}

/// Why a request is not served.
enum Refusal {
    Problem(Problem),
    /// A time that the mailbox would take.
    Stale(Problem, u64),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<MailError> for Refusal {
    fn from(error: MailError) -> Self {
        let refused = match error {
            MailError::Refused(refused) => refused,
            // Why is for the operator to know: it names a disk.
            _ours => {
                let detail = "the mailbox cannot store or read; try again later";
                return Problem::new(Kind::Unavailable, detail).retry_after(1).into();
            }
        };
        let kind = match refused {
            Refused::Stale { least } => {
                return Self::Stale(Problem::new(Kind::StaleRequest, refused), least);
            }
            Refused::NoBox => Kind::NoBox,
            Refused::NoPrekeys => Kind::NoPrekeys,
            Refused::BoxFull(_)
            | Refused::Full
            | Refused::TooManyBoxes(_)
            | Refused::TooManyPrekeys { .. }
            | Refused::TooManyGenerations => Kind::MailboxFull,
            _theirs => Kind::BadRequest,
        };
        Problem::new(kind, refused).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Stale(problem, least) => {
                let mut response = problem.into_response();
                response.headers_mut().insert(HeaderName::from_static(TIME), HeaderValue::from(least));
                response
            }
        }
    }
}

fn bad(detail: impl ToString) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

fn identity(text: &str) -> Result<XOnlyPublicKey, Problem> {
    text.parse().map_err(|_| bad("a box is named by the identity of its address, 64 hexadecimal digits"))
}

/// A number in the query; `None` when it is not there.
fn number(uri: &Uri, name: &str) -> Result<Option<u64>, Problem> {
    let mut values = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(known, _)| known == name)
        .map(|(_, value)| value.parse().map_err(|_| bad(format!("`{name}` in the query is no number"))));
    values.next().transpose()
}
