//! Keys. Everything a party signs with comes from one BIP39 seed by hardened BIP32 derivation, so a backup of twelve
//! words restores the wallet; an open channel needs its stored state as well, because the other side's signatures
//! cannot be derived.
//!
//! | key | path | use |
//! |---|---|---|
//! | wallet | `m/86'/coin'/0'` (BIP86) | ordinary outputs; lives in the wallet, not here |
//! | funding | `m/402'/coin'/hi'/lo'/0'` | signs commitments, closings, refunds and the opening statement |
//! | session | `m/402'/coin'/hi'/lo'/1'` | agrees on the key that authenticates calls ([`crate::session`]); no money |
//! | words | `m/402'/coin'/hi'/lo'/2'` | the payer draws its words from it ([`crate::lightspeed`]) |
//! | challenge | `m/402'/coin'/2147483647'` | a seller's secret that binds challenges to it |
//! | identity | `m/402'/coin'/2147483647'/0'` | a payee of cheques signs its prekeys ([`crate::cheque`]) and its requests to its mailbox with it; no money |
//! | receipt | `m/402'/coin'/2147483647'/1'` | signs receipts and nothing else; no money |
//! | prekeys | `m/402'/coin'/2147483647'/2'` | the payee draws the nonces of its receipts from it, and the tweaks of its routes |
//! | mail | `m/402'/coin'/2147483647'/3'` | opens a payee's mail; no money |
//! | owner | `m/402'/coin'/2147483647'/4'/device'/0'…2'` | of a device's owner ([`crate::device::owner`]): policies, and the device's money |
//!
//! `hi` and `lo` are a random 62-bit [`KeyId`], so a payee needs no counter, and no state, to make a fresh key for
//! each offer.

use bitcoin::Network;
use bitcoin::bip32::{ChildNumber, Xpriv};
use bitcoin::hashes::{Hash, HashEngine, sha256};
use secp256k1::{Keypair, Message, PublicKey, SECP256K1, SecretKey, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::device::owner::OwnerKeys;
use crate::tagged;

/// BIP43 purpose of this project's keys: the HTTP status that asks for a payment.
const PURPOSE: u32 = 402;
const MASK: u32 = (1 << 31) - 1;
/// What a payee signs to be let at its mail.
const REQUEST: &str = "farthing/mailbox-request";

/// Which key pair of a party a channel uses: 62 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyId {
    hi: u32,
    lo: u32,
}

impl KeyId {
    /// A key id from fresh randomness. The two all-ones indexes are kept free for keys that belong to no channel.
    pub fn from_entropy(entropy: [u8; 8]) -> Self {
        Self::from_u64(u64::from_be_bytes(entropy))
    }

    /// Reads what [`Self::to_u64`] gave; bits that no key id has are dropped.
    pub fn from_u64(id: u64) -> Self {
        let index = |part: u32| (part & MASK).min(MASK - 1);
        Self { hi: index((id >> 31) as u32), lo: index(id as u32) }
    }

    /// The id as one number.
    pub fn to_u64(self) -> u64 {
        (u64::from(self.hi) << 31) | u64::from(self.lo)
    }
}

/// The root of a party's keys: a BIP39 seed of 64 bytes, wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed {
    bytes: [u8; 64],
    #[zeroize(skip)]
    network: Network,
}

impl Seed {
    /// Takes the 64 bytes that BIP39 derives from the words, for use on `network`.
    pub fn new(bytes: [u8; 64], network: Network) -> Self {
        Self { bytes, network }
    }

    /// The network whose keys this seed derives.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The BIP32 root, for the wallet's own descriptors. The caller keeps it no longer than it must.
    pub fn root(&self) -> Xpriv {
        Xpriv::new_master(self.network, &self.bytes)
            .expect("64 bytes of seed give a valid root but for odds of 2^-127")
    }

    /// The keys of one channel.
    pub fn channel_keys(&self, id: KeyId) -> ChannelKeys {
        let branch = [id.hi, id.lo];
        let mut funding = self.derive(&[branch[0], branch[1], 0]);
        let mut session = self.derive(&[branch[0], branch[1], 1]);
        let mut words = self.derive(&[branch[0], branch[1], 2]);
        let keys = ChannelKeys {
            funding: Keypair::from_secret_key(SECP256K1, &funding),
            session,
            words: words.secret_bytes(),
        };
        funding.non_secure_erase();
        session.non_secure_erase();
        words.non_secure_erase();
        keys
    }

    /// The secret that binds a seller's challenges to it.
    pub fn challenge_secret(&self) -> [u8; 32] {
        self.derive(&[MASK]).secret_bytes()
    }

    /// The secret key that opens a payee's mail. The caller keeps it no longer than it must.
    pub fn mail_secret(&self) -> [u8; 32] {
        self.derive(&[MASK, 3]).secret_bytes()
    }

    /// The keys of the owner of a device, by the device's number.
    pub fn owner_keys(&self, device: u32) -> OwnerKeys {
        let device = device & MASK;
        OwnerKeys::new([0, 1, 2].map(|key| self.derive(&[MASK, 4, device, key])))
    }

