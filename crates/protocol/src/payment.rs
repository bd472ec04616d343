//! A payment as it travels: the new total and the payer's signature on the commitment that pays it. 72 bytes.

use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::amount::Msat;

/// A signed total. It says nothing about what was paid before: the payee adds up for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Everything the payer has paid in this channel, this payment included.
    pub total: Msat,
    /// The payer's BIP340 signature on the commitment to `total`.
    pub signature: schnorr::Signature,
}

/// The length of an encoded payment, in bytes.
pub const LENGTH: usize = 72;

/// Bytes that are no payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payment is {LENGTH} bytes, got {0}")]
pub struct WrongLength(pub usize);

impl Payment {
    /// The total in eight bytes, big-endian, then the signature.
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&self.total.get().to_be_bytes());
        bytes[8..].copy_from_slice(self.signature.as_ref());
        bytes
    }

    /// Reads an encoded payment. Whether the signature fits is for [`crate::commitment::verify`] to say.
    ///
    /// # Errors
    /// When there are not exactly 72 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WrongLength> {
        let (total, signature) = bytes.split_first_chunk::<8>().ok_or(WrongLength(bytes.len()))?;
        let signature = schnorr::Signature::from_slice(signature).map_err(|_| WrongLength(bytes.len()))?;
        Ok(Self { total: Msat::new(u64::from_be_bytes(*total)), signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_there_and_back_and_no_other_length() {
        let bytes: [u8; LENGTH] = std::array::from_fn(|i| i as u8);
        assert_eq!(Payment::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        for length in [0, 7, 8, 71, 73] {
            assert_eq!(Payment::from_bytes(&vec![1; length]), Err(WrongLength(length)));
        }
    }
}
