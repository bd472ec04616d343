//! The cooperative close: one transaction through the key path, 154 vB with both outputs, signed by both with MuSig2
//! (BIP327). It settles what was *spent*: prepaid money that bought nothing goes back to the payer.
//!
//! Version 3 (BIP431) like the commitment: the payer can attach no more than one small child to it, so it cannot be
//! pinned in the mempool against the payee's commitment, which replaces it when it does not confirm in time.
//!
//! One round trip: the payer sends what it wants settled and a nonce; the payee answers with a nonce and its partial
//! signature; the payer finishes and broadcasts. So the payee signs first. That costs it nothing: before it signs, it
//! has stored that the channel is closing and accepts no further payment, and the transaction pays all it has earned.
//! If the payer then vanishes, the payee publishes its newest commitment.
//!
//! Secret nonces live in memory only and are used once: [`Proposal`] and [`cosign`] consume them. After a restart a
//! new round starts with new nonces.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, ScriptBuf, Sequence, Transaction, TxIn, Weight, Witness};
use musig2::{
    AggNonce, BinaryEncoding as _, KeyAggContext, LiftedSignature, PartialSignature, PubNonce, SecNonce,
};
use secp256k1::{Message, SECP256K1, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::{DUST, Msat};
use crate::channel::Channel;
use crate::commitment;
use crate::funding;
use crate::keys::ChannelKeys;

/// The weight of a complete closing with both outputs: 154 vB.
pub const WEIGHT: Weight = Weight::from_wu(616);

/// The highest fee rate that is worth paying: half of what is left beside the payee's goes back to the payer at least.
pub fn most_fee_rate(channel: &Channel, to_payee: Amount) -> FeeRate {
    let left = channel.params().capacity.checked_sub(to_payee).unwrap_or_default();
    FeeRate::from_sat_per_kwu((left / 2).to_sat().saturating_mul(1_000) / WEIGHT.to_wu())
}

/// What both sides settle on. The payer's side pays the fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The payee's share.
    pub to_payee: Amount,
    /// The closing's fee rate.
    pub fee_rate: FeeRate,
}

/// Why a settlement makes no transaction, or not one that this side signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSettlement {
    /// The capacity does not cover the payee's share and the fee.
    #[error("a capacity of {capacity} does not cover {to_payee} for the payee and a fee of {fee}")]
    OverCapacity {
        /// What is locked.
        capacity: Amount,
        /// The payee's share.
        to_payee: Amount,
        /// The fee.
        fee: Amount,
    },
    /// Every output would be dust.
    #[error("nothing above dust is left after a fee of {fee}")]
    AllDust {
        /// The fee.
        fee: Amount,
    },
    /// The other side's nonce is no point on the curve.
    #[error("the nonce is invalid")]
    Nonce,
}

/// Why the payee's answer did not complete the closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// Not a point on the curve, or not a scalar.
    #[error("the payee's nonce or partial signature is malformed")]
    Malformed,
    /// The signatures do not add up.
    #[error("the payee's partial signature does not fit this closing")]
    WrongSignature,
}

/// A public nonce of BIP327, 66 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicNonce(pub [u8; 66]);

/// The payee's half: its nonce and its partial signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The payee's nonce for this one signature.
    pub nonce: PublicNonce,
    /// Its partial signature, a scalar.
    pub partial_signature: [u8; 32],
}

/// What a channel settles on when `spent` of `paid` was used: nothing if nothing was bought, else at least what the
/// chain can carry, since the payee holds a commitment to `paid` that is above dust.
pub fn due(spent: Msat, paid: Msat) -> Amount {
    if spent == Msat::ZERO { Amount::ZERO } else { spent.floor().max(DUST).min(paid.floor()) }
}

/// The unsigned closing.
///
/// # Errors
/// When the capacity does not cover the settlement, or leaves no output above dust.
pub fn build(channel: &Channel, settlement: &Settlement) -> Result<Transaction, BadSettlement> {
    let params = channel.params();
    let Settlement { to_payee, fee_rate } = *settlement;
    let fee = fee_rate.checked_mul_by_weight(WEIGHT).unwrap_or(Amount::MAX);
    let over = BadSettlement::OverCapacity { capacity: params.capacity, to_payee, fee };
    to_payee.checked_add(fee).filter(|sum| *sum <= params.capacity).ok_or(over)?;
    let output = commitment::outputs(channel, to_payee, fee);
    if output.is_empty() {
        return Err(BadSettlement::AllDust { fee });
    }
    Ok(Transaction {
        version: Version(3),
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: params.funding,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output,
    })
}

