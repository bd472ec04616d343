//! Against another implementation of the same equations, `schnorr_fun`, and what goes wrong without them.

use bitcoin::hex::DisplayHex;
use proptest::prelude::*;
use schnorr_fun::adaptor::{Adaptor, EncryptedSign, EncryptedSignature as Ciphertext};
use schnorr_fun::fun::marker::{EvenY, NonZero, Normal, Public, Secret, Zero};
use schnorr_fun::fun::nonce::Deterministic;
use schnorr_fun::fun::{Point, Scalar as Field, s};
use schnorr_fun::{Message as Raw, Schnorr, Signature};
use sha2::Sha256;

use super::*;

fn keypair(bytes: &[u8; 32]) -> Keypair {
    Keypair::from_seckey_slice(SECP256K1, bytes).unwrap()
}

fn xonly(key: &Keypair) -> XOnlyPublicKey {
    key.x_only_public_key().0
}

fn secret(bytes: &[u8; 32]) -> AdaptorSecret {
    AdaptorSecret::from_bytes(bytes).unwrap()
}

fn library() -> Schnorr<Sha256, Deterministic<Sha256>> {
    schnorr_fun::new_with_deterministic_nonces()
}

fn library_point(point: &AdaptorPoint) -> Point<Normal, Public, NonZero> {
    Point::from_bytes(point.to_bytes()).unwrap()
}

fn library_secret(secret: &AdaptorSecret) -> Field<Secret, NonZero> {
    Field::from_bytes(secret.to_bytes()).unwrap()
}

fn to_library(ours: &EncryptedSignature) -> Option<Ciphertext> {
    Some(Ciphertext {
        R: Point::<EvenY, Public>::from_xonly_bytes(ours.nonce.serialize())?,
        s_hat: Field::<Public, Zero>::from_bytes(ours.scalar)?,
        needs_negation: ours.subtracts,
    })
}

fn verifies_independently(
    key: &XOnlyPublicKey,
    point: &AdaptorPoint,
    digest: &Message,
    encrypted: &EncryptedSignature,
) -> bool {
    let key = Point::<EvenY, Public>::from_xonly_bytes(key.serialize()).unwrap();
    let message = Raw::raw(digest.as_ref());
    to_library(encrypted).is_some_and(|signature| {
        library().verify_encrypted_signature(&key, &library_point(point), message, &signature)
    })
}

/// What the library signs.
fn sign_independently(key: &Keypair, point: &AdaptorPoint, digest: &Message) -> EncryptedSignature {
    let pair = library().new_keypair(Field::from_bytes(key.secret_bytes()).unwrap());
    let signed = library().encrypted_sign(&pair, &library_point(point), Raw::raw(digest.as_ref()));
    EncryptedSignature {
        nonce: XOnlyPublicKey::from_slice(&signed.R.to_xonly_bytes()).unwrap(),
        scalar: signed.s_hat.to_bytes(),
        subtracts: signed.needs_negation,
    }
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
        let theirs = to_library(&encrypted).unwrap();
        let decrypted = library().decrypt_signature(library_secret(&secret), theirs.clone());
        prop_assert_eq!(&decrypted.to_bytes(), signature.as_ref());
        let read = Signature::from_bytes(*signature.as_ref()).unwrap();
        let recovered = library().recover_decryption_key(&library_point(&point), &theirs, &read).unwrap();
        prop_assert_eq!(recovered.to_bytes(), secret.to_bytes());
        prop_assert!(SECP256K1.verify_schnorr(&signature, &digest, &xonly(&key)).is_ok());
        prop_assert_eq!(recover(&point, &encrypted, &signature), Some(secret.clone()));
        prop_assert_eq!(decrypt(&xonly(&key), &digest, &encrypted, &other), None);
        prop_assert_eq!(decrypt(&xonly(&key), &digest, &encrypted, &secret.negated()), None);

        let plain: schnorr::Signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &key);
        prop_assert_eq!(recover(&point, &encrypted, &plain), None);
    }

    /// What another implementation encrypts is taken for what it is.
    #[test]
    fn what_others_encrypt_opens_as_well(
        key in scalar_bytes(), secret_bytes in scalar_bytes(), digest in any::<[u8; 32]>()
    ) {
        let (key, digest, secret) = (keypair(&key), Message::from_digest(digest), secret(&secret_bytes));
        let (encrypted, point) = (sign_independently(&key, &secret.point(), &digest), secret.point());
        prop_assert!(verify(&xonly(&key), &point, &digest, &encrypted));
        let signature = decrypt(&xonly(&key), &digest, &encrypted, &secret).unwrap();
        prop_assert_eq!(recover(&point, &encrypted, &signature), Some(secret));
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

/// Other nonces would still make good signatures, but the secret of those made before could not be recovered: stored channels depend on
/// these bytes.
#[test]
fn signatures_are_what_they_always_were() {
    let encrypted =
        sign(&keypair(&[0x11; 32]), &secret(&[0x22; 32]).point(), &Message::from_digest([0x33; 32]));
    assert_eq!(
        format!("{} {} {}", encrypted.nonce, encrypted.scalar.as_hex(), encrypted.subtracts),
        "9a18646d6a4db18ead9780d98d1a9ca24a74277eb15a279551e01cdb5ebdb803 \
         eb7eb8896611fb00ea5054afff4b23a1cd1c2ba169032047665829f33a3730f5 false"
    );
}

/// The signer that this module does not have: its nonce is a hash of key and digest, and the point comes in later.
#[test]
fn a_nonce_that_does_not_bind_the_point_gives_the_key_away() {
    let (pair, digest) = (keypair(&[3; 32]), Message::from_digest([9; 32]));
    let library = library();
    let library_pair = library.new_keypair(Field::from_bytes([3; 32]).unwrap());
    let x = library_pair.secret_key();
    let drawn = Field::<Secret, NonZero>::from_bytes(tagged::hash("naive", &[&[3; 32], digest.as_ref()]));
    let drawn = drawn.unwrap();
    let naive = |point: &AdaptorPoint| -> Option<(Field<Public, Zero>, Field<Public, Zero>)> {
        let drawn_point = AdaptorSecret::from_bytes(&drawn.to_bytes()).unwrap().point();
        let (nonce, parity) = drawn_point.plus(point)?.as_key().x_only_public_key();
        let e = challenge(&nonce, &xonly(&pair), digest.as_ref()).to_be_bytes();
        let e = Field::<Public, Zero>::from_bytes(e)?;
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
