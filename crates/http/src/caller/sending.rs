//! Sends a call until the seller says what became of it.
//!
//! A seller may take its time, and an answer that is too long to be kept comes on the connection on which the seller serves the call, or
//! not at all. So connections on which nothing was said stay open while others ask: what these hear says whether it is still worth
//! waiting, and a seller that has no seat for them, or a server between that tells them to come back, ends nothing.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use farthing_node::buyer::calls::Prepared;
use farthing_protocol::Msat;
use farthing_protocol::lightspeed::Call;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::{Caller, Outgoing};
use crate::caller::outcome::{self, Outcome};
use crate::client::ClientError;
use crate::encoding;
use crate::wire;

/// How long the head of an answer may take that the seller says it has sent.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// How many connections may be silent at once.
const MOST_SILENT: usize = 4;
/// The longest pause before it is asked again, while nothing may come otherwise, and while a connection may bring it.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

type Sent = Result<Response, ClientError>;
type Connection<'a> = Pin<Box<dyn Future<Output = Sent> + Send + 'a>>;

/// The connections on which a call was sent and nothing was said: one of them may bring its answer.
#[derive(Default)]
struct Silent<'a>(FuturesUnordered<Connection<'a>>);

impl<'a> Silent<'a> {
    fn hold(&mut self, connection: Connection<'a>) {
        if self.0.len() < MOST_SILENT {
            self.0.push(connection);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first answer. That one breaks says nothing while there are others.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            match self.0.next().await {
                Some(Err(_broken)) if !self.is_empty() => {}
                sent => return sent,
            }
        }
    }

    /// An answer, or what comes before that. That all break says nothing while there is something else.
    async fn or<T>(&mut self, other: impl Future<Output = T>) -> Either<Response, T> {
        let mut other = pin!(other);
        while !self.is_empty() {
            match select(pin!(self.next()), other.as_mut()).await {
                Either::Left((Some(Ok(answer)), _)) => return Either::Left(answer),
                Either::Left((Some(Err(_)) | None, _)) => {}
                Either::Right((done, _)) => return Either::Right(done),
            }
        }
        Either::Right(other.await)
    }

    /// An answer, if one comes within this time and not all break.
    async fn within(&mut self, time: Duration) -> Option<Response> {
        timeout(time, self.next()).await.ok()??.ok()
    }

    /// An answer, or a pause.
    async fn or_pause(&mut self, pause: Duration) -> Option<Response> {
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
        let mut silent = Silent::default();
        let mut came = None;
        loop {
            let sent = match came.take() {
                Some(answer) => Ok(answer),
                None => {
                    let send = self.client.send_patiently(|http| paid(http, request, &header));
                    let mut connection: Connection<'_> = Box::pin(send);
                    match silent.or(timeout(self.client.patience(), &mut connection)).await {
                        Either::Left(answer) => Ok(answer),
                        Either::Right(Ok(sent)) => sent,
                        Either::Right(Err(_elapsed)) => {
                            tracing::debug!("the seller is silent: asking what became of the call");
                            silent.hold(connection);
                            Err(ClientError::Silent {
                                url: request.url.to_string(),
                                after: self.client.patience(),
                            })
                        }
                    }
                }
            };
            // One of them may bring the answer yet.
            let lives = !silent.is_empty() && started.elapsed() < self.means.patience;
            let may_ask = attempt < self.means.attempts;
            match sent {
                Ok(response) => {
                    if let Some(epoch) = outcome::epoch(&response).filter(|epoch| *epoch > number.epoch) {
                        self.client.buyer().epoch(channel, epoch).await?;
                    }
                    match Outcome::of(&response, most)? {
                        // Its answer is on the way.
                        Outcome::Running if started.elapsed() < self.means.patience => {
                            (attempt, was_sent) = (1, true);
                            let pause = outcome::retry_after(&response).unwrap_or(wait);
                            // Each time the whole body goes again, and an answer comes by itself.
                            let may_wait = lives && !request.body.is_empty();
                            came = silent.or_pause(if may_wait { pause.max(wait) } else { pause }).await;
                            wait = longer(wait, lives);
                            continue;
                        }
                        Outcome::Open if may_ask || lives => {}
                        // Nothing came of it, if it was never sent before. Else it may have been served before the channel closed.
                        Outcome::Closed if !was_sent => {
                            return Ok((response, Outcome::Refused));
                        }
                        Outcome::Closed if lives => {}
                        outcome => {
                            // The seller does not keep the answer, and another connection may be about to bring it.
                            if matches!(outcome, Outcome::Served(_))
                                && response.status() == StatusCode::CONFLICT
                            {
                                came = silent.within(ON_ITS_WAY).await;
                            }
                            match came {
                                Some(_) => continue,
                                None => return Ok((response, outcome)),
                            }
                        }
                    }
                }
                // A connection that was broken, or had no seat. One that is silent is served, or nobody is there.
                Err(ClientError::Network { .. }) if lives => {}
                Err(error) if may_ask && error.is_transient() => {
                    tracing::debug!(%error, "sending the same call again");
                }
                Err(error) => return Err(error),
            }
            attempt += 1;
            was_sent = true;
            came = silent.or_pause(wait).await;
            wait = longer(wait, lives);
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

fn longer(wait: Duration, lives: bool) -> Duration {
    (wait * 2).min(PAUSES[usize::from(lives)])
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(time: Duration, sent: Sent) -> Connection<'static> {
        sleep(time).map(|()| sent).boxed()
    }

    fn answer() -> Sent {
        Ok(axum::http::Response::new("").into())
    }

    fn broken() -> Sent {
        Err(ClientError::Silent { url: String::new(), after: SECOND })
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_ends_nothing_while_another_may_bring_the_answer() {
        let mut silent = Silent::default();
        silent.hold(after(SECOND, broken()));
        silent.hold(after(2 * SECOND, answer()));
        assert!(silent.or_pause(3 * SECOND).await.is_some());
        assert!(silent.is_empty());
        silent.hold(after(SECOND, broken()));
        let began = Instant::now();
        assert!(silent.or_pause(3 * SECOND).await.is_none());
        assert_eq!(began.elapsed(), 3 * SECOND, "all of the pause");
        assert!(matches!(silent.or(after(SECOND, answer())).await, Either::Right(Ok(_))));
        let began = Instant::now();
        assert!(silent.within(3 * SECOND).await.is_none());
        assert!(began.elapsed().is_zero(), "nothing can come");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_silent_and_no_more() {
        let mut silent = Silent::default();
        for seconds in (1..=9).rev() {
            silent.hold(after(seconds * SECOND, answer()));
        }
        assert!(silent.or_pause(5 * SECOND).await.is_none(), "the first four are held");
        assert!(silent.or_pause(2 * SECOND).await.is_some());
    }
}
