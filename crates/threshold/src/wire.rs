//! Messages as bytes, and the engine's verdicts as ours.

use dkls23_secp256k1::protocols::{Abort, AbortKind, PartiesMessage};
use farthing_protocol::device::joint::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::share::Role;

/// More than any message of the engine has (key generation's third is the largest, about 60 kB).
const MOST_BYTES: usize = 1 << 18;

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("the engine's messages are plain data")
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.len() > MOST_BYTES {
        return Err(Failure::Interrupted(format!("a message of {} bytes is too long", bytes.len())));
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(Failure::Interrupted(format!("{} bytes after a message", rest.len()))),
        Err(error) => Err(Failure::Interrupted(format!("a malformed message: {error}"))),
    }
}

/// The message is from the other side, for us.
pub(crate) fn expect_route<R: Role>(parties: &PartiesMessage) -> Result<(), Failure> {
    if parties.sender == R::other_index() && parties.receiver == R::index() {
        return Ok(());
    }
    Err(Failure::Interrupted(format!(
        "a message from party {} for party {}",
        parties.sender, parties.receiver
    )))
}

/// What the engine says about a failed step.
pub(crate) fn failure(abort: Abort) -> Failure {
    match abort.kind {
        AbortKind::Recoverable => Failure::Interrupted(abort.description()),
        AbortKind::BanCounterparty(_) => Failure::Cheated(abort.description()),
    }
}
