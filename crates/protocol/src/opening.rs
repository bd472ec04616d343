//! Opening: what a payee offers, what a payer proposes, and the checks on both sides before any money is locked.
//!
//! 1. The payee's [`Offer`] travels in a challenge: its keys, and the bounds it accepts.
//! 2. The payer picks parameters within them and within its own [`Limits`], builds and signs the funding transaction,
//!    keeps it back, and sends an [`Opening`].
//! 3. The payee checks the opening, stores the channel, and answers with a signature on the channel id.
//! 4. Only then does the payer broadcast the funding. So terms that the payee refuses lock nothing.

use bitcoin::{Amount, FeeRate, Network};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::amount::DUST;
use crate::channel::{Channel, Params, Party};
use crate::child;
use crate::keys::{self, ChannelKeys};

const OPEN: &str = "farthing/open";
const ACCEPT: &str = "farthing/accept";

/// How many confirmations a payee wants before it relies on a funding: the more is locked, the deeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmations {
    /// For the smallest channel.
    pub least: u32,
    /// One more for each of these.
    pub one_more_per: Amount,
}

impl Confirmations {
    /// For a channel of that capacity.
    pub fn required(&self, capacity: Amount) -> u32 {
        let more = capacity.to_sat().checked_div(self.one_more_per.to_sat()).unwrap_or(0);
        self.least.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
    }
}

/// What a payee accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The chain.
    pub network: Network,
    /// The payee's keys and output for this channel.
    pub payee: Party,
    /// The smallest and the largest capacity.
    pub capacity: (Amount, Amount),
    /// The lowest and the highest fee rate for commitments.
    pub fee_rate: (FeeRate, FeeRate),
    /// The shortest and the longest time to the expiry, in blocks from now.
    pub lifetime: (u32, u32),
    /// How many blocks before the expiry the payee closes.
    pub margin: u32,
    /// How deep the funding must be.
    pub confirmations: Confirmations,
}

impl Offer {
    /// The least first payment at that fee rate: dust, plus what closing alone may cost the payee. Below it, what was
    /// served could not be enforced.
    pub fn prepaid(fee_rate: FeeRate) -> Amount {
        DUST.checked_add(child::cost(fee_rate)).unwrap_or(Amount::MAX_MONEY)
    }

    /// Checks proposed parameters against the offer, at the chain's present height.
    ///
    /// # Errors
    /// The first term that is out of bounds.
    pub fn check(&self, params: &Params, height: u32) -> Result<(), Refusal> {
        let lifetime = params.expiry.height().saturating_sub(height);
        bounds("the capacity in satoshi", params.capacity.to_sat(), self.capacity.map(Amount::to_sat))?;
        bounds(
            "the fee rate in sat/kwu",
            params.fee_rate.to_sat_per_kwu(),
            self.fee_rate.map(FeeRate::to_sat_per_kwu),
        )?;
        bounds("the time to the expiry in blocks", lifetime.into(), self.lifetime.map(u64::from))?;
        bounds(
            "the first payment in satoshi",
            params.prepaid.to_sat(),
            (Self::prepaid(params.fee_rate).to_sat(), params.capacity.to_sat()),
        )?;
        // Else nothing would be served between the funding being deep enough and the payee closing.
        let idle = u64::from(self.confirmations.required(params.capacity)) + u64::from(self.margin);
        let most = u64::from(lifetime).saturating_sub(1);
        bounds("confirmations and margin together, in blocks,", idle, (0, most))?;
        if params.network != self.network {
            return Err(Refusal::Network { expected: self.network, got: params.network });
        }
        if params.payee != self.payee {
            return Err(Refusal::Payee);
        }
        Ok(())
    }
}

/// What a payer accepts of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most it locks in one channel.
    pub most_capacity: Amount,
    /// The lowest and the highest fee rate for commitments.
    pub fee_rate: (FeeRate, FeeRate),
    /// The longest time its money may stay locked, in blocks.
    pub most_lifetime: u32,
    /// The most it prepays before anything is served.
    pub most_prepaid: Amount,
    /// How deep a funding may have to be before anything is served, in blocks.
    pub most_confirmations: u32,
}

