//! Joint signatures: device and gateway each hold a share of one ECDSA key, and neither can sign alone.
//!
//! This file says what an engine must offer; the engine draws its own randomness, so it lives in a crate of its own.
//! Messages are opaque bytes. They must arrive unchanged and from the right peer: check the transport's authentication
//! first, since an engine takes changed bytes for cheating, and cheating ends the key's use for good.
//!
//! # Who finishes
//!
//! A round has three messages. The first two go both ways. The third goes one way, to the [`Finisher`], who alone learns the
//! signature:
//!
//! ```text
//!   device                 gateway
//!      │── 1 ──────────────── 1 ──│
//!      │── 2 ──────────────── 2 ──│
//!      │◀───────────────────── 3 ─│   a holder commitment: the device finishes
//!      │─ 3 ─────────────────────▶│   a bridge commitment, a closing: the gateway finishes
//! ```
//!
//! The third message of a holder commitment never leaves the device, so the gateway cannot publish what the device may
//! still revoke; and the device can close without the gateway, so it cannot be held to ransom. The third message of a
//! closing leaves only after *closing* was stored.
//!
//! A round lives in memory only. After a restart it starts afresh: a round repeated against other messages can leak the
//! share.

use std::fmt;

use secp256k1::{PublicKey, ecdsa};

use super::bolt3::Digest;

/// Names one round of signing or key generation, equal on both sides, never used twice: 32 bytes to which each side
/// contributed randomness, or a counter under an authenticated link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundId(pub [u8; 32]);

/// Who learns the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finisher {
    /// The device, alone: holder commitments.
    Device,
    /// The gateway, alone: bridge commitments and closings.
    Gateway,
}

/// What the device signs in a round, and for whom. Only the device's machine makes one, when it releases an effect: so there is
/// no way to have the device sign what the machine did not check, or to let the gateway finish what is the device's to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    digest: Digest,
    finisher: Finisher,
}

impl Task {
    pub(super) fn new(digest: Digest, finisher: Finisher) -> Self {
        Self { digest, finisher }
    }

    /// What is signed.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who learns the signature.
    pub fn finisher(&self) -> Finisher {
        self.finisher
    }
}

/// What a round gave: an ordinary ECDSA signature by the joint key, verified, with its `s` in the lower half. A holder's is a secret
/// until the channel closes, so it does not show itself in logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JointSignature(pub ecdsa::Signature);

impl fmt::Debug for JointSignature {
    /// Says nothing of the signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JointSignature(..)")
    }
}

/// Why a round ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing was given away: a new round may be tried.
    #[error("the round was interrupted: {0}")]
    Interrupted(String),
    /// The other side sent what only a cheat, or a channel without authentication, sends. Further rounds under this share could
    /// give it away: store that it is banned, and close.
    #[error("the other side cheated, its share is banned: {0}")]
    Cheated(String),
}

/// What a step of a round gives.
#[derive(Debug)]
pub enum Step<R> {
    /// Send this, then wait for the other side's next message.
    Send(R, Vec<u8>),
    /// Send this. This side has done its part and learns nothing.
    SendLast(Vec<u8>),
    /// Send nothing, wait for the other side's last message.
    Wait(R),
    /// The signature.
    Signed(JointSignature),
}

/// One side of a running round. Consumed by each step: no step can be repeated.
pub trait Round: Sized {
    /// Takes the other side's next message.
    ///
    /// # Errors
    /// See [`Failure`].
    fn next(self, message: &[u8]) -> Result<Step<Self>, Failure>;
}

/// The device's share of a key.
pub trait DeviceShare {
    /// A running round.
    type Round: Round;

    /// The joint public key.
    fn public_key(&self) -> PublicKey;

    /// Starts a round over what the device's machine released. Gives the first message as well.
    ///
    /// # Errors
    /// See [`Failure`].
    fn start(&self, id: RoundId, task: &Task) -> Result<(Self::Round, Vec<u8>), Failure>;
}

/// The gateway's share of a key.
pub trait GatewayShare {
    /// A running round.
    type Round: Round;

    /// The joint public key.
    fn public_key(&self) -> PublicKey;

    /// Starts a round over the digest that the gateway's own Lightning node computed. Gives the first message as well.
    ///
    /// # Errors
    /// See [`Failure`].
    fn start(
        &self,
        id: RoundId,
        digest: [u8; 32],
        finisher: Finisher,
    ) -> Result<(Self::Round, Vec<u8>), Failure>;
}
