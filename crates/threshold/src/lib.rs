//! The engine behind [`farthing_protocol::device::joint`]: threshold ECDSA of two parties, [DKLs23], by the crate
//! `dkls23-secp256k1`.
//!
//! **Unaudited.** Neither the engine nor this wrapper has been reviewed by a third party. What rests on it: that neither device
//! nor gateway alone can make, or learn how to make, a signature of the joint key.
//!
//! # Rules of the engine
//!
//! * A share is as secret as a key. It is wiped when dropped, and its bytes come out only to be stored ([`Share::to_bytes`]).
//! * One key generation for each channel, and no keys derived from it. Nothing is signed ahead of its message.
//! * Messages are opaque and must be authentic: check the transport's tag before handing bytes in. Bytes that were changed on
//!   the way look like a cheat in the oblivious transfer, and a cheat bans the other side for good ([`Failure::Cheated`]):
//!   its answers could give the share away bit by bit. Whoever gets that failure stores it and never starts a round with this
//!   share again.
//! * A round that ended otherwise ([`Failure::Interrupted`]) is started afresh, with a new [`RoundId`].
//! * Randomness is drawn from the operating system, which is why this is not part of `farthing-protocol`.
//!
//! [DKLs23]: https://eprint.iacr.org/2023/765

mod keygen;
mod share;
mod signing;
mod wire;

pub use farthing_protocol::device::joint::{Failure, RoundId};
pub use keygen::{KeyGeneration, KeyGenerationStep};
pub use share::{BadShare, Device, Gateway, Role, Share};
pub use signing::SigningRound;
