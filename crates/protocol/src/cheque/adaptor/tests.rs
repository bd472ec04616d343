//! The library against a second implementation of the same equations on libsecp256k1, and what goes wrong without them.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::hex::DisplayHex;
use proptest::prelude::*;
use schnorr_fun::fun::s;
use secp256k1::{Parity, PublicKey, SecretKey};

use super::*;
use crate::tagged;

fn keypair(bytes: &[u8; 32]) -> Keypair {
    Keypair::from_seckey_slice(SECP256K1, bytes).unwrap()
}

fn xonly(key: &Keypair) -> XOnlyPublicKey {
    key.x_only_public_key().0
}

fn secret(bytes: &[u8; 32]) -> AdaptorSecret {
    AdaptorSecret::from_bytes(bytes).unwrap()
}

/// BIP340's `e`.
fn challenge(nonce: &XOnlyPublicKey, key: &XOnlyPublicKey, digest: &Message) -> secp256k1::Scalar {
    let mut engine = tagged::engine("BIP0340/challenge");
    for part in [nonce.serialize(), key.serialize(), *digest.as_ref()] {
        engine.input(&part);
    }
    secp256k1::Scalar::from_be_bytes(sha256::Hash::from_engine(engine).to_byte_array()).unwrap()
}

/// `ŝ·G = R ∓ T + e·X`, computed by libsecp256k1.
fn verifies_independently(
    key: &XOnlyPublicKey,
    point: &AdaptorPoint,
    digest: &Message,
    encrypted: &EncryptedSignature,
) -> bool {
    let Ok(scalar) = SecretKey::from_slice(&encrypted.scalar) else { return false };
    let even = |key: &XOnlyPublicKey| key.public_key(Parity::Even);
    let point = if encrypted.subtracts { *point.as_key() } else { point.as_key().negate(SECP256K1) };
    let challenged = even(key).mul_tweak(SECP256K1, &challenge(&encrypted.nonce, key, digest)).unwrap();
    let expected = PublicKey::combine_keys(&[&even(&encrypted.nonce), &point, &challenged]);
    expected.is_ok_and(|expected| expected == scalar.public_key(SECP256K1))
}

fn scalar_bytes() -> impl Strategy<Value = [u8; 32]> {
    any::<[u8; 32]>().prop_filter("below the order, not zero", |bytes| SecretKey::from_slice(bytes).is_ok())
}

proptest! {
    #[test]
    fn an_encrypted_signature_opens_with_its_secret_alone_and_gives_it_away(
        key in scalar_bytes(), secret_bytes in scalar_bytes(), other in scalar_bytes(), digest in any::<[u8; 32]>()
    ) {
        prop_assume!(secret_bytes != other);
        let (key, digest) = (keypair(&key), Message::from_digest(digest));
        let (secret, other) = (secret(&secret_bytes), secret(&other));
        let point = secret.point();
        let encrypted = sign(&key, &point, &digest);
        prop_assert!(verify(&xonly(&key), &point, &digest, &encrypted));
        prop_assert!(verifies_independently(&xonly(&key), &point, &digest, &encrypted));

        let signature = decrypt(&xonly(&key), &digest, &encrypted, &secret).unwrap();
        prop_assert!(SECP256K1.verify_schnorr(&signature, &digest, &xonly(&key)).is_ok());
        prop_assert_eq!(recover(&point, &encrypted, &signature), Some(secret.clone()));
        prop_assert_eq!(decrypt(&xonly(&key), &digest, &encrypted, &other), None);
        prop_assert_eq!(decrypt(&xonly(&key), &digest, &encrypted, &secret.negated()), None);

        let plain: schnorr::Signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &key);
        prop_assert_eq!(recover(&point, &encrypted, &plain), None);
    }

    /// Under another point, of another key, on another digest, or with one bit changed it is refused, by both
    /// implementations alike.
    #[test]
    fn nothing_else_verifies(
        key in scalar_bytes(), secret_bytes in scalar_bytes(), other in scalar_bytes(), bit in 0..512_usize
    ) {
        prop_assume!(secret_bytes != other && key != other);
        let digest = Message::from_digest([7; 32]);
        let (pair, point) = (keypair(&key), secret(&secret_bytes).point());
        let encrypted = sign(&pair, &point, &digest);
        let flipped = {
            let mut encrypted = encrypted;
            let mut nonce = encrypted.nonce.serialize();
            let bytes = if bit < 256 { &mut nonce } else { &mut encrypted.scalar };
            bytes[bit % 256 / 8] ^= 1 << (bit % 8);
            XOnlyPublicKey::from_slice(&nonce).ok().map(|nonce| EncryptedSignature { nonce, ..encrypted })
        };
        let turned = EncryptedSignature { subtracts: !encrypted.subtracts, ..encrypted };
        let another = secret(&other).point();
        let key = xonly(&pair);
        let cases = [
            (key, another, digest, Some(encrypted)),
            (key, secret(&secret_bytes).negated().point(), digest, Some(encrypted)),
            (xonly(&keypair(&other)), point, digest, Some(encrypted)),
            (key, point, Message::from_digest([8; 32]), Some(encrypted)),
            (key, point, digest, Some(turned)),
            (key, point, digest, flipped),
        ];
        for (key, point, digest, encrypted) in cases {
            let Some(encrypted) = encrypted else { continue };
            prop_assert!(!verify(&key, &point, &digest, &encrypted));
            prop_assert!(!verifies_independently(&key, &point, &digest, &encrypted));
        }
    }
}