/// Whether a transaction is the closing of this settlement, completely signed.
pub fn is_complete(channel: &Channel, settlement: &Settlement, transaction: &Transaction) -> bool {
    let Ok(unsigned) = build(channel, settlement) else { return false };
    let witness: Vec<&[u8]> =
        transaction.input.first().map(|input| input.witness.iter().collect()).unwrap_or_default();
    let [signature] = witness.as_slice() else { return false };
    let Ok(signature) = schnorr::Signature::from_slice(signature) else { return false };
    transaction.compute_txid() == unsigned.compute_txid()
        && SECP256K1
            .verify_schnorr(&signature, &digest(channel, &unsigned), &channel.funding().output_key())
            .is_ok()
}

/// The payer's side of one closing round. Dropped, it is void; used, it is gone.
pub struct Proposal {
    settlement: Settlement,
    unsigned: Transaction,
    nonce: SecNonce,
}

impl Proposal {
    /// Starts a round. `entropy` must be fresh randomness.
    ///
    /// # Errors
    /// When the settlement makes no transaction.
    pub fn new(
        channel: &Channel,
        keys: &ChannelKeys,
        settlement: Settlement,
        entropy: [u8; 32],
    ) -> Result<Self, BadSettlement> {
        let unsigned = build(channel, &settlement)?;
        let nonce = secret_nonce(channel, keys, &unsigned, entropy, &[]);
        Ok(Self { settlement, unsigned, nonce })
    }

    /// What is to be settled.
    pub fn settlement(&self) -> Settlement {
        self.settlement
    }

    /// The nonce to send.
    pub fn public_nonce(&self) -> PublicNonce {
        PublicNonce(self.nonce.public_nonce().to_bytes())
    }

    /// Adds the payee's half: a transaction that both may broadcast.
    ///
    /// # Errors
    /// When the payee's half does not fit. The round is over either way; a new one needs a new proposal.
    pub fn complete(
        self,
        channel: &Channel,
        keys: &ChannelKeys,
        answer: &Answer,
    ) -> Result<Transaction, BadAnswer> {
        let theirs = PubNonce::from_bytes(&answer.nonce.0).map_err(|_| BadAnswer::Malformed)?;
        let their_partial =
            PartialSignature::from_slice(&answer.partial_signature).map_err(|_| BadAnswer::Malformed)?;
        let nonces = AggNonce::sum([self.nonce.public_nonce(), theirs]);
        let context = context(channel);
        let digest = digest(channel, &self.unsigned);
        let mine: PartialSignature =
            musig2::sign_partial(&context, scalar(keys), self.nonce, &nonces, digest.as_ref())
                .map_err(|_| BadAnswer::WrongSignature)?;
        let signature: LiftedSignature =
            musig2::aggregate_partial_signatures(&context, &nonces, [mine, their_partial], digest.as_ref())
                .map_err(|_| BadAnswer::WrongSignature)?;
        let mut transaction = self.unsigned;
        transaction.input[0].witness.push(signature.serialize());
        Ok(transaction)
    }
}

/// The payee's side: signs its half for a settlement that it has already stored. `entropy` must be fresh randomness.
///
/// # Errors
/// When the settlement makes no transaction or the payer's nonce is invalid.
pub fn cosign(
    channel: &Channel,
    keys: &ChannelKeys,
    settlement: &Settlement,
    payer_nonce: &PublicNonce,
    entropy: [u8; 32],
) -> Result<Answer, BadSettlement> {
    let unsigned = build(channel, settlement)?;
    let theirs = PubNonce::from_bytes(&payer_nonce.0).map_err(|_| BadSettlement::Nonce)?;
    let nonce = secret_nonce(channel, keys, &unsigned, entropy, &payer_nonce.0);
    let public = nonce.public_nonce();
    let nonces = AggNonce::sum([theirs, public.clone()]);
    let digest = digest(channel, &unsigned);
    let partial: PartialSignature =
        musig2::sign_partial(&context(channel), scalar(keys), nonce, &nonces, digest.as_ref())
            .map_err(|_| BadSettlement::Nonce)?;
    Ok(Answer { nonce: PublicNonce(public.to_bytes()), partial_signature: partial.serialize() })
}

fn context(channel: &Channel) -> KeyAggContext {
    let params = channel.params();
    funding::key_aggregation(&params.payer.funding, &params.payee.funding)
        .with_taproot_tweak(&channel.funding().merkle_root())
        .expect("the same tweak made the funding output")
}

fn scalar(keys: &ChannelKeys) -> secp::Scalar {
    secp::Scalar::from_slice(&keys.funding.secret_bytes()).expect("a valid secret key is a non-zero scalar")
}

