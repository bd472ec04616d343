//! The routes of an agent or a node.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use farthing_node::books::OrderError;
use farthing_node::cheques::opening::{Direction, OpenError};
use farthing_node::cheques::reverse::agent::SaleError;
use farthing_node::cheques::selling::LockError;
use farthing_node::cheques::{Failed, Teller};
use farthing_protocol::cheque::side::Reject;
use farthing_protocol::cheque::{held, holder};
use farthing_protocol::keys::KeyId;
use farthing_protocol::{ChannelId, Msat};

use super::client::Client;
use super::wire::{
    self, AcceptanceBody, AnswerBody, AskBody, Bound, CancellationBody, CancelledBody, FoundWayBody,
    OfferBody, OpenBody, ProposalBody, RequestBody, SaleBody, TermsBody, UpdateBody, WayBody,
};
use crate::arriving::Posted;
use crate::problem::{Kind, Problem};
use crate::till::{blocking, channel};
use crate::wire::AcceptedBody;

/// The largest body that is read, in bytes.
const MOST_BODY: usize = 64 * 1024;

/// Where an agent or a node is asked.
pub struct Counter {
    teller: Arc<Teller>,
    /// To the nodes that it passes cheques on to.
    client: Client,
    secret: [u8; 32],
}

impl Counter {
    /// The counter of a program that carries cheques.
    pub fn new(teller: Arc<Teller>, client: Client) -> Self {
        let secret = teller.offer_secret();
        Self { teller, client, secret }
    }

    /// The routes.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(wire::ROOT, get(terms))
            .route(&wire::channels_path(), post(open))
            .route(&wire::requests_path(), post(request))
            .route(&wire::ways_path(), post(way))
            .route(&wire::asks_path(), post(ask))
            .route(&wire::sales_path(), post(sale))
            .route(&wire::below("{id}", "update"), post(update))
            .route(&wire::below("{id}", "cancelled"), post(cancelled))
            .route(&wire::below("{id}", "accepted"), post(accepted))
            .route(&wire::below("{id}", "answer"), post(answer))
            .layer(DefaultBodyLimit::max(MOST_BODY))
            .with_state(self)
    }
}

type Asked = State<Arc<Counter>>;

/// `GET …/cheques`.
async fn terms(State(counter): Asked) -> Json<TermsBody> {
    let (offer, key) = counter.teller.offer();
    let terms = counter.teller.terms();
    Json(TermsBody {
        fee_msat: terms.fee.get(),
        delta: terms.delta,
        most_onward_sat: terms.onward.1.to_sat(),
        offer: Bound::new(offer, key, &counter.secret),
    })
}

/// `POST …/channels`.
async fn open(State(counter): Asked, Posted(body): Posted<OpenBody>) -> Result<Response, Problem> {
    let OpenBody { offer, opening } = body;
    if !offer.holds(&counter.secret) {
        return Err(Problem::new(Kind::BadRequest, "this offer is not from here, or was changed"));
    }
    let teller = counter.teller.clone();
    let accept = move || teller.accept(&offer.offer, KeyId::from_u64(offer.key), opening, None);
    let (channel, signature) = blocking(accept).await?.map_err(open_problem)?;
    Ok((StatusCode::CREATED, Json(AcceptedBody { channel, signature })).into_response())
}

/// `POST …/channels/ID/update`.
async fn update(
    State(counter): Asked,
    UrlPath(id): UrlPath<String>,
    Posted(body): Posted<UpdateBody>,
) -> Result<Json<AnswerBody>, Problem> {
    let (update, id) = (body.update, channel(&id)?);
    let update = update.ok_or_else(|| Problem::new(Kind::BadRequest, "there is no update in the body"))?;
    let teller = counter.teller.clone();
    let answer = blocking(move || teller.take(id, update, Msat::ZERO)).await?.map_err(problem)?;
    Ok(Json(AnswerBody::new(id, &answer, &key(&counter, id)?)))
}

/// `POST …/channels/ID/cancelled`.
async fn cancelled(
    State(counter): Asked,
    UrlPath(id): UrlPath<String>,
    Posted(body): Posted<CancelledBody>,
) -> Result<Json<CancellationBody>, Problem> {
    let id = channel(&id)?;
    let point = body.read(id, &key(&counter, id)?).map_err(|error| Problem::new(Kind::BadRequest, error))?;
    let teller = counter.teller.clone();
    let word = blocking(move || teller.give_up(id, &point)).await?.map_err(problem)?;
    match word {
        Some(cancellation) => Ok(Json(CancellationBody { cancellation })),
        None => Err(Problem::new(Kind::ChequeRefused, "that promise is held here still, or was cashed")),
    }
}

/// `POST …/requests`.
async fn request(State(counter): Asked, Posted(body): Posted<RequestBody>) -> Result<Response, Problem> {
    let teller = counter.teller.clone();
    let direction = if body.authorises { Direction::Authorised } else { Direction::Cheques };
    let propose = move || teller.propose_onward(&body.offer, body.least(), body.latest, direction);
    let (_, opening) = blocking(propose).await?.map_err(open_problem)?;
    Ok((StatusCode::CREATED, Json(ProposalBody { opening })).into_response())
}

