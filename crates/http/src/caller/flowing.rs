//! An answer on the payer's side: whole, or charged as it flows and topped up in the middle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farthing_node::buyer::calls::{OnDay, Prepared};
use farthing_protocol::{ChannelId, Msat};
use futures_util::stream;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Mutex;

use super::{AHEAD, Caller, Outgoing, half, target};
use crate::caller::outcome::Outcome;
use crate::caller::payee::Payee;
use crate::caller::preparing::Wanted;
use crate::client::{self, ClientError};
use crate::meter::{Flowed, PART};
use crate::tariff::CallPrice;
use crate::wire::{self, TopUpBody};

/// How long an answer that nothing more may be paid for can stay silent before it counts as cut off.
const STARVED: Duration = Duration::from_secs(2);

/// An answer that was paid for, or that was free.
pub struct Paid {
    status: StatusCode,
    headers: HeaderMap,
    channel: Option<ChannelId>,
    body: Body,
}

enum Body {
    Whole { response: Response, cost: Msat },
    Flowing(Box<Flow>),
}

impl Paid {
    pub(super) fn free(response: Response, channel: Option<ChannelId>) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, channel, body: Body::Whole { response, cost: Msat::ZERO } }
    }

    pub(super) fn whole(response: Response, cost: Msat, channel: ChannelId) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, channel: Some(channel), body: Body::Whole { response, cost } }
    }

    pub(super) fn flowing(flow: Flow) -> Self {
        let status = flow.response.as_ref().map_or(StatusCode::OK, Response::status);
        let headers = flow.response.as_ref().map(|response| response.headers().clone()).unwrap_or_default();
        Self { status, headers, channel: Some(flow.channel), body: Body::Flowing(Box::new(flow)) }
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Which channel paid; `None` when nothing is asked for.
    pub fn channel(&self) -> Option<ChannelId> {
        self.channel
    }

    /// What it cost, or what it may cost so far while it flows.
    pub fn cost(&self) -> Msat {
        match &self.body {
            Body::Whole { cost, .. } => *cost,
            Body::Flowing(flow) => flow.charged.unwrap_or(flow.aside),
        }
    }

    /// The next part of the body; `None` at its end. An answer that is charged as it flows is paid for while it is read.
    ///
    /// # Errors
    /// When the seller breaks off, or the budget is used up. What was charged is known then, too.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        match &mut self.body {
            Body::Whole { response, .. } => {
                let url = response.url().clone();
                response.chunk().await.map_err(|source| client::network(&url, source))
            }
            Body::Flowing(flow) => flow.chunk().await,
        }
    }

    /// The answer as `reqwest` has it. It is paid for while its body is read.
    pub fn into_response(self) -> Response {
        if let Body::Whole { response, .. } = self.body {
            return response;
        }
        let (status, headers) = (self.status, self.headers.clone());
        let parts = stream::try_unfold(self, |mut paid| async move {
            Ok::<_, ClientError>(paid.chunk().await?.map(|part| (part, paid)))
        });
        let mut response = axum::http::Response::new(reqwest::Body::wrap_stream(parts));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        response.into()
    }

    /// The whole body, at most `most` bytes of it.
    ///
    /// # Errors
    /// As [`Self::chunk`]; and when it is longer.
    pub async fn bytes(&mut self, most: usize) -> Result<Bytes, ClientError> {
        let mut all = Vec::new();
        while let Some(part) = self.chunk().await? {
            all.extend_from_slice(&part);
            if all.len() > most {
                return Err(ClientError::Nonsense(format!("the answer is longer than {most} bytes")));
            }
        }
        Ok(all.into())
    }
}

/// An answer that flows.
pub(super) struct Flow {
    caller: Arc<Caller>,
    payee: Arc<Mutex<Payee>>,
    channel: ChannelId,
    request: Outgoing,
    prepared: Prepared,
    price: CallPrice,
    /// `None` once it is settled.
    response: Option<Response>,
    flowed: Flowed,
    /// The day whose budget it was taken from.
    taken_on: u64,
    /// What is set aside for it.
    aside: Msat,
    charged: Option<Msat>,
}