impl Limits {
    /// Checks the limits themselves, which somebody has configured.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub fn validate(&self) -> Result<(), Refusal> {
        fee_rates(self.fee_rate)?;
        bounds("most_capacity in satoshi", self.most_capacity.to_sat(), (1, Amount::MAX_MONEY.to_sat()))?;
        bounds("most_lifetime in blocks", self.most_lifetime.into(), (1, MOST_BLOCKS))?;
        bounds("most_confirmations", self.most_confirmations.into(), (1, MOST_BLOCKS))
    }

    /// The fee rate within both sides' bounds that is nearest to `now`. When the bounds have nothing in common, the
    /// checks refuse whatever this gives.
    pub fn choose_fee_rate(&self, offer: &Offer, now: FeeRate) -> FeeRate {
        let least = self.fee_rate.0.max(offer.fee_rate.0);
        let most = self.fee_rate.1.min(offer.fee_rate.1);
        now.min(most).max(least)
    }

    /// Checks parameters that this payer is about to propose under an offer.
    ///
    /// # Errors
    /// The first term that is out of bounds.
    pub fn check(&self, offer: &Offer, params: &Params, height: u32) -> Result<(), Refusal> {
        let lifetime = params.expiry.height().saturating_sub(height);
        let confirmations = offer.confirmations.required(params.capacity);
        bounds(
            "how many confirmations are wanted",
            confirmations.into(),
            (0, self.most_confirmations.into()),
        )?;
        bounds("the capacity in satoshi", params.capacity.to_sat(), (0, self.most_capacity.to_sat()))?;
        bounds(
            "the fee rate in sat/kwu",
            params.fee_rate.to_sat_per_kwu(),
            self.fee_rate.map(FeeRate::to_sat_per_kwu),
        )?;
        bounds("the time to the expiry in blocks", lifetime.into(), (1, self.most_lifetime.into()))?;
        bounds("the first payment in satoshi", params.prepaid.to_sat(), (0, self.most_prepaid.to_sat()))
    }
}

trait Map<T> {
    fn map<U>(self, f: impl Fn(T) -> U) -> (U, U);
}

impl<T> Map<T> for (T, T) {
    fn map<U>(self, f: impl Fn(T) -> U) -> (U, U) {
        (f(self.0), f(self.1))
    }
}

/// More blocks than anything here lasts: 65 weeks.
pub const MOST_BLOCKS: u64 = u16::MAX as u64;

/// Checks bounds for fee rates: from what relays to what the node takes for a mistake, the lower one first.
///
/// # Errors
/// When they are not.
pub fn fee_rates((least, most): (FeeRate, FeeRate)) -> Result<(), Refusal> {
    const MOST: FeeRate = FeeRate::from_sat_per_vb_u32(10_000);
    let kwu = FeeRate::to_sat_per_kwu;
    bounds("the highest fee rate in sat/kwu", kwu(most), (kwu(FeeRate::BROADCAST_MIN), kwu(MOST)))?;
    bounds("the lowest fee rate in sat/kwu", kwu(least), (kwu(FeeRate::BROADCAST_MIN), kwu(most)))
}

/// Checks one term.
///
/// # Errors
/// When it is outside.
pub fn bounds(what: &'static str, got: u64, (least, most): (u64, u64)) -> Result<(), Refusal> {
    if (least..=most).contains(&got) { Ok(()) } else { Err(Refusal::OutOfBounds { what, got, least, most }) }
}

/// A term that one side does not accept. Nothing was locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Outside the bounds.
    #[error("{what} is {got}, but must be from {least} to {most}")]
    OutOfBounds {
        /// Which term.
        what: &'static str,
        /// The proposed value.
        got: u64,
        /// The lowest accepted.
        least: u64,
        /// The highest accepted.
        most: u64,
    },
    /// Another chain.
    #[error("this channel would be on {got}, but must be on {expected}")]
    Network {
        /// The offer's network.
        expected: Network,
        /// The proposal's.
        got: Network,
    },
    /// The proposal names other payee keys than the offer.
    #[error("the proposed payee is not the one of the offer")]
    Payee,
    /// The payer's signature on the channel id does not verify.
    #[error("the payer's signature does not fit the proposed channel")]
    Signature,
}

/// What a payer sends to open a channel: the parameters, and its signature on their hash, the channel id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The whole agreement.
    pub params: Params,
    /// By the payer's funding key.
    pub signature: schnorr::Signature,
}

/// The payer's signature on the channel id.
pub(crate) fn sign_opening(channel: &Channel, keys: &ChannelKeys) -> schnorr::Signature {
    keys.sign_statement(OPEN, channel.id().as_bytes())
}

/// Whether the payer signed this channel's id.
pub(crate) fn opening_holds(channel: &Channel, signature: &schnorr::Signature) -> bool {
    let key = channel.params().payer.funding_xonly();
    keys::statement_holds(&key, OPEN, channel.id().as_bytes(), signature)
}

/// The payee's signature on the channel id.
pub(crate) fn sign_acceptance(channel: &Channel, keys: &ChannelKeys) -> schnorr::Signature {
    keys.sign_statement(ACCEPT, channel.id().as_bytes())
}

