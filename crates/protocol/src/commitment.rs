//! The commitment: pays the payee its total and the payer the rest. The payer signs a new one for each payment; only
//! the payee can complete and publish it, through the commitment leaf of the funding output.
//!
//! * version 3 (BIP431), so that the payee can add a child that pays for both and always relays as a package;
//! * outputs: the payee's, then the payer's; one below dust is left out and goes to the miner;
//! * 204 vB with both outputs. The fee is the agreed rate times that, whatever outputs there are.

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::sighash::TapSighash;
use bitcoin::transaction::Version;
use bitcoin::{Amount, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness};
use secp256k1::{Message, SECP256K1, schnorr};

use crate::amount::{DUST, Msat};
use crate::channel::{Channel, Params};
use crate::funding::FundingOutput;
use crate::keys::ChannelKeys;
use crate::payment::Payment;

/// The weight of a complete commitment with both outputs: 204 vB.
pub const WEIGHT: Weight = Weight::from_wu(816);

/// A payer's signature that does not fit the commitment for the stated total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit this channel's commitment to {0}")]
pub struct WrongSignature(pub Msat);

/// The unsigned commitment to a total.
pub fn build(channel: &Channel, total: Msat) -> Transaction {
    build_paying(channel, total, &channel.params().payee.output)
}

fn build_paying(channel: &Channel, total: Msat, payee: &ScriptBuf) -> Transaction {
    let params = channel.params();
    Transaction {
        version: Version(3),
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: params.funding,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: outputs_paying(channel, total.floor(), payee, channel.commitment_fee()),
    }
}

/// The two shares after `fee`, payee first; a share below dust is left out.
pub(crate) fn outputs(channel: &Channel, to_payee: Amount, fee: Amount) -> Vec<TxOut> {
    outputs_paying(channel, to_payee, &channel.params().payee.output, fee)
}

fn outputs_paying(channel: &Channel, to_payee: Amount, payee: &ScriptBuf, fee: Amount) -> Vec<TxOut> {
    let params = channel.params();
    let to_payer = params.capacity.checked_sub(to_payee).and_then(|rest| rest.checked_sub(fee));
    [(to_payee, payee), (to_payer.unwrap_or(Amount::ZERO), &params.payer.output)]
        .into_iter()
        .filter(|(value, _)| *value >= DUST)
        .map(|(value, script)| TxOut { value, script_pubkey: script.clone() })
        .collect()
}

/// Signs the commitment to `total`, as the payer.
pub fn sign(channel: &Channel, keys: &ChannelKeys, total: Msat) -> Payment {
    let signature =
        SECP256K1.sign_schnorr_no_aux_rand(&channel.digests().commitment(channel, total), &keys.funding);
    Payment { total, signature }
}

/// Checks the payer's signature, as the payee.
///
/// # Errors
/// When the signature is for another channel, another total or another key.
pub fn verify(channel: &Channel, payment: &Payment) -> Result<(), WrongSignature> {
    let digest = channel.digests().commitment(channel, payment.total);
    SECP256K1
        .verify_schnorr(&payment.signature, &digest, &channel.params().payer.funding_xonly())
        .map_err(|_| WrongSignature(payment.total))
}

/// Adds the payee's signature to the payer's: a transaction that the payee may broadcast at any time before the
/// expiry.
pub fn complete(channel: &Channel, keys: &ChannelKeys, payment: &Payment) -> Transaction {
    complete_paying(channel, keys, payment.total, &channel.params().payee.output, &payment.signature)
}

/// What the payer signs in a commitment whose first output, the payee's, has another script of the same length.
pub(crate) fn digest_paying(channel: &Channel, total: Msat, payee: &ScriptBuf) -> Message {
    channel.digests().paying(channel, total, payee)
}

/// [`complete`] for such a commitment.
pub(crate) fn complete_paying(
    channel: &Channel,
    keys: &ChannelKeys,
    total: Msat,
    script: &ScriptBuf,
    payer: &schnorr::Signature,
) -> Transaction {
    let mut transaction = build_paying(channel, total, script);
    let digest = digest_paying(channel, total, script);
    let payee: schnorr::Signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &keys.funding);
    let leaf = channel.funding().commitment_leaf();
    let witness = &mut transaction.input[0].witness;
    witness.push(payee.as_ref());
    witness.push(payer.as_ref());
    witness.push(leaf.as_bytes());
    witness.push(channel.funding().control_block(leaf));
    transaction
}

/// The BIP341 digest of a commitment, with everything hashed once that does not depend on the total: four
/// compressions per payment instead of building and hashing a transaction.
pub(crate) struct Digests {
    /// The tagged engine, fed up to and with `sha_sequences`.
    before_outputs: sha256::HashEngine,
    /// What follows `sha_outputs`: spend type, input index, leaf hash, key version, code separator.
    after_outputs: [u8; 42],
}

impl Digests {
    pub(crate) fn new(params: &Params, funding: &FundingOutput) -> Self {
        let sha = |bytes: &[u8]| sha256::Hash::hash(bytes).to_byte_array();
        let mut engine = TapSighash::engine();
        engine.input(&[0, 0]); // epoch, SIGHASH_DEFAULT
        engine.input(&serialize(&Version(3)));
        engine.input(&serialize(&LockTime::ZERO));
        engine.input(&sha(&serialize(&params.funding)));
        engine.input(&sha(&serialize(&params.capacity)));
        engine.input(&sha(&serialize(funding.script_pubkey())));
        engine.input(&sha(&serialize(&Sequence::ENABLE_RBF_NO_LOCKTIME)));

        let mut after_outputs = [0; 42];
        after_outputs[0] = 2; // script path, no annex; the input index stays zero
        after_outputs[5..37].copy_from_slice(FundingOutput::leaf_hash(funding.commitment_leaf()).as_ref());
        after_outputs[38..].copy_from_slice(&u32::MAX.to_le_bytes()); // no code separator
        Self { before_outputs: engine, after_outputs }
    }

