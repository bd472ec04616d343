//! The payer's refunds: the LSF output d1 blocks after the commitment confirmed, when the payee did not publish the
//! micropayment transaction; else each micropayment output that it did not claim, d2 blocks after that one confirmed.
//!
//! The payer alone signs them, so it builds new ones whenever fees rise (BIP125). Until they confirm the payee may still
//! be first.

use std::collections::BTreeSet;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Weight, Witness};
use secp256k1::{Message, SECP256K1};

use crate::amount::DUST;
use crate::channel::Channel;
use crate::flat::lsf::{Lsf, LsfOutput};
use crate::flat::outputs::Outputs;
use crate::flat::spends::{Batches, Spend, fee};
use crate::hashlock::{self, Delay, HashLock, Locked, NotWorthIt};
use crate::keys::ChannelKeys;

/// The weight of taking the LSF output back: 137 vB with a d1 of 17 to 127 blocks; a byte of witness less or more with
/// others.
pub fn lsf_weight(scripts: &Lsf) -> Weight {
    const BASE: u64 = (8 + 1 + 41 + 1 + 43) * 4 + 2; // one input, one Taproot output; marker and flag
    let leaf = scripts.payer_leaf().len() as u64;
    Weight::from_wu(BASE + 1 + 65 + 1 + leaf + 66) // count, signature, leaf, control block
}

/// Takes the whole LSF output back, valid from d1 blocks after the commitment confirmed.
///
/// # Errors
/// When the fee leaves nothing above dust.
pub fn lsf(
    channel: &Channel,
    keys: &ChannelKeys,
    lsf: &LsfOutput,
    fee_rate: FeeRate,
) -> Result<Transaction, NotWorthIt> {
    let fee = fee(fee_rate, lsf_weight(&lsf.scripts));
    let refused = NotWorthIt { value: lsf.value, fee };
    let value = lsf.value.checked_sub(fee).filter(|value| *value >= DUST).ok_or(refused)?;
    let unsigned = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: lsf.outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::from_height(lsf.scripts.delay().get()),
            witness: Witness::new(),
        }],
        output: vec![TxOut { value, script_pubkey: channel.params().payer.output.clone() }],
    };
    Ok(sign_lsf(keys, lsf, unsigned))
}

fn sign_lsf(keys: &ChannelKeys, lsf: &LsfOutput, mut transaction: Transaction) -> Transaction {
    let leaf = lsf.scripts.payer_leaf();
    let digest = SighashCache::new(&transaction)
        .taproot_script_spend_signature_hash(
            0,
            &Prevouts::All(&[lsf.txout()]),
            Lsf::leaf_hash(leaf),
            TapSighashType::Default,
        )
        .expect("input 0 and its one previous output exist");
    let digest = Message::from_digest(digest.to_byte_array());
    let signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &keys.funding);
    let witness = &mut transaction.input[0].witness;
    witness.push(signature.as_ref());
    lsf.scripts.push_leaf(witness, leaf);
    transaction
}

/// An output that the batch does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch has no output {0}")]
pub struct NoSuchOutput(pub u32);

/// Takes micropayment outputs back, valid from d2 blocks after the micropayment transaction confirmed as
/// `micropayment` ([`super::Micropayment::published_as`]). `unclaimed` are those that nobody has spent, counted from 0:
/// one that is spent already makes its whole batch invalid.
///
/// Above [`super::Terms::most_fee_rate`] there may be outputs that are not worth it; they can wait.
///
/// # Errors
/// When the batch has no such output.
pub fn outputs(
    channel: &Channel,
    keys: &ChannelKeys,
    outputs: &Outputs,
    micropayment: Txid,
    unclaimed: &BTreeSet<u32>,
    fee_rate: FeeRate,
) -> Result<Batches, NoSuchOutput> {
    let locked = |index: &u32| outputs.locked(micropayment, *index).ok_or(NoSuchOutput(*index));
    let locked: Vec<Locked<'_>> = unclaimed.iter().map(locked).collect::<Result<_, _>>()?;
    let spend = spend(channel, outputs.delay());
    Ok(spend.batches(&locked, outputs.unit(), fee_rate, |batch, _| {
        hashlock::take_back(channel, keys, batch, fee_rate)
    }))
}

