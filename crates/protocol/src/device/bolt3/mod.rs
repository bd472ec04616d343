//! The transactions of a Lightning channel as [BOLT 3] defines them, for channels of the type `option_static_remotekey`
//! without anchors. One file for each transaction; each builds it, says what is to be signed, and puts the signatures in.
//!
//! | transaction | file |
//! |---|---|
//! | the output that both lock | [`funding`] |
//! | what either side may publish alone | [`commitment`] |
//! | second stage: an HTLC offered by the publisher, after its expiry | [`htlc_timeout`] |
//! | second stage: an HTLC received by the publisher, with the preimage | [`htlc_success`] |
//! | what both publish together (`closing_signed`) | [`closing`] |
//! | an HTLC that the holder offered, out of the bridge's commitment | [`take_back`] |
//! | everything of a commitment that the bridge had revoked | [`penalty`] |
//!
//! The two sides have fixed names here. [`Side::Holder`] is the device's channel, which funds it and pays the commitment's
//! fee. [`Side::Bridge`] is the node at the other end. BOLT 3 speaks of *local* and *remote* as seen by the one whose commitment
//! it is; that one is the *broadcaster* here.
//!
//! [BOLT 3]: https://github.com/lightning/bolts/blob/master/03-transactions.md

pub mod closing;
pub mod commitment;
pub mod fees;
pub mod funding;
pub mod htlc;
pub mod htlc_success;
pub mod htlc_timeout;
pub mod keys;
pub mod penalty;
pub mod shachain;
pub mod take_back;
pub mod terms;

mod digest;
#[cfg(test)]
mod vectors;

pub use commitment::{Commitment, Contents};
pub use digest::Digest;
pub use htlc::{Htlc, PaymentHash, Preimage};
pub use keys::Basepoints;
pub use shachain::{CommitmentNumber, CommitmentSecret, CommitmentSeed, RevokedSecrets};
pub use terms::{PartyTerms, Side, Terms};
