//! What LDK is told about fee rates.
//!
//! A commitment of a channel without anchors carries its fee from the beginning: nobody can add to it later. Two kinds of nodes deal with
//! that in two ways.
//!
//! - In a *device's* channel a change of the rate costs joint signatures, for which the device must be there. So the rate of commitments is
//!   the operator's, with headroom, and does not follow the mempool from one minute to the next. Another one is not proposed to a device
//!   whose owner forbids it: it would refuse, LDK would insist, and the channel would stand still.
//! - The *ordinary* node follows the bitcoind's estimates, above what the operator set. It takes channels from anybody: somebody
//!   could open one at the lowest rate, route a payment to itself through it, and leave the operator with a commitment that does not confirm
//!   before that payment expires. So a channel of others pays at least what confirms in time to claim.

use std::sync::atomic::{AtomicU64, Ordering};

use bitcoin::FeeRate;
use farthing_chain::Chain;
use lightning::chain::chaininterface::{ConfirmationTarget, FEERATE_FLOOR_SATS_PER_KW, FeeEstimator};

/// In so many blocks what is urgent should be in the chain.
const SOON: u16 = 6;
/// So many blocks before an HTLC expires LDK closes to claim it: a commitment must confirm within them.
const TO_CLAIM: u16 = 18;
/// Some estimators count in whole satoshi per vbyte: peers that mean the same must not part over it.
const ROUNDING: u64 = 250;
/// What a commitment pays at most. The device bounds it by the owner's policy.
const MOST: FeeRate = FeeRate::from_sat_per_kwu(25_000);

/// Fee rates, as the operator sets them.
#[derive(Clone, Copy, Debug)]
pub struct FeeRates {
    /// Of commitments that this node opens.
    pub commitment: FeeRate,
    /// Of everything else.
    pub onchain: FeeRate,
    /// Whether the bitcoind's estimates count where they are higher.
    pub follows_estimates: bool,
}

/// A channel whose commitments have a fee rate, and between which rates its owner lets that change.
#[derive(Clone, Copy, Debug)]
pub struct OpenChannel {
    /// What they have.
    pub rate: FeeRate,
    /// The owner's least.
    pub least: FeeRate,
    /// The owner's most.
    pub most: FeeRate,
}

impl OpenChannel {
    /// LDK changes a channel's rate when it should be higher, or no more than half.
    fn bears(&self, rate: FeeRate) -> bool {
        let stays = rate <= self.rate && rate.to_sat_per_kwu().saturating_mul(2) > self.rate.to_sat_per_kwu();
        stays || (self.least <= rate && rate <= self.most)
    }
}

/// Of the rate that is wanted and those that channels have, one that all channels bear, or else as many as possible: the one that is wanted,
/// or the highest.
fn bearable(wanted: FeeRate, open: &[OpenChannel]) -> FeeRate {
    let mut rates: Vec<FeeRate> = open.iter().map(|channel| channel.rate).collect();
    rates.sort_unstable();
    rates.push(wanted);
    let borne_by = |rate: &FeeRate| open.iter().filter(|channel| channel.bears(*rate)).count();
    rates.into_iter().max_by_key(borne_by).unwrap_or(wanted)
}

/// Fee rates, for LDK.
#[derive(Debug)]
pub struct Fees {
    set: FeeRates,
    /// Of commitments, in sat/kw.
    commitment: AtomicU64,
    /// The newest estimates in sat/kw; 0 before there is one.
    soon: AtomicU64,
    to_claim: AtomicU64,
}

impl Fees {
    /// As the operator set them, before any estimate.
    pub fn new(set: FeeRates) -> Self {
        let commitment = AtomicU64::new(set.commitment.to_sat_per_kwu());
        Self { set, commitment, soon: AtomicU64::new(0), to_claim: AtomicU64::new(0) }
    }

