//! The bodies of opening and closing, and the paths they are posted to.

use bitcoin::{Amount, FeeRate};
use farthing_protocol::closing::{Answer, PublicNonce, Settlement};
use farthing_protocol::flat::{BatchTerms, Signed};
use farthing_protocol::lightspeed::{CallNumber, ChainTerms, Rung};
use farthing_protocol::opening::Opening;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{ChannelId, Msat, Payment};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::challenge::Challenge;
use crate::credential::channel_text;
use crate::encoding::{self, hex_array};

/// Below this, everything is Farthing's own.
pub const ROOT: &str = "/.well-known/farthing/";
/// Where channels are opened; a channel's closing lies below.
pub const CHANNELS: &str = "/.well-known/farthing/channels";
/// Where the list of a file's pieces is found.
pub const PIECES: &str = "/.well-known/farthing/pieces";
/// Where a file's manifest is found, for a file that is free.
pub const MANIFEST: &str = "/.well-known/farthing/manifest";

/// The path that a channel's closing is posted to.
pub fn close_path(channel: ChannelId) -> String {
    format!("{CHANNELS}/{channel}/close")
}

/// The path that a finished closing is posted to.
pub fn closed_path(channel: ChannelId) -> String {
    format!("{CHANNELS}/{channel}/closed")
}

/// The path that a channel's chains of words are posted to.
pub fn chains_path(channel: ChannelId) -> String {
    format!("{CHANNELS}/{channel}/chains")
}

/// The path that a channel's batches of preimages are posted to.
pub fn batches_path(channel: ChannelId) -> String {
    format!("{CHANNELS}/{channel}/batches")
}

/// The path that tells a payer where it stands.
pub fn standing_path(channel: ChannelId) -> String {
    format!("{CHANNELS}/{channel}/standing")
}

/// Where the prices of calls are listed.
pub const PRICES: &str = "/.well-known/farthing/prices";
/// Where more is set aside for a call that runs; the request is a call itself, of no cost.
pub const TOP_UP: &str = "/.well-known/farthing/top-up";
/// Where health is told.
pub const HEALTH: &str = "/.well-known/farthing/health";
/// The header that pays for a call.
pub const LIGHTSPEED: &str = "lightspeed";
/// What that header says in an answer without a receipt: the call was refused, and its number will never be served.
pub const REFUSED: &str = "refused";
/// The service ran and failed: the call is free, and its number will never be served.
pub const FREE: &str = "free";
/// It is not settled what becomes of the call: send it again as it is.
pub const OPEN: &str = "open";
/// The call is being served: send it again as it is, until it has an answer.
pub const RUNNING: &str = "running";
/// The channel takes no calls any more. Free, if this was the first time that the call was sent; else the payee's sum tells.
pub const CLOSED: &str = "closed";
/// The answer is charged as it flows: send the call again for its receipt.
pub const METERED: &str = "metered";
/// It is not known any more whether the call was served: the payee's sum tells.
pub const FORGOTTEN: &str = "forgotten";
/// The header that tells the payee's epoch.
pub const EPOCH: &str = "lightspeed-epoch";
/// The header that says what a paid answer cost.
pub const RECEIPT: &str = "payment-receipt";

/// `POST` [`chains_path`]: announces a chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainBody {
    /// The chain.
    pub terms: ChainTerms,
    /// Its rungs, each its lock and its signature, 96 bytes, in base64url.
    pub rungs: String,
    /// The newest plain payment, 72 bytes, in base64url.
    pub payment: String,
    /// Shows that the payer announces it: the rungs' signatures cover neither the anchor nor the number.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

/// A body that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("the rungs, the locks or the payment do not decode")]
pub struct BadChainBody;

impl ChainBody {
    /// Packs an announcement.
    pub fn new(terms: ChainTerms, rungs: &[Rung], payment: &Payment) -> Self {
        let mut bytes = Vec::with_capacity(rungs.len() * RUNG);
        for rung in rungs {
            bytes.extend_from_slice(&rung.lock);
            bytes.extend_from_slice(rung.signature.as_ref());
        }
        Self {
            terms,
            rungs: encoding::encode_bytes(&bytes),
            payment: encoding::encode_bytes(&payment.to_bytes()),
            mac: [0; 32],
        }
    }

    /// The announcement with its MAC, as the payer sends it to that host.
    #[must_use]
    pub fn signed(self, key: &CallKey, channel: ChannelId, authority: &str) -> Self {
        let mac = key.mac(&self.call(channel, authority, &chains_path(channel)));
        Self { mac, ..self }
    }