    /// The keys of a payee of cheques.
    pub fn cheque_keys(&self) -> ChequeKeys {
        let [mut identity, mut receipt, mut prekeys] = [0, 1, 2].map(|key| self.derive(&[MASK, key]));
        let keys = ChequeKeys {
            identity: Keypair::from_secret_key(SECP256K1, &identity),
            receipt: Keypair::from_secret_key(SECP256K1, &receipt),
            prekeys: prekeys.secret_bytes(),
        };
        identity.non_secure_erase();
        receipt.non_secure_erase();
        prekeys.non_secure_erase();
        keys
    }

    fn derive(&self, path: &[u32]) -> SecretKey {
        let coin = if self.network == Network::Bitcoin { 0 } else { 1 };
        let hardened = |index| ChildNumber::Hardened { index };
        let path: Vec<ChildNumber> =
            [PURPOSE, coin].into_iter().chain(path.iter().copied()).map(hardened).collect();
        self.root().derive_priv(SECP256K1, &path).expect("hardened indexes below 2^31").private_key
    }
}

/// The secret keys of one party in one channel. Neither `Clone` nor `Debug`; wiped when dropped.
pub struct ChannelKeys {
    pub(crate) funding: Keypair,
    pub(crate) session: SecretKey,
    pub(crate) words: [u8; 32],
}

impl Drop for ChannelKeys {
    fn drop(&mut self) {
        self.funding.non_secure_erase();
        self.session.non_secure_erase();
        self.words.zeroize();
    }
}

impl ChannelKeys {
    /// The funding key's public half.
    pub fn funding(&self) -> PublicKey {
        self.funding.public_key()
    }

    /// The session key's public half.
    pub fn session(&self) -> PublicKey {
        self.session.public_key(SECP256K1)
    }

    /// Signs a statement about a channel, under a tag of its own so that it can never be a transaction's digest.
    pub(crate) fn sign_statement(&self, tag: &str, statement: &[u8; 32]) -> schnorr::Signature {
        SECP256K1.sign_schnorr_no_aux_rand(&statement_digest(tag, statement), &self.funding)
    }
}

/// The secret keys of a payee of cheques. Neither `Clone` nor `Debug`; wiped when dropped.
pub struct ChequeKeys {
    pub(crate) identity: Keypair,
    pub(crate) receipt: Keypair,
    pub(crate) prekeys: [u8; 32],
}

impl Drop for ChequeKeys {
    fn drop(&mut self) {
        self.identity.non_secure_erase();
        self.receipt.non_secure_erase();
        self.prekeys.zeroize();
    }
}

impl ChequeKeys {
    /// Who the payee is: the key that its prekeys are signed with.
    pub fn identity(&self) -> XOnlyPublicKey {
        self.identity.x_only_public_key().0
    }

    /// The key that its receipts are signed with.
    pub fn receipt(&self) -> XOnlyPublicKey {
        self.receipt.x_only_public_key().0
    }

    /// Signs a statement about itself, under a tag of its own.
    pub(crate) fn sign_statement(&self, tag: &str, statement: &[u8; 32]) -> schnorr::Signature {
        SECP256K1.sign_schnorr_no_aux_rand(&statement_digest(tag, statement), &self.identity)
    }

    /// Signs a request to the payee's mailbox with its identity: everything that makes it this request. It moves no money.
    pub fn sign_request(&self, parts: &[&[u8]]) -> schnorr::Signature {
        self.sign_statement(REQUEST, &tagged::hash(REQUEST, parts))
    }
}

/// Whether the identity signed this request to its mailbox.
pub fn request_holds(identity: &XOnlyPublicKey, parts: &[&[u8]], signature: &schnorr::Signature) -> bool {
    statement_holds(identity, REQUEST, &tagged::hash(REQUEST, parts), signature)
}

/// Whether `key` signed the statement under that tag.
pub(crate) fn statement_holds(
    key: &XOnlyPublicKey,
    tag: &str,
    statement: &[u8; 32],
    signature: &schnorr::Signature,
) -> bool {
    SECP256K1.verify_schnorr(signature, &statement_digest(tag, statement), key).is_ok()
}

fn statement_digest(tag: &str, statement: &[u8; 32]) -> Message {
    let mut engine = tagged::engine(tag);
    engine.input(statement);
    Message::from_digest(sha256::Hash::from_engine(engine).to_byte_array())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_for_the_same_seed_and_differ_by_id_network_and_purpose() {
        let seed = Seed::new([7; 64], Network::Regtest);
        let id = KeyId::from_entropy([9; 8]);
        let keys = seed.channel_keys(id);
        assert_eq!(keys.funding(), Seed::new([7; 64], Network::Regtest).channel_keys(id).funding());
        assert_ne!(keys.funding(), keys.session());
        assert_ne!(keys.funding(), seed.channel_keys(KeyId::from_entropy([8; 8])).funding());
        assert_ne!(keys.funding(), Seed::new([7; 64], Network::Bitcoin).channel_keys(id).funding());
    }

    #[test]
    fn a_key_id_survives_the_way_through_a_number() {
        for entropy in [[0; 8], [0xff; 8], [1, 2, 3, 4, 5, 6, 7, 8]] {
            let id = KeyId::from_entropy(entropy);
            assert_eq!(KeyId::from_u64(id.to_u64()), id);
        }
    }
}