    fn commitment(&self, channel: &Channel, total: Msat) -> Message {
        self.paying(channel, total, &channel.params().payee.output)
    }

    fn paying(&self, channel: &Channel, total: Msat, payee: &ScriptBuf) -> Message {
        let mut outputs = sha256::Hash::engine();
        let params = channel.params();
        let to_payee = total.floor();
        let to_payer =
            params.capacity.checked_sub(to_payee).and_then(|rest| rest.checked_sub(channel.commitment_fee()));
        for (value, script) in [(to_payee, payee), (to_payer.unwrap_or(Amount::ZERO), &params.payer.output)] {
            if value >= DUST {
                outputs.input(&value.to_sat().to_le_bytes());
                outputs.input(&[34]); // the length of a Taproot script, which `Channel::new` has checked
                outputs.input(script.as_bytes());
            }
        }
        let mut engine = self.before_outputs.clone();
        engine.input(sha256::Hash::from_engine(outputs).as_ref());
        engine.input(&self.after_outputs);
        Message::from_digest(sha256::Hash::from_engine(engine).to_byte_array())
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    proptest! {
        /// The cached digest is the one that the `bitcoin` crate computes from the built transaction.
        #[test]
        fn the_cached_digest_is_bip341s(total in 0..=100_000_000_u64) {
            let channel = testing::channel();
            let total = Msat::new(total.min(channel.max_total().get()));
            let transaction = build(&channel, total);
            let leaf = FundingOutput::leaf_hash(channel.funding().commitment_leaf());
            let expected = SighashCache::new(&transaction)
                .taproot_script_spend_signature_hash(
                    0,
                    &Prevouts::All(&[channel.funding_txout()]),
                    leaf,
                    TapSighashType::Default,
                )
                .unwrap();
            prop_assert_eq!(channel.digests().commitment(&channel, total), Message::from_digest(expected.to_byte_array()));
        }

        /// Whatever was paid, the complete commitment is valid by consensus and conserves value.
        #[test]
        fn every_commitment_is_valid_and_conserves_value(total in 330_000..=100_000_000_u64) {
            let channel = testing::channel();
            let total = Msat::new(total.min(channel.max_total().get()));
            let payment = sign(&channel, &testing::payer_keys(), total);
            verify(&channel, &payment).unwrap();
            let transaction = complete(&channel, &testing::payee_keys(), &payment);
            testing::assert_spends_funding(&channel, &transaction);
            let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
            let fee = channel.params().capacity - paid;
            prop_assert!(fee >= channel.commitment_fee());
            prop_assert!(fee < channel.commitment_fee() + DUST);
            prop_assert_eq!(Channel::paid_to(&transaction, &channel.params().payee), total.floor());
        }
    }

    /// A payer may sign the right transaction in another way (BIP341), so that others could add inputs or change outputs.
    #[test]
    fn a_signature_of_another_sighash_type_is_none() {
        let (channel, total) = (testing::channel(), Msat::new(50_000_000));
        let transaction = build(&channel, total);
        let leaf = FundingOutput::leaf_hash(channel.funding().commitment_leaf());
        let signed = |kind| {
            let output = channel.funding_txout();
            let prevout = Prevouts::One(0, &output);
            let all = [&output];
            let prevouts =
                if kind >= TapSighashType::AllPlusAnyoneCanPay { prevout } else { Prevouts::All(&all) };
            let digest =
                SighashCache::new(&transaction).taproot_script_spend_signature_hash(0, &prevouts, leaf, kind);
            let digest = Message::from_digest(digest.unwrap().to_byte_array());
            let signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &testing::payer_keys().funding);
            verify(&channel, &Payment { total, signature })
        };
        assert_eq!(signed(TapSighashType::Default), Ok(()));
        for kind in [
            TapSighashType::All,
            TapSighashType::None,
            TapSighashType::Single,
            TapSighashType::AllPlusAnyoneCanPay,
            TapSighashType::NonePlusAnyoneCanPay,
            TapSighashType::SinglePlusAnyoneCanPay,
        ] {
            assert_eq!(signed(kind), Err(WrongSignature(total)), "{kind}");
        }
    }

    #[test]
    fn weighs_204_vbytes() {
        let channel = testing::channel();
        let payment = sign(&channel, &testing::payer_keys(), Msat::new(50_000_000));
        let transaction = complete(&channel, &testing::payee_keys(), &payment);
        assert_eq!(transaction.weight(), WEIGHT);
        assert_eq!(transaction.vsize(), 204);
    }

    #[test]
    fn a_signature_for_another_total_channel_or_key_does_not_fit() {
        let channel = testing::channel();
        let payment = sign(&channel, &testing::payer_keys(), Msat::new(1_000_000));
        let other_total = Payment { total: Msat::new(1_001_000), ..payment };
        assert_eq!(verify(&channel, &other_total), Err(WrongSignature(other_total.total)));
        let other_channel =
            testing::channel_with(|params| params.expiry = crate::channel::Expiry::at_height(999));
        assert_eq!(verify(&other_channel, &payment), Err(WrongSignature(payment.total)));
        let other_key = sign(&channel, &testing::payee_keys(), payment.total);
        assert_eq!(verify(&channel, &other_key), Err(WrongSignature(payment.total)));
    }
}
