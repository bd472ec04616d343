//! Why a mailbox did not do what it was asked.

use farthing_protocol::Msat;
use farthing_protocol::cheque::prekey::NotTheirs;

use crate::client::ClientError;
use crate::problem::Kind;

/// Why a letter was not posted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// Nobody has opened a box for the address there.
    #[error(
        "the mailbox knows no such address: its owner must open it first, with `farthing cheque address`"
    )]
    NoBox,
    /// No room.
    #[error("the mailbox does not take the letter: {0}")]
    Full(String),
    /// It could not be reached or paid, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// Why no prekey was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// Nobody has opened a box for the address there.
    #[error(
        "the mailbox knows no such address: its owner must open it first, with `farthing cheque address`"
    )]
    NoBox,
    /// All are given out.
    #[error(
        "the address has no prekeys left at its mailbox, so no cheque can be written to it until its owner publishes more, with \
         `farthing cheque address`"
    )]
    NoPrekeys,
    /// It was given and paid for, but the answer was lost: take another.
    #[error("a prekey was given for {0}, but the answer was lost on the way: try again")]
    Lost(Msat),
    /// The mailbox gave one that is not the address's.
    #[error("the mailbox is not honest: {0}")]
    NotTheirs(#[from] NotTheirs),
    /// It could not be reached or paid, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// Why a box was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No room.
    #[error("the mailbox opens no box: {0}")]
    Full(String),
    /// It could not be reached or paid, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// Why letters were not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The box was never opened, or given up.
    #[error("the mailbox has no box for this address: open it with `farthing cheque address`")]
    NoBox,
    /// It could not be reached, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// Why a letter was not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The box was never opened, or given up.
    #[error("the mailbox has no box for this address")]
    NoBox,
    /// It could not be reached, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// Why prekeys were not published or counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The box was never opened, or given up.
    #[error("the mailbox has no box for this address: open it first")]
    NoBox,
    /// No room.
    #[error("the mailbox does not take the prekeys: {0}")]
    Full(String),
    /// It could not be reached, or refused.
    #[error(transparent)]
    Client(ClientError),
}

/// What a refusal is about, for the enums above.
enum About {
    NoBox,
    NoPrekeys,
    Full(String),
    Other(ClientError),
}

fn about(error: ClientError) -> About {
    match error {
        ClientError::Refused { kind: Some(Kind::NoBox), .. } => About::NoBox,
        ClientError::Refused { kind: Some(Kind::NoPrekeys), .. } => About::NoPrekeys,
        ClientError::Refused { kind: Some(Kind::MailboxFull), detail, .. } => About::Full(detail),
        other => About::Other(other),
    }
}

/// A refusal that makes no sense as the answer to a request.
fn out_of_place(what: &str) -> ClientError {
    ClientError::Nonsense(format!("it says {what}, which was not the question"))
}

impl From<ClientError> for PostError {
    fn from(error: ClientError) -> Self {
        match about(error) {
            About::NoBox => Self::NoBox,
            About::Full(detail) => Self::Full(detail),
            About::NoPrekeys => Self::Client(out_of_place("that there are no prekeys")),
            About::Other(error) => Self::Client(error),
        }
    }
}

impl From<ClientError> for TakeError {
    fn from(error: ClientError) -> Self {
        match about(error) {
            About::NoBox => Self::NoBox,
            About::NoPrekeys => Self::NoPrekeys,
            About::Full(detail) => Self::Client(out_of_place(&detail)),
            About::Other(ClientError::AnswerLost(cost)) => Self::Lost(cost),
            About::Other(error) => Self::Client(error),
        }
    }
}

impl From<ClientError> for OpenError {
    fn from(error: ClientError) -> Self {
        match about(error) {
            About::Full(detail) => Self::Full(detail),
            About::NoBox => Self::Client(out_of_place("that there is no box")),
            About::NoPrekeys => Self::Client(out_of_place("that there are no prekeys")),
            About::Other(error) => Self::Client(error),
        }
    }
}

impl From<ClientError> for FetchError {
    fn from(error: ClientError) -> Self {
        match about(error) {
            About::NoBox => Self::NoBox,
            About::NoPrekeys => Self::Client(out_of_place("that there are no prekeys")),
            About::Full(detail) => Self::Client(out_of_place(&detail)),
            About::Other(error) => Self::Client(error),
        }
    }
}

impl From<ClientError> for DeleteError {
    fn from(error: ClientError) -> Self {
        match FetchError::from(error) {
            FetchError::NoBox => Self::NoBox,
            FetchError::Client(error) => Self::Client(error),
        }
    }
}

impl From<ClientError> for PublishError {
    fn from(error: ClientError) -> Self {
        match about(error) {
            About::NoBox => Self::NoBox,
            About::Full(detail) => Self::Full(detail),
            About::NoPrekeys => Self::Client(out_of_place("that there are no prekeys")),
            About::Other(error) => Self::Client(error),
        }
    }
}
