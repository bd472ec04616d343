//! Pays for calls: finds the price, opens a channel once, announces chains of words ahead, and sends each call with its word.
//!
//! A call whose answer does not come is sent again with the same bytes: the seller answers it once more, or tells that it
//! was served, or that it never will be. So it is paid once at most, whatever gets lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farthing_node::books::OrderError;
use farthing_node::buyer::calls::{CallsError, Prepared};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Shape;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::purse::Unable;
use farthing_protocol::opening::{Limits, Offer};
use farthing_protocol::payer::{self, Reject};
use farthing_protocol::{ChannelId, Msat};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::Mutex;
use url::Position;

use crate::challenge::{Calls, Challenge};
use crate::client::{self, Client, ClientError};
use crate::credential::Receipt;
use crate::encoding;
use crate::gate::digest;
use crate::problem::Kind;
use crate::tariff::PriceList;
use crate::wire;

/// The most words in a chain of ours: 3 ms to draw.
const MOST_WORDS: u32 = 65_536;
/// The most rungs in a chain of ours: 100 ms to sign and verify.
const MOST_RUNGS: u32 = 1_024;

/// What a caller may spend. A call that would break one of them is not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The most for one call.
    pub call: Option<Msat>,
    /// The most for all calls of this process.
    pub session: Option<Msat>,
    /// The most for one payee, over all its channels.
    pub payee: Option<Msat>,
}

/// How a caller pays.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Its limits for channels.
    pub limits: Limits,
    /// What a new channel can pay in all.
    pub deposit: Msat,
    /// Its budget.
    pub budget: Budget,
    /// How often a call is sent again whose answer does not come.
    pub attempts: u32,
    /// How long it waits for a new channel's funding to be deep enough.
    pub patience: Duration,
}

/// A request to be paid for.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// The whole address.
    pub url: Url,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body: the payment covers it.
    pub body: Bytes,
}

/// An answer, and what it cost.
#[derive(Debug)]
pub struct Paid {
    /// The answer.
    pub response: Response,
    /// What it cost.
    pub cost: Msat,
    /// Which channel paid; `None` when the call was free.
    pub channel: Option<ChannelId>,
}

/// What a call would cost, and what would be locked for it.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The price of this call.
    pub price: Msat,
    /// The seller's terms for a channel.
    pub offer: Box<Offer>,
}

/// One seller, as far as this process knows it.
#[derive(Default)]
struct Payee {
    channel: Option<ChannelId>,
    /// `None` before it was asked for.
    prices: Option<Prices>,
    /// Its terms for calls, from its last challenge.
    terms: Option<Calls>,
    margin: u32,
}

enum Prices {
    List(PriceList),
    /// They depend on the request: what a challenge said before.
    Asked(HashMap<(Method, String), Msat>),
}

impl Prices {
    fn find(&self, request: &Outgoing) -> Option<Msat> {
        let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
        match self {
            Self::List(list) => Some(list.price(method.as_str(), request.url.path())),
            Self::Asked(asked) => {
                asked.get(&(request.method.clone(), request.url[Position::BeforePath..].to_owned())).copied()
            }
        }
    }

    /// The smallest price that is known: what a word should be worth.
    fn least(&self) -> Option<Msat> {
        let all: Vec<Msat> = match self {
            Self::List(list) => list.rules.iter().map(|rule| rule.price).chain([list.otherwise]).collect(),
            Self::Asked(asked) => asked.values().copied().collect(),
        };
        all.into_iter().filter(|price| *price > Msat::ZERO).min()
    }
}

/// Pays for calls to any number of sellers.
pub struct Caller {
    client: Client,
    means: Means,
    payees: std::sync::Mutex<HashMap<String, Arc<Mutex<Payee>>>>,
    /// What this process has spent or set aside, in millisatoshi.
    spent: AtomicU64,
}

impl Caller {
    /// A caller that pays by these means.
    pub fn new(client: Client, means: Means) -> Self {
        Self { client, means, payees: std::sync::Mutex::default(), spent: AtomicU64::new(0) }
    }

    /// What this process has spent on calls.
    pub fn spent(&self) -> Msat {
        Msat::new(self.spent.load(Ordering::Relaxed))
    }

