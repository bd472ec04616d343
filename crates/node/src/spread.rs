//! Brings a micropayment transaction into a block ([`farthing_protocol::flat::micropayment`]).
//!
//! The wallet pays its fee by one coin that holds just that: the transaction has no change. Where there is none of that
//! size, the wallet makes one first. To raise the fee, another coin takes its place (BIP125), and the first is free again;
//! that coin must be in a block, since a replacement may bring no new unconfirmed inputs.
//! All of it may be repeated: a coin that was made and not used is found again, one that was stored and not broadcast is
//! broadcast then.

use std::fmt;
use std::sync::Arc;

use bitcoin::{Amount, FeeRate, Transaction, Weight};
use farthing_chain::{BroadcastError, Chain, ChainError, OutputStatus};
use farthing_protocol::flat::batch::BadBatch;
use farthing_protocol::flat::micropayment::{self, BadFeeInputs};
use farthing_protocol::flat::{Batch, FeeInput};
use farthing_protocol::payee::Setup;

use crate::publish::{INCREMENT, confirms, spender};
use crate::store::{Followed, Write};
use crate::wallet::{Coin, Wallet, WalletError};

/// What a transaction of one input and two outputs weighs, all of them Taproot's.
const MAKES_COIN: Weight = Weight::from_wu(618);

/// A batch whose commitment is in a block.
#[derive(Clone)]
pub struct Spreading {
    /// The batch.
    pub batch: Box<Batch>,
    /// What confirms soon.
    pub fee_rate: FeeRate,
    /// Whose it is.
    pub setup: Arc<Setup>,
}

impl fmt::Debug for Spreading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spreading").field("batch", self.batch.terms()).finish_non_exhaustive()
    }
}

/// Why it is not on its way into a block yet. What was revealed is lost if it stays so until d1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpreadError {
    /// The stored batch makes no sense.
    #[error(transparent)]
    Batch(#[from] BadBatch),
    /// The coin does not fit.
    #[error(transparent)]
    Coin(#[from] BadFeeInputs),
    /// The wallet cannot pay the fee.
    #[error("the fee of the calls' outputs cannot be paid: {0}")]
    Wallet(#[from] WalletError),
    /// The database.
    #[error("the coin for the fee could not be looked for or stored: {0}")]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// The node does not take it.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Publishes a micropayment transaction so that it pays at least the batch's present fee rate.
///
/// # Errors
/// When the wallet has too little, or the node refuses or cannot be asked. To be tried again with the next block.
pub fn publish<E: std::error::Error + Send + Sync + 'static>(
    chain: &Chain,
    wallet: &mut Wallet,
    save: impl Fn(Write) -> Result<(), E>,
    spreading: &Spreading,
    followed: impl FnOnce() -> Result<Followed, E>,
) -> Result<(), SpreadError> {
    let Spreading { batch, fee_rate, setup } = spreading;
    let (payments, signature, _) = batch.micropayment(&setup.channel)?;
    let size = micropayment::weight(batch.terms().terms.outputs, 1).to_vbytes_ceil();
    let mut replaces = false;
    let least = match chain.output(&payments.lsf().outpoint())? {
        OutputStatus::Absent => return Ok(()), // a block holds it, or what took its place
        OutputStatus::SpentInMempool { .. } => match spender(chain, &payments.lsf().outpoint())? {
            Some((_, entry)) if confirms(*fee_rate, entry.fee, entry.vsize) => return Ok(()),
            Some((_, entry)) => {
                replaces = true;
                entry.descendant_fee + INCREMENT.fee_vb(size).unwrap_or(Amount::MAX_MONEY)
            }
            None => Amount::ZERO,
        },
        OutputStatus::Confirmed { .. } | OutputStatus::Unconfirmed { .. } => Amount::ZERO,
    };
    let fee = fee_rate.fee_vb(size).unwrap_or(Amount::MAX_MONEY).max(least);
    let most = fee + fee / 4;
    let followed = followed().map_err(|error| SpreadError::Store(Box::new(error)))?;
    let coin = coin(chain, wallet, save, (fee, most), *fee_rate, &followed)?;
    if replaces && chain.output(&coin.outpoint).is_ok_and(|status| is_unconfirmed(&status)) {
        return Ok(()); // its turn comes with the next block
    }
    let input = FeeInput { outpoint: coin.outpoint, output: coin.output };
    let psbt = payments.complete(&setup.keys, &signature, &[input], most)?;
    Ok(chain.broadcast(&wallet.sign(psbt)?)?)
}

fn is_unconfirmed(status: &OutputStatus) -> bool {
    match status {
        OutputStatus::Unconfirmed { .. } => true,
        OutputStatus::Absent | OutputStatus::SpentInMempool { .. } | OutputStatus::Confirmed { .. } => false,
    }
}

/// A coin of the wallet's between the two sizes that nothing spends, not even in the mempool.
fn coin<E: std::error::Error + Send + Sync + 'static>(
    chain: &Chain,
    wallet: &mut Wallet,
    save: impl Fn(Write) -> Result<(), E>,
    (least, most): (Amount, Amount),
    fee_rate: FeeRate,
    followed: &Followed,
) -> Result<Coin, SpreadError> {
    // The funding of a channel may be kept back for good, also by another role that shares this wallet. Any other transaction that a crash
    // kept back is broadcast now. What the node does not take makes no coin.
    let is_nowhere = |transaction: &Transaction| {
        followed.has_output_of(transaction) || chain.broadcast(transaction).is_err()
    };
    let mut taken = Vec::new();
    for coin in wallet.coins() {
        if coin.unconfirmed.as_deref().is_some_and(is_nowhere) {
            taken.push(coin.outpoint);
            continue;
        }
        match chain.output(&coin.outpoint)? {
            OutputStatus::Confirmed { .. } | OutputStatus::Unconfirmed { .. } => {
                if (least..=most).contains(&coin.output.value) {
                    return Ok(coin);
                }
            }
            // The micropayment transaction of another channel, or of this one before its fee was raised.
            OutputStatus::SpentInMempool { .. } | OutputStatus::Absent => taken.push(coin.outpoint),
        }
    }
    let stored = |error: E| SpreadError::Store(Box::new(error));
    let coin = wallet.make_coin(least, fee_rate, taken)?;
    wallet.save(&save).map_err(stored)?;
    match coin.unconfirmed.as_ref().map_or(Ok(()), |transaction| chain.broadcast(transaction)) {
        Ok(()) => Ok(coin),
        // It may be in the mempool all the same: the next look broadcasts it again.
        Err(unknown @ BroadcastError::Chain(_)) => Err(unknown.into()),
        Err(refused) => {
            wallet.release(coin.outpoint.txid);
            wallet.save(&save).map_err(stored)?;
            Err(refused.into())
        }
    }
}

/// What publishing a batch's outputs costs at that rate, the transaction that makes the coin for it included, for a seller that asks before it
/// takes the batch.
pub(crate) fn cost(outputs: u32, fee_rate: FeeRate) -> Amount {
    let size = micropayment::weight(outputs, 1).to_vbytes_ceil();
    let fee = fee_rate.fee_vb(size).zip(fee_rate.fee_wu(MAKES_COIN));
    fee.and_then(|(it, coin)| it.checked_add(coin)).unwrap_or(Amount::MAX_MONEY)
}
