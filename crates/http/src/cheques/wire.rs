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
    /// Under the channel's key: only its payer has anything taken back.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl CancelledBody {
    /// A question, with its MAC.
    pub(super) fn new(channel: ChannelId, point: AdaptorPoint, key: &CallKey) -> Self {
        Self { point, mac: key.mac(&call(channel, "cancelled", &point)) }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not the payer's.
    pub(super) fn read(&self, channel: ChannelId, key: &CallKey) -> Result<AdaptorPoint, NotAuthentic> {
        key.verify(&call(channel, "cancelled", &self.point), &self.mac)?;
        Ok(self.point)
    }
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
        call(channel, "answer", &(self.taken, &self.secrets, &self.still_held))
    }
}

/// What one side of a channel says to the other, as it is authenticated. Both have one key, so what it is belongs to it.
fn call(channel: ChannelId, what: &'static str, all: &impl Serialize) -> Call<'static> {
    Call {
        channel,
        item: *blake3::hash(&encoding::canonical(all)).as_bytes(),
        cost: Msat::ZERO,
        total: Msat::ZERO,
        method: "",
        authority: "",
        target: ROOT,
        challenge: what,
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
    Channel {
        /// The channel.
        #[serde(with = "channel_text")]
        id: ChannelId,
        /// Under its key: nobody but its payee has it held by a lock.
        #[serde(with = "hex_array")]
        mac: [u8; 32],
    },
    /// In any channel to the node that is reached there.
    Node(String),
}

/// An ask that does not decode, or is not the payee's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAsk {
    /// Not by the payee of the channel.
    #[error("the lock is not asked for by the payee of its channel: {0}")]
    NotAuthentic(#[from] NotAuthentic),
    /// A tweak that is none.
    #[error("the tweak is no number below the group's order")]
    Tweak,
}

impl AskBody {
    /// An ask, with its MAC if it names a channel.
    ///
    /// # Errors
    /// The channel that there is no key for.
    pub(super) fn new(ask: &Ask, key: impl FnOnce(ChannelId) -> Option<CallKey>) -> Result<Self, ChannelId> {
        let mut body = Self {
            held: ask.held,
            point: ask.point,
            tweak: ask.tweak.to_bytes(),
            amount_msat: ask.amount.get(),
            towards: TowardsBody::Node(String::new()),
        };
        body.towards = match &ask.towards {
            Towards::Channel(id) => {
                TowardsBody::Channel { id: *id, mac: key(*id).ok_or(*id)?.mac(&body.call(*id)) }
            }
            Towards::Node(node) => TowardsBody::Node(node.clone()),
        };
        Ok(body)
    }

    /// The channel that it names.
    pub(super) fn channel(&self) -> Option<ChannelId> {
        match &self.towards {
            TowardsBody::Channel { id, .. } => Some(*id),
            TowardsBody::Node(_) => None,
        }
    }

    /// Reads it, with the key of the channel that it names.
    ///
    /// # Errors
    /// When the tweak is no number below the group's order, or the channel's payee does not ask for it.
    pub fn read(self, key: Option<&CallKey>) -> Result<Ask, BadAsk> {
        let tweak = AdaptorSecret::from_bytes(&self.tweak).ok_or(BadAsk::Tweak)?;
        let towards = match &self.towards {
            TowardsBody::Channel { id, mac } => {
                key.ok_or(NotAuthentic)?.verify(&self.call(*id), mac)?;
                Towards::Channel(*id)
            }
            TowardsBody::Node(node) => Towards::Node(node.clone()),
        };
        let amount = Msat::new(self.amount_msat);
        Ok(Ask { held: self.held, point: self.point, tweak, amount, towards })
    }

    fn call(&self, channel: ChannelId) -> Call<'static> {
        call(channel, "ask", &(&self.held, &self.point, &self.tweak, self.amount_msat))
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

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use farthing_protocol::keys::Seed;

    use super::*;

    fn key(byte: u8, channel: ChannelId) -> CallKey {
        let keys = |byte| Seed::new([byte; 64], Network::Regtest).channel_keys(KeyId::from_u64(1));
        CallKey::agree(&keys(byte), &keys(9).session(), channel)
    }

    #[test]
    fn a_lock_in_a_channel_is_asked_for_by_its_payee_alone() {
        let (channel, other) = (ChannelId::from_bytes([1; 32]), ChannelId::from_bytes([2; 32]));
        let secret = |byte| AdaptorSecret::from_bytes(&[byte; 32]).unwrap();
        let ask = Ask {
            held: secret(3).point(),
            point: secret(4).point(),
            tweak: secret(5),
            amount: Msat::new(6),
            towards: Towards::Channel(channel),
        };
        let body = AskBody::new(&ask, |id| Some(key(1, id))).unwrap();
        let read = |body: &AskBody, by: u8, channel| body.clone().read(Some(&key(by, channel)));
        assert!(read(&body, 1, channel).is_ok());
        assert!(matches!(read(&body, 2, channel), Err(BadAsk::NotAuthentic(_))), "a stranger's");
        assert!(matches!(read(&body, 1, other), Err(BadAsk::NotAuthentic(_))));
        assert!(matches!(body.clone().read(None), Err(BadAsk::NotAuthentic(_))));
        for change in [
            |body: &mut AskBody| body.amount_msat += 1,
            |body: &mut AskBody| body.tweak[0] ^= 1,
            |body: &mut AskBody| body.point = body.held,
            |body: &mut AskBody| body.held = body.point,
        ] {
            let mut changed = body.clone();
            change(&mut changed);
            assert!(matches!(read(&changed, 1, channel), Err(BadAsk::NotAuthentic(_))), "{changed:?}");
        }
        assert_eq!(AskBody::new(&ask, |_| None).unwrap_err(), channel);
        // Towards a node it is the promise alone that is held.
        let ask = Ask { towards: Towards::Node("node".to_owned()), ..ask };
        assert!(AskBody::new(&ask, |_| None).unwrap().read(None).is_ok());
    }

    #[test]
    fn a_cheque_is_given_up_for_its_payer_alone() {
        let (channel, point) =
            (ChannelId::from_bytes([1; 32]), AdaptorSecret::from_bytes(&[3; 32]).unwrap().point());
        let body = CancelledBody::new(channel, point, &key(1, channel));
        assert_eq!(body.read(channel, &key(1, channel)), Ok(point));
        assert_eq!(body.read(channel, &key(2, channel)), Err(NotAuthentic));
        // What was said with the same key about the same is another word.
        let answer = AnswerBody { taken: None, secrets: Vec::new(), still_held: Some(point), mac: body.mac };
        assert!(answer.read(channel, &key(1, channel)).is_err());
    }
}
