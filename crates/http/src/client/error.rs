//! Why buying did not go on.

use std::time::Duration;

use bitcoin::Amount;
use farthing_node::books::OrderError;
use farthing_node::buyer::calls::CallsError;
use farthing_node::buyer::{CloseError, ProposeError};
use farthing_node::explain::ExplainError;
use farthing_node::watch::WatchError;
use farthing_protocol::lightspeed::purse::Unable;
use farthing_protocol::payer::Reject;
use farthing_protocol::{ChannelId, Msat};

use crate::challenge::BadChallenge;
use crate::manifest::BadManifest;
use crate::problem::Kind;

/// Why buying did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not one of http or https, or has no host.
    #[error("{0} is not an http or https address of a file")]
    Url(String),
    /// Plain HTTP to a public host.
    #[error(
        "{0} is plain http to another machine: use https, or --allow-http if you accept that others can listen"
    )]
    PlainHttp(String),
    /// The seller cannot be reached, or the connection broke.
    #[error("{url} cannot be reached")]
    Network {
        /// Whom.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The seller was reached, and says nothing.
    #[error("{url} has not answered for {} s", after.as_secs())]
    Silent {
        /// Whom.
        url: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The seller says no.
    #[error("the seller refused: {detail} (HTTP {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The kind of problem, if it is one of ours.
        kind: Option<Kind>,
        /// In the seller's words.
        detail: String,
        /// In how many seconds to try again, if the seller says so.
        retry_after: Option<u64>,
    },
    /// The seller speaks something else.
    #[error(transparent)]
    BadChallenge(#[from] BadChallenge),
    /// The file's manifest makes no sense.
    #[error(transparent)]
    BadManifest(#[from] BadManifest),
    /// Calls are sold there, not a file.
    #[error(
        "no file is sold at this address: it is an API that asks for a payment with each call; use `farthing call`"
    )]
    NoFile,
    /// A file is sold there, not calls.
    #[error("a file is sold at this address, not calls: use `farthing buy`")]
    NoCalls,
    /// The seller answers with something else than agreed.
    #[error("the seller's answer makes no sense: {0}")]
    Nonsense(String),
    /// The chain could not be looked at.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// No channel was proposed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Not bought, or not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
    /// The channel was not closed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// It costs more than allowed. Nothing was paid.
    #[error(
        "this costs {cost}, more than the {most} that you allow: nothing was paid; raise --max-cost to go on"
    )]
    OverCost {
        /// What it costs.
        cost: Msat,
        /// What is allowed.
        most: Msat,
    },
    /// The file costs less than allowed, but the first payment in a new channel is more. Nothing was paid.
    #[error(
        "the file costs {cost}, but the first payment in a new channel is {prepaid}, since less cannot be claimed on chain, \
         and you allow {most}: nothing was paid; raise --max-cost to go on"
    )]
    OverPrepaid {
        /// What the file costs.
        cost: Msat,
        /// What the first payment would be.
        prepaid: Msat,
        /// What is allowed.
        most: Msat,
    },
    /// No channel of that size could pay for the call. Nothing was locked or paid.
    #[error(
        "this call costs {cost}, and a new channel would hold {deposit}: nothing was paid or locked; raise --deposit to go on"
    )]
    OverDeposit {
        /// What the call costs.
        cost: Msat,
        /// What a new channel would hold.
        deposit: Msat,
    },
    /// A channel on the seller's terms would lock more than allowed. Nothing was locked or paid.
    #[error(
        "on this seller's terms a new channel would lock {capacity}, with {fee} of it for the commitment's fee; your deposit of \
         {deposit} allows that much, and a fee of at most as much again: nothing was paid or locked; raise --deposit to go on"
    )]
    OverLocked {
        /// What would be locked.
        capacity: Amount,
        /// The commitment's fee in it.
        fee: Amount,
        /// What a new channel would hold.
        deposit: Msat,
    },
    /// The seller closed the last channel alone and kept what bought nothing. Nothing more was paid.
    #[error(
        "this seller closed channel {channel} alone, and {kept} of the first payment bought nothing: this process opens no other \
         channel to it, and nothing more was paid; to risk another first payment, start it again"
    )]
    ClosedAlone {
        /// The channel.
        channel: ChannelId,
        /// What the seller keeps of the first payment.
        kept: Msat,
    },
    /// A file of ours cannot be written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The seller raised its price, or changed the file, under way.
    #[error("the seller now offers other terms: {0}; nothing more was paid")]
    TermsChanged(&'static str),
    /// Calls are still being served.
    #[error("calls are still being served: close the channel when they are done")]
    CallsRunning,
    /// The budget for one call is used up in the middle of an answer.
    #[error(
        "the answer goes on, but {most} is the most that this call may cost: it was cut off, and cost {charged}; raise --max-cost"
    )]
    CutOff {
        /// What was allowed.
        most: Msat,
        /// What it cost.
        charged: Msat,
    },
    /// An answer that was charged as it flowed did not come to its end.
    #[error("the answer broke off, and cost {charged}: {source}")]
    BrokenOff {
        /// What it cost.
        charged: Msat,
        /// Why.
        source: reqwest::Error,
    },
    /// The call was sent again and again, and what became of it is not known.
    #[error(
        "it is not known whether the call was served: it costs {most} at most, and closing the channel settles it; the last \
         answer: {last}"
    )]
    Unsettled {
        /// What it may have cost.
        most: Msat,
        /// What the seller, or whoever stands between, answered last.
        last: String,
    },
    /// A fault of this program.
    #[error(
        "this program failed in the middle of the call: it costs no more than was allowed, and closing the channel settles it; please \
         report it"
    )]
    Stopped,
    /// What it costs is told by asking for it, which may carry it out.
    #[error(
        "this seller publishes no prices, and to ask with {0} may carry the call out: nothing was sent. See what it answers with --no-pay"
    )]
    OnlyByAsking(reqwest::Method),
    /// No chain was announced, or no call prepared.
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// A budget does not allow it. Nothing was paid.
    #[error(
        "{what} {cost}, and of the budget {which} of {budget} only {left} is left: nothing was paid; raise that budget to go on"
    )]
    OverBudget {
        /// What would be taken out of it, in words.
        what: &'static str,
        /// Which budget.
        which: &'static str,
        /// What it allows.
        budget: Msat,
        /// What is left of it.
        left: Msat,
        /// How much would be taken out of it.
        cost: Msat,
    },
    /// The seller's flat terms break a limit, or cannot be explained: nothing is locked.
    #[error("the seller's terms for calls are not accepted: {0}")]
    Flat(#[from] ExplainError),
    /// The seller served the call but its answer was lost, and is not kept.
    #[error(
        "the call was served and cost {0}, but its answer was lost on the way and the seller does not keep it"
    )]
    AnswerLost(Msat),
    /// The seller sends, but so little at a time that it holds the buyer for nothing.
    #[error(
        "the seller sent one piece too slowly: it was not whole after {0} s. What is here stays, and the same command goes on with it"
    )]
    TooSlow(u64),
    /// The seller sends wrong bytes again and again.
    #[error("{0}: the seller was asked {1} times; nothing more is paid to it")]
    WrongPieces(crate::manifest::WrongPiece, u32),
}

impl ClientError {
    /// Whether what was known of the seller, its price or the channel to it, is true no more.
    pub(crate) fn says_start_over(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => {
                matches!(kind, Some(Kind::PaymentInsufficient | Kind::ChannelNotOpen))
            }
            Self::Calls(CallsError::Order(error)) => {
                matches!(error, OrderError::Rejected(Reject::NotOpen(_)) | OrderError::NoChannel(_))
            }
            _other => false,
        }
    }

    /// Whether the channel has nothing left to pay with.
    pub(crate) fn says_used_up(&self) -> bool {
        match self {
            Self::Calls(CallsError::Spent(_)) => true,
            Self::Calls(CallsError::Order(OrderError::Rejected(reject))) => {
                matches!(reject, Reject::Call(Unable::OverCapacity { .. } | Unable::TooDear { .. }))
            }
            _other => false,
        }
    }

    /// Whether the same request may succeed in a while.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Network { .. } | Self::Silent { .. } | Self::TooSlow(_) => true,
            Self::Refused { kind, status, .. } => {
                matches!(kind, Some(Kind::Unavailable | Kind::FundingNotDeep)) || *status >= 500
            }
            _final => false,
        }
    }
}