    /// The client that it speaks through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks what a call costs; nothing is paid. When it is free, the answer comes instead.
    ///
    /// # Errors
    /// When the seller cannot be reached.
    pub async fn quote(&self, request: &Outgoing) -> Result<Result<Quote, Response>, ClientError> {
        let response = self.send(request, None).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Err(response));
        }
        let challenge = client::challenge(&response)?;
        let asked = challenge.request()?;
        asked.method_details.calls.ok_or(ClientError::NoCalls)?;
        Ok(Ok(Quote { price: asked.amount, offer: Box::new(asked.method_details.offer) }))
    }

    /// Sends a request without paying.
    ///
    /// # Errors
    /// When the seller cannot be reached.
    pub async fn unpaid(&self, request: &Outgoing) -> Result<Response, ClientError> {
        self.send(request, None).await
    }

    /// Sends a request and pays for it.
    ///
    /// # Errors
    /// When it would break the budget, the seller cannot be reached, or it refuses the payment.
    pub async fn call(&self, request: &Outgoing) -> Result<Paid, ClientError> {
        let origin = request.url.origin().ascii_serialization();
        let payee = self.payee(&origin);
        let mut may_ask = true;
        loop {
            let known = {
                let mut payee = payee.lock().await;
                if payee.prices.is_none() {
                    payee.prices = Some(self.prices(&request.url).await?);
                }
                let price = payee.prices.as_ref().and_then(|prices| prices.find(request));
                price.zip(self.channel(&mut payee, &origin).await?)
            };
            let (price, channel) = match known {
                Some((Msat::ZERO, _)) => return self.free(request).await,
                Some(known) => known,
                None => match self.ask(request, &payee).await? {
                    Asked::Free(response) => return Ok(Paid { response, cost: Msat::ZERO, channel: None }),
                    Asked::Price(price, channel) => (price, channel),
                },
            };
            self.check_budget(price, &origin).await?;
            self.spent.fetch_add(price.get(), Ordering::Relaxed);
            let sent = self.pay(request, &payee, channel, price).await;
            let cost = match &sent {
                Ok(paid) => paid.cost,
                Err(ClientError::AnswerLost(cost)) => *cost,
                // Its answer may have been lost, so it may have cost all of it.
                Err(ClientError::Network { .. } | ClientError::Unsettled { .. }) => price,
                Err(_free) => Msat::ZERO,
            };
            self.spent.fetch_sub(price.saturating_sub(cost).get(), Ordering::Relaxed);
            match sent {
                // The price has changed, or the channel is closing: ask once more.
                Err(ClientError::Refused {
                    kind: Some(Kind::PaymentInsufficient | Kind::ChannelNotOpen),
                    ..
                }) if may_ask => {
                    may_ask = false;
                    let mut payee = payee.lock().await;
                    *payee = Payee::default();
                }
                sent => return sent,
            }
        }
    }

    async fn free(&self, request: &Outgoing) -> Result<Paid, ClientError> {
        Ok(Paid { response: self.send(request, None).await?, cost: Msat::ZERO, channel: None })
    }

    fn payee(&self, origin: &str) -> Arc<Mutex<Payee>> {
        let mut payees = self.payees.lock().expect("no holder of this lock panics");
        payees.entry(origin.to_owned()).or_default().clone()
    }

    /// The seller's price list, if it publishes one.
    async fn prices(&self, url: &Url) -> Result<Prices, ClientError> {
        let list = self.client.send(self.client.http().get(client::join(url, wire::PRICES)?)).await?;
        match client::succeeded(list).await {
            Ok(response) => Ok(Prices::List(client::json(response).await?)),
            Err(_none) => Ok(Prices::Asked(HashMap::new())),
        }
    }

    /// An open channel to that seller, from this process or an earlier one.
    async fn channel(&self, payee: &mut Payee, origin: &str) -> Result<Option<ChannelId>, ClientError> {
        if payee.channel.is_none() {
            let entries = self.client.buyer().channels().await?;
            let usable = entries.into_iter().find(|entry| {
                let open = matches!(entry.state, payer::State::AwaitingFunding(_) | payer::State::Open(_));
                entry.record.peer == origin && open && entry.state.purse().is_some()
            });
            payee.channel = usable.map(|entry| entry.id);
        }
        Ok(payee.channel)
    }

    /// Sends the request without a payment: the challenge tells the price and the terms of a channel, which is opened if
    /// there is none.
    async fn ask(&self, request: &Outgoing, payee: &Mutex<Payee>) -> Result<Asked, ClientError> {
        let response = self.send(request, None).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Asked::Free(response));
        }
        let challenge: Challenge = client::challenge(&response)?;
        let asked = challenge.request()?;
        let terms = asked.method_details.calls.ok_or(ClientError::NoCalls)?;
        let (price, offer) = (asked.amount, asked.method_details.offer);
        if let Some(most) = self.means.budget.call.filter(|most| price > *most) {
            return Err(ClientError::OverCost { cost: price, most });
        }
        let mut payee = payee.lock().await;
        payee.terms = Some(terms);
        payee.margin = offer.margin;
        if let Some(Prices::Asked(asked)) = &mut payee.prices {
            let key = (request.method.clone(), request.url[Position::BeforePath..].to_owned());
            asked.insert(key, price);
        }
        // Another call may have opened one meanwhile.
        let channel = match self.channel(&mut payee, &request.url.origin().ascii_serialization()).await? {
            Some(channel) => channel,
            None => {
                let Means { limits, deposit, .. } = self.means;
                let opened =
                    self.client.open_under(&request.url, (&challenge, &offer), &limits, deposit, deposit);
                let channel = opened.await?;
                payee.channel = Some(channel);
                channel
            }
        };
        Ok(Asked::Price(price, channel))
    }

    async fn check_budget(&self, cost: Msat, origin: &str) -> Result<(), ClientError> {
        let Budget { call, session, payee } = self.means.budget;
        if let Some(most) = call.filter(|most| cost > *most) {
            return Err(ClientError::OverCost { cost, most });
        }
        let check = |which, budget: Msat, spent: Msat| {
            let left = budget.saturating_sub(spent);
            if cost > left { Err(ClientError::OverBudget { which, budget, left, cost }) } else { Ok(()) }
        };
        if let Some(budget) = session {
            check("for this session", budget, self.spent())?;
        }
        if let Some(budget) = payee {
            let entries = self.client.buyer().channels().await?;
            let spent = entries.iter().filter(|entry| entry.record.peer == origin);
            check("for this seller", budget, spent.map(|entry| entry.state.ledger().spent).sum())?;
        }
        Ok(())
    }

    /// Sends a paid call until it is settled.
    async fn pay(
        &self,
        request: &Outgoing,
        payee: &Mutex<Payee>,
        channel: ChannelId,
        price: Msat,
    ) -> Result<Paid, ClientError> {
        let authority = client::authority(&request.url);
        let target = Target {
            method: request.method.as_str(),
            authority: &authority,
            uri: &request.url[Position::BeforePath..Position::AfterQuery],
            body: digest(&request.body),
        };
        let buyer = self.client.buyer();
        let started = tokio::time::Instant::now();
        for attempt in 1.. {
            let prepared = self.prepare(payee, channel, price, &target, request).await?;
            let number = prepared.call.number;
            let (response, outcome) = self.send_until_settled(request, &prepared).await?;
            match outcome {
                Outcome::Served(cost) => {
                    buyer.answered(channel, number, Some(cost)).await?;
                    if response.status() == StatusCode::CONFLICT {
                        return Err(ClientError::AnswerLost(cost));
                    }
                    return Ok(Paid { response, cost, channel: Some(channel) });
                }
                Outcome::Free => {
                    buyer.answered(channel, number, None).await?;
                    return Ok(Paid { response, cost: Msat::ZERO, channel: Some(channel) });
                }
                Outcome::Refused => buyer.answered(channel, number, None).await?,
                Outcome::Forgotten | Outcome::Open => return Err(ClientError::Unsettled { most: price }),
            }
            if let Some(epoch) = header(&response, wire::EPOCH).and_then(|epoch| epoch.parse().ok()) {
                buyer.epoch(channel, epoch).await?;
            }
            // A void number goes out as another one at once; what the seller asks to wait for, after that.
            let is_void = response.status() == StatusCode::CONFLICT && attempt < self.means.attempts;
            let wait = header(&response, RETRY_AFTER.as_str()).and_then(|after| after.parse().ok());
            match wait {
                _ if is_void => {}
                Some(seconds) if started.elapsed() < self.means.patience => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                Some(_) | None => {
                    client::succeeded(response).await?;
                    return Err(ClientError::Nonsense(
                        "it says that it refused a call, and answers".to_owned(),
                    ));
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Prepares a call, and announces a chain of words first where that is needed.
    async fn prepare(
        &self,
        payee: &Mutex<Payee>,
        channel: ChannelId,
        price: Msat,
        target: &Target<'_>,
        request: &Outgoing,
    ) -> Result<Prepared, ClientError> {
        let buyer = self.client.buyer();
        let started = tokio::time::Instant::now();
        loop {
            match buyer.call(channel, price, target).await {
                Ok(prepared) => return Ok(prepared),
                Err(CallsError::Order(OrderError::Rejected(
                    Reject::Call(Unable::NeedsChain) | Reject::PaysForPieces,
                ))) => {}
                // Answers that are on their way make room.
                Err(CallsError::Order(OrderError::Rejected(Reject::Call(Unable::TooManyOutstanding(_)))))
                    if started.elapsed() < self.means.patience =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let mut payee = payee.lock().await;
            if payee.terms.is_none() {
                self.learn_terms(request, &mut payee).await?;
            }
            // Another call may have announced one while this one waited.
            let left = buyer.purse(channel).await?.filter(|purse| purse.left() >= price);
            if left.is_some() {
                continue;
            }
            let shape = self.shape(&payee, channel, price);
            loop {
                match self.client.announce(channel, &request.url, shape).await {
                    Ok(()) => break,
                    Err(error) if error.is_transient() && started.elapsed() < self.means.patience => {
                        tracing::debug!(%error, "the chain was not taken yet");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Asks for a challenge, of a seller whose channel an earlier process opened.
    async fn learn_terms(&self, request: &Outgoing, payee: &mut Payee) -> Result<(), ClientError> {
        let response = self.send(request, None).await?;
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            let details = client::challenge(&response)?.request()?.method_details;
            payee.terms = details.calls;
            payee.margin = details.offer.margin;
        }
        Ok(())
    }

    /// A chain whose rungs are as close as the seller asks, and no closer than makes sense: what is below dust and the cost
    /// of closing is at its risk anyhow.
    fn shape(&self, payee: &Payee, channel: ChannelId, price: Msat) -> Shape {
        let params = self.client.buyer().params(channel);
        let floor = params.as_ref().and_then(|params| Msat::from_amount(params.prepaid)).unwrap_or(price);
        let most = payee.terms.map_or(floor, |terms| terms.most_exposure);
        let unit =
            payee.prices.as_ref().and_then(Prices::least).unwrap_or(price).min(price).max(Msat::new(1));
        let between = floor.min(most).max(unit);
        let stretch = u32::try_from(between.get() / unit.get()).unwrap_or(u32::MAX).max(1);
        let words = stretch.saturating_mul(MOST_RUNGS).min(MOST_WORDS);
        let margin = payee.margin.max(36);
        let delay = Delay::blocks(u16::try_from(margin).unwrap_or(u16::MAX));
        Shape { unit, words, rungs: words.div_ceil(stretch), delay }
    }

    /// Sends the same bytes until the seller says what became of the call.
    async fn send_until_settled(
        &self,
        request: &Outgoing,
        prepared: &Prepared,
    ) -> Result<(Response, Outcome), ClientError> {
        let header = encoding::encode_bytes(&prepared.bytes);
        let mut wait = Duration::from_millis(50);
        for attempt in 1.. {
            match self.send(request, Some(&header)).await {
                Ok(response) => match Outcome::of(&response, prepared.call.cost)? {
                    Outcome::Open if attempt < self.means.attempts => {}
                    outcome => return Ok((response, outcome)),
                },
                Err(error) if attempt < self.means.attempts && error.is_transient() => {
                    tracing::debug!(%error, "sending the same call again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
        unreachable!("the last attempt returns")
    }

    async fn send(&self, request: &Outgoing, call: Option<&str>) -> Result<Response, ClientError> {
        let mut builder = self
            .client
            .http()
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        if !request.body.is_empty() {
            builder = builder.body(request.body.clone());
        }
        if let Some(call) = call {
            builder = builder.header(wire::LIGHTSPEED, call);
        }
        self.client.send(builder).await
    }
}

enum Asked {
    Free(Response),
    Price(Msat, ChannelId),
}

/// What became of a call.
enum Outcome {
    /// Served, for that much.
    Served(Msat),
    /// It ran and failed; free.
    Free,
    /// It was not admitted; free.
    Refused,
    /// Too long ago to tell.
    Forgotten,
    /// Not settled: whatever stands between, a server that broke off or one that does not know the header.
    Open,
}

impl Outcome {
    fn of(response: &Response, most: Msat) -> Result<Self, ClientError> {
        if let Some(receipt) = header(response, wire::RECEIPT) {
            let receipt = Receipt::from_header(receipt)
                .map_err(|error| ClientError::Nonsense(format!("its receipt does not decode: {error}")))?;
            if receipt.cost > most {
                let detail = format!("it says that it charged {} where {most} was the most", receipt.cost);
                return Err(ClientError::Nonsense(detail));
            }
            return Ok(Self::Served(receipt.cost));
        }
        Ok(match header(response, wire::LIGHTSPEED) {
            Some(wire::FREE) => Self::Free,
            Some(wire::REFUSED) => Self::Refused,
            Some(wire::FORGOTTEN) => Self::Forgotten,
            Some(_) | None => Self::Open,
        })
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
