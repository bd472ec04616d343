//! Brings transactions into a block.
//!
//! A commitment pays the fee rate that was agreed when the channel was opened. When that is too little by now, a child
//! that spends the payee's own output pays for both (CPFP). Commitment and child are version 3 (BIP431), so they relay
//! as a package even when the commitment alone would not, and a child of the payer's that came first is replaced
//! (sibling eviction). All of it may be repeated: each step looks at the mempool first.

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction};
use farthing_chain::{BroadcastError, Chain, ChainError, MempoolEntry, OutputStatus};
use farthing_protocol::child;

use crate::wallet::{Wallet, WalletError};

/// What a transaction must pay more than the one it replaces, for each of its own bytes (BIP125).
const INCREMENT: FeeRate = FeeRate::BROADCAST_MIN;

/// A commitment to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The complete commitment.
    pub commitment: Transaction,
    /// What it pays itself.
    pub fee: Amount,
    /// The payee's output script in it.
    pub script: ScriptBuf,
}

/// Why it is not on its way into a block yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The node does not take it.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The child cannot be signed.
    #[error(transparent)]
    Wallet(#[from] WalletError),
}

/// What confirms within `target_blocks`: the node's estimate or `fallback`, but at least what the node relays.
///
/// # Errors
/// When the node cannot be asked.
pub fn fee_rate(chain: &Chain, target_blocks: u16, fallback: FeeRate) -> Result<FeeRate, ChainError> {
    Ok(chain.fee_rate(target_blocks)?.unwrap_or(fallback).max(chain.minimum_fee_rate()?))
}

/// Publishes a commitment so that it pays at least `target` together with a child, if that takes one and one is worth
/// it.
///
/// # Errors
/// When the node refuses or cannot be asked. To be tried again with the next block.
pub fn publish(
    chain: &Chain,
    wallet: &Wallet,
    publication: &Publication,
    target: FeeRate,
) -> Result<(), PublishError> {
    let Publication { commitment, fee, script } = publication;
    let present = chain.mempool_entry(&commitment.compute_txid())?;
    let funding = commitment.input.first().map(|input| input.previous_output).unwrap_or_default();
    if present.is_none() && chain.output(&funding)? == OutputStatus::Absent {
        // A block holds this transaction or another that spends the funding: a child would only cost. Or the funding
        // is gone, and the payer's to bring back.
        return Ok(());
    }
    let (paid, vsize, least_fee) = match present {
        Some(entry) => (entry.descendant_fee, entry.descendant_vsize, least_to_replace(&entry)),
        None => (*fee, commitment.vsize() as u64, Amount::ZERO),
    };
    let is_enough = target.fee_vb(vsize).is_some_and(|needed| paid >= needed);
    if is_enough {
        return Ok(chain.broadcast(commitment)?);
    }
    match child::build(commitment, *fee, script, target, least_fee) {
        Ok(psbt) => Ok(chain.broadcast_package(commitment, &wallet.sign(psbt)?)?),
        Err(reason) => {
            tracing::warn!(%reason, "publishing the commitment without a child");
            Ok(chain.broadcast(commitment)?)
        }
    }
}

/// What a child must pay to take the place of those that are there: more in all, and more for each byte (BIP125).
fn least_to_replace(parent: &MempoolEntry) -> Amount {
    let fee = parent.descendant_fee.checked_sub(parent.fee).unwrap_or(Amount::ZERO);
    let vsize = parent.descendant_vsize.saturating_sub(parent.vsize);
    if vsize == 0 {
        return Amount::ZERO;
    }
    let at_their_rate = fee.to_sat().saturating_mul(child::WEIGHT.to_vbytes_ceil()) / vsize;
    (fee + child::cost(INCREMENT)).max(Amount::from_sat(at_their_rate + 1))
}
