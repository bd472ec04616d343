//! The bodies, and the paths they are posted to.

use bitcoin::Amount;
use farthing_node::cheques::selling::{Answer, Ask, Towards};
use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::promises::Update;
use farthing_protocol::cheque::reverse::authorisation::Authorisation;
use farthing_protocol::cheque::reverse::purchase::Offer;
use farthing_protocol::keys::KeyId;
use farthing_protocol::opening::{self, Opening};
use farthing_protocol::session::{Call, CallKey, NotAuthentic};
use farthing_protocol::{ChannelId, Msat, Params};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::credential::channel_text;
use crate::encoding::{self, hex_array};

/// Everything about cheques lies here and below.
pub(super) const ROOT: &str = "/.well-known/farthing/cheques";

pub(super) fn channels_path() -> String {
    format!("{ROOT}/channels")
}

pub(super) fn requests_path() -> String {
    format!("{ROOT}/requests")
}

pub(super) fn asks_path() -> String {
    format!("{ROOT}/asks")
}

pub(super) fn ways_path() -> String {
    format!("{ROOT}/ways")
}

pub(super) fn sales_path() -> String {
    format!("{ROOT}/sales")
}

pub(super) fn below(channel: impl std::fmt::Display, last: &str) -> String {
    format!("{ROOT}/channels/{channel}/{last}")
}

/// An offer with what binds it to whom it is from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// The offer.
    pub offer: opening::Offer,
    /// Which keys of the offerer's.
    pub key: u64,
    /// Its MAC.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl Bound {
    /// Binds an offer.
    pub(super) fn new(offer: opening::Offer, key: KeyId, secret: &[u8; 32]) -> Self {
        let key = key.to_u64();
        let mac = Self::mac(&offer, key, secret);
        Self { offer, key, mac }
    }

    /// Whether it is bound by that secret.
    pub(super) fn holds(&self, secret: &[u8; 32]) -> bool {
        let expected = Self::mac(&self.offer, self.key, secret);
        bitcoin::hashes::cmp::fixed_time_eq(&expected, &self.mac)
    }

    fn mac(offer: &opening::Offer, key: u64, secret: &[u8; 32]) -> [u8; 32] {
        let own = blake3::derive_key("farthing 2026 offer of a channel that carries cheques", secret);
        *blake3::keyed_hash(&own, &encoding::canonical(&(offer, key))).as_bytes()
    }
}

/// `GET` the root: the terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TermsBody {
    /// What passing on a cheque costs.
    pub fee_msat: u64,
    /// How many blocks a lock ends before the channel of the promise behind it.
    pub delta: u32,
    /// The most that a channel towards a payee locks, in satoshi.
    pub most_onward_sat: u64,
    /// An offer for a channel.
    pub offer: Bound,
}

/// Opens a channel under an offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenBody {
    /// Whose offer this is.
    pub offer: Bound,
    /// The parameters and the payer's signature.
    pub opening: Opening,
}

/// A payer's update; none before it has promised or paid anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateBody {
    /// The update.
    pub update: Option<Box<Update>>,
}

/// What a holder says to its payer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerBody {
    /// The number of the update, if it counts.
    pub taken: Option<u64>,
    /// The secrets of promises that were cashed.
    pub secrets: Vec<String>,
    /// A promise that the update leaves out, and a lock depends on.
    pub still_held: Option<AdaptorPoint>,
    /// Under the channel's key.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

/// Asks when the channel expires in which a lock towards a node would be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WayBody {
    /// The node's address.
    pub node: String,
    /// What the lock is to pay.
    pub amount_msat: u64,
    /// When the channel must expire at the latest.
    pub latest: u32,
    /// The promise that the lock is to be made for: one that was made already is where it is.
    pub held: Option<AdaptorPoint>,
}

/// When it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundWayBody {
    /// A block's height.
    pub expiry: u32,
}

/// Asks an agent to sign that it holds a promise no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelledBody {
    /// The promise's point.
    pub point: AdaptorPoint,
}

/// The agent's word, and its signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancellationBody {
    /// Both.
    pub cancellation: Cancellation,
}

/// An answer that does not decode, or is not the holder's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// Not the holder's.
    #[error("the answer to an update is not authentic: {0}")]
    NotAuthentic(#[from] NotAuthentic),
    /// A secret that is none.
    #[error("a secret in the answer to an update is no number below the group's order")]
    Secret,
}