    /// The call that its MAC covers: all of the announcement is the item.
    pub fn call<'a>(&self, channel: ChannelId, authority: &'a str, target: &'a str) -> Call<'a> {
        let all = encoding::canonical(&(&self.terms, &self.rungs, &self.payment));
        Call {
            channel,
            item: *blake3::hash(&all).as_bytes(),
            cost: Msat::ZERO,
            total: Msat::ZERO,
            method: "POST",
            authority,
            target,
            challenge: "chain",
        }
    }

    /// Unpacks it.
    ///
    /// # Errors
    /// When it does not decode. Whether the signatures fit is for the ladder to say.
    pub fn read(&self) -> Result<(Vec<Rung>, Payment), BadChainBody> {
        let bytes = encoding::decode_bytes(&self.rungs).map_err(|_| BadChainBody)?;
        if bytes.len() % RUNG != 0 {
            return Err(BadChainBody);
        }
        let rung = |bytes: &[u8]| {
            let (lock, signature) = bytes.split_first_chunk::<32>().ok_or(BadChainBody)?;
            let signature = schnorr::Signature::from_slice(signature).map_err(|_| BadChainBody)?;
            Ok(Rung { lock: *lock, signature })
        };
        let rungs = bytes.chunks_exact(RUNG).map(rung).collect::<Result<_, _>>()?;
        let payment = encoding::decode_bytes(&self.payment).map_err(|_| BadChainBody)?;
        Ok((rungs, Payment::from_bytes(&payment).map_err(|_| BadChainBody)?))
    }
}

/// The length of a rung, in bytes.
const RUNG: usize = 96;

/// `POST` [`batches_path`]: announces a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchBody {
    /// Its number and terms.
    pub batch: BatchTerms,
    /// The locks, 32 bytes each, in base64url.
    pub locks: String,
    /// The payer's signature on the micropayment transaction.
    pub micropayment: schnorr::Signature,
    /// The payer's signature on the commitment.
    pub commitment: schnorr::Signature,
    /// The newest plain payment, 72 bytes, in base64url.
    pub payment: String,
    /// Shows that the payer announces it: the signatures do not cover the number.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl BatchBody {
    /// Packs an announcement.
    pub fn new(batch: BatchTerms, signed: &Signed, payment: &Payment) -> Self {
        Self {
            batch,
            locks: encoding::encode_bytes(&signed.locks.concat()),
            micropayment: signed.micropayment,
            commitment: signed.commitment,
            payment: encoding::encode_bytes(&payment.to_bytes()),
            mac: [0; 32],
        }
    }

    /// The announcement with its MAC, as the payer sends it to that host.
    #[must_use]
    pub fn signed(self, key: &CallKey, channel: ChannelId, authority: &str) -> Self {
        let mac = key.mac(&self.call(channel, authority, &batches_path(channel)));
        Self { mac, ..self }
    }

    /// The call that its MAC covers: all of the announcement is the item.
    pub fn call<'a>(&self, channel: ChannelId, authority: &'a str, target: &'a str) -> Call<'a> {
        let all = (&self.batch, &self.locks, &self.micropayment, &self.commitment, &self.payment);
        Call {
            channel,
            item: *blake3::hash(&encoding::canonical(&all)).as_bytes(),
            cost: Msat::ZERO,
            total: Msat::ZERO,
            method: "POST",
            authority,
            target,
            challenge: "batch",
        }
    }

    /// Unpacks it.
    ///
    /// # Errors
    /// When it does not decode. Whether the signatures fit is for the batch to say.
    pub fn read(&self) -> Result<(Signed, Payment), BadChainBody> {
        let bytes = encoding::decode_bytes(&self.locks).map_err(|_| BadChainBody)?;
        let (locks, []) = bytes.as_chunks::<32>() else { return Err(BadChainBody) };
        let (micropayment, commitment) = (self.micropayment, self.commitment);
        let signed = Signed { locks: locks.to_vec(), micropayment, commitment };
        let payment = encoding::decode_bytes(&self.payment).map_err(|_| BadChainBody)?;
        Ok((signed, Payment::from_bytes(&payment).map_err(|_| BadChainBody)?))
    }
}

/// Its answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ChainTaken {
    /// The epoch in which calls are served now.
    pub epoch: u32,
}

