//! Why a payer of promises refuses.

use super::MOST_LOOSE;
use crate::amount::Msat;
use crate::cheque::promises::BadUpdate;

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The terms would not be valid.
    #[error(transparent)]
    BadTerms(#[from] BadUpdate),
    /// One lock at a time.
    #[error("a lock is open in this channel, and it has one at a time")]
    LockOpen,
    /// The other side may take it at any time.
    #[error("what an agent's signature costs cannot be taken back once it was promised")]
    Bought,
    /// The point was used before.
    #[error("a promise under this point was made before")]
    PointUsed,
    /// No such promise.
    #[error("no promise was made under this point")]
    Unknown,
    /// Nothing could be enforced.
    #[error("the total would be {got}, but less than {least} cannot be claimed on chain")]
    Dust {
        /// Dust and the cost of closing.
        least: Msat,
        /// The resulting total.
        got: Msat,
    },
    /// Too many withdrawn promises.
    #[error("{MOST_LOOSE} withdrawn promises may still be cashed: pay something first")]
    TooManyLoose,
}
