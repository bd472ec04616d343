//! Speaks to a seller: asks for its terms, opens and closes channels, asks for pieces.
//!
//! The client never believes a total that the seller states: what was paid and spent comes from the buyer's own books.

mod announcing;
mod error;
mod impatient;

use std::sync::{Arc, Once};
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Amount, FeeRate, Transaction};
use farthing_node::books::OrderError;
use farthing_node::buyer::{Buyer, CloseError, ProposeError};
use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::lightspeed::purse::Unable;
use farthing_protocol::opening::{Limits, Offer};
use farthing_protocol::payer::Reject;
use farthing_protocol::{ChannelId, Msat, commitment};
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;
use url::Host;

use crate::challenge::{Challenge, Price};
pub use crate::client::error::ClientError;
use crate::client::impatient::impatient;
use crate::manifest::{BadManifest, Manifest, Pieces};
use crate::problem::Body;
use crate::wire::{
    self, AcceptedBody, CloseBody, ClosedBody, ClosingBody, OpenBody, StandingAnswer, StandingBody,
};

/// A conversation with sellers.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Waits for the head of an answer as long as its connection stands.
    patient: reqwest::Client,
    patience: Duration,
    buyer: Arc<Buyer>,
}

/// What a seller asks for a file.
#[derive(Clone, Debug)]
pub struct Quote {
    /// Where the file is.
    pub url: Url,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its price and the terms of paying; `None` when it is free.
    pub terms: Option<Terms>,
}

/// The price, and how to pay it.
#[derive(Clone, Debug)]
pub struct Terms {
    /// To be echoed with each payment.
    pub challenge: Challenge,
    /// The price.
    pub price: Price,
    /// On which terms a channel is opened.
    pub offer: Offer,
    /// What the whole file costs.
    pub cost: Msat,
}

/// What buying would lock, before anything is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the channel locks.
    pub capacity: Amount,
    /// The commitment's fee within it.
    pub commitment_fee: Amount,
    /// The least first payment.
    pub prepaid: Amount,
    /// For how many blocks at most.
    pub lifetime: u32,
    /// How deep the funding must be before the seller serves.
    pub confirmations: u32,
    /// The fee rate agreed for commitments.
    pub fee_rate: FeeRate,
}