    /// Sets the rate of commitments: the operator's, unless a channel that is open must not have it. Then it stays, for all, what one of
    /// them has. Gives what it is now.
    pub fn keep(&self, open: &[OpenChannel]) -> FeeRate {
        let rate = bearable(self.set.commitment, open);
        self.commitment.store(rate.to_sat_per_kwu(), Ordering::Relaxed);
        rate
    }

    fn commitment(&self) -> FeeRate {
        FeeRate::from_sat_per_kwu(self.commitment.load(Ordering::Relaxed))
    }

    /// Asks the bitcoind anew. Where it has no estimate, the one before stands.
    pub fn ask(&self, chain: &Chain) {
        if !self.set.follows_estimates {
            return;
        }
        for (target, newest) in [(SOON, &self.soon), (TO_CLAIM, &self.to_claim)] {
            match chain.fee_rate(target) {
                Ok(Some(rate)) => newest.store(rate.to_sat_per_kwu(), Ordering::Relaxed),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "fee rates stay what they were"),
            }
        }
    }

    fn soon(&self) -> FeeRate {
        FeeRate::from_sat_per_kwu(self.soon.load(Ordering::Relaxed))
    }

    /// What a commitment of somebody else's channel pays at least.
    fn to_claim(&self) -> FeeRate {
        let estimate = self.to_claim.load(Ordering::Relaxed).saturating_sub(ROUNDING);
        FeeRate::from_sat_per_kwu(estimate).max(FeeRate::BROADCAST_MIN)
    }
}

impl FeeEstimator for Fees {
    fn get_est_sat_per_1000_weight(&self, target: ConfirmationTarget) -> u32 {
        let rate = match target {
            ConfirmationTarget::NonAnchorChannelFee => self.commitment().max(self.soon().min(MOST)),
            ConfirmationTarget::MaximumFeeEstimate => MOST,
            ConfirmationTarget::UrgentOnChainSweep | ConfirmationTarget::OutputSpendingFee => {
                self.set.onchain.max(self.soon())
            }
            ConfirmationTarget::MinAllowedNonAnchorChannelRemoteFee => self.to_claim(),
            ConfirmationTarget::MinAllowedAnchorChannelRemoteFee
            | ConfirmationTarget::AnchorChannelFee
            | ConfirmationTarget::ChannelCloseMinimum => FeeRate::BROADCAST_MIN,
        };
        u32::try_from(rate.to_sat_per_kwu()).unwrap_or(u32::MAX).max(FEERATE_FLOOR_SATS_PER_KW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(sat_per_vb: u32) -> FeeRate {
        FeeRate::from_sat_per_vb_u32(sat_per_vb)
    }

    fn channel(now: u32, least: u32, most: u32) -> OpenChannel {
        OpenChannel { rate: rate(now), least: rate(least), most: rate(most) }
    }

    #[test]
    fn the_rate_of_commitments_is_one_that_no_device_refuses() {
        for (wanted, open, expected) in [
            (25, vec![], 25),
            (25, vec![channel(10, 1, 100)], 25),
            (25, vec![channel(10, 1, 100), channel(10, 1, 20)], 10),
            // It would rise from 10.
            (25, vec![channel(25, 1, 100), channel(10, 1, 10)], 10),
            // A little less changes nothing, so that it is below the owner's least does not matter; half of it does.
            (6, vec![channel(10, 8, 100)], 6),
            (5, vec![channel(10, 8, 100)], 10),
            // Nothing suits both: one of them must be refused.
            (30, vec![channel(10, 10, 10), channel(40, 40, 40)], 30),
            // One owner alone stops no other's channel.
            (50, vec![channel(3, 3, 3), channel(25, 10, 40), channel(25, 25, 40)], 25),
        ] {
            let fees =
                Fees::new(FeeRates { commitment: rate(wanted), onchain: rate(1), follows_estimates: false });
            assert_eq!(fees.keep(&open), rate(expected), "{wanted} wanted for {open:?}");
            let told = fees.get_est_sat_per_1000_weight(ConfirmationTarget::NonAnchorChannelFee);
            assert_eq!(u64::from(told), rate(expected).to_sat_per_kwu());
        }
    }
}
