//! Why neither side starts: the data folder, what is stored in it, or the node.

use farthing_chain::ChainError;
use farthing_protocol::opening::Refusal;

use crate::books::OpenError;
use crate::home::HomeError;
use crate::store::StoreError;
use crate::wallet::{BirthdayError, WalletError};

/// Why a seller or a buyer could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A preimage comes once, so a crash between an answer and the next store would lose what it pays.
    #[error("flat mode stores each call before its answer: it does not go with a store every so often")]
    FlatInBatches,
    /// The stored channels.
    #[error(transparent)]
    Books(#[from] OpenError),
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// Where a new wallet begins.
    #[error(transparent)]
    Birthday(#[from] BirthdayError),
    /// The terms make no sense.
    #[error(transparent)]
    Terms(#[from] Refusal),
    /// The node.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}