impl Client {
    /// A client that pays from `buyer`. A seller that stays silent longer than `patience` counts as gone, unless it says that it works
    /// on a call.
    ///
    /// # Errors
    /// When the system's certificates cannot be loaded.
    pub fn new(buyer: Arc<Buyer>, patience: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { http: http(patience)?, patient: builder(patience).build()?, patience, buyer })
    }

    /// The buyer that pays.
    pub fn buyer(&self) -> &Arc<Buyer> {
        &self.buyer
    }

    /// Asks what a file costs. Nothing is paid or locked.
    ///
    /// # Errors
    /// When the seller cannot be reached or speaks something else.
    pub async fn quote(&self, url: &str, allow_http: bool) -> Result<Quote, ClientError> {
        let url = address(url, allow_http)?;
        let response = self.send(self.http.head(url.clone())).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            let response = succeeded(response).await?;
            drop(response);
            let name = url.path().trim_start_matches('/');
            let manifest =
                self.send(self.http.get(join(&url, &format!("{}/{name}", wire::MANIFEST))?)).await?;
            let manifest: Manifest = json(succeeded(manifest).await?).await?;
            manifest.check()?;
            return Ok(Quote { url, manifest, terms: None });
        }
        let challenge = Challenge::offered(response.headers())?;
        let request = challenge.request()?;
        let manifest = request.method_details.file.ok_or(ClientError::NoFile)?;
        manifest.check()?;
        let price = request.price()?;
        let cost = (0..manifest.pieces())
            .map(|piece| manifest.span(piece).and_then(|(_, length)| price.of(length)))
            .try_fold(Msat::ZERO, |sum, cost| sum.checked_add(cost?));
        let cost = cost.ok_or_else(|| ClientError::Nonsense("the price overflows".to_owned()))?;
        let terms = Terms { challenge, price, offer: request.method_details.offer, cost };
        Ok(Quote { url, manifest, terms: Some(terms) })
    }

    /// What a channel that pays `cost` would lock. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub fn plan(&self, offer: &Offer, limits: &Limits, cost: Msat) -> Result<Plan, ClientError> {
        let now = self.buyer.fee_rate().map_err(ProposeError::from)?;
        let fee_rate = limits.choose_fee_rate(offer, now);
        let commitment_fee = fee_rate.checked_mul_by_weight(commitment::WEIGHT).unwrap_or(Amount::MAX_MONEY);
        let prepaid = Offer::prepaid(fee_rate);
        let paid = cost.ceil().max(prepaid);
        let capacity = paid.checked_add(commitment_fee).unwrap_or(Amount::MAX_MONEY).max(offer.capacity.0);
        let lifetime = offer.lifetime.0.max(offer.lifetime.1.min(limits.most_lifetime));
        let confirmations = offer.confirmations.required(capacity);
        Ok(Plan { capacity, commitment_fee, prepaid, lifetime, confirmations, fee_rate })
    }

    /// Opens a channel to pay for a file, which may cost at most `most`: the funding is broadcast once the seller has
    /// accepted.
    ///
    /// # Errors
    /// When a term is out of bounds, there is too little money, or the seller refuses. Then nothing is locked.
    pub async fn open(
        &self,
        quote: &Quote,
        terms: &Terms,
        limits: &Limits,
        most: Msat,
    ) -> Result<ChannelId, ClientError> {
        let (cost, offer) = (terms.cost, &terms.offer);
        let plan = self.plan_opening(offer, limits, cost).await?;
        // A seller that closes alone takes the first payment, whatever was bought.
        let prepaid = Msat::from_amount(plan.prepaid).unwrap_or(Msat::new(u64::MAX));
        if prepaid > most {
            return Err(ClientError::OverPrepaid { cost, prepaid, most });
        }
        self.open_planned(&quote.url, (&terms.challenge, offer), limits, &plan).await
    }

    /// What a channel that pays `cost` would lock, with the coins that came since the last look.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub async fn plan_opening(
        &self,
        offer: &Offer,
        limits: &Limits,
        cost: Msat,
    ) -> Result<Plan, ClientError> {
        let (client, offer, limits) = (self.clone(), offer.clone(), *limits);
        blocking(move || {
            client.buyer.look()?;
            client.plan(&offer, &limits, cost)
        })
        .await
    }

    /// Opens a channel as it was planned, under a seller's challenge and the offer in it. Its first payment is no larger than planned.
    ///
    /// # Errors
    /// When a term is out of bounds, there is too little money, or the seller refuses. Then nothing is locked.
    pub async fn open_planned(
        &self,
        url: &Url,
        (challenge, offer): (&Challenge, &Offer),
        limits: &Limits,
        plan: &Plan,
    ) -> Result<ChannelId, ClientError> {
        challenge.check_expiry(Timestamp::now())?;
        let (client, offer, plan) = (self.clone(), offer.clone(), *plan);
        // The fee rate of the moment may have risen since, and the first payment with it.
        let limits = Limits { most_prepaid: limits.most_prepaid.min(plan.prepaid), ..*limits };
        let peer = url.origin().ascii_serialization();
        let proposed = blocking(move || {
            Ok::<_, ClientError>(client.buyer.propose(&offer, &limits, plan.capacity, plan.lifetime, peer)?)
        });
        let (id, opening) = proposed.await?;
        let body = OpenBody { challenge: challenge.clone(), opening };
        match self.post_opening(url, &body).await {
            Ok(accepted) if accepted.channel == id => {
                self.buyer.accepted(id, accepted.signature).await?;
                Ok(id)
            }
            Ok(_) => {
                self.buyer.refused(id).await?;
                Err(ClientError::Nonsense("it accepted another channel".to_owned()))
            }
            Err(error) => {
                // Nothing was broadcast, so nothing is lost if the seller did accept and only the answer was.
                self.buyer.refused(id).await?;
                Err(error)
            }
        }
    }

    async fn post_opening(&self, url: &Url, body: &OpenBody) -> Result<AcceptedBody, ClientError> {
        let accepted = async {
            let response = self.send(self.http.post(join(url, wire::CHANNELS)?).json(body)).await?;
            json(succeeded(response).await?).await
        };
        // Its coins are held meanwhile: a seller must not hold them by one byte after the other.
        let silent = || ClientError::Silent { url: url.to_string(), after: self.patience };
        timeout(self.patience, accepted).await.map_err(|_elapsed| silent())?
    }

    /// Fetches and checks the list of a file's pieces.
    ///
    /// # Errors
    /// When it cannot be fetched or does not belong to the file.
    pub async fn pieces(&self, quote: &Quote) -> Result<Pieces, ClientError> {
        let root = blake3::Hash::from(quote.manifest.blake3).to_hex();
        let url = join(&quote.url, &format!("{}/{root}", wire::PIECES))?;
        let mut response = succeeded(self.send(self.http.get(url)).await?).await?;
        let expected = quote.manifest.pieces() * 32;
        let mut list = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|source| network(&quote.url, source))? {
            list.extend_from_slice(&part);
            if list.len() as u64 > expected {
                return Err(BadManifest::ListLength { expected, got: list.len() as u64 }.into());
            }
        }
        Ok(Pieces::verified(quote.manifest, &list)?)
    }

    /// Asks for a piece, with a payment unless it is free. The answer's body is the piece.
    ///
    /// # Errors
    /// When the seller cannot be reached or refuses.
    pub async fn piece(
        &self,
        url: &Url,
        (start, length): (u64, u64),
        credential: Option<String>,
    ) -> Result<Response, ClientError> {
        let range = format!("bytes={start}-{}", start + length - 1);
        let request = self.http.get(url.clone()).header(RANGE, range);
        let request = match credential {
            Some(credential) => request.header(AUTHORIZATION, credential),
            None => request,
        };
        succeeded(self.send(request).await?).await
    }

    /// Closes a channel together with the seller. Returns the closing, which is broadcast.
    ///
    /// # Errors
    /// When the seller cannot be reached or refuses. The channel then stays closing: try again, or wait for the expiry.
    pub async fn close(&self, id: ChannelId, peer: &str) -> Result<Option<Transaction>, ClientError> {
        let buyer = self.buyer.clone();
        let fee_rate =
            blocking(move || buyer.fee_rate().map_err(|error| CloseError::from(error).into())).await?;
        let peer = Url::parse(peer).map_err(|_| ClientError::Url(peer.to_owned()))?;
        let charged = self.reconcile(id, &peer).await?;
        let Some(proposal) = self.buyer.propose_closing(id, fee_rate, charged).await? else {
            return Ok(None);
        };
        let path = wire::close_path(id);
        let settlement = proposal.settlement();
        let mut body = CloseBody {
            to_payee_sat: settlement.to_payee.to_sat(),
            fee_rate_sat_per_kwu: settlement.fee_rate.to_sat_per_kwu(),
            nonce: proposal.public_nonce().0,
            mac: [0; 32],
        };
        let key = self.buyer.call_key(id).ok_or(OrderError::NoChannel(id))?;
        let (authority, mut scratch) = (authority(&peer), String::new());
        body.mac = key.mac(&body.call(id, &authority, &path, &mut scratch));
        let response = self.send(self.http.post(join(&peer, &path)?).json(&body)).await?;
        let answer: ClosingBody = json(succeeded(response).await?).await?;
        let transaction = self.buyer.complete_closing(id, proposal, &answer.into()).await?;
        // A courtesy: the closing is broadcast on this side already.
        let closed = ClosedBody { transaction: serialize_hex(&transaction) };
        if let Err(error) =
            self.send(self.http.post(join(&peer, &wire::closed_path(id))?).json(&closed)).await
        {
            tracing::debug!(%error, "the seller did not take the finished closing");
        }
        Ok(Some(transaction))
    }

    /// Asks the seller what calls came to whose answers were lost, or what it charged for pieces. Its sum is taken only if what
    /// was sent allows it, and nothing was sent meanwhile; for pieces it is what this gives.
    pub(crate) async fn reconcile(&self, id: ChannelId, peer: &Url) -> Result<Option<Msat>, ClientError> {
        let Some(purse) = self.buyer.purse(id).await? else {
            let none = CallNumber { epoch: 0, counter: 0 };
            let standing = self.standing(id, peer, none).await;
            // A seller that does not say is paid all that was bought.
            return Ok(standing.ok().and_then(|standing| standing.spent_msat).map(Msat::new));
        };
        if purse.unanswered().next().is_none() {
            return Ok(None);
        }
        let last = purse.last_number();
        let standing = self.standing(id, peer, last).await?;
        // Before the epoch: it begins other numbers.
        let reconciled = match standing.spent_msat {
            Some(spent) => match self.buyer.reconcile(id, last, Msat::new(spent)).await {
                // That one runs, or it is to come.
                Err(OrderError::Rejected(Reject::Call(Unable::SentSince { .. }))) => {
                    Err(ClientError::CallsRunning)
                }
                taken => Ok(taken?),
            },
            None => Err(ClientError::CallsRunning),
        };
        self.buyer.epoch(id, standing.epoch).await?;
        reconciled.map(|()| None)
    }

    async fn standing(
        &self,
        id: ChannelId,
        peer: &Url,
        last: CallNumber,
    ) -> Result<StandingAnswer, ClientError> {
        let path = wire::standing_path(id);
        let mut body = StandingBody { last, mac: [0; 32] };
        let key = self.buyer.call_key(id).ok_or(OrderError::NoChannel(id))?;
        body.mac = key.mac(&body.call(id, &authority(peer), &path));
        let response = self.send(self.http.post(join(peer, &path)?).json(&body)).await?;
        json(succeeded(response).await?).await
    }

    /// A request to the seller, for what only passes through.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|source| ClientError::Network {
            url: source.url().map_or_else(String::new, Url::to_string),
            source,
        })
    }

    /// How long a seller may be silent.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends a request to whose answer the seller may take its time, though not in the middle of it.
    pub(crate) async fn send_patiently(
        &self,
        request: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder,
    ) -> Result<Response, ClientError> {
        Ok(impatient(self.send(request(&self.patient)).await?, self.patience))
    }
}

