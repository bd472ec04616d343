//! Pays for calls: finds the price, opens a channel once, announces chains of words ahead, and sends each call with its word.
//!
//! A call whose answer does not come is sent again with the same bytes: the seller answers it once more, or tells that it
//! was served, or that it never will be. So it is paid once at most, whatever gets lost.

mod budget;
mod counting;
mod flowing;
mod means;
mod outcome;
mod payee;
mod preparing;
mod sending;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use farthing_node::buyer::calls::OnDay;
use farthing_protocol::flat;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::opening::Offer;
use farthing_protocol::payer;
use farthing_protocol::{ChannelId, Msat};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::Mutex;
use url::Position;

pub use crate::caller::budget::Budget;
use crate::caller::budget::Spending;
use crate::caller::flowing::Flow;
pub use crate::caller::flowing::Paid;
pub use crate::caller::means::Means;
use crate::caller::outcome::Outcome;
use crate::caller::payee::{Asked, Payee, Prices};
use crate::caller::preparing::Wanted;
use crate::challenge::{Calls, Challenge};
use crate::client::{self, Client, ClientError};
use crate::gate::digest;
use crate::outlive::Outlive;
use crate::tariff::CallPrice;
use crate::wire;

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

/// How much of an answer that is charged as it flows is paid for ahead, in bytes and in events.
const AHEAD: (u64, u64) = (64 * 1024, 16);

/// An answer that nobody pays for.
pub type Answer = Response;

/// What a call would cost, and what would be locked for it.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The price of this call.
    pub price: CallPrice,
    /// The seller's terms for a channel.
    pub offer: Box<Offer>,
    /// Its terms of flat mode, if calls are paid with preimages.
    pub flat: Option<flat::Terms>,
}

/// Pays for calls to any number of sellers.
pub struct Caller {
    client: Client,
    means: Means,
    payees: std::sync::Mutex<HashMap<String, Arc<Mutex<Payee>>>>,
    spending: Spending,
}

impl Caller {
    /// A caller that pays by these means.
    ///
    /// # Errors
    /// When what was spent today cannot be read.
    pub async fn new(client: Client, means: Means) -> Result<Self, ClientError> {
        let today = client.buyer().spent_today().await?;
        let spending = Spending::new(means.budget, today);
        Ok(Self { client, means, payees: std::sync::Mutex::default(), spending })
    }

    /// What this process has let sellers claim: first payments, and what words have revealed.
    pub fn spent(&self) -> Msat {
        self.spending.session()
    }

