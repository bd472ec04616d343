//! What LDK is told about fee rates.
//!
//! A commitment of a channel without anchors carries its fee from the beginning, and a change of it costs joint signatures, for which
//! the device must be there. So the rate of commitments is the operator's, with headroom, and does not follow the mempool from one
//! minute to the next.

use bitcoin::FeeRate;
use lightning::chain::chaininterface::{ConfirmationTarget, FEERATE_FLOOR_SATS_PER_KW, FeeEstimator};

/// Fee rates, fixed while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct FeeRates {
    /// Of commitments that this node opens.
    pub commitment: FeeRate,
    /// Of everything else.
    pub onchain: FeeRate,
}

impl FeeEstimator for FeeRates {
    fn get_est_sat_per_1000_weight(&self, target: ConfirmationTarget) -> u32 {
        let rate = match target {
            ConfirmationTarget::NonAnchorChannelFee => self.commitment,
            // What the other side may ask for at most. The device bounds it by the owner's policy.
            ConfirmationTarget::MaximumFeeEstimate => FeeRate::from_sat_per_kwu(25_000),
            ConfirmationTarget::UrgentOnChainSweep | ConfirmationTarget::OutputSpendingFee => self.onchain,
            ConfirmationTarget::MinAllowedAnchorChannelRemoteFee
            | ConfirmationTarget::MinAllowedNonAnchorChannelRemoteFee
            | ConfirmationTarget::AnchorChannelFee
            | ConfirmationTarget::ChannelCloseMinimum => FeeRate::BROADCAST_MIN,
        };
        u32::try_from(rate.to_sat_per_kwu()).unwrap_or(u32::MAX).max(FEERATE_FLOOR_SATS_PER_KW)
    }
}
