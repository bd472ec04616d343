//! What flat terms mean in numbers: every limit, and what each transaction costs whom. To be shown before anything is
//! locked.

use std::fmt;

use bitcoin::{Amount, FeeRate};

use crate::amount::DUST;
use crate::channel::Channel;
use crate::child;
use crate::flat::lsf::Lsf;
use crate::flat::micropayment::{self, FEE_INPUTS, MOST_OUTPUTS};
use crate::flat::spends::fee;
use crate::flat::terms::{Limits, Terms};
use crate::flat::{claim, commitment, refund};

/// All that follows from [`Terms`] in one channel. `Display` prints it, a line for each subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The terms.
    pub terms: Terms,
    /// What they must keep to.
    pub limits: Limits,
    /// The channel's capacity.
    pub capacity: Amount,
    /// What the LSF output locks; [`Amount::MAX`] when it is more than can be counted.
    pub locked: Amount,
    /// What the commitment leaves to the miner, out of the payer's rest.
    pub commitment_fee: Amount,
    /// Up to which fee rate the prepayment alone, by a child of the commitment, raises both. Above it, the child needs
    /// another coin of the payee's wallet.
    pub prepaid_lifts_to: FeeRate,
    /// When all of the payer's money is back at the latest, in blocks after the commitment confirmed; the blocks that
    /// the micropayment transaction and the refunds wait for come on top.
    pub blocks_until_back: u32,
    /// What it all costs at the rate of the moment.
    pub now: Costs,
    /// What it all costs at the highest rate accepted.
    pub at_most: Costs,
}

/// What the transactions of one batch cost at one fee rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// The fee rate.
    pub fee_rate: FeeRate,
    /// The micropayment transaction, with two fee inputs. The payee pays it, by those inputs, whatever was revealed.
    pub micropayment: Amount,
    /// What the payee pays to claim a single output.
    pub claim_one: Amount,
    /// What the payee pays to claim all.
    pub claim_all: Amount,
    /// From how many revealed outputs on the micropayment transaction and the claims bring the payee more than they
    /// cost. `None`: never, at this rate.
    pub break_even: Option<u32>,
    /// What the payer pays to take the LSF output back.
    pub refund_lsf: Amount,
    /// What the payer pays to take a single output back.
    pub refund_one: Amount,
    /// What the payer pays to take all outputs back: the most that a payee can make it burn.
    pub refund_all: Amount,
}

impl Costs {
    /// The costs of a batch. Counts at most [`MOST_OUTPUTS`] outputs.
    pub fn at(terms: &Terms, channel: &Channel, fee_rate: FeeRate) -> Self {
        let outputs = terms.outputs.min(MOST_OUTPUTS);
        let micropayment = fee(fee_rate, micropayment::weight(outputs, FEE_INPUTS));
        let brings_more = |revealed: u32| {
            let value = terms.unit.to_sat().saturating_mul(revealed.into());
            let costs = claim_fee(revealed, fee_rate).to_sat().saturating_add(micropayment.to_sat());
            value > costs
        };
        Self {
            fee_rate,
            micropayment,
            claim_one: claim_fee(1, fee_rate),
            claim_all: claim_fee(outputs, fee_rate),
            break_even: (1..=outputs).find(|revealed| brings_more(*revealed)),
            refund_lsf: fee(fee_rate, refund::lsf_weight(&Lsf::new(channel, terms.d1))),
            refund_one: refund_fee(terms, channel, 1, fee_rate),
            refund_all: refund_fee(terms, channel, outputs, fee_rate),
        }
    }
}

/// What the payee pays to claim so many outputs, in as many transactions as it takes.
pub fn claim_fee(outputs: u32, fee_rate: FeeRate) -> Amount {
    claim::spend().fee(outputs as usize, fee_rate)
}

/// What the payer pays to take so many outputs back, in as many transactions as it takes.
pub fn refund_fee(terms: &Terms, channel: &Channel, outputs: u32, fee_rate: FeeRate) -> Amount {
    refund::spend(channel, terms.d2).fee(outputs as usize, fee_rate)
}

impl Explanation {
    pub(crate) fn new(terms: &Terms, channel: &Channel, margin: u32, fee_rate: FeeRate) -> Self {
        let params = channel.params();
        let commitment_fee = fee(params.fee_rate, commitment::WEIGHT);
        let spare = terms.prepaid.to_sat().saturating_sub(DUST.to_sat());
        let both = (commitment::WEIGHT + child::WEIGHT).to_wu();
        let lifts_to = spare.saturating_add(commitment_fee.to_sat()).saturating_mul(1_000) / both;
        Self {
            terms: *terms,
            limits: terms.limits(channel, margin),
            capacity: params.capacity,
            locked: terms.locked().unwrap_or(Amount::MAX),
            commitment_fee,
            prepaid_lifts_to: FeeRate::from_sat_per_kwu(lifts_to),
            blocks_until_back: u32::from(terms.d1.get()) + u32::from(terms.d2.get()),
            now: Costs::at(terms, channel, fee_rate),
            at_most: Costs::at(terms, channel, terms.most_fee_rate),
        }
    }
}

/// Satoshi per vbyte, with the decimals that it has.
struct PerVb(FeeRate);

