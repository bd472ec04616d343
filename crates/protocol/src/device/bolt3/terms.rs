//! What the two sides agreed on when they opened the channel, as far as its transactions depend on it.

use bitcoin::{Amount, OutPoint, TxOut};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::funding;
use super::keys::Basepoints;

/// One end of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The device's channel: it funded it and pays the commitment's fee.
    Holder,
    /// The node at the other end.
    Bridge,
}

impl Side {
    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Self::Holder => Self::Bridge,
            Self::Bridge => Self::Holder,
        }
    }
}

/// What belongs to one side. Fixed for the channel's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyTerms {
    /// Its key in the funding output.
    pub funding_key: PublicKey,
    /// Its basepoints.
    pub basepoints: Basepoints,
    /// Below this, its own commitment has no output.
    pub dust_limit: Amount,
    /// How many blocks this side waits for its own money after it published its own commitment. The *other* side asked for it
    /// (`to_self_delay` in the other's `open_channel` or `accept_channel`).
    pub delay: u16,
}

/// A channel's static parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The funding output.
    pub funding: OutPoint,
    /// What it holds.
    pub capacity: Amount,
    /// The device's end.
    pub holder: PartyTerms,
    /// The other end.
    pub bridge: PartyTerms,
}

impl Terms {
    /// What belongs to that side.
    pub fn of(&self, side: Side) -> &PartyTerms {
        match side {
            Side::Holder => &self.holder,
            Side::Bridge => &self.bridge,
        }
    }

    /// The funding output as the funding transaction must have it.
    pub fn funding_txout(&self) -> TxOut {
        TxOut { value: self.capacity, script_pubkey: funding::witness_script(self).to_p2wsh() }
    }
}