impl AnswerBody {
    /// An answer, with its MAC.
    pub(super) fn new(channel: ChannelId, answer: &Answer, key: &CallKey) -> Self {
        let secrets = answer.secrets.iter().map(|secret| encoding::encode_bytes(&secret.to_bytes()));
        let mut body = Self {
            taken: answer.taken,
            secrets: secrets.collect(),
            still_held: answer.still_held,
            mac: [0; 32],
        };
        body.mac = key.mac(&body.call(channel));
        body
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not authentic, or a secret is none.
    pub(super) fn read(&self, channel: ChannelId, key: &CallKey) -> Result<Answer, BadAnswer> {
        key.verify(&self.call(channel), &self.mac)?;
        let secret = |text: &String| {
            let bytes = encoding::decode_bytes(text).map_err(|_| BadAnswer::Secret)?;
            let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| BadAnswer::Secret)?;
            AdaptorSecret::from_bytes(&bytes).ok_or(BadAnswer::Secret)
        };
        let secrets = self.secrets.iter().map(secret).collect::<Result<_, _>>()?;
        Ok(Answer { taken: self.taken, secrets, still_held: self.still_held })
    }

    fn call(&self, channel: ChannelId) -> Call<'static> {
        let all = encoding::canonical(&(self.taken, &self.secrets, &self.still_held));
        Call {
            channel,
            item: *blake3::hash(&all).as_bytes(),
            cost: Msat::ZERO,
            total: Msat::ZERO,
            method: "",
            authority: "",
            target: ROOT,
            challenge: "answer",
        }
    }
}

/// A payee asks for a channel in which it is paid.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestBody {
    /// The payee's terms and keys.
    pub offer: opening::Offer,
    /// The least capacity, in satoshi.
    pub least_sat: u64,
    /// The latest expiry.
    pub latest: u32,
    /// Whether it is to be paid the other way round, by payers that it authorises: then the channel may outlive the writers'.
    #[serde(default)]
    pub authorises: bool,
}

impl RequestBody {
    /// The least capacity.
    pub fn least(&self) -> Amount {
        Amount::from_sat(self.least_sat)
    }
}

/// Its answer: a channel that the payee is to accept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProposalBody {
    /// The parameters and the payer's signature.
    pub opening: Opening,
}

/// The payee accepts it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcceptanceBody {
    /// On the channel's id.
    pub signature: schnorr::Signature,
}

/// A payee asks for a lock on the strength of a promise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskBody {
    /// The promise's point.
    pub held: AdaptorPoint,
    /// The lock's point.
    pub point: AdaptorPoint,
    /// What leads from the lock's point to the promise's.
    #[serde(with = "hex_array")]
    pub tweak: [u8; 32],
    /// What the lock is to pay.
    pub amount_msat: u64,
    /// In which channel.
    pub towards: TowardsBody,
}

/// Where a lock is to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TowardsBody {
    /// In this channel.
    Channel(#[serde(with = "channel_text")] ChannelId),
    /// In any channel to the node that is reached there.
    Node(String),
}

impl From<&Ask> for AskBody {
    fn from(ask: &Ask) -> Self {
        let towards = match &ask.towards {
            Towards::Channel(channel) => TowardsBody::Channel(*channel),
            Towards::Node(node) => TowardsBody::Node(node.clone()),
        };
        Self {
            held: ask.held,
            point: ask.point,
            tweak: ask.tweak.to_bytes(),
            amount_msat: ask.amount.get(),
            towards,
        }
    }
}

impl AskBody {
    /// Reads it. `None` when the tweak is no number below the group's order.
    pub fn read(self) -> Option<Ask> {
        let towards = match self.towards {
            TowardsBody::Channel(channel) => Towards::Channel(channel),
            TowardsBody::Node(node) => Towards::Node(node),
        };
        let tweak = AdaptorSecret::from_bytes(&self.tweak)?;
        let amount = Msat::new(self.amount_msat);
        Some(Ask { held: self.held, point: self.point, tweak, amount, towards })
    }
}

/// A payer asks for an agent's signature, as a payee has authorised it to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SaleBody {
    /// The payee's word.
    pub authorisation: Authorisation,
}

/// Its answer: worth nothing without the secret, which the payer's promise of the price buys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferBody {
    /// The channel in which the agent pays the payee.
    pub params: Params,
    /// The update that adds the increment.
    pub update: Box<Update>,
    /// What is to be promised for it.
    pub price_msat: u64,
}

impl From<Offer> for OfferBody {
    fn from(offer: Offer) -> Self {
        Self { params: offer.params, update: offer.update, price_msat: offer.price.get() }
    }
}

impl From<OfferBody> for Offer {
    fn from(body: OfferBody) -> Self {
        Self { params: body.params, update: body.update, price: Msat::new(body.price_msat) }
    }
}
