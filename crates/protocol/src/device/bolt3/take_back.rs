//! Takes an HTLC that the holder offered back out of the *bridge's* commitment, from its expiry on ([BOLT 5]). One key of the
//! holder's is enough there, and it waits for no delay.
//!
//! [BOLT 5]: https://github.com/lightning/bolts/blob/master/05-onchain.md#htlc-output-handling-remote-commitment-local-offers

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};
use secp256k1::SecretKey;

use super::commitment::{Commitment, HtlcOutput};
use super::digest::{Digest, witness_signature};
use super::fees;
use crate::amount::DUST;

/// A signature at its longest, with the byte for its type.
const LONGEST_SIGNATURE: usize = 73;

/// The complete transaction; `key` is the holder's HTLC key of that commitment. Valid from the block at the HTLC's expiry on.
/// `None` when it is not worth the fee.
pub fn complete(
    commitment: &Commitment,
    output: &HtlcOutput,
    key: &SecretKey,
    to: &ScriptBuf,
    fee_rate: FeeRate,
) -> Option<Transaction> {
    let mut transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::from_consensus(output.htlc.expiry),
        input: vec![TxIn {
            previous_output: OutPoint { txid: commitment.txid(), vout: output.vout },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: witness(output, vec![0; LONGEST_SIGNATURE]),
        }],
        output: vec![TxOut { value: output.htlc.value(), script_pubkey: to.clone() }],
    };
    let fee = fees::fee(fee_rate, transaction.weight());
    transaction.output[0].value = output.htlc.value().checked_sub(fee).filter(|value| *value >= DUST)?;
    let digest = Digest::of(&transaction, &output.witness_script, output.htlc.value());
    transaction.input[0].witness = witness(output, witness_signature(&digest.sign(key)));
    Some(transaction)
}

fn witness(output: &HtlcOutput, signature: Vec<u8>) -> Witness {
    let mut witness = Witness::new();
    witness.push(signature);
    witness.push([]);
    witness.push(&output.witness_script);
    witness
}