/// `POST …/channels/ID/accepted`.
async fn accepted(
    State(counter): Asked,
    UrlPath(id): UrlPath<String>,
    Posted(body): Posted<AcceptanceBody>,
) -> Result<StatusCode, Problem> {
    let (AcceptanceBody { signature }, id) = (body, channel(&id)?);
    let teller = counter.teller.clone();
    blocking(move || teller.accepted(id, signature)).await?.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/channels/ID/answer`.
async fn answer(
    State(counter): Asked,
    UrlPath(id): UrlPath<String>,
    Posted(body): Posted<AnswerBody>,
) -> Result<Json<UpdateBody>, Problem> {
    let id = channel(&id)?;
    let answer = body.read(id, &key(&counter, id)?).map_err(|error| Problem::new(Kind::BadRequest, error))?;
    let teller = counter.teller.clone();
    let update = blocking(move || {
        teller.hear(id, &answer)?;
        teller.update(id)
    });
    Ok(Json(UpdateBody { update: update.await?.map_err(problem)? }))
}

/// `POST …/ways`.
async fn way(State(counter): Asked, Posted(body): Posted<WayBody>) -> Result<Json<FoundWayBody>, Problem> {
    let WayBody { node, amount_msat, latest, held } = body;
    let teller = counter.teller.clone();
    let way = blocking(move || teller.way(&node, Msat::new(amount_msat), latest, held));
    match way.await?.and_then(|way| way.ok_or(LockError::NoWay)) {
        Ok(expiry) => Ok(Json(FoundWayBody { expiry })),
        Err(error) => Err(lock_problem(error)),
    }
}

/// `POST …/asks`.
async fn ask(State(counter): Asked, Posted(body): Posted<AskBody>) -> Result<StatusCode, Problem> {
    let key = body.channel().map(|id| key(&counter, id)).transpose()?;
    let ask = body.read(key.as_ref()).map_err(|error| Problem::new(Kind::BadRequest, error))?;
    let teller = counter.teller.clone();
    let locked = blocking(move || {
        let channel = teller.lock(&ask)?;
        Ok::<_, LockError>((channel, teller.peer(channel)))
    });
    let (id, peer) = locked.await?.map_err(lock_problem)?;
    // A payee fetches its lock; a node is brought it.
    if peer.is_some() {
        counter.client.sync(id).await.map_err(|error| {
            tracing::warn!(channel = %id, %error, "the lock was made, but not brought to the node");
            Problem::new(Kind::BadGateway, "the next node could not be brought its lock: ask again")
                .retry_after(1)
        })?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/sales`.
async fn sale(State(counter): Asked, Posted(body): Posted<SaleBody>) -> Result<Json<OfferBody>, Problem> {
    let SaleBody { authorisation } = body;
    let teller = counter.teller.clone();
    let offered = blocking(move || teller.offer_signature(&authorisation)).await?;
    let offer = offered.map_err(|error| match error {
        SaleError::NoChannel => Problem::new(Kind::NotFound, error),
        SaleError::Order(error) => problem(error),
        SaleError::Chain(_) | SaleError::Store(_) => unavailable(&error),
        other => Problem::new(Kind::ChequeRefused, other),
    })?;
    Ok(Json(offer.into()))
}

fn key(counter: &Counter, id: ChannelId) -> Result<farthing_protocol::session::CallKey, Problem> {
    counter.teller.call_key(id).ok_or_else(|| Problem::new(Kind::NotFound, "there is no such channel here"))
}

fn problem(error: Failed) -> Problem {
    match &error {
        OrderError::NoChannel(_) => Problem::new(Kind::NotFound, "there is no such channel here"),
        // The promise behind it may count in a block or two.
        OrderError::Rejected(Reject::Holder(holder::Reject::Promises(held::Reject::NotDeep))) => {
            Problem::new(Kind::FundingNotDeep, error).retry_after(1)
        }
        OrderError::Rejected(_) => Problem::new(Kind::ChequeRefused, error),
        _ours => unavailable(&error),
    }
}

fn lock_problem(error: LockError) -> Problem {
    match error {
        LockError::Unknown => Problem::new(Kind::NotFound, error),
        LockError::NoWay | LockError::HoldsEnough(_) => {
            Problem::new(Kind::ChequeRefused, error).retry_after(5)
        }
        LockError::Refused(_) => Problem::new(Kind::ChequeRefused, error),
        LockError::Order(error) => problem(error),
        LockError::Chain(_) => unavailable(&error),
        other => Problem::new(Kind::ChequeRefused, other),
    }
}

fn open_problem(error: OpenError) -> Problem {
    match error {
        OpenError::BadParams(_) | OpenError::Refused(_) | OpenError::TooMuchLocked { .. } => {
            Problem::new(Kind::ChequeRefused, error)
        }
        error @ OpenError::OtherOutput(_) => Problem::new(Kind::BadRequest, error),
        OpenError::Order(error @ OrderError::FundingTaken(_)) => Problem::new(Kind::BadRequest, error),
        OpenError::TooManyUnfunded(_) => Problem::new(Kind::Unavailable, error).retry_after(5),
        ours => unavailable(&ours),
    }
}

/// Something of its own fails. Why is for its operator to know: it names its node and its folders.
fn unavailable(error: &dyn std::error::Error) -> Problem {
    tracing::warn!(%error, "a request could not be served");
    Problem::new(Kind::Unavailable, "the agent's node, wallet or disk does not answer; try again later")
        .retry_after(1)
}
