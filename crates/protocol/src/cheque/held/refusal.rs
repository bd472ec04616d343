//! Why a holder of promises refuses.

use super::MOST_GIVEN_UP;
use crate::amount::Msat;
use crate::cheque::point::AdaptorPoint;
use crate::cheque::promises::BadUpdate;

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Not what a payer may send.
    #[error(transparent)]
    BadUpdate(#[from] BadUpdate),
    /// Older than what counts.
    #[error("this update has number {got}, but number {newest} counts already")]
    Stale {
        /// What counts.
        newest: u64,
        /// The update's.
        got: u64,
    },
    /// The first payment must be enforceable.
    #[error("the first payment is {got}, but must be at least {least}: less cannot be claimed on chain")]
    FirstTooSmall {
        /// The agreed prepayment.
        least: Msat,
        /// The stated total.
        got: Msat,
    },
    /// A promise that a lock depends on is missing or changed.
    #[error("the promise under {0:?} is locked and must stay as it is")]
    LeavesOut(AdaptorPoint),
    /// A promise whose secret is known here is left out by a payer that does not know it.
    #[error("the promise under {0:?} was cashed: hand its secret over first")]
    Unsettled(AdaptorPoint),
    /// What was bought would not be paid.
    #[error("{claim} can be claimed now, with this update it would be {got}")]
    ClaimFalls {
        /// The claim.
        claim: Msat,
        /// What would be left of it.
        got: Msat,
    },
    /// A point whose secret was bought already.
    #[error("the secret of {0:?} was sold before")]
    Sold(AdaptorPoint),
    /// A point whose promise the holder has signed to hold no more.
    #[error("it is signed that no promise under {0:?} is held any more: promise under another point")]
    GivenUp(AdaptorPoint),
    /// It cannot be signed that it is held no more.
    #[error("that promise is held here still, or was cashed")]
    NotGivenUp,
    /// Too many words of that kind.
    #[error("{MOST_GIVEN_UP} cheques of this channel are signed to be taken back, and no more are")]
    TooManyGivenUp,
    /// The credit does not cover the cost.
    #[error("{needed} must be paid in total for this, but only {paid} is")]
    Unpaid {
        /// What the total must reach.
        needed: Msat,
        /// What it is.
        paid: Msat,
    },
    /// What is stored is not what this program stored.
    #[error(
        "what is stored of this channel's promises is damaged: nothing is bought or taken in it any more"
    )]
    Damaged,
    /// No such promise.
    #[error("no promise is held for this point")]
    Unknown,
    /// It is locked for something else.
    #[error("this promise is locked already")]
    Locked,
    /// Another promise waits for a lock under that point.
    #[error("another promise depends on a lock under {0:?} already")]
    LockTaken(AdaptorPoint),
    /// Its secret is known.
    #[error("the secret of this promise was bought already")]
    Bought,
    /// The lock's point does not lead back to the promise.
    #[error("the lock's point and tweak do not lead to the promise's point")]
    WrongTweak,
    /// The lock pays more than the promise brings.
    #[error("the promise brings {brings}, but the lock and the fee take {takes}")]
    Unprofitable {
        /// The promise's amount.
        brings: Msat,
        /// What the lock pays, and the fee.
        takes: Msat,
    },
    /// The lock could not end in time.
    #[error(
        "the lock may end as late as {ends}, and {delta} blocks later this channel expires, at {expires}"
    )]
    TooLate {
        /// The other channel's expiry.
        ends: u32,
        /// The blocks in between.
        delta: u32,
        /// This channel's expiry.
        expires: u32,
    },
    /// The payee could not publish in time.
    #[error("the channel expires at {expiry}, at {height} that is too near")]
    TooNear {
        /// The expiry.
        expiry: u32,
        /// The tip's height.
        height: u32,
    },
    /// The funding may yet disappear.
    #[error("the funding is not deep enough for anything to be handed over on its strength")]
    NotDeep,
    /// The total could not be enforced.
    #[error("the total would be {got}, but less than {least} cannot be claimed on chain")]
    Dust {
        /// Dust and the cost of closing.
        least: Msat,
        /// The resulting total.
        got: Msat,
    },
    /// The lock pays less than the cheque says.
    #[error("the lock pays {got}, but the cheque is for {least}")]
    TooLittle {
        /// The cheque's amount.
        least: Msat,
        /// The lock's.
        got: Msat,
    },
    /// The channel cannot be closed.
    #[error("a lock depends on this channel: it can be closed when that has ended")]
    LockOpen,
    /// A payer was authorised, and what came is not its increment.
    #[error(
        "a payer is authorised to add the next increment of this channel until block {0}: until then nothing else is taken"
    )]
    Authorised(u32),
    /// Something is open that the increment would come beside.
    #[error("a promise or another authorisation is open in this channel: it has one at a time")]
    NotFree,
    /// Not what was authorised.
    #[error("this is not the increment that was authorised")]
    NotAuthorised,
    /// It would bind longer than the channel lives.
    #[error(
        "the authorisation would end at {until}, but the channel expires at {expiry}, and {margin} blocks are needed to claim"
    )]
    TooLong {
        /// The authorisation's last height.
        until: u32,
        /// The channel's expiry.
        expiry: u32,
        /// What the payee needs to publish.
        margin: u32,
    },
    /// More than is locked.
    #[error("the total would be {got}, but this channel can pay only {most}")]
    OverCapacity {
        /// The most that it can pay.
        most: Msat,
        /// The resulting total.
        got: Msat,
    },
}
