//! Speaks to agents and nodes: as a writer or a node that pays them, and as a payee that they pay.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::Amount;
use farthing_node::books::OrderError;
use farthing_node::cheques::opening::{Direction, OpenError, Plan};
use farthing_node::cheques::selling::{Answer, Ask};
use farthing_node::cheques::{Failed, Teller};
use farthing_node::watch::WatchError;
use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::reverse::authorisation::Authorisation;
use farthing_protocol::cheque::reverse::purchase::Offer;
use farthing_protocol::{ChannelId, Msat};
use reqwest::{Response, Url};
use serde::Serialize;

use super::wire::{
    self, AcceptanceBody, AnswerBody, AskBody, BadAnswer, CancellationBody, CancelledBody, FoundWayBody,
    OfferBody, OpenBody, ProposalBody, RequestBody, SaleBody, TermsBody, UpdateBody, WayBody,
};
use crate::client::{self, ClientError};
use crate::wire::AcceptedBody;

/// How often the two sides of a channel speak before they must have come to an end.
const ROUNDS: usize = 16;

/// A conversation with agents and nodes. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    teller: Arc<Teller>,
    patience: Duration,
    allow_http: bool,
}

/// Why a conversation did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// The other side cannot be reached, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No channel.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Refused here, or not stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The other side's answer is not its own.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
    /// The chain could not be looked at.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// They disagree without an end.
    #[error("the two sides of channel {0} do not come to an end: try again later")]
    Endless(ChannelId),
    /// The newest update leaves out what the payee still holds, and there is no room to put it back.
    #[error(
        "the other side of channel {0} does not take the newest update: it says that a cheque which was taken back is being cashed. Either the \
         room of that one was given to another: take that back first. Or it has signed that it holds it no more, and breaks its word: write \
         in another channel"
    )]
    NotTaken(ChannelId),
    /// The channel has no address of the other side.
    #[error("it is not known where the other side of channel {0} is reached")]
    NoPeer(ChannelId),
}

