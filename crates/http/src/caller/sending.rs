//! Sends a call until the seller says what became of it.
//!
//! A seller may take its time, and an answer that is too long to be kept comes on the connection on which the call was sent, or not
//! at all. So that one stays open, however silent it is, while others ask: what they hear says whether it is still worth waiting.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use farthing_node::buyer::calls::Prepared;
use farthing_protocol::Msat;
use farthing_protocol::lightspeed::Call;
use futures_util::future::{Either, select};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::{Caller, Outgoing};
use crate::caller::outcome::{self, Outcome};
use crate::client::ClientError;
use crate::encoding;
use crate::wire;

/// How long the head of an answer may take that the seller says it has sent.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

type Sent = Result<Response, ClientError>;

/// The connection on which a call was sent first, until its answer comes.
struct First<'a>(Option<Pin<Box<dyn Future<Output = Sent> + Send + 'a>>>);

impl First<'_> {
    /// Its answer, if that comes within this time.
    async fn within(&mut self, time: Duration) -> Option<Sent> {
        let first = self.0.as_mut()?;
        let answer = timeout(time, first).await.ok()?;
        self.0 = None;
        Some(answer)
    }

    /// Its answer, or what comes before that.
    async fn or<T>(&mut self, other: impl Future<Output = T>) -> Either<Sent, T> {
        let Some(first) = self.0.as_mut() else { return Either::Right(other.await) };
        match select(first, pin!(other)).await {
            Either::Left((answer, _)) => {
                self.0 = None;
                Either::Left(answer)
            }
            Either::Right((other, _)) => Either::Right(other),
        }
    }

    /// Its answer, or a pause.
    async fn or_pause(&mut self, pause: Duration) -> Option<Sent> {
        match self.or(sleep(pause)).await {
            Either::Left(answer) => Some(answer),
            Either::Right(()) => None,
        }
    }
}

impl Caller {
    /// Sends the same bytes until the seller says what became of the call.
    pub(super) async fn send_until_settled(
        &self,
        request: &Outgoing,
        prepared: &Prepared,
    ) -> Result<(Response, Outcome), ClientError> {
        self.send_again_until_settled(request, prepared, prepared.call.cost, false).await
    }

    /// [`Self::send_until_settled`] for a call that may have cost up to `most` by now: it was topped up. `was_sent` says whether it
    /// may have been served already.
    pub(super) async fn send_again_until_settled(
        &self,
        request: &Outgoing,
        prepared: &Prepared,
        most: Msat,
        mut was_sent: bool,
    ) -> Result<(Response, Outcome), ClientError> {
        let header = encoding::encode_bytes(&prepared.bytes);
        let Call { channel, number, .. } = prepared.call;
        let started = Instant::now();
        let (mut attempt, mut wait) = (1, Duration::from_millis(50));
        let mut first =
            First(Some(Box::pin(self.client.send_patiently(|http| paid(http, request, &header)))));
        let mut came = first.within(self.client.patience()).await;
        if came.is_none() {
            tracing::debug!("the seller is silent: asking what became of the call");
            (attempt, was_sent) = (2, true);
        }
        loop {
            let sent = match came.take() {
                Some(sent) => sent,
                None => {
                    first.or(self.client.send(paid(self.client.http(), request, &header))).await.into_inner()
                }
            };
            match sent {
                Ok(response) => {
                    if let Some(epoch) = outcome::epoch(&response).filter(|epoch| *epoch > number.epoch) {
                        self.client.buyer().epoch(channel, epoch).await?;
                    }
                    match Outcome::of(&response, most)? {
                        // Its answer is on the way.
                        Outcome::Running if started.elapsed() < self.means.patience => {
                            was_sent = true;
                            came = first.or_pause(outcome::retry_after(&response).unwrap_or(wait)).await;
                            continue;
                        }
                        Outcome::Open if attempt < self.means.attempts => {}
                        // Nothing came of it, if it was never sent before. Else it may have been served before the channel closed.
                        Outcome::Closed if !was_sent => {
                            return Ok((response, Outcome::Refused));
                        }
                        outcome => {
                            // The seller does not keep the answer, and the first connection may be about to bring it.
                            if matches!(outcome, Outcome::Served(_))
                                && response.status() == StatusCode::CONFLICT
                            {
                                came = first.within(ON_ITS_WAY).await.filter(Result::is_ok);
                            }
                            match came {
                                Some(_) => continue,
                                None => return Ok((response, outcome)),
                            }
                        }
                    }
                }
                Err(error) if attempt < self.means.attempts && error.is_transient() => {
                    tracing::debug!(%error, "sending the same call again");
                }
                Err(error) => return Err(error),
            }
            attempt += 1;
            was_sent = true;
            came = first.or_pause(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// Sends a request that carries no payment.
    pub(super) async fn send(&self, request: &Outgoing) -> Result<Response, ClientError> {
        self.client.send(unpaid(self.client.http(), request)).await
    }
}

fn unpaid(http: &reqwest::Client, request: &Outgoing) -> reqwest::RequestBuilder {
    let builder = http.request(request.method.clone(), request.url.clone()).headers(request.headers.clone());
    if request.body.is_empty() { builder } else { builder.body(request.body.clone()) }
}

fn paid(http: &reqwest::Client, request: &Outgoing, call: &str) -> reqwest::RequestBuilder {
    unpaid(http, request).header(wire::LIGHTSPEED, call)
}
