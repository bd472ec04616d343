//! What the owner allows. The owner signs it; the device obeys the newest one it was given, and the gateway enforces a copy of
//! it, so that a thief with the device gets no more than it allows.

use bitcoin::FeeRate;
use secp256k1::{Keypair, Message, PublicKey, SECP256K1, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::tagged;

/// Limits of one device. Amounts include routing fees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Grows with every change. A lower one is not accepted any more.
    pub version: u64,
    /// The owner's stop: nothing new is paid.
    pub paused: bool,
    /// Whom an invoice may pay that the gateway relayed. Other invoices, which the device got by itself, may pay anybody.
    pub payees: Vec<PublicKey>,
    /// For one payment.
    pub per_payment: Msat,
    /// For any 3,600 seconds.
    pub per_hour: Msat,
    /// For any 86,400 seconds.
    pub per_day: Msat,
    /// For all HTLCs that are under way at once. A bridge that cheats can win no more than this.
    pub in_flight: Msat,
    /// What routing may cost: this, and [`Self::fee_ppm`].
    pub fee_base: Msat,
    /// What routing may cost, in millionths of the amount.
    pub fee_ppm: u32,
    /// The lowest fee rate of a commitment. It has headroom, since without anchors nothing can be added later.
    pub least_fee_rate: FeeRate,
    /// The highest fee rate of a commitment or a closing.
    pub most_fee_rate: FeeRate,
    /// How many HTLCs a commitment may have, both directions together.
    pub most_htlcs: u16,
    /// How many blocks ahead an HTLC may expire: so long money may be stuck.
    pub most_expiry_delta: u32,
}

const HOUR: u64 = 3_600;
/// The longest time that has a limit, in seconds.
pub(super) const DAY: u64 = 86_400;
const TAG: &str = "farthing/device/policy";

impl Policy {
    /// The most that routing may cost for that amount.
    pub fn most_routing_fee(&self, amount: Msat) -> Msat {
        let share = u128::from(amount.get()) * u128::from(self.fee_ppm) / 1_000_000;
        self.fee_base.saturating_add(Msat::new(u64::try_from(share).unwrap_or(u64::MAX)))
    }

    /// The limits on what is spent in a time, as seconds and amount.
    pub(super) fn velocities(&self) -> [(u64, Msat); 2] {
        [(HOUR, self.per_hour), (DAY, self.per_day)]
    }

    /// Signs it, as the owner does.
    pub fn sign(self, owner: &Keypair) -> SignedPolicy {
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&self.digest(), owner);
        SignedPolicy { policy: self, signature }
    }

    fn digest(&self) -> Message {
        let payees: Vec<u8> = self.payees.iter().flat_map(PublicKey::serialize).collect();
        let numbers = [
            self.version,
            u64::from(self.paused),
            self.per_payment.get(),
            self.per_hour.get(),
            self.per_day.get(),
            self.in_flight.get(),
            self.fee_base.get(),
            u64::from(self.fee_ppm),
            self.least_fee_rate.to_sat_per_kwu(),
            self.most_fee_rate.to_sat_per_kwu(),
            u64::from(self.most_htlcs),
            u64::from(self.most_expiry_delta),
        ];
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let digest = tagged::hash(TAG, &[&numbers, &payees]);
        Message::from_digest(digest)
    }
}

/// A policy under the owner's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPolicy {
    policy: Policy,
    signature: schnorr::Signature,
}

impl SignedPolicy {
    /// The policy, if the owner signed it.
    pub fn verify(self, owner: &XOnlyPublicKey) -> Option<Policy> {
        let holds = SECP256K1.verify_schnorr(&self.signature, &self.policy.digest(), owner).is_ok();
        holds.then_some(self.policy)
    }
}

/// The newest block that the device knows from headers whose work it checked. Height and time come from there and not from
/// the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Blocks.
    pub height: u32,
    /// Median time past (BIP113), seconds since 1970.
    pub time: u64,
}

impl Tip {
    /// The later of both, part by part: a clock that runs backwards would refill the limits.
    pub(super) fn latest(self, other: Self) -> Self {
        Self { height: self.height.max(other.height), time: self.time.max(other.time) }
    }
}
