//! The bodies of opening and closing, and the paths they are posted to.

use bitcoin::{Amount, FeeRate};
use farthing_protocol::closing::{Answer, PublicNonce, Settlement};
use farthing_protocol::opening::Opening;
use farthing_protocol::session::Call;
use farthing_protocol::{ChannelId, Msat};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::challenge::Challenge;
use crate::credential::channel_text;
use crate::encoding::{self, hex_array};

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

/// The name of a piece for the ledger: the same file's same piece is charged once, wherever it is asked for.
pub fn piece_item(root: &[u8; 32], piece: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("farthing 2026 piece of a file, as an item of a ledger");
    hasher.update(root);
    hasher.update(&piece.to_be_bytes());
    *hasher.finalize().as_bytes()
}
