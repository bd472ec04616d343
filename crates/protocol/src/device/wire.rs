//! What device and gateway say to each other. Formats only: how they travel is the link's matter (frames under Noise, in `node`).
//!
//! ```text
//!   device                                     gateway
//!      │── Hello, Order(id, …) ───────────────────▶│   the device connects, and says what it wants
//!      │◀───────────── Welcome, Headers, Report(id, …)
//!      │◀──────────────────── Request(id, channel, …)   what its Lightning node needs
//!      │── Answer(id, …) ─────────────────────────▶│
//!      │◀─ Round(id, …) ── Round(id, …) ──────────▶│   a joint round, or a key generation, begun by a request
//! ```
//!
//! **Ids** count from 1 on each connection, each side its own. An answer bears its request's id. Requests of one channel are
//! carried out in the order in which they come, so they may be sent without waiting for answers. **Replay**: after a broken
//! connection everything not answered is sent again, with new ids; the device's machine answers the same request the same.
//!
//! **Rounds.** A request that needs a joint signature carries the gateway's first message, and each side sends all that it can:
//!
//! ```text
//!   gateway ── request + 1 ─▶ device     it checks, stores, starts its round
//!   gateway ◀─ Signing: 1 ──── device     with its own HTLC signatures
//!   gateway ◀─ Round: 2 ────── device
//!   gateway ── Round: 2 ─────▶ device     as soon as the device's first is there
//!   gateway ── Round: 3 ─────▶ device     only when the device finishes; then it stores, and answers HolderComplete
//!   gateway ◀─ Round: 3 ────── device     only when the gateway finishes
//! ```
//!
//! The round's id is [`round_id`] of the connection and the request's id. A key generation goes the same way: request + 1; Round: 1,
//! 2; Round: 2, 3; and the device, which has then stored its share, answers `Key` with its own 3.
//!
//! Nothing here is believed by whoever reads it. Everything is bounded by [`MOST_BYTES`].

use bitcoin::block::Header;
use bitcoin::{Amount, BlockHash, FeeRate, Network, OutPoint, ScriptBuf, Transaction, Txid};
use secp256k1::{PublicKey, XOnlyPublicKey, ecdsa};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bolt3::closing::Settlement;
use super::bolt3::{Basepoints, CommitmentNumber, CommitmentSecret, PartyTerms, PaymentHash, Preimage};
use super::joint::RoundId;
use super::machine::{Proposal, Revoked};
use super::policy::SignedPolicy;
use super::setup::FundingStatement;
use crate::amount::Msat;
use crate::tagged;

/// The version of these formats; the first byte of every message.
pub const VERSION: u8 = 1;
/// No message is longer. Two of key generation's, the longest, take 150 kB.
pub const MOST_BYTES: usize = 1 << 18;
/// How many points may be asked for at once.
pub const MOST_POINTS: u16 = 64;
/// How many headers come in one message at most.
pub const MOST_HEADERS: usize = 1_000;

/// Names a channel between device and gateway: 32 random bytes of the device's, from which it derives its keys. The gateway uses them
/// as its Lightning node's `channel_keys_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelKeysId(pub [u8; 32]);

/// Gateway to device.
#[expect(clippy::large_enum_variant, reason = "one message at a time is in memory")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDevice {
    /// The answer to `Hello`.
    Welcome(Welcome),
    /// Blocks above those that the device named in `Hello`, in order. More may follow at any time.
    Headers(Vec<Header>),
    /// Make a key for a channel to come, to be kept ready. Answered by `Key`.
    GenerateKey {
        /// Counted by the gateway, together with its requests.
        id: u64,
        /// The gateway's first message.
        first: Vec<u8>,
    },
    /// Do this.
    Request {
        /// Counted by the gateway.
        id: u64,
        /// Which channel.
        channel: ChannelKeysId,
        /// What.
        request: Request,
    },
    /// The next messages of the round that this request began.
    Round {
        /// The request's.
        id: u64,
        /// In order.
        messages: Vec<Vec<u8>>,
    },
    /// What became of an order. There may be several for one.
    Report {
        /// The order's.
        id: u64,
        /// What.
        report: Report,
    },
}

/// Device to gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGateway {
    /// The first message of a connection.
    Hello(Hello),
    /// The answer to a request.
    Answer {
        /// The request's.
        id: u64,
        /// What.
        answer: Answer,
    },
    /// The next messages of the round that this request began.
    Round {
        /// The request's.
        id: u64,
        /// In order.
        messages: Vec<Vec<u8>>,
    },
    /// The device, or its user, wants something.
    Order {
        /// Counted by the device.
        id: u64,
        /// What.
        order: Order,
    },
}

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Whose bitcoin.
    pub network: Network,
    /// The newest header that the device knows, by height and hash.
    pub tip: (u32, BlockHash),
    /// The device's channels and where they stand.
    pub channels: Vec<(ChannelKeysId, Standing)>,
}

/// Where a channel stands at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// A key is ready, no channel uses it yet.
    Ready,
    /// The funding is not to be signed yet.
    Opening,
    /// Payments can be made.
    Open,
    /// Being closed.
    Closing,
}

