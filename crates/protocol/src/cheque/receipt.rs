//! A receipt: the payee's BIP340 signature on what it was paid, by whom it does not say, and for what.
//!
//! The payer gets it at the end of a cheque, and anybody can check it without a channel, a chain or either party. The
//! payer's random salt makes two payments of one kind two receipts, and keeps whoever sees only the hash from guessing
//! what was paid. The key that signs receipts signs nothing else and holds no money.
//!
//! Its text is bech32m (BIP350) with the prefix `farthingreceipt`: version, payee, amount, time, salt, signature, memo.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};
use secp256k1::{Message, SECP256K1, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::tagged;

/// The longest memo, in bytes.
pub const MOST_MEMO: usize = 256;
const PREFIX: &str = "farthingreceipt";
const VERSION: u8 = 1;

/// What was paid for, in words: at most 256 bytes of UTF-8 without control characters, since it ends up on screens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memo(String);

/// A text that is no memo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMemo {
    /// Too long.
    #[error("a memo has at most {MOST_MEMO} bytes, got {0}")]
    TooLong(usize),
    /// A character that moves the cursor instead of being seen.
    #[error("a memo has no control characters")]
    Control,
}

impl Memo {
    /// Takes a text for a memo.
    ///
    /// # Errors
    /// When it is longer than 256 bytes or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, BadMemo> {
        let text = text.into();
        if text.len() > MOST_MEMO {
            return Err(BadMemo::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(BadMemo::Control);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Memo {
    type Error = BadMemo;

    fn try_from(text: String) -> Result<Self, BadMemo> {
        Self::new(text)
    }
}

impl From<Memo> for String {
    fn from(memo: Memo) -> Self {
        memo.0
    }
}

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The payee's receipt key.
    pub payee: XOnlyPublicKey,
    /// What the payee gets, after every fee on the way.
    pub amount: Msat,
    /// What for.
    pub memo: Memo,
    /// When the payer wrote it, in seconds since 1970. The payer's word.
    pub time: u64,
    /// 32 bytes of the payer's randomness.
    pub salt: [u8; 32],
}

impl Terms {
    /// What the payee signs: a tagged SHA-256 of every field.
    pub fn digest(&self) -> [u8; 32] {
        tagged::hash(
            "farthing/receipt",
            &[
                &self.payee.serialize(),
                &self.amount.get().to_be_bytes(),
                self.memo.0.as_bytes(),
                &self.time.to_be_bytes(),
                &self.salt,
            ],
        )
    }
}

/// Terms with the payee's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What it says.
    pub terms: Terms,
    /// BIP340, by the key that the terms name, on [`Terms::digest`].
    pub signature: schnorr::Signature,
}

/// The signature of a receipt is not the payee's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payee's signature does not fit this receipt")]
pub struct NotSigned;

impl Receipt {
    /// Checks the signature. Whether the key belongs to whom one thinks is for the reader to know.
    ///
    /// # Errors
    /// When the key that the terms name did not sign them.
    pub fn verify(&self) -> Result<(), NotSigned> {
        let digest = Message::from_digest(self.terms.digest());
        SECP256K1.verify_schnorr(&self.signature, &digest, &self.terms.payee).map_err(|_| NotSigned)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Terms { payee, amount, memo, time, salt } = &self.terms;
        let mut bytes = vec![VERSION];
        bytes.extend(payee.serialize());
        bytes.extend(amount.get().to_be_bytes());
        bytes.extend(time.to_be_bytes());
        bytes.extend(salt);
        bytes.extend(self.signature.as_ref());
        bytes.extend(memo.0.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadText> {
        let (version, rest) = bytes.split_first().ok_or(BadText::Length)?;
        if *version != VERSION {
            return Err(BadText::Version(*version));
        }
        let (payee, rest) = rest.split_first_chunk::<32>().ok_or(BadText::Length)?;
        let (amount, rest) = rest.split_first_chunk().ok_or(BadText::Length)?;
        let (time, rest) = rest.split_first_chunk().ok_or(BadText::Length)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(BadText::Length)?;
        let (signature, memo) = rest.split_first_chunk::<64>().ok_or(BadText::Length)?;
        let memo = std::str::from_utf8(memo).map_err(|_| BadText::Utf8)?;
        let terms = Terms {
            payee: XOnlyPublicKey::from_slice(payee).map_err(|_| BadText::Key)?,
            amount: Msat::new(u64::from_be_bytes(*amount)),
            memo: Memo::new(memo)?,
            time: u64::from_be_bytes(*time),
            salt: *salt,
        };
        let signature = schnorr::Signature::from_slice(signature).map_err(|_| BadText::Length)?;
        Ok(Self { terms, signature })
    }
}

/// A text that is no receipt. Whether a receipt is signed is for [`Receipt::verify`] to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadText {
    /// Not bech32m: a typing error, most likely.
    #[error("this is no receipt: {0}")]
    Bech32(#[from] bech32::primitives::decode::CheckedHrpstringError),
    /// Another kind of text.
    #[error("a receipt begins with `{PREFIX}1`, this with `{0}1`")]
    Prefix(String),
    /// A later kind of receipt.
    #[error("a receipt of version {0} is not known here, only {VERSION}")]
    Version(u8),
    /// Cut off.
    #[error("the receipt is too short")]
    Length,
    /// The payee's key is none.
    #[error("the payee's key is no point of the curve")]
    Key,
    /// The memo is no text.
    #[error("the memo is not UTF-8")]
    Utf8,
    /// The memo is not allowed.
    #[error(transparent)]
    Memo(#[from] BadMemo),
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = Hrp::parse_unchecked(PREFIX);
        // At most 409 bytes: below the 1,023 characters that the checksum covers.
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, prefix, &self.to_bytes()).map_err(|_| fmt::Error)
    }
}

impl FromStr for Receipt {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Self, BadText> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text.trim())?;
        if checked.hrp() != Hrp::parse_unchecked(PREFIX) {
            return Err(BadText::Prefix(checked.hrp().to_lowercase()));
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use secp256k1::Keypair;

    use super::*;

    fn receipt(memo: &str) -> Receipt {
        let key = Keypair::from_seckey_slice(SECP256K1, &[5; 32]).unwrap();
        let payee = key.x_only_public_key().0;
        let memo = Memo::new(memo).unwrap();
        let terms = Terms { payee, amount: Msat::new(1_500), memo, time: 1_790_000_000, salt: [7; 32] };
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(terms.digest()), &key);
        Receipt { terms, signature }
    }

