//! What a buyer sends with each request, `Authorization: Payment …`, and the receipt it gets, `Payment-Receipt`
//! (draft-httpauth-payment, sections 5.2 and 5.3).

use std::io::Write as _;

use axum::http::HeaderValue;
use bytes::Bytes;
use farthing_protocol::{ChannelId, Msat, Payment};
use jiff::Timestamp;
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::challenge::{Challenge, METHOD, MOST_HEADER};
use crate::encoding::{self, DecodeError, hex_array, msat_text};

/// A credential: the challenge it answers, and a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Echoed unchanged.
    pub challenge: Challenge,
    /// The payment.
    pub payload: Payload,
}

/// A payment over a one-way channel, bound to its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Which channel pays.
    #[serde(with = "channel_text")]
    pub channel: ChannelId,
    /// Everything paid in it, this payment included.
    #[serde(with = "msat_text")]
    pub total: Msat,
    /// What the payer pays for this request.
    #[serde(with = "msat_text")]
    pub cost: Msat,
    /// On the commitment to `total`.
    pub signature: schnorr::Signature,
    /// Binds all of it to this request ([`farthing_protocol::session`]).
    #[serde(with = "hex_array")]
    pub mac: [u8; 32],
}

impl Payload {
    /// The signed total.
    pub fn payment(&self) -> Payment {
        Payment { total: self.total, signature: self.signature }
    }
}

/// Why a header holds no credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadCredential {
    /// Another scheme, or none.
    #[error("the Authorization header is not of the scheme Payment")]
    Scheme,
    /// Too long.
    #[error("the credential has more than {MOST_HEADER} bytes")]
    TooLong,
    /// It does not decode.
    #[error("the credential does not decode: {0}")]
    Decode(#[from] DecodeError),
}

impl Credential {
    /// The header's value.
    pub fn to_header(&self) -> String {
        format!("Payment {}", encoding::encode(self))
    }

    /// Reads a header's value.
    ///
    /// # Errors
    /// When it is not a credential.
    pub fn from_header(header: &str) -> Result<Self, BadCredential> {
        if header.len() > MOST_HEADER {
            return Err(BadCredential::TooLong);
        }
        let (scheme, rest) = header.trim().split_once(' ').ok_or(BadCredential::Scheme)?;
        if !scheme.eq_ignore_ascii_case("payment") {
            return Err(BadCredential::Scheme);
        }
        Ok(encoding::decode(rest.trim_start())?)
    }
}

/// The most bytes that a receipt has before it is encoded.
const MOST_RECEIPT: usize = 256;

/// What a seller says of a payment it took. For people and logs: a buyer adds up for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Always `success`.
    pub status: String,
    /// Always [`METHOD`].
    pub method: String,
    /// When.
    pub timestamp: String,
    /// The channel.
    pub reference: String,
    /// What this request cost.
    #[serde(with = "msat_text")]
    pub cost: Msat,
}

impl Receipt {
    /// A receipt for a request that was paid by `channel`.
    pub fn new(channel: ChannelId, cost: Msat, now: Timestamp) -> Self {
        Self {
            status: "success".to_owned(),
            method: METHOD.to_owned(),
            timestamp: now.to_string(),
            reference: channel.to_string(),
            cost,
        }
    }

    /// The header's value.
    pub fn to_header(&self) -> String {
        encoding::encode(self)
    }

    /// [`Self::to_header`] of [`Self::new`], written in one go: every paid answer carries one. `now` as a timestamp reads.
    pub fn header(channel: ChannelId, cost: Msat, now: &str) -> HeaderValue {
        let mut reference = [0; 64];
        for (digits, byte) in reference.as_chunks_mut().0.iter_mut().zip(channel.as_bytes()) {
            *digits = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
        }
        // Canonical: the keys in their order, and no character that JSON escapes.
        let mut json = [0; MOST_RECEIPT];
        let mut rest = json.as_mut_slice();
        let written = write!(rest, r#"{{"cost":"{}","method":"{METHOD}","reference":""#, cost.get())
            .and_then(|()| rest.write_all(&reference))
            .and_then(|()| write!(rest, r#"","status":"success","timestamp":"{now}"}}"#));
        written.expect("a number, 64 digits and a time fit");
        let left = rest.len();
        let header = encoding::encode_bytes(&json[..MOST_RECEIPT - left]);
        HeaderValue::from_maybe_shared(Bytes::from(header)).expect("base64url is visible ASCII")
    }

    /// Reads a header's value.
    ///
    /// # Errors
    /// When it is not a receipt.
    pub fn from_header(header: &str) -> Result<Self, DecodeError> {
        encoding::decode(header)
    }
}

/// A channel's id as hexadecimal text in JSON.
pub mod channel_text {
    use farthing_protocol::ChannelId;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// Writes hexadecimal.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(id: &ChannelId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    /// Reads hexadecimal.
    ///
    /// # Errors
    /// When it is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChannelId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_written_in_one_go_is_the_canonical_one() {
        let (channel, now) = (ChannelId::from_bytes([0xAB; 32]), Timestamp::UNIX_EPOCH);
        for cost in [0, 10, u64::MAX].map(Msat::new) {
            for now in [now, Timestamp::MAX, Timestamp::MIN] {
                let header = Receipt::header(channel, cost, &now.to_string());
                assert_eq!(header, Receipt::new(channel, cost, now).to_header());
            }
        }
    }

    #[test]
    fn a_header_there_and_back_and_garbage_refused() {
        let credential = Credential {
            challenge: Challenge {
                id: "a".into(),
                realm: "b".into(),
                method: METHOD.into(),
                intent: "session".into(),
                request: "e30".into(),
                expires: "2026-01-15T12:05:00Z".into(),
            },
            payload: Payload {
                channel: ChannelId::from_bytes([7; 32]),
                total: Msat::new(u64::MAX),
                cost: Msat::new(1),
                signature: schnorr::Signature::from_slice(&[1; 64]).unwrap(),
                mac: [9; 32],
            },
        };
        assert_eq!(Credential::from_header(&credential.to_header()).unwrap(), credential);
        for header in ["", "Payment", "Payment !!!", "Payment e30", "Bearer e30", "Payment bm90IGpzb24"] {
            assert!(Credential::from_header(header).is_err(), "{header}");
        }
    }
}