impl Client {
    /// A client of that program. Whoever has not answered in full after `patience` counts as gone: agents are named by strangers.
    ///
    /// # Errors
    /// When the system's certificates cannot be loaded.
    pub fn new(teller: Arc<Teller>, patience: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { http: client::http(patience)?, teller, patience, allow_http: false })
    }

    /// Allows plain http to another machine.
    #[must_use]
    pub fn allowing_http(self, allow_http: bool) -> Self {
        Self { allow_http, ..self }
    }

    /// The program it speaks for.
    pub fn teller(&self) -> &Arc<Teller> {
        &self.teller
    }

    /// The origin of an address, as channels keep it.
    ///
    /// # Errors
    /// When it is neither http nor https, or plain where it must not be.
    pub fn origin(&self, url: &str) -> Result<String, ClientError> {
        Ok(client::address(url, self.allow_http)?.origin().ascii_serialization())
    }

    /// The terms of an agent or a node.
    ///
    /// # Errors
    /// When it cannot be reached, or speaks something else.
    pub async fn terms(&self, at: &str) -> Result<TermsBody, ClientError> {
        let response = self.send(self.http.get(self.url(at, wire::ROOT)?)).await?;
        client::json(client::succeeded(response).await?).await
    }

    /// Opens a channel to an agent or a node.
    ///
    /// # Errors
    /// When a term is out of bounds, there is too little money, or the other side refuses. Then nothing is locked.
    pub async fn open(
        &self,
        at: &str,
        capacity: Amount,
        kind: Kind,
        lifetime: Option<u32>,
    ) -> Result<ChannelId, CarryError> {
        let terms = self.terms(at).await?;
        let (teller, peer, offer) = (self.teller.clone(), at.to_owned(), terms.offer.offer.clone());
        let proposed = blocking(move || {
            teller.look()?;
            let longest = offer.lifetime.1.min(teller.terms().paying.most_lifetime);
            let lifetime = lifetime.unwrap_or(longest);
            let expiry = teller.height().map_err(OpenError::from)?.saturating_add(lifetime);
            Ok(teller.propose(&offer, Plan { capacity, expiry, kind, peer: Some(peer) })?)
        });
        let (id, opening) = proposed.await?;
        let body = OpenBody { offer: terms.offer, opening };
        let answered = match self.post(at, &wire::channels_path(), &body).await {
            Ok(response) => client::json::<AcceptedBody>(response).await,
            Err(error) => Err(error),
        };
        let teller = self.teller.clone();
        match answered {
            Ok(accepted) if accepted.channel == id => {
                blocking(move || Ok(teller.accepted(id, accepted.signature)?)).await?;
                Ok(id)
            }
            Ok(_) => {
                blocking(move || Ok(teller.refused(id)?)).await?;
                Err(ClientError::Nonsense("it accepted another channel".to_owned()).into())
            }
            Err(error) => {
                // Nothing was broadcast, so nothing is lost if the other side did accept.
                blocking(move || Ok(teller.refused(id)?)).await?;
                Err(error.into())
            }
        }
    }

    /// Brings the newest update of a channel to its payee and hears what it says, until neither has anything new to say. Whether the
    /// newest update counts: not when the channel is closing.
    ///
    /// # Errors
    /// When the payee cannot be reached or refuses the update.
    pub async fn sync(&self, id: ChannelId) -> Result<bool, CarryError> {
        let at = self.peer(id).await?;
        let key = self.teller.call_key(id).ok_or(OrderError::NoChannel(id))?;
        for _ in 0..ROUNDS {
            let teller = self.teller.clone();
            let Some(update) = blocking(move || Ok(teller.update(id)?)).await? else { return Ok(true) };
            let number = update.signed.terms.number;
            let body = UpdateBody { update: Some(update) };
            let response = self.post(&at, &wire::below(id, "update"), &body).await?;
            let answer = client::json::<AnswerBody>(response).await?.read(id, &key)?;
            // An update that counts already may come again without what it settled: then it is older than nothing, and stays.
            let (teller, is_left_out) = (self.teller.clone(), answer.still_held.is_some());
            let counts = answer.taken == Some(number);
            let is_newer = blocking(move || Ok(teller.hear(id, &answer)?)).await?;
            match (is_newer, is_left_out) {
                (true, _) => {}
                (false, false) => return Ok(counts),
                (false, true) => return Err(CarryError::NotTaken(id)),
            }
        }
        Err(CarryError::Endless(id))
    }

    /// Has the agent sign that it holds the promise under that point no more. Whether it is its signature is for
    /// [`Teller::given_up`] to say.
    ///
    /// # Errors
    /// When the agent cannot be reached, or holds it still.
    pub async fn cancelled(&self, id: ChannelId, point: AdaptorPoint) -> Result<Cancellation, CarryError> {
        let at = self.peer(id).await?;
        let key = self.teller.call_key(id).ok_or(OrderError::NoChannel(id))?;
        let body = CancelledBody::new(id, point, &key);
        let response = self.post(&at, &wire::below(id, "cancelled"), &body).await?;
        Ok(client::json::<CancellationBody>(response).await?.cancellation)
    }

    /// [`Self::sync`] for every channel in which this program pays and waits for word. What fails is logged, and tried again by
    /// the next call.
    ///
    /// # Errors
    /// When the program is ending.
    pub async fn sync_all(&self) -> Result<(), CarryError> {
        let teller = self.teller.clone();
        for id in blocking(move || Ok(teller.awaiting_word()?)).await? {
            if let Err(error) = self.sync(id).await {
                tracing::debug!(channel = %id, %error, "the other side of a channel has not answered");
            }
        }
        Ok(())
    }

    /// Asks an agent or a node for a channel in which it pays this program at least `amount`, and accepts it.
    ///
    /// # Errors
    /// When it does not want to, or its terms are refused here.
    pub async fn request(
        &self,
        at: &str,
        amount: Msat,
        latest: u32,
        direction: Direction,
    ) -> Result<ChannelId, CarryError> {
        let (offer, key) = self.teller.offer();
        let authorises = match direction {
            Direction::Cheques => false,
            Direction::Authorised => true,
        };
        let least_sat = amount.ceil().to_sat();
        let body = RequestBody { offer: offer.clone(), least_sat, latest, authorises };
        let response = self.post(at, &wire::requests_path(), &body).await?;
        let ProposalBody { opening } = client::json(response).await?;
        if opening.params.expiry.height() > latest {
            return Err(ClientError::Nonsense("the proposed channel expires too late".to_owned()).into());
        }
        let (teller, peer) = (self.teller.clone(), at.to_owned());
        let (id, signature) = blocking(move || Ok(teller.accept(&offer, key, opening, Some(peer))?)).await?;
        self.post(at, &wire::below(id, "accepted"), &AcceptanceBody { signature }).await?;
        Ok(id)
    }

    /// Says again that a channel is accepted, when its funding has not come.
    ///
    /// # Errors
    /// When the other side cannot be reached, or knows nothing of it any more.
    pub async fn accept_again(&self, id: ChannelId) -> Result<(), CarryError> {
        let at = self.peer(id).await?;
        let Some(signature) = self.teller.acceptance(id) else { return Ok(()) };
        self.post(&at, &wire::below(id, "accepted"), &AcceptanceBody { signature }).await?;
        Ok(())
    }

    /// Asks when the channel expires in which a lock of that amount would be made there, towards a node, for what is `held`.
    ///
    /// # Errors
    /// When there is none that expires at `latest` at the latest.
    pub async fn way(
        &self,
        at: &str,
        node: &str,
        amount: Msat,
        latest: u32,
        held: Option<AdaptorPoint>,
    ) -> Result<u32, ClientError> {
        let body = WayBody { node: node.to_owned(), amount_msat: amount.get(), latest, held };
        let response = self.post(at, &wire::ways_path(), &body).await?;
        Ok(client::json::<FoundWayBody>(response).await?.expiry)
    }

    /// Asks for a lock. The same again is the same.
    ///
    /// # Errors
    /// When no promise is held there, or a rule forbids the lock.
    pub async fn ask(&self, at: &str, ask: &Ask) -> Result<(), CarryError> {
        let body = AskBody::new(ask, |id| self.teller.call_key(id)).map_err(OrderError::NoChannel)?;
        self.post(at, &wire::asks_path(), &body).await?;
        Ok(())
    }

    /// Asks an agent for its signature, as a payee has authorised this program to. The same again is the same.
    ///
    /// # Errors
    /// When the agent does not know the payee's channel, or the authorisation fits it no more.
    pub async fn offer(&self, at: &str, authorisation: &Authorisation) -> Result<Offer, ClientError> {
        let body = SaleBody { authorisation: authorisation.clone() };
        let response = self.post(at, &wire::sales_path(), &body).await?;
        Ok(client::json::<OfferBody>(response).await?.into())
    }

    /// Says to a channel's payer what it has to learn and takes its newest update, until neither has anything new to say.
    ///
    /// # Errors
    /// When the payer cannot be reached, or its update is none to take.
    pub async fn answer(&self, id: ChannelId) -> Result<(), CarryError> {
        let at = self.peer(id).await?;
        let key = self.teller.call_key(id).ok_or(OrderError::NoChannel(id))?;
        let teller = self.teller.clone();
        let secrets = blocking(move || Ok(teller.secrets(id)?)).await?;
        let mut answer = Answer { secrets, ..Answer::default() };
        for _ in 0..ROUNDS {
            let body = AnswerBody::new(id, &answer, &key);
            let response = self.post(&at, &wire::below(id, "answer"), &body).await?;
            let UpdateBody { update } = client::json(response).await?;
            let Some(update) = update else { return Ok(()) };
            let teller = self.teller.clone();
            let next = blocking(move || Ok(teller.take(id, update, Msat::ZERO)?)).await?;
            if next == answer {
                return Ok(());
            }
            answer = next;
        }
        Err(CarryError::Endless(id))
    }

    /// Where the other side of a channel is reached.
    async fn peer(&self, id: ChannelId) -> Result<String, CarryError> {
        let teller = self.teller.clone();
        blocking(move || teller.peer(id).ok_or(CarryError::NoPeer(id))).await
    }

    fn url(&self, at: &str, path: &str) -> Result<Url, ClientError> {
        client::join(&client::address(at, self.allow_http)?, path)
    }

    async fn post(&self, at: &str, path: &str, body: &impl Serialize) -> Result<Response, ClientError> {
        let request = self.http.post(self.url(at, path)?).json(body);
        client::succeeded(self.send(request).await?).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        send(request, self.patience).await
    }
}

