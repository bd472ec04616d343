//! A payee's own requests to its mailbox: fetching, deleting, publishing prekeys. Each is signed by the address's identity.
//!
//! The signature covers the mailbox's host, the method, path and query, the body, and a time in microseconds. A mailbox takes
//! each box's requests in the order of their times only, so a request that somebody overheard does nothing a second time.
//! It travels as
//!
//! ```text
//!   Authorization: Mailbox HEX( time, 8 bytes big-endian ‖ BIP340 signature, 64 )
//! ```
//!
//! A mailbox may tell a payee which time it takes next, and the payee signs that: another mailbox takes nothing of it, since
//! the host is signed too.

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::{DisplayHex, FromHex};
use farthing_protocol::keys::{self, ChequeKeys};
use secp256k1::{XOnlyPublicKey, schnorr};

const SCHEME: &str = "Mailbox ";
/// A time and a signature.
const LENGTH: usize = 8 + 64;

/// What is signed besides the time.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Host and port as the `Host` header names them.
    pub authority: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// Shows that the payee itself asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Microseconds since 1970, more than in any request before.
    pub time: u64,
    /// By the identity of the address.
    pub signature: schnorr::Signature,
}

/// Why a request is not the payee's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProof {
    /// The header is another.
    #[error("a payee's request carries `Authorization: Mailbox`, and {} hexadecimal digits", LENGTH * 2)]
    Malformed,
    /// The signature does not fit.
    #[error("this request is not signed by the identity whose mail it asks for")]
    NotTheirs,
}

impl Request<'_> {
    fn signed<T>(&self, time: u64, sign: impl FnOnce(&[&[u8]]) -> T) -> T {
        let body = sha256::Hash::hash(self.body);
        sign(&[
            self.authority.as_bytes(),
            self.method.as_bytes(),
            self.target.as_bytes(),
            &time.to_be_bytes(),
            body.as_byte_array(),
        ])
    }

    /// Signs it.
    pub fn sign(&self, keys: &ChequeKeys, time: u64) -> Proof {
        Proof { time, signature: self.signed(time, |parts| keys.sign_request(parts)) }
    }
}

impl Proof {
    /// Whether the identity signed this request.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, identity: &XOnlyPublicKey, request: &Request<'_>) -> Result<(), BadProof> {
        let holds = request.signed(self.time, |parts| keys::request_holds(identity, parts, &self.signature));
        holds.then_some(()).ok_or(BadProof::NotTheirs)
    }

    /// The header's value.
    pub fn to_header(&self) -> String {
        let bytes = [&self.time.to_be_bytes()[..], self.signature.as_ref()].concat();
        format!("{SCHEME}{}", bytes.to_lower_hex_string())
    }

    /// Reads the header's value.
    ///
    /// # Errors
    /// When it is of another form.
    pub fn from_header(header: &str) -> Result<Self, BadProof> {
        let hex = header.strip_prefix(SCHEME).ok_or(BadProof::Malformed)?;
        let bytes = <[u8; LENGTH]>::from_hex(hex).map_err(|_| BadProof::Malformed)?;
        let (time, signature) = bytes.split_first_chunk().ok_or(BadProof::Malformed)?;
        let signature = schnorr::Signature::from_slice(signature).map_err(|_| BadProof::Malformed)?;
        Ok(Self { time: u64::from_be_bytes(*time), signature })
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use farthing_protocol::keys::Seed;

    use super::*;

    const REQUEST: Request<'static> =
        Request { authority: "mail.example", method: "DELETE", target: "/mailbox/x?y=1", body: b"body" };

    #[test]
    fn a_proof_is_for_one_request_of_one_identity() {
        let keys = |byte| Seed::new([byte; 64], Network::Regtest).cheque_keys();
        let (owner, stranger) = (keys(1), keys(2));
        let proof = REQUEST.sign(&owner, 7);
        assert_eq!(Proof::from_header(&proof.to_header()), Ok(proof));
        assert_eq!(proof.verify(&owner.identity(), &REQUEST), Ok(()));

        assert_eq!(proof.verify(&stranger.identity(), &REQUEST), Err(BadProof::NotTheirs));
        let others = [
            Request { authority: "mail.example:1", ..REQUEST },
            Request { method: "GET", ..REQUEST },
            Request { target: "/mailbox/x?y=2", ..REQUEST },
            Request { body: b"bodY", ..REQUEST },
            // The same bytes, cut elsewhere.
            Request { authority: "mail.exampleD", method: "ELETE", ..REQUEST },
        ];
        for other in others {
            assert_eq!(proof.verify(&owner.identity(), &other), Err(BadProof::NotTheirs), "{other:?}");
        }
        let later = Proof { time: 8, ..proof };
        assert_eq!(later.verify(&owner.identity(), &REQUEST), Err(BadProof::NotTheirs));
    }

    #[test]
    fn another_header_is_refused() {
        let good = REQUEST.sign(&Seed::new([1; 64], Network::Regtest).cheque_keys(), 7).to_header();
        let cut = &good[..good.len() - 2];
        let longer = format!("{good}00");
        for bad in ["", "Mailbox ", "Payment abc", cut, &longer, &good.replace("Mailbox ", "mailbox ")] {
            assert_eq!(Proof::from_header(bad), Err(BadProof::Malformed), "{bad}");
        }
        assert_eq!(Proof::from_header(&good.replacen("Mailbox 0", "Mailbox g", 1)), Err(BadProof::Malformed));
    }
}
