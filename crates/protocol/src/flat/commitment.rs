//! The flat commitment: the channel's commitment with an LSF output. The payer signs it, only the payee can complete and
//! publish it, through the commitment leaf of the funding output.
//!
//! * version 3 (BIP431), as every commitment: the payee adds a child from its own output;
//! * outputs: the payee's (what was prepaid, and what was paid plainly), the LSF output, the payer's rest. The payee's is
//!   never dust, or the fee could not be raised; a rest below dust is left out and goes to the miner;
//! * 247 vB, or 204 vB without a rest. The fee is the channel's agreed rate times that.
//!
//! The payer hands over its signature on the micropayment transaction ([`super::micropayment`]) before this one.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness};
use secp256k1::{Message, SECP256K1, schnorr};

use crate::amount::{DUST, Msat};
use crate::channel::Channel;
use crate::flat::lsf::{Lsf, LsfOutput};
use crate::flat::spends::fee;
use crate::flat::terms::Terms;
use crate::funding::FundingOutput;
use crate::keys::ChannelKeys;

/// The weight of a complete flat commitment with its three outputs: 247 vB.
pub const WEIGHT: Weight = Weight::from_wu(988);
/// The weight when the payer's rest is below dust: 204 vB.
pub const WEIGHT_WITHOUT_REST: Weight = Weight::from_wu(816);

/// After the payee's output, which is always there.
const LSF_INDEX: u32 = 1;

/// Amounts that make no flat commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCommitment {
    /// The payee's output would not relay.
    #[error("the payee's output of {} sat is below {} sat", .0.to_sat(), DUST.to_sat())]
    PayeeDust(Amount),
    /// The LSF output would not relay.
    #[error("the LSF output of {} sat is below {} sat", .0.to_sat(), DUST.to_sat())]
    LsfDust(Amount),
    /// The channel does not hold that much.
    #[error("a capacity of {} sat is below {} sat: both outputs and the fee", .capacity.to_sat(), .needed.to_sat())]
    Capacity {
        /// What the channel holds.
        capacity: Amount,
        /// What it takes.
        needed: Amount,
    },
}

/// A payer's signature that does not fit a flat commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit this channel's flat commitment")]
pub struct WrongSignature;

/// An unsigned flat commitment. It comes from terms only, never from a transaction that the other side built.
#[derive(Clone, Debug)]
pub struct Commitment {
    unsigned: Transaction,
    digest: Message,
    fee: Amount,
    lsf: LsfOutput,
}

