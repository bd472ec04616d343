//! Why a payee does not serve a call, or does not take a chain or a payment.

use super::{MOST_RUNNING, MOST_STEPS, MOST_WRONG_WORDS};
use crate::amount::Msat;
use crate::commitment::WrongSignature;
use crate::flat::batch::BadPreimage;
use crate::lightspeed::call::CallNumber;

/// Why a call is not served now. It costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The call was served and charged already.
    #[error("call {0:?} was served already")]
    Served(CallNumber),
    /// The call is being served.
    #[error("call {0:?} is being served at this moment")]
    Running(CallNumber),
    /// The call was refused, failed, or is of another epoch.
    #[error("call {number:?} was not served and never will be; the present epoch is {epoch}")]
    Void {
        /// The call's number.
        number: CallNumber,
        /// The epoch that serves calls now.
        epoch: u32,
    },
    /// The number is too old: whether it was served is for [`super::Tab::reconcile`] to say.
    #[error("call {number:?} is too old to tell whether it was served; the present epoch is {epoch}")]
    Forgotten {
        /// The call's number.
        number: CallNumber,
        /// The epoch that serves calls now.
        epoch: u32,
    },
    /// Too many calls of this payer run.
    #[error("{MOST_RUNNING} calls of this channel are being served")]
    TooMany,
    /// No such chain.
    #[error("chain {got} is not known; the newest is {newest}")]
    UnknownChain {
        /// The newest that was announced.
        newest: u32,
        /// The call's.
        got: u32,
    },
    /// The chain has not so many words.
    #[error("the chain ends at word {words}, so there is no word {got}")]
    BeyondChain {
        /// The chain's length.
        words: u32,
        /// The stated index.
        got: u32,
    },
    /// Refused before hashing.
    #[error("word {got} is more than {MOST_STEPS} ahead of word {index}")]
    TooFar {
        /// The newest word's index.
        index: u32,
        /// The stated index.
        got: u32,
    },
    /// An honest payer sends none, and each may take [`MOST_STEPS`] hashes to find out.
    #[error("{MOST_WRONG_WORDS} words of this channel were none of its chain's: no further one is looked at")]
    TooManyWrongWords,
    /// The word is not of this chain.
    #[error("this is not word {index} of chain {chain}")]
    WrongWord {
        /// The chain.
        chain: u32,
        /// The stated index.
        index: u32,
    },
    /// The chain before is not paid out.
    #[error("chain {0} counts only with the last word of the chain before it")]
    LastWordMissing(u32),
    /// The preimage opens no output of the batch.
    #[error(transparent)]
    BadPreimage(#[from] BadPreimage),
    /// The words do not cover the cost.
    #[error("{needed} must be paid in total for this call, but only {paid} is")]
    Unpaid {
        /// What the total must reach.
        needed: Msat,
        /// What it is.
        paid: Msat,
    },
    /// Too much for a funding that may yet disappear.
    #[error("the funding is not deep enough: until then at most {cap} can be spent")]
    NotDeepEnough {
        /// The cap.
        cap: Msat,
    },
    /// The payer's rung is locked with something else than its word.
    #[error("rung {rung} of chain {chain} is not locked with its word; this channel is served no more")]
    LyingRung {
        /// The chain.
        chain: u32,
        /// The rung.
        rung: u32,
    },
}

/// Why a chain or a payment is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPay {
    /// The number was used before.
    #[error("the next chain of this channel is number {expected} at least, not {got}")]
    Number {
        /// The least number.
        expected: u32,
        /// The announced one.
        got: u32,
    },
    /// A chain is waiting already.
    #[error("chain {0} is announced already and not begun")]
    Waiting(u32),
    /// The chain stands on another total.
    #[error("the chain or batch must stand on {expected}, not on {got}")]
    Base {
        /// What was paid before it.
        expected: Msat,
        /// What the rungs were verified with.
        got: Msat,
    },
    /// The first announcement decides whether a channel pays with words or with preimages.
    #[error("this channel pays in the other mode: words and preimages do not mix")]
    OtherMode,
    /// The payment does not cover what was paid with words.
    #[error("the payment is {got}, but {paid} is paid already")]
    NotIncreasing {
        /// The total so far.
        paid: Msat,
        /// The payment's.
        got: Msat,
    },
    /// More than is locked.
    #[error("the total of {got} is above the {most} that this channel can pay")]
    OverCapacity {
        /// The most that the channel can pay.
        most: Msat,
        /// The stated total.
        got: Msat,
    },
    /// The signature does not fit.
    #[error(transparent)]
    WrongSignature(#[from] WrongSignature),
}
