//! What stays the same over a channel's life: the owner, the keys, the terms; and the checks before it begins.

use bitcoin::{Amount, Network, OutPoint, ScriptBuf};
use secp256k1::{Message, PublicKey, SECP256K1, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

use super::bolt3::{CommitmentNumber, Terms};
use super::keys::DeviceKeys;
use crate::tagged;

/// The highest dust limit: above it, an output that the chain would carry goes to miners.
pub const MOST_DUST_LIMIT: Amount = Amount::from_sat(546);
/// The lowest dust limit that BOLT 2 allows: below it, a commitment with such an output does not relay.
pub const LEAST_DUST_LIMIT: Amount = Amount::from_sat(354);

const TAG: &str = "farthing/device/funding";

/// What the owner put into the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Signs policies.
    pub owner: XOnlyPublicKey,
    /// Whose bitcoin.
    pub network: Network,
    /// Receives the holder's money when the bridge closes.
    pub payment: PublicKey,
    /// Receives the holder's money when the device closes.
    pub delayed_payment: PublicKey,
    /// Receives the holder's money when both close together.
    pub closing_script: ScriptBuf,
    /// Bounds on what a bridge may ask for.
    pub bounds: Bounds,
}

/// How a channel may be made. The owner chooses them for all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// How many blocks the bridge waits at least for its money after it published a commitment: longer than the device is ever
    /// away, since so long it can be punished.
    pub least_bridge_delay: u16,
    /// How many blocks the owner waits at most for its money after the device published a commitment.
    pub most_holder_delay: u16,
    /// What the bridge may forbid the holder to spend, at most.
    pub most_reserve: Amount,
    /// What a channel may hold at most.
    pub most_capacity: Amount,
}

/// A channel's fixed facts.
pub struct Setup {
    /// The owner.
    pub enrolment: Enrolment,
    /// The device's keys.
    pub keys: DeviceKeys,
    /// The channel.
    pub terms: Terms,
}

/// Terms that the device does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTerms {
    /// A key of the holder's side is not the one it must be.
    #[error("channel-keys: the holder's {0} is not ours")]
    Key(&'static str),
    /// Two sides with one funding key.
    #[error("channel-keys: both sides have the same funding key")]
    SameFundingKey,
    /// A dust limit out of bounds.
    #[error("channel-dust-limit: {got} is not within {LEAST_DUST_LIMIT} to {MOST_DUST_LIMIT}")]
    DustLimit {
        /// What was agreed.
        got: Amount,
    },
    /// The bridge would have its money too soon to be punished.
    #[error("channel-contest-delay-range-counterparty: the bridge waits {got} blocks, not {least}")]
    BridgeDelay {
        /// The least that is accepted.
        least: u16,
        /// What was agreed.
        got: u16,
    },
    /// The owner would wait too long.
    #[error("channel-contest-delay-range-holder: the owner would wait {got} blocks, more than {most}")]
    HolderDelay {
        /// The most that is accepted.
        most: u16,
        /// What was agreed.
        got: u16,
    },
    /// Too much could never be spent.
    #[error("channel-reserve: the bridge holds back {got}, more than {most}")]
    Reserve {
        /// The most that is accepted.
        most: Amount,
        /// What was agreed.
        got: Amount,
    },
    /// The channel is larger than the owner allows.
    #[error("channel-capacity: {got} is more than {most}")]
    Capacity {
        /// The most that is accepted.
        most: Amount,
        /// What was agreed.
        got: Amount,
    },
}

impl Setup {
    /// Checks what device, gateway and bridge agreed on. `joint` is the key of the share that was made for this channel,
    /// `reserve` what the bridge forbids the holder to spend (`channel_reserve_satoshis` in its `accept_channel`).
    ///
    /// # Errors
    /// See [`BadTerms`].
    pub fn new(
        enrolment: Enrolment,
        keys: DeviceKeys,
        terms: Terms,
        joint: PublicKey,
        reserve: Amount,
    ) -> Result<Self, BadTerms> {
        let (holder, bounds) = (&terms.holder, &enrolment.bounds);
        for (name, got, expected) in [
            ("funding key", holder.funding_key, joint),
            ("HTLC basepoint", holder.basepoints.htlc, keys.htlc_basepoint()),
            ("revocation basepoint", holder.basepoints.revocation, keys.revocation_basepoint()),
            ("payment basepoint", holder.basepoints.payment, enrolment.payment),
            ("delayed payment basepoint", holder.basepoints.delayed_payment, enrolment.delayed_payment),
        ] {
            if got != expected {
                return Err(BadTerms::Key(name));
            }
        }
        if holder.funding_key == terms.bridge.funding_key {
            return Err(BadTerms::SameFundingKey);
        }
        for got in [holder.dust_limit, terms.bridge.dust_limit] {
            if !(LEAST_DUST_LIMIT..=MOST_DUST_LIMIT).contains(&got) {
                return Err(BadTerms::DustLimit { got });
            }
        }
        let (least, got) = (bounds.least_bridge_delay, terms.bridge.delay);
        if got < least {
            return Err(BadTerms::BridgeDelay { least, got });
        }
        let (most, got) = (bounds.most_holder_delay, holder.delay);
        if got > most {
            return Err(BadTerms::HolderDelay { most, got });
        }
        let (most, got) = (bounds.most_reserve, reserve);
        if got > most {
            return Err(BadTerms::Reserve { most, got });
        }
        let (most, got) = (bounds.most_capacity, terms.capacity);
        if got > most {
            return Err(BadTerms::Capacity { most, got });
        }
        Ok(Self { enrolment, keys, terms })
    }

    /// The point of a holder commitment: public, asked for ahead of time.
    pub fn point(&self, number: CommitmentNumber) -> PublicKey {
        self.keys.point(number)
    }

    /// The device's word that it can close this channel alone. Only the machine gives it out.
    pub(super) fn funding_statement(&self) -> FundingStatement {
        let output = self.terms.funding_txout();
        let (outpoint, value) = (self.terms.funding, output.value);
        let script = output.script_pubkey;
        let digest = FundingStatement::digest(&outpoint, value, &script);
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &self.keys.identity);
        FundingStatement { outpoint, value, script, signature }
    }
}

/// The device's word to the owner's wallet that this funding may be signed: state 0 is complete and stored. The gateway carries it
/// and cannot make one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundingStatement {
    /// The funding output.
    pub outpoint: OutPoint,
    /// What it holds.
    pub value: Amount,
    /// What it pays.
    pub script: ScriptBuf,
    signature: schnorr::Signature,
}

impl FundingStatement {
    /// Whether the device that the wallet pinned at enrolment said it.
    pub fn is_from(&self, device: &PublicKey) -> bool {
        let digest = Self::digest(&self.outpoint, self.value, &self.script);
        SECP256K1.verify_schnorr(&self.signature, &digest, &device.x_only_public_key().0).is_ok()
    }

    fn digest(outpoint: &OutPoint, value: Amount, script: &ScriptBuf) -> Message {
        let txid: &[u8] = outpoint.txid.as_ref();
        let (vout, value) = (outpoint.vout.to_be_bytes(), value.to_sat().to_be_bytes());
        Message::from_digest(tagged::hash(TAG, &[txid, &vout, &value, script.as_bytes()]))
    }
}