impl Commitment {
    /// The commitment of a batch once `plain` was paid by plain payments, on top of what is prepaid. Rounds down to a
    /// satoshi.
    ///
    /// # Errors
    /// When an output would be dust or the capacity does not cover them.
    pub fn new(channel: &Channel, terms: &Terms, plain: Msat) -> Result<Self, BadCommitment> {
        let params = channel.params();
        let to_payee = terms.prepaid.checked_add(plain.floor()).unwrap_or(Amount::MAX);
        let locked = terms.locked().unwrap_or(Amount::MAX);
        if to_payee < DUST {
            return Err(BadCommitment::PayeeDust(to_payee));
        }
        if locked < DUST {
            return Err(BadCommitment::LsfDust(locked));
        }
        let least_fee = fee(params.fee_rate, WEIGHT_WITHOUT_REST);
        let paid = to_payee.checked_add(locked).unwrap_or(Amount::MAX);
        let needed = paid.checked_add(least_fee).unwrap_or(Amount::MAX);
        let before_fee = params.capacity.checked_sub(paid).filter(|rest| *rest >= least_fee);
        let before_fee = before_fee.ok_or(BadCommitment::Capacity { capacity: params.capacity, needed })?;
        let rest = before_fee.checked_sub(fee(params.fee_rate, WEIGHT)).filter(|rest| *rest >= DUST);

        let scripts = Lsf::new(channel, terms.d1);
        let mut output = vec![
            TxOut { value: to_payee, script_pubkey: params.payee.output.clone() },
            TxOut { value: locked, script_pubkey: scripts.script_pubkey().clone() },
        ];
        output.extend(rest.map(|value| TxOut { value, script_pubkey: params.payer.output.clone() }));
        let unsigned = Transaction {
            version: Version(3),
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: params.funding,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                witness: Witness::new(),
            }],
            output,
        };
        // A txid does not cover witnesses: the LSF output has its name before anybody signs.
        let outpoint = OutPoint { txid: unsigned.compute_txid(), vout: LSF_INDEX };
        Ok(Self {
            digest: digest(channel, &unsigned),
            unsigned,
            fee: before_fee - rest.unwrap_or(Amount::ZERO),
            lsf: LsfOutput { outpoint, value: locked, scripts },
        })
    }

    /// The LSF output, which the micropayment transaction spends.
    pub fn lsf(&self) -> &LsfOutput {
        &self.lsf
    }

    /// What it leaves to the miner: the agreed rate times its weight, and a rest below dust.
    pub fn fee(&self) -> Amount {
        self.fee
    }

    /// The transaction without its witness.
    pub fn unsigned(&self) -> &Transaction {
        &self.unsigned
    }

    /// Signs, as the payer; after the micropayment transaction.
    pub fn sign(&self, keys: &ChannelKeys) -> schnorr::Signature {
        SECP256K1.sign_schnorr_no_aux_rand(&self.digest, &keys.funding)
    }

    /// Checks the payer's signature, as the payee.
    ///
    /// # Errors
    /// When the signature is for another channel, other terms, another total or another key.
    pub fn verify(&self, channel: &Channel, signature: &schnorr::Signature) -> Result<(), WrongSignature> {
        SECP256K1
            .verify_schnorr(signature, &self.digest, &channel.params().payer.funding_xonly())
            .map_err(|_| WrongSignature)
    }

    /// Adds the payee's signature to the payer's: a transaction that the payee may broadcast at any time before the
    /// expiry.
    pub fn complete(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        signature: &schnorr::Signature,
    ) -> Transaction {
        let payee: schnorr::Signature = SECP256K1.sign_schnorr_no_aux_rand(&self.digest, &keys.funding);
        let leaf = channel.funding().commitment_leaf();
        let mut transaction = self.unsigned.clone();
        let witness = &mut transaction.input[0].witness;
        witness.push(payee.as_ref());
        witness.push(signature.as_ref());
        witness.push(leaf.as_bytes());
        witness.push(channel.funding().control_block(leaf));
        transaction
    }
}