impl Flow {
    pub(super) fn new(
        caller: Arc<Caller>,
        payee: Arc<Mutex<Payee>>,
        taken_on: u64,
        request: Outgoing,
        prepared: Prepared,
        price: CallPrice,
        response: Response,
    ) -> Self {
        let (channel, aside) = (prepared.call.channel, prepared.call.cost);
        let (response, flowed) = (Some(response), Flowed::default());
        let charged = None;
        Self { caller, payee, channel, request, prepared, price, response, flowed, taken_on, aside, charged }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let used = self.flowed.cost(&self.price);
        let ahead = self.price.of(AHEAD.0, AHEAD.1).saturating_sub(self.price.call);
        let ahead = ahead.min(half(self.caller.means.deposit));
        let left = self.aside.saturating_sub(used);
        if left.get() < ahead.get() / 2 && self.response.is_some() {
            self.top_up(ahead).await?;
        }
        let Some(response) = self.response.as_mut() else { return Ok(None) };
        let part_cost = self.price.of(PART as u64, 1).saturating_sub(self.price.call);
        let starves = self.aside.saturating_sub(used) < part_cost;
        let patience = if starves { STARVED } else { Duration::MAX };
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(Some(part))) => {
                self.flowed = self.flowed.and(&part);
                Ok(Some(part))
            }
            Ok(Ok(None)) => {
                self.settle().await?;
                Ok(None)
            }
            Ok(Err(source)) => {
                self.settle().await?;
                Err(ClientError::BrokenOff { charged: self.charged.unwrap_or(self.aside), source })
            }
            Err(_silent) => {
                self.settle().await?;
                let most = self.aside;
                Err(ClientError::CutOff { most, charged: self.charged.unwrap_or(most) })
            }
        }
    }

    /// Sets more aside, as far as the budget goes and the seller takes it. If it does not, the answer flows as far as it is
    /// paid for.
    async fn top_up(&mut self, ahead: Msat) -> Result<(), ClientError> {
        let most = self.caller.means.budget.call.unwrap_or(Msat::new(u64::MAX));
        let by = ahead.min(most.saturating_sub(self.aside)).min(half(self.caller.room(self.channel).await?));
        let origin = self.request.url.origin().ascii_serialization();
        if by == Msat::ZERO {
            return Ok(());
        }
        let taken = self.caller.spending.take_for_running(&origin, self.channel, by);
        let Ok(taken) = taken else { return Ok(()) };
        let number = self.prepared.call.number;
        let body = TopUpBody { number, by_msat: by.get() };
        let request = Outgoing {
            method: Method::POST,
            url: client::join(&self.request.url, wire::TOP_UP)?,
            headers: HeaderMap::new(),
            body: serde_json::to_vec(&body).expect("values of ours can be written as JSON").into(),
        };
        let authority = client::authority(&request.url);
        let wanted = Wanted::TopUp(number, by);
        let covered = target(&request, &authority);
        let prepared =
            self.caller.prepare(&self.payee, self.channel, wanted, Some(taken), &covered, &self.request);
        let prepared = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::debug!(%error, "the answer was not topped up");
                self.caller.spending.give_back(&origin, self.channel, by, taken.day);
                return Ok(());
            }
        };
        self.aside = self.aside.saturating_add(by);
        let charged = match self.caller.send_until_settled(&request, &prepared).await {
            Ok((_response, Outcome::Served(_))) => Some(Msat::ZERO),
            // The answer has ended meanwhile, or is refused: what was revealed is credit for later calls.
            Ok((_response, Outcome::Free | Outcome::Refused)) => None,
            Ok((_response, Outcome::Metered | Outcome::Forgotten | Outcome::Open))
            | Ok((_response, Outcome::Running | Outcome::Closed)) => return Ok(()),
            Err(error) => {
                tracing::debug!(%error, "what became of a top-up is not known");
                return Ok(());
            }
        };
        self.caller.client.buyer().answered(&prepared, charged).await?;
        Ok(())
    }

    /// Asks for the receipt: the same call again.
    async fn settle(&mut self) -> Result<(), ClientError> {
        // The seller ends the call when it sees that nobody reads any more.
        drop(self.response.take());
        let aside = OnDay { day: self.taken_on, amount: self.aside };
        let settled = settle(&self.caller, &self.request, &self.prepared, aside).await?;
        self.charged = Some(settled);
        Ok(())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Whoever stops reading has it settled all the same; failing that, the close does it.
        if self.response.take().is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let caller = self.caller.clone();
            let aside = OnDay { day: self.taken_on, amount: self.aside };
            let (request, prepared) = (self.request.clone(), self.prepared.clone());
            runtime.spawn(async move {
                if let Err(error) = settle(&caller, &request, &prepared, aside).await {
                    tracing::debug!(%error, "an answer that was not read to its end is not settled yet");
                }
            });
        }
    }
}

async fn settle(
    caller: &Caller,
    request: &Outgoing,
    prepared: &Prepared,
    aside: OnDay,
) -> Result<Msat, ClientError> {
    let OnDay { day, amount: aside } = aside;
    let (response, outcome) = caller.send_again_until_settled(request, prepared, aside, true).await?;
    let charged = match outcome {
        Outcome::Served(cost) => Some(cost),
        Outcome::Free | Outcome::Refused => None,
        Outcome::Metered | Outcome::Forgotten | Outcome::Open | Outcome::Running | Outcome::Closed => {
            return Err(client::unsettled(aside, response).await);
        }
    };
    caller.client.buyer().answered(prepared, charged).await?;
    let cost = charged.unwrap_or(Msat::ZERO);
    let origin = request.url.origin().ascii_serialization();
    caller.spending.give_back(&origin, prepared.call.channel, aside.saturating_sub(cost), day);
    Ok(cost)
}