    /// The client that it speaks through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks what a call costs; nothing is paid, and nothing is carried out. `None` when it is free.
    ///
    /// # Errors
    /// When the seller cannot be reached, or its price depends on the request and the method is not safe (RFC 9110, section 9.2.1): a free
    /// call would be carried out.
    pub async fn quote(&self, request: &Outgoing) -> Result<Option<Quote>, ClientError> {
        let listed = self.prices(&request.url).await?.find(request);
        let response = match listed {
            Some(price) if price.is_free() => return Ok(None),
            Some(_) => self.ask_for_terms(&request.url).await?,
            None if request.method.is_safe() => self.send(request).await?,
            None => return Err(ClientError::OnlyByAsking(request.method.clone())),
        };
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return client::succeeded(response).await.map(|_free| None);
        }
        let asked = Challenge::offered(response.headers())?.request()?;
        let Calls { price, flat, .. } = asked.method_details.calls.ok_or(ClientError::NoCalls)?;
        let price = listed.unwrap_or(price);
        Ok(Some(Quote { price, offer: Box::new(asked.method_details.offer), flat }))
    }

    /// Sends a request without paying.
    ///
    /// # Errors
    /// When the seller cannot be reached.
    pub async fn unpaid(&self, request: &Outgoing) -> Result<Response, ClientError> {
        self.send(request).await
    }

    /// Gets what is at an address, and pays for it. Plain HTTP only to this machine.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn get(self: &Arc<Self>, url: &str) -> Result<Paid, ClientError> {
        let url = client::address(url, false)?;
        let (method, headers, body) = (Method::GET, HeaderMap::new(), Bytes::new());
        self.call(&Outgoing { method, url, headers, body }).await
    }

    /// Sends a request and pays for it. A call that nobody waits for any more is settled all the same.
    ///
    /// # Errors
    /// When it would break the budget, the seller cannot be reached, or it refuses the payment.
    pub async fn call(self: &Arc<Self>, request: &Outgoing) -> Result<Paid, ClientError> {
        let (caller, request) = (self.clone(), request.clone());
        let called = Outlive::new(async move { caller.call_to_its_end(&request).await });
        called.await.unwrap_or(Err(ClientError::Stopped))
    }

    async fn call_to_its_end(self: &Arc<Self>, request: &Outgoing) -> Result<Paid, ClientError> {
        let origin = request.url.origin().ascii_serialization();
        let payee = self.payee(&origin);
        let mut may_ask = true;
        loop {
            let mut is_new = false;
            let known = {
                let mut payee = payee.lock().await;
                if payee.prices.is_none() {
                    is_new = true;
                    payee.prices = Some(self.prices(&request.url).await?);
                }
                let price = payee.prices.as_ref().and_then(|prices| prices.find(request));
                price.zip(self.channel(&mut payee, &origin).await?)
            };
            let (price, channel) = match known {
                Some((price, _)) if price.is_free() => {
                    let response = self.send(request).await?;
                    // It costs something by now: the list is out of date.
                    if may_ask && response.status() == StatusCode::PAYMENT_REQUIRED {
                        may_ask = false;
                        payee.lock().await.forget();
                        continue;
                    }
                    return Ok(Paid::free(response, None));
                }
                Some(known) => known,
                None => match self.ask(request, &payee).await? {
                    Answered::Free(response) => return Ok(Paid::free(response, None)),
                    Answered::Price(price, channel) => (price, channel),
                },
            };
            let mut cost = self.most_at_first(&price);
            if price.is_metered() {
                // What is left in the channel may pay for all of the answer.
                cost = cost.min(half(self.room(channel).await?)).max(price.least());
            }
            let taken = match self.take(&payee, &origin, channel, cost).await {
                // It may be cheaper by now.
                Err(ClientError::OverCost { .. }) if may_ask && !is_new => {
                    may_ask = false;
                    payee.lock().await.forget();
                    continue;
                }
                taken => taken?,
            };
            let mut at_stake = Msat::ZERO;
            let sent = self.pay(request, &payee, (channel, price, cost), taken, &mut at_stake).await;
            let spent = sent.as_ref().map_or(at_stake, Paid::cost);
            self.spending.give_back(&origin, channel, cost.saturating_sub(spent), taken.day);
            match sent {
                // The price has changed, or the channel is closing: ask once more.
                Err(error) if may_ask && error.says_start_over() => {
                    may_ask = false;
                    payee.lock().await.forget();
                }
                // Another channel goes on where this one ends, if it could pay for the call.
                Err(error) if error.says_used_up() && cost > self.means.deposit => {
                    return Err(ClientError::OverDeposit { cost, deposit: self.means.deposit });
                }
                Err(error) if may_ask && error.says_used_up() => {
                    may_ask = false;
                    if payee.lock().await.leave(channel) {
                        self.close_used_up(channel, origin.clone());
                    }
                }
                sent => return sent,
            }
        }
    }

    /// What a call is sent with: its price, and for an answer that is charged as it flows a part of it ahead, as far as the
    /// budget for one call and half of the deposit go: the last words of a chain may not fit into a channel.
    fn most_at_first(&self, price: &CallPrice) -> Msat {
        let ahead = if price.is_metered() { price.of(AHEAD.0, AHEAD.1) } else { price.call };
        let most = self.means.budget.call.unwrap_or(ahead);
        ahead.min(most).min(half(self.means.deposit)).max(price.least())
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
            Err(ClientError::Refused { status: 404, .. }) => Ok(Prices::Asked(Asked::default())),
            Err(error) => Err(error),
        }
    }

    /// An open channel to that seller, from this process or an earlier one.
    async fn channel(&self, payee: &mut Payee, origin: &str) -> Result<Option<ChannelId>, ClientError> {
        if payee.channel.is_none() {
            let entries = self.client.buyer().channels().await?;
            let usable = entries.into_iter().find(|entry| {
                let open = matches!(entry.state, payer::State::AwaitingFunding(_) | payer::State::Open(_));
                // One that has paid nothing yet was opened for calls, and the process ended before it announced a chain.
                let is_for_calls = entry.state.purse().is_some() || entry.state.ledger().newest.is_none();
                entry.record.peer == origin && open && is_for_calls && !payee.has_left(entry.id)
            });
            payee.channel = usable.map(|entry| entry.id);
        }
        Ok(payee.channel)
    }

    /// Sends the request without a payment: the challenge tells the price and the terms of a channel, which is opened if
    /// there is none.
    async fn ask(&self, request: &Outgoing, payee: &Mutex<Payee>) -> Result<Answered, ClientError> {
        let response = self.send(request).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Answered::Free(response));
        }
        let challenge = Challenge::offered(response.headers())?;
        let asked = challenge.request()?;
        let terms = asked.method_details.calls.ok_or(ClientError::NoCalls)?;
        let (price, offer) = (terms.price, asked.method_details.offer);
        if let Some(most) = self.means.budget.call.filter(|most| price.call > *most) {
            return Err(ClientError::OverCost { cost: price.call, most });
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
                // Nothing is locked for a call that no channel could pay.
                let (cost, deposit) = (self.most_at_first(&price), self.means.deposit);
                if cost > deposit {
                    return Err(ClientError::OverDeposit { cost, deposit });
                }
                let channel = self.open(&request.url, (&challenge, &offer), &terms, cost, &mut payee).await?;
                payee.channel = Some(channel);
                channel
            }
        };
        Ok(Answered::Price(price, channel))
    }

    /// Sends a paid call until it is settled. `at_stake` is what it may have cost if that fails: all of it from when its word is
    /// about to leave until it is known, and stored, that it was free.
    async fn pay(
        self: &Arc<Self>,
        request: &Outgoing,
        payee: &Arc<Mutex<Payee>>,
        (channel, price, cost): (ChannelId, CallPrice, Msat),
        taken: OnDay,
        at_stake: &mut Msat,
    ) -> Result<Paid, ClientError> {
        let authority = client::authority(&request.url);
        let target = target(request, &authority);
        let buyer = self.client.buyer();
        let started = tokio::time::Instant::now();
        for attempt in 1.. {
            // What a call that was refused has revealed is there for the same call with another number.
            let counted = (attempt == 1).then_some(taken);
            let prepared =
                self.prepare(payee, channel, Wanted::Call(cost), counted, &target, request).await?;
            *at_stake = cost;
            let (response, outcome) = self.send_until_settled(request, &prepared).await?;
            match outcome {
                Outcome::Served(charged) => {
                    buyer.answered(&prepared, Some(charged)).await?;
                    *at_stake = charged;
                    if response.status() == StatusCode::CONFLICT {
                        return Err(ClientError::AnswerLost(charged));
                    }
                    return Ok(Paid::whole(response, charged, channel));
                }
                Outcome::Metered => {
                    let (caller, payee) = (self.clone(), payee.clone());
                    let flow =
                        Flow::new(caller, payee, taken.day, request.clone(), prepared, price, response);
                    return Ok(Paid::flowing(flow));
                }
                Outcome::Free => {
                    buyer.answered(&prepared, None).await?;
                    return Ok(Paid::free(response, Some(channel)));
                }
                Outcome::Refused => buyer.answered(&prepared, None).await?,
                Outcome::Forgotten | Outcome::Open | Outcome::Running | Outcome::Closed => {
                    return Err(client::unsettled(cost, response).await);
                }
            }
            *at_stake = Msat::ZERO;
            // A void number goes out as another one at once; what the seller asks to wait for, after that.
            let is_void = response.status() == StatusCode::CONFLICT && attempt < self.means.attempts;
            match outcome::retry_after(&response) {
                _ if is_void => {}
                Some(wait) if started.elapsed() < self.means.patience => tokio::time::sleep(wait).await,
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
}

fn half(amount: Msat) -> Msat {
    Msat::new(amount.get() / 2)
}

enum Answered {
    Free(Response),
    Price(CallPrice, ChannelId),
}

/// A request as a call's MAC covers it.
fn target<'a>(request: &'a Outgoing, authority: &'a str) -> Target<'a> {
    Target {
        method: request.method.as_str(),
        authority,
        uri: &request.url[Position::BeforePath..Position::AfterQuery],
        body: digest(&request.body),
    }
}
