//! What the device signs when the bridge has closed. Everything pays the owner, so nothing is lost by what the gateway says wrong.

use std::ops::RangeInclusive;

use bitcoin::{FeeRate, Transaction, Txid};

use super::account::Account;
use super::bolt3::commitment::number_of;
use super::bolt3::keys::secret_key;
use super::bolt3::{Commitment, Htlc, PaymentHash, Side, penalty, take_back};
use super::machine::Revoked;
use super::reject::Reject;
use super::setup::Setup;

impl Account {
    /// Takes our HTLCs back out of a commitment that the bridge may publish.
    pub(super) fn take_back(
        &self,
        setup: &Setup,
        commitment: Txid,
        fee_rate: FeeRate,
    ) -> Result<Vec<Transaction>, Reject> {
        let fee_rate = self.within(fee_rate);
        let bridges = [&self.bridge.newest, &self.bridge.previous];
        let built = bridges.into_iter().flatten().find_map(|contents| {
            let built = Commitment::build(&setup.terms, Side::Bridge, contents);
            (built.txid() == commitment).then_some((contents, built))
        });
        let (contents, built) = built.ok_or(Reject::UnknownCommitment(commitment))?;
        let key = secret_key(&setup.keys.htlc, &contents.point);
        let to = &setup.enrolment.closing_script;
        let ours = built.htlcs().iter().filter(|output| output.htlc.offered_by == Side::Holder);
        // What costs more than it brings stays where it is.
        Ok(ours.filter_map(|output| take_back::complete(&built, output, &key, to, fee_rate)).collect())
    }

    /// Takes everything of a commitment that the bridge had revoked.
    pub(super) fn punish(&self, setup: &Setup, revoked: &Revoked) -> Result<Transaction, Reject> {
        let fee_rate = self.within(revoked.fee_rate);
        let number = number_of(&setup.terms, &revoked.commitment);
        let secret = number.and_then(|number| self.bridge.secrets.get(number)).ok_or(Reject::NotRevoked)?;
        penalty::complete(
            &setup.terms,
            &setup.keys.revocation,
            &secret,
            &revoked.outputs,
            &revoked.htlcs,
            &setup.enrolment.closing_script,
            fee_rate,
        )
        .ok_or(Reject::OnchainFee(fee_rate))
    }

    /// Which HTLCs of the holder's a commitment that the bridge had revoked has, found by trying these hashes and heights
    /// ([`penalty::find_htlcs`]). None when it is no such commitment.
    pub fn revoked_htlcs(
        &self,
        setup: &Setup,
        commitment: &Transaction,
        hashes: &[PaymentHash],
        expiries: RangeInclusive<u32>,
    ) -> Vec<Htlc> {
        let number = number_of(&setup.terms, commitment);
        let Some(secret) = number.and_then(|number| self.bridge.secrets.get(number)) else {
            return Vec::new();
        };
        penalty::find_htlcs(&setup.terms, &secret, commitment, hashes, expiries)
    }

    /// At the most the highest rate that the owner allows, whatever is asked for: money that comes home at that rate is better than none.
    fn within(&self, asked: FeeRate) -> FeeRate {
        asked.min(self.policy.most_fee_rate)
    }
}