/// `POST` [`standing_path`]: asks where the payer stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StandingBody {
    /// The newest number that the payer has sent: none up to it is served after this.
    pub last: CallNumber,
    /// Shows that the payer asks.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl StandingBody {
    /// The call that its MAC covers.
    pub fn call<'a>(&self, channel: ChannelId, authority: &'a str, target: &'a str) -> Call<'a> {
        Call {
            channel,
            item: [0; 32],
            cost: Msat::new(self.last.epoch.into()),
            total: Msat::new(self.last.counter),
            method: "POST",
            authority,
            target,
            challenge: "standing",
        }
    }
}

/// Its answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandingAnswer {
    /// The epoch in which calls are served now.
    pub epoch: u32,
    /// What was charged in all, in millisatoshi; nothing while calls run.
    pub spent_msat: Option<u64>,
}

/// `POST` [`TOP_UP`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopUpBody {
    /// Which call.
    pub number: CallNumber,
    /// How much more it may cost, in millisatoshi.
    pub by_msat: u64,
}

/// Its answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopUpAnswer {
    /// What is set aside for the call now, in millisatoshi.
    pub aside_msat: u64,
}

/// `POST` [`CHANNELS`]: opens a channel under a challenge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenBody {
    /// Whose offer this is.
    pub challenge: Challenge,
    /// The parameters and the payer's signature.
    pub opening: Opening,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcceptedBody {
    /// The channel.
    #[serde(with = "channel_text")]
    pub channel: ChannelId,
    /// The payee's signature on it.
    pub signature: schnorr::Signature,
}

/// `POST` [`close_path`]: asks for the payee's half of a closing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloseBody {
    /// The payee's share, in satoshi.
    pub to_payee_sat: u64,
    /// In satoshi per 1,000 weight units.
    pub fee_rate_sat_per_kwu: u64,
    /// The payer's MuSig2 nonce.
    #[serde(with = "hex_array")]
    pub nonce: [u8; 66],
    /// Shows that the payer asks.
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl CloseBody {
    /// The settlement that is asked for.
    pub fn settlement(&self) -> Settlement {
        Settlement {
            to_payee: Amount::from_sat(self.to_payee_sat),
            fee_rate: FeeRate::from_sat_per_kwu(self.fee_rate_sat_per_kwu),
        }
    }

    /// The call that its MAC covers. The nonce is the item: each round is another.
    pub fn call<'a>(
        &self,
        channel: ChannelId,
        authority: &'a str,
        target: &'a str,
        scratch: &'a mut String,
    ) -> Call<'a> {
        *scratch = encoding::encode(&(self.to_payee_sat, self.fee_rate_sat_per_kwu));
        let item = blake3::hash(&self.nonce);
        Call {
            channel,
            item: *item.as_bytes(),
            cost: Msat::ZERO,
            total: Msat::ZERO,
            method: "POST",
            authority,
            target,
            challenge: scratch,
        }
    }
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClosingBody {
    /// The payee's nonce.
    #[serde(with = "hex_array")]
    pub nonce: [u8; 66],
    /// Its partial signature.
    #[serde(with = "hex_array")]
    pub partial_signature: [u8; 32],
}

impl From<Answer> for ClosingBody {
    fn from(answer: Answer) -> Self {
        Self { nonce: answer.nonce.0, partial_signature: answer.partial_signature }
    }
}

impl From<ClosingBody> for Answer {
    fn from(body: ClosingBody) -> Self {
        Self { nonce: PublicNonce(body.nonce), partial_signature: body.partial_signature }
    }
}

/// `POST` [`closed_path`]: hands over the finished closing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClosedBody {
    /// The complete transaction, in hexadecimal.
    pub transaction: String,
}

/// The name of a piece for the ledger: the same file's same piece is charged once, wherever it is asked for. With the size of pieces,
/// since a seller may come back with larger ones: what was paid for a small piece is not paid for the large one of its number.
pub fn piece_item(root: &[u8; 32], size: u64, piece: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("farthing 2026 piece of a file, as an item of a ledger");
    hasher.update(root);
    hasher.update(&size.to_be_bytes());
    hasher.update(&piece.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// The name, in the payer's own ledger, of what makes an older payment for an item up to a higher price.
pub fn made_up_item(item: &[u8; 32], cost: Msat) -> [u8; 32] {
    let mut hasher =
        blake3::Hasher::new_derive_key("farthing 2026 what makes a payment for an item up to a price");
    hasher.update(item);
    hasher.update(&cost.get().to_be_bytes());
    *hasher.finalize().as_bytes()
}
