//! What goes between owner and device by hand, as files.

use farthing_protocol::device::headers::Checkpoint;
use farthing_protocol::device::{Enrolment, SignedPolicy};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

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
}