/// A client of HTTP, over TLS or plain: no redirects, no proxy. Who stays silent longer than `patience` counts as gone.
pub(crate) fn http(patience: Duration) -> Result<reqwest::Client, reqwest::Error> {
    builder(patience).read_timeout(patience).build()
}

fn builder(patience: Duration) -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Someone else may have chosen a provider already; then that one is used.
        let _chosen_already = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .connect_timeout(patience)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

/// The answer if it is a success, else the seller's words.
pub(crate) async fn succeeded(response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse::<u64>().ok());
    // Bounded: a hostile seller's endless body ends with the connection.
    let mut text = Vec::new();
    let mut response = response;
    while let Ok(Some(part)) = response.chunk().await {
        text.extend_from_slice(&part);
        if text.len() > 16 * 1024 {
            break;
        }
    }
    let body: Option<Body> = serde_json::from_slice(&text).ok();
    let kind = body.as_ref().and_then(Body::kind);
    let detail = body.map_or_else(|| status.to_string(), |body| body.detail);
    Err(ClientError::Refused { status: status.as_u16(), kind, detail, retry_after })
}

/// What is to be said of a call that was not settled.
pub(crate) async fn unsettled(most: Msat, response: Response) -> ClientError {
    let status = response.status();
    let last = match succeeded(response).await {
        Ok(_success) => format!("{status}, without a word on the payment"),
        Err(refused) => refused.to_string(),
    };
    ClientError::Unsettled { most, last }
}