impl fmt::Display for PerVb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kwu = self.0.to_sat_per_kwu();
        write!(f, "{}", kwu / 250)?;
        match kwu % 250 * 4 {
            0 => f.write_str(" sat/vB"),
            rest => write!(f, ".{} sat/vB", format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sat = Amount::to_sat;
        writeln!(f, "at {}:", PerVb(self.fee_rate))?;
        writeln!(f, "  the payee pays {} sat to publish all outputs,", sat(self.micropayment))?;
        writeln!(
            f,
            "    {} sat to claim one, {} sat to claim all;",
            sat(self.claim_one),
            sat(self.claim_all)
        )?;
        match self.break_even {
            Some(outputs) => writeln!(f, "    worth it from {outputs} revealed outputs on")?,
            None => writeln!(f, "    never worth it: what is revealed cannot be enforced")?,
        }
        writeln!(f, "  the payer pays {} sat to take the LSF output back unspent,", sat(self.refund_lsf))?;
        write!(f, "    {} sat for one output, {} sat for all", sat(self.refund_one), sat(self.refund_all))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (terms, limits, sat) = (&self.terms, &self.limits, Amount::to_sat);
        writeln!(
            f,
            "outputs: {} (at most {}; {} if the transaction were version 3)",
            terms.outputs, limits.most_outputs, limits.most_outputs_v3
        )?;
        writeln!(
            f,
            "unit: {} sat (at least {}, to be worth its refund and its claim up to {})",
            sat(terms.unit),
            sat(limits.least_unit),
            PerVb(terms.most_fee_rate)
        )?;
        writeln!(
            f,
            "prepaid: {} sat (at least {}); raises the commitment to {}",
            sat(terms.prepaid),
            sat(limits.least_prepaid),
            PerVb(self.prepaid_lifts_to)
        )?;
        writeln!(
            f,
            "locked: {} sat for calls; {} sat of {} with the prepayment and the least fee",
            sat(self.locked),
            sat(limits.least_capacity),
            sat(self.capacity)
        )?;
        writeln!(f, "commitment: {} sat of fee, out of the payer's rest", sat(self.commitment_fee))?;
        writeln!(
            f,
            "delays: {} and {} blocks (at least {}); all back {} blocks after the commitment at the latest",
            terms.d1.get(),
            terms.d2.get(),
            limits.least_delay,
            self.blocks_until_back
        )?;
        writeln!(
            f,
            "transactions: one claims at most {} outputs, or takes {} back",
            limits.claims_at_once, limits.refunds_at_once
        )?;
        writeln!(f, "{}", self.now)?;
        write!(f, "{}", self.at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Msat;
    use crate::flat::Commitment;
    use crate::flat::testing::{MARGIN, large_channel, terms};
    use crate::testing;

    const RATE: FeeRate = FeeRate::from_sat_per_vb_u32(5);

    #[test]
    fn a_payee_gains_from_the_break_even_on_and_not_before() {
        let channel = large_channel();
        for outputs in [1, 20, 500, MOST_OUTPUTS] {
            let terms = Terms { outputs, ..terms() };
            let costs = Costs::at(&terms, &channel, RATE);
            let gains = |revealed: u32| {
                terms.unit * u64::from(revealed) > costs.micropayment + claim_fee(revealed, RATE)
            };
            let break_even = costs.break_even.unwrap();
            assert!(gains(break_even) && !gains(break_even - 1), "{outputs}: {break_even}");
        }
        let dear = Costs::at(&terms(), &channel, FeeRate::from_sat_per_vb_u32(25));
        assert_eq!(dear.break_even, None);
    }

    #[test]
    fn the_prepayment_lifts_the_commitment_as_far_as_stated() {
        let channel = testing::channel();
        let explanation = terms().explain(&channel, MARGIN, RATE);
        let commitment = Commitment::new(&channel, &terms(), Msat::ZERO).unwrap();
        let signature = commitment.sign(&testing::payer_keys());
        let parent = commitment.complete(&channel, &testing::payee_keys(), &signature);
        let script = &channel.params().payee.output;
        let lift = |rate| child::build(&parent, commitment.fee(), script, rate, Amount::ZERO);
        assert!(lift(explanation.prepaid_lifts_to).is_ok());
        let above = explanation.prepaid_lifts_to.to_sat_per_kwu() + 1;
        assert!(lift(FeeRate::from_sat_per_kwu(above)).is_err());
    }

    #[test]
    fn it_prints_every_limit() {
        let printed = terms().explain(&testing::channel(), MARGIN, RATE).to_string();
        let expected = "\
outputs: 20 (at most 2320; 227 if the transaction were version 3)
unit: 2500 sat (at least 2065, to be worth its refund and its claim up to 20 sat/vB)
prepaid: 1000 sat (at least 330); raises the commitment to 3.248 sat/vB
locked: 50000 sat for calls; 51408 sat of 100000 with the prepayment and the least fee
commitment: 494 sat of fee, out of the payer's rest
delays: 36 and 40 blocks (at least 36); all back 76 blocks after the commitment at the latest
transactions: one claims at most 1001 outputs, or takes 1196 back
at 5 sat/vB:
  the payee pays 5468 sat to publish all outputs,
    767 sat to claim one, 10243 sat to claim all;
    worth it from 3 revealed outputs on
  the payer pays 685 sat to take the LSF output back unspent,
    685 sat for one output, 8618 sat for all
at 20 sat/vB:
  the payee pays 21870 sat to publish all outputs,
    3065 sat to claim one, 40970 sat to claim all;
    never worth it: what is revealed cannot be enforced
  the payer pays 2740 sat to take the LSF output back unspent,
    2740 sat for one output, 34470 sat for all";
        assert_eq!(printed, expected);
    }

    #[test]
    fn nonsense_is_explained_as_well() {
        let rate = FeeRate::from_sat_per_kwu(u64::MAX);
        let nonsense = Terms { outputs: u32::MAX, unit: Amount::MAX, most_fee_rate: rate, ..terms() };
        let explanation = nonsense.explain(&testing::channel(), u32::MAX, rate);
        assert_eq!(explanation.locked, Amount::MAX);
        assert!(!explanation.to_string().is_empty());
    }
}
