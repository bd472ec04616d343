//! What is signed. Only this crate can make a [`Digest`], and it makes one only from a transaction that it built: so
//! whoever signs nothing else never signs what somebody else prepared.

use bitcoin::hashes::Hash;
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::{Amount, Script, Transaction};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa};

/// The digest of an input of a transaction that this crate built (BIP143, `SIGHASH_ALL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a transaction whose input 0 spends a P2WSH output of that script and value.
    pub(super) fn of(transaction: &Transaction, witness_script: &Script, value: Amount) -> Self {
        Self::of_input(transaction, 0, witness_script, value)
    }

    /// Of a transaction with several inputs, each of which is signed by itself.
    pub(in crate::device) fn of_input(
        transaction: &Transaction,
        index: usize,
        script: &Script,
        value: Amount,
    ) -> Self {
        let sighash = SighashCache::new(transaction)
            .p2wsh_signature_hash(index, script, value, EcdsaSighashType::All)
            .expect("the input exists");
        Self(sighash.to_byte_array())
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Signs with an ordinary key; the nonce is a function of key and digest (RFC 6979), so it is the same each time.
    pub fn sign(&self, key: &SecretKey) -> ecdsa::Signature {
        SECP256K1.sign_ecdsa(&self.message(), key)
    }

    /// Whether the key signed it. A signature whose `s` is in the upper half does not verify (libsecp256k1).
    pub fn is_signed(&self, key: &PublicKey, signature: &ecdsa::Signature) -> bool {
        SECP256K1.verify_ecdsa(&self.message(), signature, key).is_ok()
    }

    fn message(&self) -> Message {
        Message::from_digest(self.0)
    }
}

/// A signature as it stands in a witness: DER and one byte for `SIGHASH_ALL`.
pub(super) fn witness_signature(signature: &ecdsa::Signature) -> Vec<u8> {
    let mut bytes = signature.serialize_der().to_vec();
    bytes.push(EcdsaSighashType::All as u8);
    bytes
}
