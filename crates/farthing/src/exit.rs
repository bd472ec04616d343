//! Exit codes, so that scripts can tell what happened.

use farthing_chain::{ChainError, ConnectError};
use farthing_http::cheques::CarryError;
use farthing_http::client::ClientError;
use farthing_http::mailbox::{DeleteError, FetchError, OpenError, PostError, PublishError, TakeError};
use farthing_node::buyer::{CloseError, ProposeError, SendError};
use farthing_node::device::{ConnectionError, GiveError};
use farthing_node::owner::NotAcknowledged;
use farthing_node::start::StartError;
use farthing_node::watch::WatchError;

/// Anything else.
pub const OTHER: u8 = 1;
/// It would cost more than allowed: nothing was paid, or an answer was cut off there.
const OVER_COST: u8 = 2;
/// A payment or a channel failed.
const PAYMENT: u8 = 3;
/// Somebody could not be reached.
const NETWORK: u8 = 4;

/// How a payment whose end is not known ends.
const GOES_ON: &str = "it goes on when the device is connected (`farthing device run`), and the same command again tells; it pays once";

/// A payment of a device that was not made, or not yet.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unpaid(String);

impl Unpaid {
    /// The device itself refused.
    pub fn by_rule(error: GiveError) -> anyhow::Error {
        match error {
            GiveError::Store(error) => error.into(),
            rule => Self(rule.to_string()).into(),
        }
    }

    /// The gateway could not bring it to the payee; nothing is under way. An approval is in its hands until the invoice expires.
    pub fn failed(why: &str) -> Self {
        Self(format!(
            "the payment failed: {why}. By the gateway's word: to try again, give this invoice, which is paid once at most. Another one \
             for the same is safe when this one has expired"
        ))
    }

    /// Nobody knows yet.
    pub fn pending() -> Self {
        Self(format!("the payment is still under way: {GOES_ON}"))
    }

    /// The gateway gave it up, and the channel has not: its payee may still take it.
    pub fn doubtful(why: &str) -> Self {
        Self(format!(
            "the gateway says that the payment failed ({why}), but it may still be taken in the channel: {GOES_ON}"
        ))
    }

    /// The connection ended between the order and its outcome.
    pub fn cut(error: ConnectionError) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("nobody knows yet what became of the payment: {GOES_ON}"))
    }
}

/// What kind of failure an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    OverCost,
    Payment,
    Network,
    Other,
}

impl Failure {
    /// Finds the kind in an error's causes.
    pub fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if cause.is::<ChainError>() || cause.is::<ConnectError>() || is_about_the_node(cause) {
                return Self::Network;
            }
            if cause.is::<Unpaid>() || cause.is::<GiveError>() {
                return Self::Payment;
            }
            if matches!(
                cause.downcast_ref(),
                Some(ConnectionError::Link(_) | ConnectionError::OwnerStore(NotAcknowledged::Link(_)))
            ) {
                return Self::Network;
            }
            match client_error(cause) {
                Some(
                    ClientError::OverCost { .. }
                    | ClientError::OverPrepaid { .. }
                    | ClientError::OverDeposit { .. }
                    | ClientError::OverLocked { .. }
                    | ClientError::CutOff { .. }
                    | ClientError::OverBudget { .. },
                ) => {
                    return Self::OverCost;
                }
                Some(
                    ClientError::Network { .. }
                    | ClientError::Silent { .. }
                    | ClientError::TooSlow(_)
                    | ClientError::BrokenOff { .. }
                    | ClientError::Watch(WatchError::Chain(_))
                    | ClientError::Propose(ProposeError::Chain(_))
                    | ClientError::Close(CloseError::Chain(_)),
                ) => return Self::Network,
                Some(ClientError::Url(_) | ClientError::PlainHttp(_) | ClientError::File { .. }) => {
                    return Self::Other;
                }
                Some(_) => return Self::Payment,
                None => {}
            }
        }
        Self::Other
    }

    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::OverCost => OVER_COST,
            Self::Payment => PAYMENT,
            Self::Network => NETWORK,
            Self::Other => OTHER,
        }
    }
}

/// The client's error, also where a mailbox's or an agent's speaks for it.
fn client_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a ClientError> {
    let of_mailbox = || match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(PostError::Client(error)), _, _)
        | (_, Some(TakeError::Client(error)), _)
        | (_, _, Some(OpenError::Client(error))) => Some(error),
        (_, _, _) => None,
    };
    let of_owner = || match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(FetchError::Client(error)), _, _)
        | (_, Some(DeleteError::Client(error)), _)
        | (_, _, Some(PublishError::Client(error))) => Some(error),
        (_, _, _) => None,
    };
    let of_agent = || match error.downcast_ref() {
        Some(CarryError::Client(error)) => Some(error),
        Some(_) | None => None,
    };
    error.downcast_ref().or_else(of_mailbox).or_else(of_owner).or_else(of_agent)
}

/// Whether an error that speaks for its cause does so for a node that could not be asked.
fn is_about_the_node(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(WatchError::Chain(_)))
        || matches!(error.downcast_ref(), Some(SendError::Chain(_) | SendError::Unknown { .. }))
        || matches!(error.downcast_ref(), Some(StartError::Chain(_)))
}
