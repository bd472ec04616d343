//! Words for calls: where a chain does not cover a call, the next is announced; and before it comes to that, in the background.

use std::sync::Arc;
use std::time::Duration;

use farthing_node::books::OrderError;
use farthing_node::buyer::CloseError;
use farthing_node::buyer::calls::{Allowed, CallsError, OnDay, Prepared};
use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::purse::{MOST_OUTSTANDING, Unable};
use farthing_protocol::payer::Reject;
use farthing_protocol::{ChannelId, Msat};
use reqwest::{StatusCode, Url};
use tokio::sync::Mutex;

use super::{Caller, Outgoing};
use crate::caller::payee::Payee;
use crate::challenge::Challenge;
use crate::client::{self, ClientError};
use crate::wire;

/// How long a call waits for others to end, before the channel counts as used up or the seller is asked what became of them.
const LEAST_CALM: Duration = Duration::from_secs(10);

/// What a prepared call is for.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// A call of at most so much.
    Call(Msat),
    /// More for a call that runs.
    TopUp(CallNumber, Msat),
}

impl Caller {
    /// Prepares a call, and announces a chain of words first where that is needed. `taken` was taken out of the budgets for it already,
    /// and is stored with it. What its word reveals beyond that is counted before the word is drawn: one that no budget allows stays.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        payee: &Arc<Mutex<Payee>>,
        channel: ChannelId,
        wanted: Wanted,
        taken: Option<OnDay>,
        target: &Target<'_>,
        request: &Outgoing,
    ) -> Result<Prepared, ClientError> {
        let (Wanted::Call(cost) | Wanted::TopUp(_, cost)) = wanted;
        let buyer = self.client.buyer();
        let started = tokio::time::Instant::now();
        let mut asked = started;
        loop {
            let allowed = Allowed { most: self.spending.claimable(channel), counted: taken };
            let prepared = match wanted {
                Wanted::Call(cost) => buyer.call(channel, cost, target, allowed).await,
                Wanted::TopUp(number, by) => buyer.top_up(channel, number, by, target, allowed).await,
            };
            match prepared {
                Ok(prepared) => {
                    if prepared.is_low {
                        self.announce_ahead(payee, channel, prepared.call.chain, cost, request);
                    }
                    return Ok(prepared);
                }
                Err(CallsError::Order(OrderError::Rejected(
                    Reject::Call(Unable::NeedsChain) | Reject::PaysForPieces,
                ))) => {}
                Err(CallsError::Order(OrderError::Rejected(Reject::Call(Unable::OverAllowed {
                    got,
                    ..
                })))) => {
                    self.reveal(&request.url.origin().ascii_serialization(), channel, got).await?;
                    continue;
                }
                // Answers that are on their way make room.
                Err(CallsError::Order(OrderError::Rejected(Reject::Call(Unable::TooManyOutstanding(_)))))
                    if started.elapsed() < self.means.patience =>
                {
                    if asked.elapsed() >= LEAST_CALM {
                        self.settle_unanswered(payee, channel, request).await?;
                        asked = tokio::time::Instant::now();
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                // What others have set aside may come free.
                Err(CallsError::Order(OrderError::Rejected(Reject::Call(Unable::OverCapacity {
                    ..
                }))))
                    if started.elapsed() < LEAST_CALM && self.has_unanswered(channel).await? =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let mut payee = payee.lock().await;
            self.learn_terms(request, &mut payee).await?;
            // Another call may have announced one while this one waited.
            let left = buyer.purse(channel).await?.filter(|purse| purse.left() >= cost.max(Msat::new(1)));
            if left.is_some() {
                continue;
            }
            let shape = payee.shape(buyer.params(channel).as_ref(), cost);
            let flat = payee.terms.and_then(|terms| terms.flat);
            loop {
                let announced = match flat {
                    Some(offered) => self.client.announce_batch(channel, &request.url, offered).await,
                    None => self.client.announce(channel, &request.url, shape).await,
                };
                match announced {
                    Ok(()) => break,
                    // It was announced in the background meanwhile.
                    Err(ClientError::Calls(CallsError::Order(OrderError::Rejected(Reject::Call(
                        Unable::Waiting(_),
                    ))))) => break,
                    Err(error) if error.is_transient() && started.elapsed() < self.means.patience => {
                        tracing::debug!(%error, "the chain was not taken yet");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Announces the chain after `chain` while calls go on, once.
    fn announce_ahead(
        self: &Arc<Self>,
        payee: &Arc<Mutex<Payee>>,
        channel: ChannelId,
        chain: u32,
        cost: Msat,
        request: &Outgoing,
    ) {
        // Whoever holds it announces already, or the next call comes by here.
        let Ok(mut known) = payee.clone().try_lock_owned() else { return };
        if !known.begins_after(channel, chain) {
            return;
        }
        let (caller, payee, request) = (self.clone(), payee.clone(), request.clone());
        tokio::spawn(async move {
            let announced = async {
                caller.learn_terms(&request, &mut known).await?;
                let shape = known.shape(caller.client.buyer().params(channel).as_ref(), cost);
                drop(known); // calls go on meanwhile
                caller.client.announce(channel, &request.url, shape).await
            };
            match announced.await {
                Ok(()) => tracing::debug!(%channel, after = chain, "the next chain is announced"),
                // The call that needs it tries again, and tells what is wrong.
                Err(error) => {
                    tracing::debug!(%channel, %error, "the next chain is not announced yet");
                    if error.is_transient() {
                        payee.lock().await.begins_again_after(channel, chain);
                    }
                }
            }
        });
    }

    /// Asks for a challenge, of a seller whose channel an earlier process opened.
    async fn learn_terms(&self, request: &Outgoing, payee: &mut Payee) -> Result<(), ClientError> {
        if payee.terms.is_some() {
            return Ok(());
        }
        // Not the request itself: it might be free by now, and served.
        let response = self.ask_for_terms(&request.url).await?;
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            let details = Challenge::offered(response.headers())?.request()?.method_details;
            payee.terms = details.calls;
            payee.margin = details.offer.margin;
        }
        Ok(())
    }

    /// Asks for nothing that costs anything: a challenge comes, with the seller's terms.
    pub(super) async fn ask_for_terms(&self, url: &Url) -> Result<reqwest::Response, ClientError> {
        let nothing = client::join(url, wire::TOP_UP)?;
        self.client.send(self.client.http().post(nothing)).await
    }

    /// Asks the seller what became of calls whose answers were lost, so that they are in nobody's way any more.
    async fn settle_unanswered(
        &self,
        payee: &Mutex<Payee>,
        channel: ChannelId,
        request: &Outgoing,
    ) -> Result<(), ClientError> {
        let _one_at_a_time = payee.lock().await;
        let purse = self.client.buyer().purse(channel).await?;
        if purse.is_none_or(|purse| purse.unanswered().count() < MOST_OUTSTANDING) {
            return Ok(());
        }
        match self.client.reconcile(channel, &request.url).await {
            // Those that run make room when they end.
            Ok(_) | Err(ClientError::CallsRunning) => Ok(()),
            Err(error) if error.is_transient() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the channel can still pay.
    pub(super) async fn room(&self, channel: ChannelId) -> Result<Msat, ClientError> {
        let buyer = self.client.buyer();
        let taken = buyer.purse(channel).await?.map_or(Msat::ZERO, |purse| purse.ledger().spent);
        Ok(buyer.max_total(channel).unwrap_or_default().saturating_sub(taken))
    }

    async fn has_unanswered(&self, channel: ChannelId) -> Result<bool, ClientError> {
        let purse = self.client.buyer().purse(channel).await?;
        Ok(purse.is_some_and(|purse| purse.unanswered().next().is_some()))
    }

    /// Closes a channel that has nothing left to pay with, once its calls have their answers.
    pub(super) fn close_used_up(self: &Arc<Self>, channel: ChannelId, peer: String) {
        tracing::warn!(
            %channel,
            "the deposit is used up: another channel is opened, and this one closes when its calls are answered; if this \
             program ends before that, close it with `farthing channels close`"
        );
        let caller = self.clone();
        tokio::spawn(async move {
            let started = tokio::time::Instant::now();
            while started.elapsed() < caller.means.patience {
                let purse = caller.client.buyer().purse(channel).await.ok().flatten();
                let is_settled = purse.is_none_or(|purse| purse.unanswered().next().is_none());
                // What has no answer by then may never get one: the seller says what it came to.
                if is_settled || started.elapsed() >= LEAST_CALM {
                    match caller.client.close(channel, &peer).await {
                        Ok(_broadcast) => return,
                        Err(error) if error.is_transient() || matches!(error, ClientError::CallsRunning) => {}
                        // One was sent after the seller had said what is spent.
                        Err(ClientError::Close(CloseError::Order(OrderError::Rejected(
                            Reject::CallsUnanswered(_),
                        )))) => {}
                        Err(error) => {
                            tracing::warn!(%channel, %error, "the used-up channel is not closed");
                            return;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
}
