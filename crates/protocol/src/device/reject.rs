//! Why the device refuses. Each refusal names the rule that was broken, in the manner of the Validating Lightning Signer's
//! [policy controls], whose list this follows; where a rule has no name there, it has one of ours.
//!
//! [policy controls]: https://gitlab.com/lightning-signer/docs/-/blob/master/policy-controls.md

use bitcoin::{Amount, FeeRate, Txid};

use super::bolt3::{CommitmentNumber, PaymentHash, Side};
use crate::amount::Msat;

/// A request that the device refuses; then nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The channel is in another stage.
    #[error("channel-stage: the channel is {0}")]
    Stage(&'static str),
    /// The owner did not sign this policy.
    #[error("policy-signature: the owner did not sign this policy")]
    PolicySignature,
    /// An older policy than the one in force, or another with its number.
    #[error("policy-version: policy {current} is in force, got {got}")]
    PolicyVersion {
        /// In force.
        current: u64,
        /// Offered.
        got: u64,
    },
    /// The owner said stop.
    #[error("policy-paused: the owner has stopped payments")]
    Paused,
    /// The invoice ran out.
    #[error("invoice-not-expired: it expired at {expired}, now it is {now}")]
    InvoiceExpired {
        /// When it expired, seconds since 1970.
        expired: u64,
        /// The time by the chain.
        now: u64,
    },
    /// The gateway relayed an invoice of somebody whom the owner did not list.
    #[error(
        "invoice-payee-allowlisted: the gateway relayed an invoice of a payee that the owner did not list"
    )]
    PayeeNotListed,
    /// The device keeps no more of them.
    #[error(
        "payment-count: {most} approved invoices are neither paid nor expired: nothing was paid; wait until one of them expires"
    )]
    TooManyApproved {
        /// The limit.
        most: usize,
    },
    /// Another invoice with the same hash was approved, or it was paid.
    #[error("invoice-not-paid: an invoice with this payment hash was approved or paid before")]
    HashUsed,
    /// It may have been paid: the hashes of so old invoices are forgotten.
    #[error(
        "invoice-not-paid: the invoice was made at {made}, and what was paid of invoices made until {forgotten} is not known any more: ask \
         the payee for a new one"
    )]
    InvoiceTooOld {
        /// When it was made, seconds since 1970.
        made: u64,
        /// When the newest one was made that was forgotten.
        forgotten: u64,
    },
    /// Dated ahead of the chain, like many others.
    #[error(
        "invoice-ahead: the invoice was made at {made}, and by the newest blocks it is {now}: of such only a few are taken; ask the payee for \
         one with the right time, or wait for blocks"
    )]
    InvoiceAhead {
        /// When it was made, seconds since 1970.
        made: u64,
        /// The time by the chain.
        now: u64,
    },
    /// Too much for one payment.
    #[error("payment-amount: {got} with fees is more than {most} for one payment")]
    PerPayment {
        /// The limit.
        most: Msat,
        /// Asked for.
        got: Msat,
    },
    /// Too much in a time.
    #[error("payment-velocity: {got} in {seconds} seconds is more than {most}")]
    Velocity {
        /// In which time.
        seconds: u64,
        /// The limit.
        most: Msat,
        /// What it would be.
        got: Msat,
    },
    /// An HTLC that no approved invoice covers.
    #[error("routing-balanced: no approved invoice has this payment hash")]
    NotApproved(PaymentHash),
    /// An HTLC for an invoice that was paid.
    #[error("payment-settled: the preimage is known, it is not paid again")]
    Settled(PaymentHash),
    /// A second HTLC while the first may still be fulfilled.
    #[error("payment-single-htlc: an HTLC with this payment hash is not irrevocably removed")]
    Live(PaymentHash),
    /// Not what the invoice asks for and routing may cost.
    #[error("invoice-amount: an HTLC of {got} for an invoice that takes {least} to {most}")]
    HtlcAmount {
        /// The invoice's amount.
        least: Msat,
        /// With the highest routing fee.
        most: Msat,
        /// Asked for.
        got: Msat,
    },
    /// An expiry that is past, or keeps money for too long.
    #[error("commitment-htlc-cltv-range: an HTLC that expires at {got}, not within {least} to {most}")]
    CltvRange {
        /// The lowest height.
        least: u32,
        /// The highest height.
        most: u32,
        /// Asked for.
        got: u32,
    },
    /// Too much at once.
    #[error("commitment-htlc-inflight-limit: {got} is in flight, more than {most}")]
    InFlight {
        /// The limit.
        most: Msat,
        /// What it would be.
        got: Msat,
    },
    /// Too many HTLCs.
    #[error("commitment-htlc-count-limit: {got} HTLCs, more than {most}")]
    HtlcCount {
        /// The limit.
        most: u16,
        /// What it would be.
        got: usize,
    },
    /// An HTLC of ours in the holder's commitment that the bridge's does not have.
    #[error("htlc-added-in-order: an HTLC of ours must be in the bridge's commitment first")]
    AddedTooSoon,
    /// An HTLC of ours goes from the bridge's commitment while the holder's still has it.
    #[error("htlc-removed-in-order: an HTLC of ours must leave the holder's commitment first")]
    RemovedTooSoon,
    /// The device only pays.
    #[error("htlc-never-fulfilled: an HTLC that the bridge offers is only ever failed")]
    ReceivedFulfilled,
    /// A fee rate out of bounds.
    #[error("commitment-fee-range: {} is not within {} to {} sat/kw", got.to_sat_per_kwu(), least.to_sat_per_kwu(), most.to_sat_per_kwu())]
    FeeRate {
        /// The lowest.
        least: FeeRate,
        /// The highest.
        most: FeeRate,
        /// Asked for.
        got: FeeRate,
    },
    /// The holder could not pay the fee.
    #[error("commitment-fee-covered: the fee is {fee}, the holder has {balance}")]
    FeeNotCovered {
        /// The fee.
        fee: Amount,
        /// The holder's balance.
        balance: Amount,
    },
    /// Money that came or went without a reason.
    #[error("commitment-balance: the {side:?} has {expected}, not {got}")]
    Balance {
        /// Whose.
        side: Side,
        /// By the state before and the HTLCs that came and went.
        expected: Msat,
        /// Asked for.
        got: Msat,
    },
    /// The first state must give everything to the holder.
    #[error(
        "commitment-initial-funding-value: the first state gives everything to the holder, without HTLCs"
    )]
    Initial,
    /// The gateway's transaction is not the one that the device built: another output, value, key, delay, lock.
    #[error("commitment-no-unrecognized-outputs: the device builds {expected}, the gateway {got}")]
    OtherTransaction {
        /// The device's.
        expected: Txid,
        /// The gateway's.
        got: Txid,
    },
    /// Not the next state.
    #[error("commitment-number: the next one is {expected}, got {got}")]
    Number {
        /// The next.
        expected: CommitmentNumber,
        /// Asked for.
        got: CommitmentNumber,
    },
    /// The same number with other contents.
    #[error("commitment-retry-same: commitment {0} was another before")]
    RetryDiffers(CommitmentNumber),
    /// A third state that is not revoked.
    #[error("commitment-previous-revoked: commitment {0} is not revoked yet")]
    PreviousNotRevoked(CommitmentNumber),
    /// The bridge's signature on the holder's commitment.
    #[error("commitment-signature: the bridge's signature does not fit")]
    BridgeSignature,
    /// The bridge's signatures on second stages.
    #[error("htlc-signature: the bridge's signature {index} of {count} does not fit, there are {got}")]
    HtlcSignature {
        /// Which, in the order of outputs.
        index: usize,
        /// How many there must be.
        count: usize,
        /// How many came.
        got: usize,
    },
    /// The joint signature on the holder's commitment.
    #[error("commitment-joint-signature: the joint signature does not fit")]
    JointSignature,
    /// A secret is asked for before the state after it can be published.
    #[error("revoke-new-commitment-signed: the state after {0} is not complete")]
    NewNotComplete(CommitmentNumber),
    /// The bridge's secret is not that of the commitment it revokes.
    #[error("revoke-secret-matches-point: the secret of commitment {0} does not fit its point")]
    WrongSecret(CommitmentNumber),
    /// The bridge's secrets do not come from one seed.
    #[error("revoke-secret-derivable: the secret of commitment {0} was not made from the same seed")]
    SecretNotDerivable(CommitmentNumber),
    /// The driver says that it erased something else.
    #[error("revoke-erased: nothing of commitment {0} waits to be erased")]
    NotErasing(CommitmentNumber),
    /// The owner could not close alone yet.
    #[error("funding-commitment-complete: state 0 is not complete on both sides")]
    FundingTooSoon,
    /// HTLCs are under way.
    #[error("mutual-no-pending-htlcs: a state that is not revoked has HTLCs")]
    PendingHtlcs,
    /// The owner's money would go elsewhere.
    #[error("mutual-destination-allowlisted: the holder's output is not the owner's")]
    Destination,
    /// A script of the bridge's that BOLT 2 does not allow: it could be as long as it likes, and the owner pays for its weight.
    #[error("mutual-counterparty-script: the bridge's output pays no script of the usual forms")]
    BridgeScript,
    /// A side would get another amount than its balance.
    #[error("mutual-value-matches-commitment: the {side:?} would get {got} of {balance}")]
    ClosingValue {
        /// Whose.
        side: Side,
        /// What it has.
        balance: Amount,
        /// What it would get.
        got: Amount,
    },
    /// The closing costs too much or too little.
    #[error("mutual-fee-range: a fee of {got} is not within {least} to {most}")]
    ClosingFee {
        /// The lowest.
        least: Amount,
        /// The highest.
        most: Amount,
        /// Asked for.
        got: Amount,
    },
    /// The fee at that rate eats what there is to take.
    #[error("onchain-fee-range: {} sat/kw leaves nothing or dust", .0.to_sat_per_kwu())]
    OnchainFee(FeeRate),
    /// Not a commitment of the bridge that the device signed and that is not revoked.
    #[error("onchain-known-commitment: {0} is no commitment that the bridge may publish")]
    UnknownCommitment(Txid),
    /// The bridge had not revoked it.
    #[error("onchain-revoked: the published transaction is no commitment whose secret the bridge revealed")]
    NotRevoked,
}

impl Reject {
    /// The name of the rule that was broken, for messages and counters.
    pub fn rule(&self) -> String {
        let text = self.to_string();
        text.split(':').next().unwrap_or_default().to_owned()
    }
}