/// Whether the payee signed this channel's id.
pub(crate) fn acceptance_holds(channel: &Channel, signature: &schnorr::Signature) -> bool {
    let key = channel.params().payee.funding_xonly();
    keys::statement_holds(&key, ACCEPT, channel.id().as_bytes(), signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Expiry;
    use crate::testing;

    fn offer() -> Offer {
        let params = testing::channel().params().clone();
        Offer {
            network: params.network,
            payee: params.payee,
            capacity: (Amount::from_sat(10_000), Amount::from_sat(1_000_000)),
            fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(50)),
            lifetime: (100, 1_000),
            margin: 36,
            confirmations: Confirmations { least: 1, one_more_per: Amount::from_sat(1_000_000) },
        }
    }

    #[test]
    fn every_term_out_of_bounds_is_named() {
        let height = testing::EXPIRY - 500;
        let good = testing::channel().params().clone();
        assert_eq!(offer().check(&good, height), Ok(()));
        type Spoil = fn(&mut Params);
        let cases: [(&str, Spoil); 6] = [
            ("capacity", |p| p.capacity = Amount::from_sat(9_999)),
            ("capacity", |p| p.capacity = Amount::from_sat(1_000_001)),
            ("fee rate", |p| p.fee_rate = FeeRate::from_sat_per_vb_u32(51)),
            ("expiry", |p| p.expiry = Expiry::at_height(testing::EXPIRY - 401)),
            ("expiry", |p| p.expiry = Expiry::at_height(testing::EXPIRY + 501)),
            ("first payment", |p| p.prepaid = Amount::from_sat(331)),
        ];
        for (term, spoil) in cases {
            let mut params = good.clone();
            spoil(&mut params);
            let refusal = offer().check(&params, height).unwrap_err().to_string();
            assert!(refusal.contains(term), "{refusal}");
        }
        let slow =
            Offer { confirmations: Confirmations { least: 464, one_more_per: Amount::ZERO }, ..offer() };
        assert!(slow.check(&good, height).unwrap_err().to_string().contains("confirmations and margin"));
        let least = Confirmations { least: 463, one_more_per: Amount::ZERO };
        assert_eq!(Offer { confirmations: least, ..slow }.check(&good, height), Ok(()));
        let foreign = Params { network: Network::Bitcoin, ..good.clone() };
        assert!(matches!(offer().check(&foreign, height), Err(Refusal::Network { .. })));
        let stranger = Params { payee: good.payer.clone(), ..good };
        assert_eq!(offer().check(&stranger, height), Err(Refusal::Payee));
    }

    #[test]
    fn limits_that_make_no_sense_and_offers_beyond_them_are_named() {
        let rate = FeeRate::from_sat_per_vb_u32;
        let good = Limits {
            most_capacity: Amount::from_sat(1_000_000),
            fee_rate: (rate(1), rate(50)),
            most_lifetime: 1_000,
            most_prepaid: Amount::from_sat(50_000),
            most_confirmations: 2,
        };
        assert_eq!(good.validate(), Ok(()));
        for (what, bad) in [
            ("lowest fee rate", Limits { fee_rate: (rate(51), rate(50)), ..good }),
            ("lowest fee rate", Limits { fee_rate: (FeeRate::ZERO, rate(50)), ..good }),
            ("highest fee rate", Limits { fee_rate: (rate(1), rate(10_001)), ..good }),
            ("most_lifetime", Limits { most_lifetime: 0, ..good }),
            ("most_capacity", Limits { most_capacity: Amount::ZERO, ..good }),
            ("most_confirmations", Limits { most_confirmations: 0, ..good }),
        ] {
            assert!(bad.validate().unwrap_err().to_string().contains(what), "{what}: {bad:?}");
        }
        let (params, height) = (testing::channel().params().clone(), testing::EXPIRY - 500);
        assert_eq!(good.check(&offer(), &params, height), Ok(()));
        let deep = Offer { confirmations: Confirmations { least: 3, one_more_per: Amount::ZERO }, ..offer() };
        assert!(good.check(&deep, &params, height).unwrap_err().to_string().contains("confirmations"));
    }

    #[test]
    fn confirmations_grow_with_the_capacity() {
        let rule = Confirmations { least: 1, one_more_per: Amount::from_sat(1_000_000) };
        let required = |sat| rule.required(Amount::from_sat(sat));
        assert_eq!(
            [required(10_000), required(999_999), required(1_000_000), required(5_500_000)],
            [1, 1, 2, 6]
        );
        let never_more = Confirmations { least: 3, one_more_per: Amount::ZERO };
        assert_eq!(never_more.required(Amount::MAX_MONEY), 3);
    }
}
