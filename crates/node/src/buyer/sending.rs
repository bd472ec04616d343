//! Payments on the chain, out of the wallet.

use bitcoin::{Amount, Psbt, ScriptBuf, Transaction, Txid};
use farthing_chain::{BroadcastError, ChainError};
use farthing_protocol::payer::Reject;

use super::Buyer;
use crate::books::OrderError;
use crate::wallet::{Wallet, WalletError};

/// Why the wallet sent nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Too little money, mostly.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The node refused the transaction.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// The node gave no answer.
    #[error(
        "the node did not say whether it took transaction {txid}: it is stored, and broadcast again by the next command and with \
         each block. Do not pay the same again"
    )]
    Unknown {
        /// The transaction.
        txid: Txid,
        /// What went wrong.
        source: ChainError,
    },
    /// There is nothing to give up.
    #[error(
        "no transaction {0} waits for its signatures: it was sent, or given up before, or is of another wallet"
    )]
    NotPrepared(Txid),
    /// Not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
}

impl Buyer {
    /// Sends `amount`, or everything, from the wallet. Blocks.
    ///
    /// # Errors
    /// When there is too little money or the node refuses; then the coins are free again.
    pub fn send(&self, to: ScriptBuf, amount: Option<Amount>) -> Result<Transaction, SendError> {
        let fee_rate = self.fee_rate()?;
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let withheld = self.withheld()?;
        let transaction = match amount {
            Some(amount) => wallet.pay(to, amount, fee_rate, &withheld)?,
            None => wallet.pay_all(to, fee_rate, &withheld)?,
        };
        self.save_or_release(&mut wallet, transaction.compute_txid())?;
        self.broadcast(&mut wallet, transaction)
    }

    /// Makes a transaction that pays `amount`, without signatures, and sets its coins aside. Blocks.
    ///
    /// # Errors
    /// When there is too little money.
    pub fn prepare_payment(&self, to: ScriptBuf, amount: Amount) -> Result<Psbt, SendError> {
        let fee_rate = self.fee_rate()?;
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let psbt = wallet.prepare(to, amount, fee_rate, &self.withheld()?)?;
        self.save_or_release(&mut wallet, psbt.unsigned_tx.compute_txid())?;
        Ok(psbt)
    }

    /// Signs what [`Self::prepare_payment`] made, and sends it. Blocks.
    ///
    /// # Errors
    /// When an input is not this wallet's, or the node refuses; then the coins are free again.
    pub fn send_prepared(&self, psbt: Psbt) -> Result<Transaction, SendError> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let transaction = wallet.complete(psbt)?;
        self.save_or_release(&mut wallet, transaction.compute_txid())?;
        self.broadcast(&mut wallet, transaction)
    }

    /// Signs what [`Self::prepare_payment`] made, for somebody else to send. Blocks.
    ///
    /// # Errors
    /// When an input is not this wallet's.
    pub fn sign_prepared(&self, psbt: Psbt) -> Result<Transaction, SendError> {
        let wallet = self.wallet.lock().expect("no holder of this lock panics");
        Ok(wallet.sign(psbt)?)
    }

    /// Frees the coins of what [`Self::sign_prepared`] signed and nobody will send. Blocks.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn release_prepared(&self, payment: Txid) -> Result<(), SendError> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        wallet.release(payment);
        Ok(wallet.save(|write| self.books.write_blocking(vec![write]))?)
    }

    /// Frees the coins of what [`Self::prepare_payment`] made and nobody has signed. Blocks.
    ///
    /// # Errors
    /// When it was signed here to be sent, is in a block or is not known, or that cannot be stored.
    pub fn give_up_prepared(&self, payment: Txid) -> Result<(), SendError> {
        if !self.wallet.lock().expect("no holder of this lock panics").is_prepared(payment) {
            return Err(SendError::NotPrepared(payment));
        }
        self.release_prepared(payment)
    }

    /// What is not stored is not paid: else the next block would find a signed payment, and send it.
    fn save_or_release(&self, wallet: &mut Wallet, payment: Txid) -> Result<(), OrderError<Reject>> {
        let saved = wallet.save(|write| self.books.write_blocking(vec![write]));
        saved.inspect_err(|_| wallet.release(payment))
    }

    fn broadcast(&self, wallet: &mut Wallet, transaction: Transaction) -> Result<Transaction, SendError> {
        match self.chain.broadcast(&transaction) {
            Ok(()) => Ok(transaction),
            // It may be in the mempool all the same: to pay again with other coins would pay twice.
            Err(BroadcastError::Chain(unknown)) => {
                Err(SendError::Unknown { txid: transaction.compute_txid(), source: unknown })
            }
            Err(refused) => {
                wallet.release(transaction.compute_txid());
                wallet.save(|write| self.books.write_blocking(vec![write]))?;
                Err(refused.into())
            }
        }
    }
}