/// How taking outputs back weighs with that delay.
pub(crate) fn spend(channel: &Channel, d2: Delay) -> Spend<impl Fn(usize) -> Weight> {
    // A weight depends on how long the delay's number is, not on the lock.
    let any = HashLock::new(channel, &[0; 32], d2);
    Spend::new(move |outputs| {
        let locked = Locked { outpoint: OutPoint::null(), value: DUST, scripts: &any };
        hashlock::take_back_weight(&vec![locked; outputs])
    })
}

#[cfg(test)]
mod tests {
    use bitcoin::Amount;
    use bitcoin::policy::MAX_STANDARD_TX_WEIGHT;

    use super::*;
    use crate::flat::Terms;
    use crate::flat::testing::{self as flat, terms};
    use crate::flat::{Left, MOST_OUTPUTS};
    use crate::testing;

    const RATE: FeeRate = FeeRate::from_sat_per_vb_u32(5);

    fn txid() -> Txid {
        Txid::from_byte_array([6; 32])
    }

    fn take_back(channel: &Channel, batch: &Outputs, of: &[u32], rate: FeeRate) -> Batches {
        let unclaimed = of.iter().copied().collect();
        outputs(channel, &testing::payer_keys(), batch, txid(), &unclaimed, rate).unwrap()
    }

    #[test]
    fn the_lsf_output_comes_back_for_137_vbytes() {
        let channel = testing::channel();
        let lsf_output = flat::lsf(&channel, &terms());
        let refund = lsf(&channel, &testing::payer_keys(), &lsf_output, RATE).unwrap();
        assert!(testing::spends(&[lsf_output.txout()], &refund));
        assert_eq!((refund.weight(), refund.vsize()), (lsf_weight(lsf_output.scripts()), 137));
        let back = Channel::paid_to(&refund, &channel.params().payer);
        assert_eq!(back + RATE * refund.weight(), lsf_output.value());
    }

    #[test]
    fn with_any_delay_the_weight_is_as_stated() {
        let channel = testing::channel();
        for blocks in [1, 16, 17, 127, 128, 32_767, 32_768, u16::MAX] {
            let delay = Delay::blocks(blocks);
            let terms = Terms { d1: delay, d2: delay, ..terms() };
            let lsf_output = flat::lsf(&channel, &terms);
            let refund = lsf(&channel, &testing::payer_keys(), &lsf_output, RATE).unwrap();
            assert!(testing::spends(&[lsf_output.txout()], &refund), "d1 {blocks}");
            assert_eq!(refund.weight(), lsf_weight(lsf_output.scripts()));
            let batch = flat::outputs(&channel, &terms);
            let refunds = take_back(&channel, &batch, &[2, 3], RATE).transactions;
            assert!(testing::spends(&flat::spent(&batch, &[2, 3]), &refunds[0]), "d2 {blocks}");
        }
    }

    #[test]
    fn before_d1_or_without_the_payers_key_nobody_takes_the_lsf_output() {
        let channel = testing::channel();
        let lsf_output = flat::lsf(&channel, &terms());
        let payer = testing::payer_keys();
        let with_sequence = |sequence| {
            let mut early = lsf(&channel, &payer, &lsf_output, RATE).unwrap();
            early.input[0].sequence = sequence;
            early.input[0].witness = Witness::new();
            sign_lsf(&payer, &lsf_output, early)
        };
        let spends = |transaction| testing::spends(&[lsf_output.txout()], &transaction);
        assert!(spends(with_sequence(Sequence::from_height(36))));
        assert!(!spends(with_sequence(Sequence::from_height(35))));
        assert!(!spends(with_sequence(Sequence::ENABLE_RBF_NO_LOCKTIME)));
        assert!(!spends(lsf(&channel, &testing::payee_keys(), &lsf_output, RATE).unwrap()));
    }