    #[test]
    fn a_receipt_survives_the_way_through_its_text() {
        for memo in ["", "one coffee ☕", &"m".repeat(MOST_MEMO)] {
            let receipt = receipt(memo);
            let text = receipt.to_string();
            assert!(text.starts_with("farthingreceipt1"), "{text}");
            assert!(text.len() <= 1_023);
            assert_eq!(text.parse(), Ok(receipt.clone()));
            assert_eq!(text.to_uppercase().parse(), Ok(receipt.clone()));
            assert_eq!(receipt.verify(), Ok(()));
        }
    }

    #[test]
    fn every_field_is_signed() {
        let good = receipt("one coffee");
        let other_key = Keypair::from_seckey_slice(SECP256K1, &[6; 32]).unwrap().x_only_public_key().0;
        type Spoil = fn(&mut Terms);
        let cases: [Spoil; 4] = [
            |terms| terms.amount = Msat::new(1_501),
            |terms| terms.memo = Memo::new("two coffees").unwrap(),
            |terms| terms.time += 1,
            |terms| terms.salt[0] ^= 1,
        ];
        for spoil in cases {
            let mut bad = good.clone();
            spoil(&mut bad.terms);
            assert_eq!(bad.verify(), Err(NotSigned));
        }
        let bad = Receipt { terms: Terms { payee: other_key, ..good.terms }, ..good };
        assert_eq!(bad.verify(), Err(NotSigned));
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        let text = receipt("one coffee").to_string();
        let mut mistyped = text.clone().into_bytes();
        mistyped[40] = if mistyped[40] == b'q' { b'p' } else { b'q' };
        let mistyped = String::from_utf8(mistyped).unwrap();
        assert!(matches!(mistyped.parse::<Receipt>(), Err(BadText::Bech32(_))));
        let encode =
            |prefix, bytes: &[u8]| bech32::encode::<Bech32m>(Hrp::parse(prefix).unwrap(), bytes).unwrap();
        let bytes = receipt("one coffee").to_bytes();
        let parse = |prefix, bytes: &[u8]| encode(prefix, bytes).parse::<Receipt>().unwrap_err();
        assert_eq!(parse("lnbc", &bytes), BadText::Prefix("lnbc".into()));
        assert_eq!(parse(PREFIX, &bytes[..100]), BadText::Length);
        assert_eq!(parse(PREFIX, &[]), BadText::Length);
        assert_eq!(parse(PREFIX, &[&[2], &bytes[1..]].concat()), BadText::Version(2));
        assert_eq!(parse(PREFIX, &[&bytes[..1], &[0xff; 32], &bytes[33..]].concat()), BadText::Key);
        assert_eq!(parse(PREFIX, &[&bytes[..], &[0xff]].concat()), BadText::Utf8);
        assert_eq!(parse(PREFIX, &[&bytes[..], b"\x1b[2J"].concat()), BadMemo::Control.into());
        assert_eq!(parse(PREFIX, &[&bytes[..], &[b'm'; 250]].concat()), BadMemo::TooLong(260).into());
    }
}
