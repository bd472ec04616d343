//! What LDK is told about fee rates.
//!
//! A commitment of a channel without anchors carries its fee from the beginning: nobody can add to it later. Two kinds of nodes deal with
//! that in two ways.
//!
//! - In a *device's* channel a change of the rate costs joint signatures, for which the device must be there. So the rate of commitments is
//!   the operator's, with headroom, and does not follow the mempool from one minute to the next.
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

/// Fee rates, for LDK.
#[derive(Debug)]
pub struct Fees {
    set: FeeRates,
    /// The newest estimates in sat/kw; 0 before there is one.
    soon: AtomicU64,
    to_claim: AtomicU64,
}

impl Fees {
    /// As the operator set them, before any estimate.
    pub fn new(set: FeeRates) -> Self {
        Self { set, soon: AtomicU64::new(0), to_claim: AtomicU64::new(0) }
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
            ConfirmationTarget::NonAnchorChannelFee => self.set.commitment.max(self.soon().min(MOST)),
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
