//! The device's own keys of a channel. None of them ever leaves it; the owner has a backup of the secret they come from.
//!
//! | key | signs | derived from the secret with the tag |
//! |---|---|---|
//! | identity | what the device tells the owner's wallet | `farthing/device/identity` |
//! | commitment seed | nothing; its secrets revoke | `farthing/device/commitments` and the channel |
//! | link | nothing; it is the device's key on the link to the gateway | `farthing/device/link` |
//! | HTLC basepoint | second stages, HTLC outputs | `farthing/device/htlc` and the channel |
//! | revocation basepoint | what punishes the bridge | `farthing/device/revocation` and the channel |
//!
//! The funding key is held jointly with the gateway ([`super::joint`]). The keys that *receive* money are the owner's: the device
//! knows their public halves only, so whoever steals it cannot spend what it closes.

use secp256k1::{Keypair, PublicKey, SECP256K1, SecretKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::bolt3::{CommitmentNumber, CommitmentSecret, CommitmentSeed};
use crate::tagged;

/// What the device was born with: 32 random bytes. Neither `Clone` nor `Debug`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct DeviceSecret([u8; 32]);

impl DeviceSecret {
    /// From fresh randomness, or from the owner's backup.
    pub fn new(entropy: [u8; 32]) -> Self {
        Self(entropy)
    }

    /// The keys of one channel. `channel` is never used twice: 32 random bytes that are stored with the channel.
    pub fn channel_keys(&self, channel: &[u8; 32]) -> DeviceKeys {
        DeviceKeys {
            identity: Keypair::from_secret_key(SECP256K1, &self.key("farthing/device/identity", &[])),
            commitments: CommitmentSeed::new(self.hash("farthing/device/commitments", channel)),
            htlc: self.key("farthing/device/htlc", channel),
            revocation: self.key("farthing/device/revocation", channel),
        }
    }

    /// The key that the owner's wallet pins at enrolment.
    pub fn identity(&self) -> PublicKey {
        let mut key = self.key("farthing/device/identity", &[]);
        let public = key.public_key(SECP256K1);
        key.non_secure_erase();
        public
    }

    /// The secret of the device's key on the link to its gateway.
    pub fn link(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.hash("farthing/device/link", &[]))
    }

    /// The bytes, for the device's own disk and the owner's backup.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self, tag: &str, channel: &[u8]) -> SecretKey {
        let mut hash = self.hash(tag, channel);
        let key = SecretKey::from_slice(&hash).expect("a hash is a valid key but for odds of 2^-127");
        hash.zeroize();
        key
    }

    fn hash(&self, tag: &str, channel: &[u8]) -> [u8; 32] {
        tagged::hash(tag, &[&self.0, channel])
    }
}

/// The device's keys in one channel. Neither `Clone` nor `Debug`; wiped when dropped.
pub struct DeviceKeys {
    pub(super) identity: Keypair,
    commitments: CommitmentSeed,
    pub(super) htlc: SecretKey,
    pub(super) revocation: SecretKey,
}

impl DeviceKeys {
    /// The key that the owner's wallet pinned at enrolment.
    pub fn identity(&self) -> PublicKey {
        self.identity.public_key()
    }

    /// The HTLC basepoint.
    pub fn htlc_basepoint(&self) -> PublicKey {
        self.htlc.public_key(SECP256K1)
    }

    /// The revocation basepoint.
    pub fn revocation_basepoint(&self) -> PublicKey {
        self.revocation.public_key(SECP256K1)
    }

    /// The point of a holder commitment. Public, so it may be handed out ahead of time.
    pub fn point(&self, number: CommitmentNumber) -> PublicKey {
        self.commitments.point(number)
    }

    /// The secret that revokes a holder commitment. Only the machine lets it out.
    pub(super) fn commitment_secret(&self, number: CommitmentNumber) -> CommitmentSecret {
        self.commitments.secret(number)
    }
}

impl Drop for DeviceKeys {
    fn drop(&mut self) {
        self.identity.non_secure_erase();
        self.htlc.non_secure_erase();
        self.revocation.non_secure_erase();
    }
}
