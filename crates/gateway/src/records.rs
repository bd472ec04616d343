//! What the gateway stores of devices and channels.

use bitcoin::{Amount, ScriptBuf};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Basepoints, PartyTerms, PaymentHash, Preimage, Terms};
use farthing_protocol::device::wire::{Enrol, OpenTerms};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

/// A device that may connect, by the static key of its link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// What it said of itself.
    pub enrol: Enrol,
    /// Its channels and keys kept ready, oldest first.
    pub channels: Vec<[u8; 32]>,
}

/// The keys of a channel, or of one to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelKeys {
    /// The channel, as device and gateway name it.
    pub channel: [u8; 32],
    /// The joint key.
    pub funding_key: PublicKey,
    /// The holder's basepoints.
    pub basepoints: Basepoints,
    /// Where the owner is paid in a closing of both sides.
    pub closing_script: ScriptBuf,
}

/// A channel, or keys kept ready for one. The gateway's share of the joint key lies beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Whose.
    pub device: [u8; 32],
    /// Its keys.
    pub keys: ChannelKeys,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a channel stands at the gateway. What LDK knows is not repeated here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "channels that are agreed on are the rule")]
pub enum Stage {
    /// No channel uses these keys yet.
    Ready,
    /// A bridge has been asked.
    Opening {
        /// LDK's user channel id.
        user_channel_id: u128,
        /// The bridge.
        bridge: PublicKey,
        /// What it is to hold.
        capacity: Amount,
    },
    /// The bridge agreed, and the funding output is named.
    Agreed {
        /// LDK's user channel id.
        user_channel_id: u128,
        /// The bridge.
        bridge: PublicKey,
        /// What was agreed.
        terms: OpenTerms,
        /// Whether LDK holds the bridge's signature on the first state, so that the device may speak to the owner's wallet.
        is_signed: bool,
        /// Whether the device said that the funding may be signed.
        is_funded: bool,
    },
    /// Nothing will come of it any more. The text says why.
    Over(String),
}

impl ChannelRecord {
    /// What was agreed, as the device has it.
    pub fn terms(&self) -> Option<Terms> {
        match &self.stage {
            Stage::Agreed { terms, .. } => Some(Terms {
                funding: terms.funding,
                capacity: terms.capacity,
                holder: PartyTerms {
                    funding_key: self.keys.funding_key,
                    basepoints: self.keys.basepoints,
                    dust_limit: terms.holder_dust_limit,
                    delay: terms.holder_delay,
                },
                bridge: terms.bridge,
            }),
            Stage::Ready | Stage::Opening { .. } | Stage::Over(_) => None,
        }
    }

    /// LDK's name for it.
    pub fn user_channel_id(&self) -> Option<u128> {
        match &self.stage {
            Stage::Opening { user_channel_id, .. } | Stage::Agreed { user_channel_id, .. } => {
                Some(*user_channel_id)
            }
            Stage::Ready | Stage::Over(_) => None,
        }
    }
}

/// A payment that a device ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRecord {
    /// From which channel.
    pub channel: [u8; 32],
    /// For what.
    pub payment_hash: PaymentHash,
    /// What the payee gets.
    pub amount: Msat,
    /// When it was ordered, seconds since 1970.
    pub ordered_at: u64,
    /// What its device owes for it once it has arrived: zero when it pays the service fee itself.
    pub service_due: Msat,
    /// What it pays of what its device owed before.
    pub arrears: Msat,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Under way.
    Pending,
    /// The payee has it.
    Paid {
        /// The proof.
        preimage: Preimage,
        /// What routing cost.
        fee: Msat,
    },
    /// Nothing is under way for it any more.
    Failed(String),
}