/// The other side's nonce, where it is known, goes in as well: then even a source of randomness that repeats itself (a
/// machine restored from a snapshot) gives no nonce twice.
fn secret_nonce(
    channel: &Channel,
    keys: &ChannelKeys,
    unsigned: &Transaction,
    entropy: [u8; 32],
    theirs: &[u8],
) -> SecNonce {
    let digest = digest(channel, unsigned);
    let message = digest.as_ref();
    SecNonce::build_with_seckey(entropy, scalar(keys)).with_message(message).with_extra_input(&theirs).build()
}

fn digest(channel: &Channel, unsigned: &Transaction) -> Message {
    let sighash = SighashCache::new(unsigned)
        .taproot_key_spend_signature_hash(
            0,
            &Prevouts::All(&[channel.funding_txout()]),
            TapSighashType::Default,
        )
        .expect("input 0 and its one previous output exist");
    Message::from_digest(sighash.to_byte_array())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn settlement(to_payee: u64) -> Settlement {
        Settlement { to_payee: Amount::from_sat(to_payee), fee_rate: FeeRate::from_sat_per_vb_u32(2) }
    }

    #[test]
    fn one_round_makes_a_valid_closing_of_154_vbytes() {
        let (channel, payer, payee) = (testing::channel(), testing::payer_keys(), testing::payee_keys());
        let proposal = Proposal::new(&channel, &payer, settlement(40_000), [1; 32]).unwrap();
        let answer =
            cosign(&channel, &payee, &proposal.settlement(), &proposal.public_nonce(), [2; 32]).unwrap();
        let transaction = proposal.complete(&channel, &payer, &answer).unwrap();
        testing::assert_spends_funding(&channel, &transaction);
        assert_eq!(transaction.weight(), WEIGHT);
        assert!(is_complete(&channel, &settlement(40_000), &transaction));
        assert!(!is_complete(&channel, &settlement(39_999), &transaction));
    }

    #[test]
    fn randomness_that_repeats_itself_gives_no_nonce_twice() {
        let (channel, payer, payee) = (testing::channel(), testing::payer_keys(), testing::payee_keys());
        let answer = |payer_entropy| {
            let proposal = Proposal::new(&channel, &payer, settlement(40_000), payer_entropy).unwrap();
            cosign(&channel, &payee, &settlement(40_000), &proposal.public_nonce(), [2; 32]).unwrap()
        };
        assert_ne!(answer([1; 32]).nonce, answer([3; 32]).nonce);
    }

    #[test]
    fn a_half_for_another_settlement_is_refused() {
        let (channel, payer, payee) = (testing::channel(), testing::payer_keys(), testing::payee_keys());
        let proposal = Proposal::new(&channel, &payer, settlement(40_000), [1; 32]).unwrap();
        let answer =
            cosign(&channel, &payee, &settlement(40_001), &proposal.public_nonce(), [2; 32]).unwrap();
        assert_eq!(proposal.complete(&channel, &payer, &answer), Err(BadAnswer::WrongSignature));
    }

    #[test]
    fn garbage_in_a_half_is_refused_without_a_panic() {
        let (channel, payer, payee) = (testing::channel(), testing::payer_keys(), testing::payee_keys());
        let proposal = Proposal::new(&channel, &payer, settlement(40_000), [1; 32]).unwrap();
        let garbage = Answer { nonce: PublicNonce([0xee; 66]), partial_signature: [0xff; 32] };
        assert_eq!(proposal.complete(&channel, &payer, &garbage), Err(BadAnswer::Malformed));
        let bad_nonce = cosign(&channel, &payee, &settlement(40_000), &PublicNonce([0; 66]), [2; 32]);
        assert_eq!(bad_nonce, Err(BadSettlement::Nonce));
    }

    #[test]
    fn a_settlement_beyond_the_capacity_is_refused() {
        let channel = testing::channel();
        let capacity = channel.params().capacity.to_sat();
        assert!(matches!(build(&channel, &settlement(capacity)), Err(BadSettlement::OverCapacity { .. })));
        assert!(matches!(build(&channel, &settlement(u64::MAX)), Err(BadSettlement::OverCapacity { .. })));
    }

    #[test]
    fn what_is_due_is_what_was_spent_but_never_dust() {
        let due = |spent, paid| due(Msat::new(spent), Msat::new(paid)).to_sat();
        assert_eq!(due(0, 700_000), 0);
        assert_eq!(due(1, 700_000), 330);
        assert_eq!(due(500_999, 700_000), 500);
        assert_eq!(due(700_000, 700_000), 700);
    }
}
