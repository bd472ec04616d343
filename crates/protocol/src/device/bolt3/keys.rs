//! Keys that change with every commitment ([BOLT 3, key derivation]).
//!
//! The `expect`s below name sums and products that vanish or exceed the group's order with odds of 2⁻¹²⁸: each holds a hash
//! of the very points that go into it, so nobody can aim at them.
//!
//! [BOLT 3, key derivation]: https://github.com/lightning/bolts/blob/master/03-transactions.md#key-derivation

use bitcoin::hashes::{Hash, HashEngine, sha256};
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use serde::{Deserialize, Serialize};

/// A party's public basepoints, fixed for a channel's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basepoints {
    /// Receives this party's money when the *other* side publishes its commitment; used as it is (`static_remotekey`).
    pub payment: PublicKey,
    /// Receives this party's money, after a delay, when it publishes its own commitment.
    pub delayed_payment: PublicKey,
    /// Spends HTLC outputs.
    pub htlc: PublicKey,
    /// Takes everything when the other side publishes a commitment that it had revoked.
    pub revocation: PublicKey,
}

/// `basepoint + SHA256(point ‖ basepoint)·G`: the public key of one commitment.
pub fn public_key(basepoint: &PublicKey, point: &PublicKey) -> PublicKey {
    basepoint.add_exp_tweak(SECP256K1, &hash(point, basepoint)).expect("the sum is not infinity")
}

/// The secret key of one commitment, for [`public_key`].
pub fn secret_key(basepoint_secret: &SecretKey, point: &PublicKey) -> SecretKey {
    let basepoint = basepoint_secret.public_key(SECP256K1);
    basepoint_secret.add_tweak(&hash(point, &basepoint)).expect("the sum is not zero")
}

/// The key that takes everything of one commitment once it is revoked. `basepoint` is the revocation basepoint of the side
/// that would punish, `point` the per-commitment point of the side that would cheat.
pub fn revocation_public_key(basepoint: &PublicKey, point: &PublicKey) -> PublicKey {
    let ours = basepoint.mul_tweak(SECP256K1, &hash(basepoint, point)).expect("the factor is not zero");
    let theirs = point.mul_tweak(SECP256K1, &hash(point, basepoint)).expect("the factor is not zero");
    ours.combine(&theirs).expect("the sum is not infinity")
}

/// The secret key for [`revocation_public_key`], known once the other side has revealed its secret.
pub fn revocation_secret_key(basepoint_secret: &SecretKey, commitment_secret: &SecretKey) -> SecretKey {
    let basepoint = basepoint_secret.public_key(SECP256K1);
    let point = commitment_secret.public_key(SECP256K1);
    let ours = basepoint_secret.mul_tweak(&hash(&basepoint, &point)).expect("the factor is not zero");
    let theirs = commitment_secret.mul_tweak(&hash(&point, &basepoint)).expect("the factor is not zero");
    ours.add_tweak(&Scalar::from(theirs)).expect("the sum is not zero")
}

fn hash(first: &PublicKey, second: &PublicKey) -> Scalar {
    let mut engine = sha256::Hash::engine();
    engine.input(&first.serialize());
    engine.input(&second.serialize());
    let hash = sha256::Hash::from_engine(engine).to_byte_array();
    Scalar::from_be_bytes(hash).expect("the hash is below the group's order")
}

#[cfg(test)]
mod tests {
    use bitcoin::hex::FromHex;

    use super::*;

    fn secret(hex: &str) -> SecretKey {
        SecretKey::from_slice(&Vec::from_hex(hex).unwrap()).unwrap()
    }

    #[test]
    fn bolt_3_appendix_e() {
        let base_secret = secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let commitment_secret = secret("1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100");
        let (base, point) = (base_secret.public_key(SECP256K1), commitment_secret.public_key(SECP256K1));
        assert_eq!(
            public_key(&base, &point).to_string(),
            "0235f2dbfaa89b57ec7b055afe29849ef7ddfeb1cefdb9ebdc43f5494984db29e5"
        );
        assert_eq!(
            secret_key(&base_secret, &point),
            secret("cbced912d3b21bf196a766651e436aff192362621ce317704ea2f75d87e7be0f")
        );
        assert_eq!(
            revocation_public_key(&base, &point).to_string(),
            "02916e326636d19c33f13e8c0c3a03dd157f332f3e99c317c141dd865eb01f8ff0"
        );
        assert_eq!(
            revocation_secret_key(&base_secret, &commitment_secret),
            secret("d09ffff62ddb2297ab000cc85bcb4283fdeb6aa052affbc9dddcf33b61078110")
        );
    }
}