fn digest(channel: &Channel, transaction: &Transaction) -> Message {
    let digest = SighashCache::new(transaction)
        .taproot_script_spend_signature_hash(
            0,
            &Prevouts::All(&[channel.funding_txout()]),
            FundingOutput::leaf_hash(channel.funding().commitment_leaf()),
            TapSighashType::Default,
        )
        .expect("input 0 and its one previous output exist");
    Message::from_digest(digest.to_byte_array())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::SpendKind;
    use crate::flat::testing::terms;
    use crate::testing;

    fn complete(channel: &Channel, terms: &Terms, plain: u64) -> (Commitment, Transaction) {
        let commitment = Commitment::new(channel, terms, Msat::new(plain)).unwrap();
        let signature = commitment.sign(&testing::payer_keys());
        commitment.verify(channel, &signature).unwrap();
        let transaction = commitment.complete(channel, &testing::payee_keys(), &signature);
        (commitment, transaction)
    }

    #[test]
    fn is_valid_and_pays_the_payee_the_lsf_output_and_the_payers_rest() {
        let channel = testing::channel();
        let (commitment, transaction) = complete(&channel, &terms(), 5_000_999);
        testing::assert_spends_funding(&channel, &transaction);
        assert_eq!(transaction.version, Version(3));
        assert_eq!(channel.spend_kind(&transaction), Some(SpendKind::Commitment));
        let values: Vec<u64> = transaction.output.iter().map(|output| output.value.to_sat()).collect();
        assert_eq!(values, [6_000, 50_000, 100_000 - 56_000 - 494]);
        let lsf = commitment.lsf();
        assert_eq!(transaction.output[LSF_INDEX as usize], lsf.txout());
        assert_eq!(lsf.outpoint(), OutPoint { txid: transaction.compute_txid(), vout: 1 });
    }

    #[test]
    fn weighs_247_vbytes_and_204_without_a_rest() {
        let channel = testing::channel();
        let (commitment, transaction) = complete(&channel, &terms(), 0);
        assert_eq!((transaction.weight(), transaction.vsize()), (WEIGHT, 247));
        assert_eq!(commitment.fee(), channel.params().fee_rate * WEIGHT);
        // 50,000 and 1,000 and 494 leave 329 of 100,000.
        let (commitment, transaction) = complete(&channel, &terms(), 48_177_000);
        assert_eq!((transaction.weight(), transaction.vsize()), (WEIGHT_WITHOUT_REST, 204));
        assert_eq!(commitment.fee(), Amount::from_sat(494 + 329));
        let (_, transaction) = complete(&channel, &terms(), 48_176_000);
        assert_eq!(transaction.output[2].value, DUST);
    }

    proptest! {
        /// Whatever was paid, the commitment is valid, conserves value and pays its agreed fee rate.
        #[test]
        fn every_commitment_conserves_value(plain in 0..=48_592_000_u64, outputs in 1..=20_u32) {
            let channel = testing::channel();
            let (commitment, transaction) = complete(&channel, &Terms { outputs, ..terms() }, plain);
            testing::assert_spends_funding(&channel, &transaction);
            let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
            prop_assert_eq!(paid + commitment.fee(), channel.params().capacity);
            prop_assert!(commitment.fee() >= channel.params().fee_rate * transaction.weight());
            prop_assert!(transaction.output.iter().all(|output| output.value >= DUST));
        }
    }

    #[test]
    fn what_the_capacity_does_not_cover_makes_no_commitment() {
        let channel = testing::channel();
        let new = |terms, plain| Commitment::new(&channel, &terms, Msat::new(plain)).map(|_| ());
        assert_eq!(new(terms(), 48_592_999), Ok(()));
        let (capacity, needed) = (Amount::from_sat(100_000), Amount::from_sat(100_001));
        assert_eq!(new(terms(), 48_593_000), Err(BadCommitment::Capacity { capacity, needed }));
        let endless = Terms { unit: Amount::MAX, prepaid: Amount::MAX, ..terms() };
        assert!(matches!(new(endless, u64::MAX), Err(BadCommitment::Capacity { .. })));
    }

    #[test]
    fn an_output_of_dust_makes_no_commitment() {
        let channel = testing::channel();
        let new = |terms, plain| Commitment::new(&channel, &terms, Msat::new(plain)).map(|_| ());
        let none = Terms { prepaid: Amount::ZERO, ..terms() };
        assert_eq!(new(none, 329_999), Err(BadCommitment::PayeeDust(Amount::from_sat(329))));
        assert_eq!(new(none, 330_000), Ok(()));
        let tiny = Terms { outputs: 1, unit: Amount::from_sat(329), ..terms() };
        assert_eq!(new(tiny, 0), Err(BadCommitment::LsfDust(tiny.unit)));
    }

    #[test]
    fn a_signature_for_another_total_other_terms_another_channel_or_key_does_not_fit() {
        let channel = testing::channel();
        let new =
            |channel: &Channel, terms, plain| Commitment::new(channel, &terms, Msat::new(plain)).unwrap();
        let commitment = new(&channel, terms(), 0);
        let signature = commitment.sign(&testing::payer_keys());
        let other_delay = Terms { d1: crate::hashlock::Delay::blocks(37), ..terms() };
        for other in [
            new(&channel, terms(), 1_000),
            new(&channel, Terms { outputs: 19, ..terms() }, 0),
            new(&channel, other_delay, 0),
        ] {
            assert_eq!(other.verify(&channel, &signature), Err(WrongSignature));
        }
        let other_channel = testing::channel_with(|params| params.funding.vout = 7);
        let other = new(&other_channel, terms(), 0);
        assert_eq!(other.verify(&other_channel, &signature), Err(WrongSignature));
        let other_key = commitment.sign(&testing::payee_keys());
        assert_eq!(commitment.verify(&channel, &other_key), Err(WrongSignature));
    }

    #[test]
    fn without_the_payees_signature_it_is_invalid() {
        let channel = testing::channel();
        let commitment = Commitment::new(&channel, &terms(), Msat::ZERO).unwrap();
        let signature = commitment.sign(&testing::payer_keys());
        let forged = commitment.complete(&channel, &testing::payer_keys(), &signature);
        assert!(!testing::spends_funding(&channel, &forged));
    }
}