/// What the gateway asks for its service, before the device agrees to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Whether this device is enrolled here.
    pub enrolled: bool,
    /// The service fee, in millionths of a payment's amount; the routing fees of others come on top.
    pub fee_ppm: u32,
    /// The service fee's fixed part.
    pub fee_base: Msat,
    /// The number of the policy of this device that the gateway enforces; 0 without one.
    pub policy: u64,
}

/// Gateway to device: what of the machine's inputs a gateway may give, and what it needs besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Points of holder commitments.
    Points {
        /// The first one's number.
        from: CommitmentNumber,
        /// How many, at most [`MOST_POINTS`].
        count: u16,
    },
    /// A channel begins: what was agreed on with the bridge. To be sent before any of the requests below.
    Open(OpenTerms),
    /// Sign the bridge's next commitment. The gateway finishes.
    SignBridge {
        /// The commitment.
        proposal: Proposal,
        /// The bridge's point for it.
        point: PublicKey,
        /// The gateway's first message of the round.
        first: Vec<u8>,
    },
    /// The bridge signed the holder's next commitment. The device finishes.
    ValidateHolder {
        /// The commitment.
        proposal: Proposal,
        /// The bridge's signature on it.
        signature: ecdsa::Signature,
        /// The bridge's signatures on its second stages, in the order of outputs.
        htlc_signatures: Vec<ecdsa::Signature>,
        /// The gateway's first message of the round.
        first: Vec<u8>,
    },
    /// Reveal the secret of a holder commitment.
    Revoke {
        /// Which commitment.
        number: CommitmentNumber,
    },
    /// The bridge revealed the secret of one of its commitments.
    BridgeRevoked {
        /// Which commitment.
        number: CommitmentNumber,
        /// Its secret.
        secret: CommitmentSecret,
    },
    /// Say that the funding may be signed.
    Fund,
    /// Sign the closing of both sides. The gateway finishes.
    CloseTogether {
        /// Who gets what.
        settlement: Settlement,
        /// The gateway's first message of the round.
        first: Vec<u8>,
    },
    /// Publish the holder's commitment.
    CloseAlone,
    /// The bridge published its commitment: give transactions that take our HTLCs back out of it.
    TakeBack {
        /// Which transaction.
        commitment: Txid,
        /// What to pay for each.
        fee_rate: FeeRate,
    },
    /// The bridge published a commitment that it had revoked: give the transaction that takes all of it.
    Punish(Box<Revoked>),
}

/// What was agreed on with the bridge. The device fills in its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTerms {
    /// The funding output.
    pub funding: OutPoint,
    /// What it holds.
    pub capacity: Amount,
    /// The holder's dust limit and delay, as `open_channel` and `accept_channel` set them.
    pub holder_dust_limit: Amount,
    /// How many blocks the owner waits for its money after the holder's commitment was published: `accept_channel`'s `to_self_delay`.
    pub holder_delay: u16,
    /// The bridge's end; its delay is `open_channel`'s `to_self_delay`.
    pub bridge: PartyTerms,
    /// What the bridge forbids the holder to spend (`accept_channel`'s `channel_reserve_satoshis`).
    pub reserve: Amount,
}

/// Device to gateway, about a request.
#[expect(clippy::large_enum_variant, reason = "one message at a time is in memory")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The device has stored its share, and waits for nothing more.
    Key {
        /// The channel that is to be. The device chose it: keys of one that had been used before would be known to others.
        channel: ChannelKeysId,
        /// The joint key.
        funding_key: PublicKey,
        /// The holder's basepoints in this channel.
        basepoints: Basepoints,
        /// Where the owner is paid when both close together.
        closing_script: ScriptBuf,
        /// The device's third message of the key generation.
        last: Vec<u8>,
    },
    /// The points asked for, in order.
    Points(Vec<PublicKey>),
    /// Stored. The answer to `Open` and `BridgeRevoked`.
    Done,
    /// The device takes part in the round.
    Signing {
        /// Of a bridge commitment: by the device's HTLC key, in the order of outputs.
        htlc_signatures: Vec<ecdsa::Signature>,
        /// The device's first message. Its second comes behind it.
        first: Vec<u8>,
    },
    /// This holder commitment is complete and stored.
    HolderComplete {
        /// Which commitment.
        number: CommitmentNumber,
    },
    /// A holder commitment's secret, for the bridge.
    Secret {
        /// Which commitment it revokes.
        number: CommitmentNumber,
        /// The secret.
        secret: CommitmentSecret,
    },
    /// The owner may sign the funding.
    Fund(FundingStatement),
    /// Transactions to be brought into blocks, each from its lock time on; of a closing alone, the commitment is the first.
    Transactions(Vec<Transaction>),
    /// The round ended without a signature. Ask again, in a new round.
    Interrupted,
    /// Nothing was done.
    Refused {
        /// The rule's name (`reject.rs`).
        rule: String,
        /// In words.
        why: String,
    },
}

