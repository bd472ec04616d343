//! The payee's claims: the micropayment outputs whose preimages were revealed, once the micropayment transaction has
//! confirmed and before d2 has passed.
//!
//! Not earlier: a transaction of 100,000 vB leaves no room for unconfirmed children (mempools hold chains and clusters to
//! 101,000 vB), and its txid is not certain until then. The claims are version 2, replaceable (BIP125), and independent
//! of each other.

use std::collections::BTreeMap;

use bitcoin::transaction::Version;
use bitcoin::{FeeRate, Txid, Weight};

use crate::channel::Channel;
use crate::flat::outputs::Outputs;
use crate::flat::preimages::Preimage;
use crate::flat::spends::{Batches, Spend};
use crate::hashlock::{self, Locked};
use crate::keys::ChannelKeys;

/// A preimage that does not open its output, or no output of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the preimage does not open output {0}")]
pub struct WrongPreimage(pub u32);

/// Claims the outputs of the revealed preimages, by the output's index counted from 0, from the micropayment transaction
/// that confirmed as `micropayment` ([`super::Micropayment::published_as`]). Nothing that costs more than it brings.
///
/// # Errors
/// When a preimage opens nothing.
pub fn claim(
    channel: &Channel,
    keys: &ChannelKeys,
    outputs: &Outputs,
    micropayment: Txid,
    revealed: &BTreeMap<u32, Preimage>,
    fee_rate: FeeRate,
) -> Result<Batches, WrongPreimage> {
    let locked = |(index, preimage): (&u32, &Preimage)| {
        let locked = outputs.locked(micropayment, *index).filter(|_| outputs.locks().opens(*index, preimage));
        Ok((locked.ok_or(WrongPreimage(*index))?, *preimage.as_bytes()))
    };
    let locked: Vec<(Locked<'_>, [u8; 32])> = revealed.iter().map(locked).collect::<Result<_, _>>()?;
    Ok(spend().batches(&locked, outputs.unit(), fee_rate, |batch, fee| {
        hashlock::claim(channel, keys, batch, Version::TWO, fee)
    }))
}

/// How claims weigh.
pub(crate) fn spend() -> Spend<impl Fn(usize) -> Weight> {
    Spend::new(hashlock::claim_weight)
}

#[cfg(test)]
mod tests {
    use bitcoin::Amount;
    use bitcoin::hashes::Hash;
    use bitcoin::policy::MAX_STANDARD_TX_WEIGHT;

    use super::*;
    use crate::flat::testing::{self as flat, terms};
    use crate::flat::{Left, MOST_OUTPUTS, Terms};
    use crate::testing;

    const RATE: FeeRate = FeeRate::from_sat_per_vb_u32(5);

    fn txid() -> Txid {
        Txid::from_byte_array([6; 32])
    }

    fn revealed(channel: &Channel, of: &[u32]) -> BTreeMap<u32, Preimage> {
        let preimages = flat::preimages(channel);
        of.iter().map(|index| (*index, preimages.preimage(*index))).collect()
    }

    fn claims(channel: &Channel, batch: &Outputs, of: &[u32], rate: FeeRate) -> Batches {
        claim(channel, &testing::payee_keys(), batch, txid(), &revealed(channel, of), rate).unwrap()
    }

    #[test]
    fn what_was_revealed_is_claimed() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let of = [0, 1, 7, 19];
        let claims = claims(&channel, &batch, &of, RATE);
        assert_eq!(claims.left, Left::default());
        let [claim] = &claims.transactions[..] else { panic!("one batch") };
        assert!(testing::spends(&flat::spent(&batch, &of), claim));
        assert_eq!((claim.version, claim.weight()), (Version::TWO, hashlock::claim_weight(4)));
        let paid = Channel::paid_to(claim, &channel.params().payee);
        assert_eq!(paid + RATE * claim.weight(), terms().unit * 4);
    }

    #[test]
    fn a_thief_with_the_preimage_and_without_the_payees_key_gets_nothing() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let (thief, revealed) = (testing::payer_keys(), revealed(&channel, &[5]));
        let claims = claim(&channel, &thief, &batch, txid(), &revealed, RATE).unwrap();
        assert!(!testing::spends(&flat::spent(&batch, &[5]), &claims.transactions[0]));
        // Nor does he send a claim that he sees somewhere else.
        let payee = testing::payee_keys();
        let mut redirected =
            claim(&channel, &payee, &batch, txid(), &revealed, RATE).unwrap().transactions.remove(0);
        redirected.output[0].script_pubkey = channel.params().payer.output.clone();
        assert!(!testing::spends(&flat::spent(&batch, &[5]), &redirected));
    }

    #[test]
    fn a_preimage_of_another_output_or_of_none_is_refused() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let preimages = flat::preimages(&channel);
        let keys = testing::payee_keys();
        for (index, preimage) in [(3, 4), (20, 20)] {
            let revealed = [(index, preimages.preimage(preimage))].into();
            let refused = claim(&channel, &keys, &batch, txid(), &revealed, RATE);
            assert_eq!(refused, Err(WrongPreimage(index)));
        }
    }

    #[test]
    fn all_outputs_are_claimed_in_batches_that_are_standard() {
        let channel = flat::large_channel();
        let terms = Terms { outputs: MOST_OUTPUTS, ..terms() };
        let batch = flat::outputs(&channel, &terms);
        let all: Vec<u32> = (0..MOST_OUTPUTS).collect();
        let claims = claims(&channel, &batch, &all, RATE);
        assert_eq!((claims.transactions.len(), claims.left), (3, Left::default()));
        let mut claimed = Amount::ZERO;
        let mut from = 0;
        for claim in &claims.transactions {
            let of = &all[from..from + claim.input.len()];
            from += of.len();
            assert!(claim.weight().to_wu() <= MAX_STANDARD_TX_WEIGHT.into());
            let spent = flat::spent(&batch, of);
            assert!([0, of.len() - 1].iter().all(|index| flat::spends_input(&spent, claim, *index)));
            claimed += Channel::paid_to(claim, &channel.params().payee) + RATE * claim.weight();
        }
        assert_eq!(claimed, terms.unit * u64::from(MOST_OUTPUTS));
    }

    #[test]
    fn what_costs_more_than_it_brings_is_left_and_counted() {
        let channel = testing::channel();
        let batch = flat::outputs(&channel, &terms());
        let dear = FeeRate::from_sat_per_vb_u32(20); // one alone: 3,065 sat; two: 5,060
        let one = claims(&channel, &batch, &[1], dear);
        let left = Left { outputs: 1, value: Amount::from_sat(2_500) };
        assert_eq!(one, Batches { transactions: Vec::new(), left });
        let three = claims(&channel, &batch, &[1, 2, 3], dear);
        assert_eq!((three.transactions.len(), three.left), (1, Left::default()));
        assert_eq!(claims(&channel, &batch, &[], dear).transactions, Vec::new());
    }
}
