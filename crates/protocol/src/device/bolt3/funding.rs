//! The funding output: P2WSH, 2-of-2 of the two funding keys. What spends it is a commitment or a closing.
//!
//! The device's half of it is a joint key: device and gateway each hold a share, and together they make one ordinary signature.

use bitcoin::blockdata::opcodes::all::{OP_CHECKMULTISIG, OP_PUSHNUM_2};
use bitcoin::script::Builder;
use bitcoin::{ScriptBuf, Transaction, Witness};
use secp256k1::ecdsa;

use super::digest::{Digest, witness_signature};
use super::terms::{Side, Terms};

/// `2 <lesser key> <greater key> 2 CHECKMULTISIG`.
pub fn witness_script(terms: &Terms) -> ScriptBuf {
    let mut keys = [terms.holder.funding_key.serialize(), terms.bridge.funding_key.serialize()];
    keys.sort_unstable();
    Builder::new()
        .push_opcode(OP_PUSHNUM_2)
        .push_slice(keys[0])
        .push_slice(keys[1])
        .push_opcode(OP_PUSHNUM_2)
        .push_opcode(OP_CHECKMULTISIG)
        .into_script()
}

/// What both sides sign of a transaction that spends the funding output.
pub(super) fn digest(terms: &Terms, transaction: &Transaction) -> Digest {
    Digest::of(transaction, &witness_script(terms), terms.capacity)
}

/// Puts both signatures in.
pub(super) fn complete(
    terms: &Terms,
    mut transaction: Transaction,
    holder: &ecdsa::Signature,
    bridge: &ecdsa::Signature,
) -> Transaction {
    let key = |side| terms.of(side).funding_key.serialize();
    let (first, second) =
        if key(Side::Holder) < key(Side::Bridge) { (holder, bridge) } else { (bridge, holder) };
    let mut witness = Witness::new();
    witness.push([]);
    witness.push(witness_signature(first));
    witness.push(witness_signature(second));
    witness.push(witness_script(terms));
    transaction.input[0].witness = witness;
    transaction
}