#[test]
fn the_secret_is_added_or_subtracted_as_the_nonce_demands() {
    let key = keypair(&[3; 32]);
    let subtracts = (1..=64_u8).filter(|byte| {
        let secret = secret(&[*byte; 32]);
        let (digest, key_x) = (Message::from_digest([*byte; 32]), xonly(&key));
        let encrypted = sign(&key, &secret.point(), &digest);
        assert!(decrypt(&key_x, &digest, &encrypted, &secret).is_some());
        encrypted.subtracts
    });
    let subtracts = subtracts.count();
    assert!((8..=56).contains(&subtracts), "both ways were taken: {subtracts} of 64 subtract");
}

#[test]
fn the_same_arguments_give_the_same_signature_and_another_point_another_nonce() {
    let (key, digest) = (keypair(&[3; 32]), Message::from_digest([9; 32]));
    let [first, second] = [[1; 32], [2; 32]].map(|bytes| secret(&bytes).point());
    assert_eq!(sign(&key, &first, &digest), sign(&key, &first, &digest));
    // R ∓ T is the nonce that the signer drew.
    let drawn = |point: &AdaptorPoint, signed: EncryptedSignature| {
        let nonce = signed.nonce.public_key(Parity::Even);
        let point = if signed.subtracts { *point.as_key() } else { point.as_key().negate(SECP256K1) };
        nonce.combine(&point).unwrap().x_only_public_key().0
    };
    assert_ne!(
        drawn(&first, sign(&key, &first, &digest)),
        drawn(&second, sign(&key, &second, &digest)),
        "a nonce for each point"
    );
}

/// A version of the library that draws other nonces still makes good signatures, but could not recover the secret of those
/// made before: stored channels depend on these bytes.
#[test]
fn signatures_are_what_they_always_were() {
    let encrypted =
        sign(&keypair(&[0x11; 32]), &secret(&[0x22; 32]).point(), &Message::from_digest([0x33; 32]));
    assert_eq!(
        format!("{} {} {}", encrypted.nonce, encrypted.scalar.as_hex(), encrypted.subtracts),
        "b8c122b561cb56c540c48655921e9f61cf17fa0ffd97f6bedc691e01d3ecd7a5 \
         ab94543618054538446019b60749a10fd518db67f6c2e1abe9689eb80c9d6d6b false"
    );
}

/// The signer that this module does not have: its nonce is a hash of key and digest, and the point comes in later.
#[test]
fn a_nonce_that_does_not_bind_the_point_gives_the_key_away() {
    let (pair, digest) = (keypair(&[3; 32]), Message::from_digest([9; 32]));
    let library = library();
    let library_pair = library.new_keypair(Scalar::from_bytes([3; 32]).unwrap());
    let x = library_pair.secret_key();
    let drawn = Scalar::<Secret, NonZero>::from_bytes(tagged::hash("naive", &[&[3; 32], digest.as_ref()]));
    let drawn = drawn.unwrap();
    let naive = |point: &AdaptorPoint| -> Option<(Scalar<Public, Zero>, Scalar<Public, Zero>)> {
        let drawn_point = AdaptorSecret::from_bytes(&drawn.to_bytes()).unwrap().point();
        let (nonce, parity) = drawn_point.plus(point)?.as_key().x_only_public_key();
        let e = challenge(&nonce, &xonly(&pair), &digest).to_be_bytes();
        let e = Scalar::<Public, Zero>::from_bytes(e)?;
        let scalar = s!(drawn + e * x).public();
        let encrypted = EncryptedSignature { nonce, scalar: scalar.to_bytes(), subtracts: false };
        // Half of the points need a nonce turned round; these two do not.
        (parity == Parity::Even).then(|| {
            assert!(verify(&xonly(&pair), point, &digest, &encrypted), "each looks perfectly good");
            (scalar, e)
        })
    };
    let signed: Vec<_> = (1..=20).filter_map(|byte| naive(&secret(&[byte; 32]).point())).take(2).collect();
    let [(s1, e1), (s2, e2)] = signed.as_slice() else { panic!("two of twenty points") };
    let difference = s!(e1 - e2).non_zero().unwrap().invert();
    assert_eq!(s!((s1 - s2) * difference).to_bytes(), x.to_bytes(), "two signatures give the key away");
}
