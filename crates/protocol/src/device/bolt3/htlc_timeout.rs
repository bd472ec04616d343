//! HTLC-timeout: from the expiry on, takes an HTLC that the broadcaster offered out of its own commitment, into an output with
//! the broadcaster's delay. Both sides sign; the other side gives its signature with the commitment.

use bitcoin::absolute::LockTime;
use bitcoin::{Transaction, Witness};
use secp256k1::ecdsa;

use super::commitment::{Commitment, HtlcOutput};
use super::digest::{Digest, witness_signature};
use super::htlc;

/// The transaction without signatures.
pub fn build(commitment: &Commitment, output: &HtlcOutput) -> Transaction {
    htlc::second_stage(commitment, output, LockTime::from_consensus(output.htlc.expiry))
}

/// What both sides sign.
pub fn digest(commitment: &Commitment, output: &HtlcOutput) -> Digest {
    Digest::of(&build(commitment, output), &output.witness_script, output.htlc.value())
}

/// Puts both signatures in. Valid from the block at the HTLC's expiry on.
pub fn complete(
    commitment: &Commitment,
    output: &HtlcOutput,
    broadcaster: &ecdsa::Signature,
    other: &ecdsa::Signature,
) -> Transaction {
    let mut transaction = build(commitment, output);
    let mut witness = Witness::new();
    witness.push([]);
    witness.push(witness_signature(other));
    witness.push(witness_signature(broadcaster));
    witness.push([]);
    witness.push(&output.witness_script);
    transaction.input[0].witness = witness;
    transaction
}