    #[test]
    fn an_lsf_output_that_costs_more_than_it_holds_is_left() {
        let channel = testing::channel();
        let one = flat::lsf(&channel, &Terms { outputs: 1, ..terms() });
        let payer = testing::payer_keys();
        let at = |kwu| lsf(&channel, &payer, &one, FeeRate::from_sat_per_kwu(kwu));
        assert!(at(3_959).is_ok()); // 548 units; 2,170 of 2,500 sat
        let refused = NotWorthIt { value: Amount::from_sat(2_500), fee: Amount::from_sat(2_171) };
        assert_eq!(at(3_961), Err(refused));
        assert!(at(u64::MAX).is_err());
    }

    #[test]
    fn what_was_not_claimed_comes_back_after_d2() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let of = [0, 3, 4, 19];
        let refunds = take_back(&channel, &batch, &of, RATE);
        assert_eq!(refunds.left, Left::default());
        let [refund] = &refunds.transactions[..] else { panic!("one batch") };
        assert!(testing::spends(&flat::spent(&batch, &of), refund));
        assert!(refund.input.iter().all(|input| input.sequence == Sequence::from_height(40)));
        let back = Channel::paid_to(refund, &channel.params().payer);
        assert_eq!(back + RATE.fee_vb(refund.vsize() as u64).unwrap(), terms().unit * 4);
    }

    #[test]
    fn all_outputs_come_back_in_batches_that_are_standard() {
        let channel = flat::large_channel();
        let terms = Terms { outputs: MOST_OUTPUTS, ..terms() };
        let batch = flat::outputs(&channel, &terms);
        let all: Vec<u32> = (0..MOST_OUTPUTS).collect();
        let refunds = take_back(&channel, &batch, &all, RATE);
        assert_eq!((refunds.transactions.len(), refunds.left), (2, Left::default()));
        for (refund, of) in refunds.transactions.iter().zip(all.chunks(1_160)) {
            assert!(refund.weight().to_wu() <= MAX_STANDARD_TX_WEIGHT.into());
            let spent = flat::spent(&batch, of);
            assert!(refund.input.iter().map(|input| input.previous_output.vout).eq(of.iter().copied()));
            assert!([0, of.len() - 1].iter().all(|index| flat::spends_input(&spent, refund, *index)));
        }
    }

    #[test]
    fn outputs_that_cost_more_than_they_hold_are_left_and_counted() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let dear = FeeRate::from_sat_per_vb_u32(30); // 83.5 vB for each, 2,505 sat
        let refunds = take_back(&channel, &batch, &[1, 2, 3], dear);
        let left = Left { outputs: 3, value: Amount::from_sat(7_500) };
        assert_eq!(refunds, Batches { transactions: Vec::new(), left });
        let none = take_back(&channel, &batch, &[], RATE);
        assert_eq!(none, Batches { transactions: Vec::new(), left: Left::default() });
    }

    #[test]
    fn an_output_that_is_not_there_is_refused() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let refused = outputs(&channel, &testing::payer_keys(), &batch, txid(), &[20].into(), RATE);
        assert_eq!(refused, Err(NoSuchOutput(20)));
    }

    #[test]
    fn accepted_terms_bring_everything_back_at_the_highest_fee_rate() {
        let channel = flat::large_channel();
        for count in [1, 2, 20, 1_196, MOST_OUTPUTS] {
            let terms = Terms { outputs: count, unit: Amount::ZERO, ..terms() };
            let unit = terms.limits(&channel, flat::MARGIN).least_unit;
            let rate = terms.most_fee_rate;
            let plan = spend(&channel, terms.d2).plan(count as usize, unit, rate);
            assert_eq!(plan.iter().sum::<usize>(), count as usize);
            let lsf_output = flat::lsf(&channel, &Terms { unit, ..terms });
            assert!(lsf(&channel, &testing::payer_keys(), &lsf_output, rate).is_ok());
        }
    }
}
