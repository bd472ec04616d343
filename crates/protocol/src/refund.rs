//! The refund: the payer takes the whole capacity back through the refund leaf, from the expiry on. 138 vB. The payer
//! alone signs it, so it builds a new one whenever fees rise (BIP125).

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness};
use secp256k1::{Message, SECP256K1, schnorr};

use crate::amount::DUST;
use crate::channel::Channel;
use crate::funding::FundingOutput;
use crate::keys::ChannelKeys;

/// A capacity that does not cover the refund's fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a refund of {capacity} would cost {fee} and leave dust")]
pub struct NotWorthIt {
    /// What is locked.
    pub capacity: Amount,
    /// What the refund would cost.
    pub fee: Amount,
}

/// The weight of a complete refund: 138 vB with an expiry below block 8,388,608.
pub fn weight(channel: &Channel) -> Weight {
    const WITHOUT_LEAF: u64 = 510; // one Taproot output; a signature, the control block and the counts
    Weight::from_wu(WITHOUT_LEAF + 1 + channel.funding().refund_leaf().len() as u64)
}

/// The highest fee rate that is worth paying: half of the capacity goes back to the payer at least, whatever a node
/// estimates.
pub fn most_fee_rate(channel: &Channel) -> FeeRate {
    let capacity = channel.params().capacity;
    let most = (capacity / 2).min(capacity.checked_sub(DUST).unwrap_or_default());
    FeeRate::from_sat_per_kwu(most.to_sat().saturating_mul(250) / weight(channel).to_vbytes_ceil())
}

/// The complete refund, which the chain accepts from the block after the expiry on.
///
/// # Errors
/// When the fee leaves nothing above dust.
pub fn complete(channel: &Channel, keys: &ChannelKeys, fee_rate: FeeRate) -> Result<Transaction, NotWorthIt> {
    let params = channel.params();
    // Nodes count whole virtual bytes: a fee by weight could be just below what they relay.
    let fee = fee_rate.fee_vb(weight(channel).to_vbytes_ceil()).unwrap_or(Amount::MAX);
    let value = params
        .capacity
        .checked_sub(fee)
        .filter(|value| *value >= DUST)
        .ok_or(NotWorthIt { capacity: params.capacity, fee })?;
    let lock_time = LockTime::from_consensus(params.expiry.height());
    Ok(sign(channel, keys, unsigned(channel, value, lock_time)))
}

fn unsigned(channel: &Channel, value: Amount, lock_time: LockTime) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time,
        input: vec![TxIn {
            previous_output: channel.params().funding,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value, script_pubkey: channel.params().payer.output.clone() }],
    }
}

fn sign(channel: &Channel, keys: &ChannelKeys, mut transaction: Transaction) -> Transaction {
    let leaf = channel.funding().refund_leaf();
    let sighash = SighashCache::new(&transaction)
        .taproot_script_spend_signature_hash(
            0,
            &Prevouts::All(&[channel.funding_txout()]),
            FundingOutput::leaf_hash(leaf),
            TapSighashType::Default,
        )
        .expect("input 0 and its one previous output exist");
    let digest = Message::from_digest(sighash.to_byte_array());
    let signature: schnorr::Signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &keys.funding);
    let witness = &mut transaction.input[0].witness;
    witness.push(signature.as_ref());
    witness.push(leaf.as_bytes());
    witness.push(channel.funding().control_block(leaf));
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn is_valid_weighs_138_vbytes_and_pays_the_payer_everything_but_the_fee() {
        let channel = testing::channel();
        let rate = FeeRate::from_sat_per_vb_u32(4);
        let refund = complete(&channel, &testing::payer_keys(), rate).unwrap();
        testing::assert_spends_funding(&channel, &refund);
        assert_eq!(refund.weight(), weight(&channel));
        assert_eq!(refund.vsize(), 138);
        let fee = rate.fee_vb(138).unwrap();
        assert_eq!(Channel::paid_to(&refund, &channel.params().payer), channel.params().capacity - fee);
    }

    #[test]
    fn one_block_too_early_is_invalid_by_consensus() {
        let channel = testing::channel();
        let early = |height| {
            let transaction = unsigned(&channel, Amount::from_sat(90_000), LockTime::from_consensus(height));
            sign(&channel, &testing::payer_keys(), transaction)
        };
        assert!(testing::spends_funding(&channel, &early(testing::EXPIRY)));
        assert!(!testing::spends_funding(&channel, &early(testing::EXPIRY - 1)));
    }

    #[test]
    fn at_the_highest_fee_rate_half_comes_back() {
        let channel = testing::channel();
        let refund = complete(&channel, &testing::payer_keys(), most_fee_rate(&channel)).unwrap();
        assert!(Channel::paid_to(&refund, &channel.params().payer) >= channel.params().capacity / 2);
    }

    #[test]
    fn a_fee_that_eats_the_capacity_is_refused() {
        let channel = testing::channel();
        let rate = FeeRate::from_sat_per_kwu(u64::MAX / 2);
        assert!(complete(&channel, &testing::payer_keys(), rate).is_err());
    }
}