/// Sends a request whose answer has to be there in time, all of it.
async fn send(request: reqwest::RequestBuilder, patience: Duration) -> Result<Response, ClientError> {
    request.timeout(patience).send().await.map_err(|source| ClientError::Network {
        url: source.url().map_or_else(String::new, Url::to_string),
        source,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CarryError> + Send + 'static,
) -> Result<T, CarryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ClientError::Nonsense(error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, Bytes};
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// Each of its bytes comes in time, and its last one never.
    #[tokio::test]
    async fn an_agent_that_answers_byte_by_byte_is_not_waited_for() {
        let drips = || {
            let drips = stream::repeat(Bytes::from_static(b" ")).then(|byte| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, std::io::Error>(byte)
            });
            Body::from_stream(drips)
        };
        let agent = Router::new().fallback(async move || drips());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        tokio::spawn(axum::serve(listener, agent).into_future());

        let patience = Duration::from_millis(500);
        let http = client::http(patience).expect("a client");
        let ask = async {
            let response = send(http.get(url), patience).await?;
            client::json::<TermsBody>(response).await
        };
        let asked = tokio::time::timeout(Duration::from_secs(20), ask).await.expect("it comes to an end");
        assert!(matches!(asked, Err(ClientError::Network { .. })), "{asked:?}");
    }
}
