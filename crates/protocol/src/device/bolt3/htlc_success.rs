//! HTLC-success: with the preimage, takes an HTLC that the broadcaster received out of its own commitment, into an output with
//! the broadcaster's delay. Both sides sign; the other side gives its signature with the commitment.

use bitcoin::absolute::LockTime;
use bitcoin::{Transaction, Witness};
use secp256k1::ecdsa;

use super::commitment::{Commitment, HtlcOutput};
use super::digest::{Digest, witness_signature};
use super::htlc::{self, Preimage};

/// The transaction without signatures.
pub fn build(commitment: &Commitment, output: &HtlcOutput) -> Transaction {
    htlc::second_stage(commitment, output, LockTime::ZERO)
}

/// What both sides sign.
pub fn digest(commitment: &Commitment, output: &HtlcOutput) -> Digest {
    Digest::of(&build(commitment, output), &output.witness_script, output.htlc.value())
}

/// Puts both signatures and the preimage in.
pub fn complete(
    commitment: &Commitment,
    output: &HtlcOutput,
    broadcaster: &ecdsa::Signature,
    other: &ecdsa::Signature,
    preimage: &Preimage,
) -> Transaction {
    let mut transaction = build(commitment, output);
    let mut witness = Witness::new();
    witness.push([]);
    witness.push(witness_signature(other));
    witness.push(witness_signature(broadcaster));
    witness.push(preimage.0);
    witness.push(&output.witness_script);
    transaction.input[0].witness = witness;
    transaction
}
