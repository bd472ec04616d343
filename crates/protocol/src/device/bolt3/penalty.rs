//! The penalty: takes everything of a commitment that the bridge had revoked and published all the same ([BOLT 5]). The key for
//! it exists only once both the device's revocation secret and the bridge's commitment secret are known.
//!
//! | output | way out |
//! |---|---|
//! | the bridge's delayed one, of the commitment or of a second stage | `<signature> 1` |
//! | an HTLC | `<signature> <revocation key>` |
//!
//! [BOLT 5]: https://github.com/lightning/bolts/blob/master/05-onchain.md#revoked-transaction-close-handling

use std::ops::RangeInclusive;

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};
use secp256k1::{SECP256K1, SecretKey};

use super::commitment::{CommitmentKeys, delayed_script};
use super::digest::{Digest, witness_signature};
use super::fees;
use super::htlc::{Htlc, PaymentHash};
use super::keys::revocation_secret_key;
use super::shachain::CommitmentSecret;
use super::terms::{Side, Terms};
use crate::amount::{DUST, Msat};

/// A signature at its longest, with the byte for its type.
const LONGEST_SIGNATURE: usize = 73;

/// An output of the revoked commitment or of its second stage, with the script behind it.
struct Target {
    outpoint: OutPoint,
    output: TxOut,
    witness_script: ScriptBuf,
    /// What goes between signature and script.
    selector: Vec<u8>,
}

/// The complete penalty over those of the outputs that the revocation key opens; all to one script. `htlcs` are candidates for
/// what the outputs are for. `None` when nothing can be taken, or it is not worth the fee.
pub fn complete(
    terms: &Terms,
    revocation_basepoint_secret: &SecretKey,
    revealed: &CommitmentSecret,
    outputs: &[(OutPoint, TxOut)],
    htlcs: &[Htlc],
    to: &ScriptBuf,
    fee_rate: FeeRate,
) -> Option<Transaction> {
    let (secret, point) = (revealed.key()?, revealed.point()?);
    let keys = CommitmentKeys::derive(terms, Side::Bridge, &point);
    let key = revocation_secret_key(revocation_basepoint_secret, &secret);
    let delayed = (delayed_script(&keys, terms.bridge.delay), vec![1]);
    let revocation = key.public_key(SECP256K1).serialize().to_vec();
    let htlcs = htlcs.iter().map(|htlc| (htlc.witness_script(Side::Bridge, &keys), revocation.clone()));
    let scripts: Vec<(ScriptBuf, Vec<u8>)> = std::iter::once(delayed).chain(htlcs).collect();
    let targets: Vec<Target> = outputs
        .iter()
        .filter_map(|(outpoint, output)| {
            let opens = |(script, _): &&(ScriptBuf, Vec<u8>)| script.to_p2wsh() == output.script_pubkey;
            // No output is worth more than the channel; a larger number is a lie that could overflow.
            if output.value > terms.capacity {
                return None;
            }
            let (witness_script, selector) = scripts.iter().find(opens)?.clone();
            Some(Target { outpoint: *outpoint, output: output.clone(), witness_script, selector })
        })
        .collect();

    let mut transaction = unsigned(&targets, to);
    for (input, target) in transaction.input.iter_mut().zip(&targets) {
        input.witness = target.witness(vec![0; LONGEST_SIGNATURE]);
    }
    let fee = fees::fee(fee_rate, transaction.weight());
    let value = transaction.output[0].value.checked_sub(fee).filter(|value| *value >= DUST)?;
    transaction.output[0].value = value;
    for (index, target) in targets.iter().enumerate() {
        let digest = Digest::of_input(&transaction, index, &target.witness_script, target.output.value);
        transaction.input[index].witness = target.witness(witness_signature(&digest.sign(&key)));
    }
    Some(transaction)
}

/// The HTLCs behind outputs of a revoked commitment, found by trying: nobody remembers those of old states. Looked for are such as the
/// holder had offered, for these hashes, with an expiry in that range, the highest first. Costs a few SHA-256 for each hash and height.
pub fn find_htlcs(
    terms: &Terms,
    revealed: &CommitmentSecret,
    commitment: &Transaction,
    hashes: &[PaymentHash],
    expiries: RangeInclusive<u32>,
) -> Vec<Htlc> {
    let Some(point) = revealed.point() else { return Vec::new() };
    let keys = CommitmentKeys::derive(terms, Side::Bridge, &point);
    let delayed = delayed_script(&keys, terms.bridge.delay).to_p2wsh();
    let is_candidate = |output: &&TxOut| output.script_pubkey.is_p2wsh() && output.script_pubkey != delayed;
    let mut left: Vec<&TxOut> = commitment.output.iter().filter(is_candidate).collect();
    let mut found = Vec::new();
    for expiry in expiries.rev() {
        for payment_hash in hashes {
            if left.is_empty() {
                return found;
            }
            let htlc =
                Htlc { offered_by: Side::Holder, amount: Msat::ZERO, payment_hash: *payment_hash, expiry };
            let script = htlc.witness_script(Side::Bridge, &keys).to_p2wsh();
            if let Some(at) = left.iter().position(|output| output.script_pubkey == script) {
                let amount = Msat::from_amount(left.swap_remove(at).value).unwrap_or_default();
                found.push(Htlc { amount, ..htlc });
            }
        }
    }
    found
}

impl Target {
    fn witness(&self, signature: Vec<u8>) -> Witness {
        let mut witness = Witness::new();
        witness.push(signature);
        witness.push(&self.selector);
        witness.push(&self.witness_script);
        witness
    }
}

fn unsigned(targets: &[Target], to: &ScriptBuf) -> Transaction {
    let input = |target: &Target| TxIn {
        previous_output: target.outpoint,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: targets.iter().map(input).collect(),
        output: vec![TxOut {
            value: targets.iter().map(|target| target.output.value).sum(),
            script_pubkey: to.clone(),
        }],
    }
}