pub(crate) async fn json<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    const MOST: usize = 64 * 1024;
    let url = response.url().clone();
    let mut response = response;
    let mut text = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|source| network(&url, source))? {
        text.extend_from_slice(&part);
        if text.len() > MOST {
            return Err(ClientError::Nonsense(format!("it is longer than {MOST} bytes")));
        }
    }
    serde_json::from_slice(&text).map_err(|error| ClientError::Nonsense(error.to_string()))
}

pub(crate) fn network(url: &Url, source: reqwest::Error) -> ClientError {
    ClientError::Network { url: url.to_string(), source }
}

/// Reads an address, and refuses plain HTTP to another machine unless `allow_http` says otherwise.
///
/// # Errors
/// When it is neither http nor https, or plain where it must not be.
pub fn address(text: &str, allow_http: bool) -> Result<Url, ClientError> {
    let url = Url::parse(text).map_err(|_| ClientError::Url(text.to_owned()))?;
    let local = match url.host().ok_or_else(|| ClientError::Url(text.to_owned()))? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if local || allow_http => Ok(url),
        "http" => Err(ClientError::PlainHttp(text.to_owned())),
        _other => Err(ClientError::Url(text.to_owned())),
    }
}

pub(crate) fn join(url: &Url, path: &str) -> Result<Url, ClientError> {
    url.join(path).map_err(|_| ClientError::Url(format!("{url}{path}")))
}

/// The host and port as the `Host` header names them.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ClientError::Nonsense(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        for at in ["localhost", "127.0.0.1", "127.1.2.3:8080", "[::1]:80", "127.1"] {
            assert!(address(&format!("http://{at}/"), false).is_ok(), "{at}");
        }
        for at in ["127.shop.example", "127.0.0.1.example", "localhost.example", "192.0.2.1", "[2001:db8::1]"]
        {
            let (plain, secure) = (format!("http://{at}/"), format!("https://{at}/"));
            assert!(matches!(address(&plain, false), Err(ClientError::PlainHttp(_))), "{at}");
            assert!(address(&plain, true).is_ok() && address(&secure, false).is_ok(), "{at}");
        }
    }
}
