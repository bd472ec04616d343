//! What goes between owner and device by hand, as files.

use bitcoin::hex::FromHex as _;
use farthing_protocol::device::headers::Checkpoint;
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::{Enrolment, SignedPolicy};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::store::Enrolled;

/// Owner to device, before enrolment. Nothing in it is secret; whoever changes it takes the device's money, so it comes from the
/// owner's own hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What people call the device.
    pub name: String,
    /// The number by which the owner derives its keys for this device.
    pub number: u32,
    /// Keys, script and bounds of the owner.
    pub enrolment: Enrolment,
    /// What may be paid.
    pub policy: SignedPolicy,
    /// Where the chain begins for the device.
    pub checkpoint: Checkpoint,
}

/// Device to owner, at enrolment: what brings the device's keys back. Secret.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Backup {
    /// The device's secret, in hex.
    pub secret: String,
    /// The gateway's address.
    pub gateway: String,
    /// The key under which the device speaks to the owner's wallet.
    #[zeroize(skip)]
    pub identity: PublicKey,
    /// The owner's own card.
    #[zeroize(skip)]
    pub card: Card,
    /// The address of the store of the owner's that the device waits for, if there is one.
    #[serde(default)]
    pub store: Option<String>,
}

/// A backup that was not written by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backup's secret is not 32 bytes in hex, or not that of its identity")]
pub struct BadBackup;

impl Backup {
    /// What brings the device back on another machine: its keys and its owner, and nothing of its channels. Their shares and states are
    /// in no backup: an old one would bring back states that were revoked, and whoever publishes one loses the channel.
    ///
    /// # Errors
    /// See [`BadBackup`].
    pub fn restored(&self) -> Result<(DeviceSecret, Enrolled), BadBackup> {
        let bytes = <[u8; 32]>::from_hex(&self.secret).map_err(|_| BadBackup)?;
        let secret = DeviceSecret::new(bytes);
        if secret.identity() != self.identity {
            return Err(BadBackup);
        }
        let card = self.card.clone();
        let enrolled = Enrolled {
            name: card.name,
            gateway: self.gateway.clone(),
            enrolment: card.enrolment,
            policy: card.policy,
            checkpoint: card.checkpoint,
        };
        Ok((secret, enrolled))
    }
}
