//! The child: spends one's own output of a commitment or closing back to oneself, with a fee that pays for both (child
//! pays for parent). Version 3 and 111 vB, so a commitment and its child relay as a package even when the commitment
//! alone pays too little (BIP431).
//!
//! The output belongs to the party's wallet, so the wallet signs; this file only decides what is signed.

use bitcoin::absolute::LockTime;
use bitcoin::psbt::{Input, Psbt};
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness};

use crate::amount::DUST;

/// The weight of a complete child: one Taproot key-path input, one Taproot output, 111 vB.
pub const WEIGHT: Weight = Weight::from_wu(444);

/// Why there is no child to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoChild {
    /// The parent pays nothing to that script.
    #[error("the transaction has no output of ours to spend")]
    NoOutput,
    /// The child would cost more than it brings.
    #[error("a child that pays {fee} for an output of {value} would leave dust")]
    NotWorthIt {
        /// What the output holds.
        value: Amount,
        /// The fee that the target asks for.
        fee: Amount,
    },
}

/// What a party spends at most when it closes alone at that fee rate: the child. The commitment itself is paid for by
/// the payer's side.
pub fn cost(fee_rate: FeeRate) -> Amount {
    fee_rate.checked_mul_by_weight(WEIGHT).unwrap_or(Amount::MAX)
}

/// The unsigned child of `parent`, which pays `parent_fee` for itself: spends the output that pays `script` back to it,
/// with a fee that lifts both to `target`, and not below `least_fee` (what replacing another child asks for).
///
/// # Errors
/// When the parent pays nothing to `script`, or less than the fee and dust together.
pub fn build(
    parent: &Transaction,
    parent_fee: Amount,
    script: &ScriptBuf,
    target: FeeRate,
    least_fee: Amount,
) -> Result<Psbt, NoChild> {
    let (vout, output) = parent
        .output
        .iter()
        .enumerate()
        .find(|(_, output)| output.script_pubkey == *script)
        .ok_or(NoChild::NoOutput)?;
    let both = target.checked_mul_by_weight(parent.weight() + WEIGHT).unwrap_or(Amount::MAX);
    let fee =
        both.checked_sub(parent_fee).unwrap_or(Amount::ZERO).max(cost(FeeRate::BROADCAST_MIN)).max(least_fee);
    let value = output
        .value
        .checked_sub(fee)
        .filter(|value| *value >= DUST)
        .ok_or(NoChild::NotWorthIt { value: output.value, fee })?;
    let unsigned = Transaction {
        version: Version(3),
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint { txid: parent.compute_txid(), vout: vout as u32 },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value, script_pubkey: script.clone() }],
    };
    let mut psbt = Psbt::from_unsigned_tx(unsigned).expect("the transaction has no signatures");
    psbt.inputs = vec![Input { witness_utxo: Some(output.clone()), ..Input::default() }];
    Ok(psbt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Msat;
    use crate::commitment;
    use crate::testing;

    #[test]
    fn lifts_the_package_to_the_target() {
        let channel = testing::channel();
        let payment = commitment::sign(&channel, &testing::payer_keys(), Msat::new(50_000_000));
        let parent = commitment::complete(&channel, &testing::payee_keys(), &payment);
        let target = FeeRate::from_sat_per_vb_u32(25);
        let script = &channel.params().payee.output;
        let psbt = build(&parent, channel.commitment_fee(), script, target, Amount::ZERO).unwrap();
        let fee = Amount::from_sat(50_000) - psbt.unsigned_tx.output[0].value;
        assert_eq!(fee + channel.commitment_fee(), target * (parent.weight() + WEIGHT));
        assert_eq!(psbt.unsigned_tx.version, Version(3));
    }

    #[test]
    fn an_output_that_costs_more_than_it_brings_is_left() {
        let channel = testing::channel();
        let payment = commitment::sign(&channel, &testing::payer_keys(), Msat::new(1_000_000));
        let parent = commitment::complete(&channel, &testing::payee_keys(), &payment);
        let target = FeeRate::from_sat_per_vb_u32(1_000);
        let script = &channel.params().payee.output;
        let refused = build(&parent, channel.commitment_fee(), script, target, Amount::ZERO);
        assert!(
            matches!(refused, Err(NoChild::NotWorthIt { value, .. }) if value == Amount::from_sat(1_000))
        );
    }
}