/// Device to gateway, of its own accord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Serve this device from now on. The connection's static key is the one that is enrolled.
    Enrol(Enrol),
    /// Enforce this policy too.
    Policy(SignedPolicy),
    /// Open a channel of that capacity with a bridge of the gateway's. Answered by `FundingWanted`.
    Open {
        /// What it is to hold.
        capacity: Amount,
    },
    /// The owner's wallet has a transaction, not signed yet, with the funding output of this channel. Answered by `Funded`.
    Funding {
        /// Which channel.
        channel: ChannelKeysId,
        /// The output.
        outpoint: OutPoint,
    },
    /// Pay this invoice, which the device has approved. Answered by `Paying`, `Paid` or `Failed`.
    Pay {
        /// From which channel.
        channel: ChannelKeysId,
        /// BOLT 11.
        invoice: String,
    },
    /// Close together with the bridge. Answered by `Closed`.
    Close {
        /// Which channel.
        channel: ChannelKeysId,
    },
    /// What the gateway knows of a channel. Answered by `Channel`.
    Status {
        /// Which channel.
        channel: ChannelKeysId,
    },
}

/// What a gateway needs to know of a new device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    /// The word by which the operator lets this device in; empty where anybody may come.
    pub invitation: String,
    /// What people call it.
    pub name: String,
    /// The key under which the device speaks to the owner's wallet.
    pub identity: PublicKey,
    /// Signs policies.
    pub owner: XOnlyPublicKey,
    /// The policy in force.
    pub policy: SignedPolicy,
}

/// Gateway to device, about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Taken; nothing more will follow for `Enrol` and `Policy`.
    Done,
    /// The bridge agreed to a channel. The owner's wallet is to make a transaction with this output.
    FundingWanted {
        /// Which channel.
        channel: ChannelKeysId,
        /// What it pays.
        script: ScriptBuf,
        /// What it holds.
        capacity: Amount,
    },
    /// The first states are signed; `Request::Fund` came before this.
    Funded {
        /// Which channel.
        channel: ChannelKeysId,
    },
    /// An HTLC for it is on its way.
    Paying(PaymentHash),
    /// It is paid.
    Paid {
        /// The proof of payment.
        preimage: Preimage,
        /// What routing cost, the gateway's service fee included.
        fee: Msat,
    },
    /// It is not paid, and nothing is under way for it any more.
    Failed {
        /// Which.
        payment_hash: PaymentHash,
        /// In words.
        why: String,
    },
    /// What the gateway knows of a channel.
    Channel {
        /// Whether payments can be made now.
        usable: bool,
        /// In words.
        stage: String,
        /// What the holder can spend now.
        spendable: Msat,
    },
    /// The closing of both sides is signed and on its way into a block.
    Closed(Txid),
    /// The order was not carried out.
    Refused {
        /// In words.
        why: String,
    },
}

/// Bytes that are no message of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// Longer than any.
    #[error("a message of {0} bytes, longer than {MOST_BYTES}")]
    TooLong(usize),
    /// Of another version.
    #[error("a message of version {0}, not {VERSION}: one side is newer than the other")]
    Version(u8),
    /// Not to be read.
    #[error("a message that cannot be read: {0}")]
    Malformed(String),
}

impl ToDevice {
    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        decode(bytes)
    }
}

impl ToGateway {
    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        decode(bytes)
    }
}

/// Names a round. `connection` is the hash of the connection's handshake, to which both sides contributed randomness, so it never
/// comes again; requests are counted on each connection.
pub fn round_id(connection: &[u8; 32], request: u64) -> RoundId {
    RoundId(tagged::hash("farthing/device/round", &[connection, &request.to_be_bytes()]))
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("values of ours can be encoded into memory")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadMessage> {
    if bytes.len() > MOST_BYTES {
        return Err(BadMessage::TooLong(bytes.len()));
    }
    match bytes.split_first() {
        Some((&VERSION, message)) => match postcard::take_from_bytes(message) {
            Ok((message, [])) => Ok(message),
            Ok((_, rest)) => Err(BadMessage::Malformed(format!("{} bytes are left over", rest.len()))),
            Err(error) => Err(BadMessage::Malformed(error.to_string())),
        },
        Some((version, _)) => Err(BadMessage::Version(*version)),
        None => Err(BadMessage::Malformed("nothing is there".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_anything_else_is_refused() {
        let channel = ChannelKeysId([7; 32]);
        let number = CommitmentNumber::FIRST;
        let message = ToDevice::Request { id: 3, channel, request: Request::Revoke { number } };
        let bytes = message.to_bytes();
        assert_eq!(ToDevice::from_bytes(&bytes), Ok(message));
        for cut in 0..bytes.len() {
            assert!(ToDevice::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(ToDevice::from_bytes(&longer), Err(BadMessage::Malformed(_))));
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(ToDevice::from_bytes(&newer), Err(BadMessage::Version(VERSION + 1)));
        let huge = vec![VERSION; MOST_BYTES + 1];
        assert_eq!(ToDevice::from_bytes(&huge), Err(BadMessage::TooLong(MOST_BYTES + 1)));
    }

    #[test]
    fn no_two_requests_and_no_two_connections_share_a_round() {
        let ids = [([1; 32], 1), ([1; 32], 2), ([2; 32], 1)].map(|(hash, id)| round_id(&hash, id).0);
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
