//! Brings transactions into a block.
//!
//! A commitment pays the fee rate that was agreed when the channel was opened. When that is too little by now, a child
//! that spends the payee's own output pays for both (CPFP). Commitment and child are version 3 (BIP431), so they relay
//! as a package even when the commitment alone would not, and a child of the payer's that came first is replaced
//! (sibling eviction). All of it may be repeated: each step looks at the mempool first.
//!
//! A rung comes with the plain commitment that may take its place. The one that brings more is published. From then on it stays
//! with that one for as long as the mempool or the chain has it, so this side never works against itself.

use std::fmt;
use std::sync::Arc;

use bitcoin::{Amount, FeeRate, OutPoint, Transaction, Txid};
use farthing_chain::{BroadcastError, Chain, ChainError, MempoolEntry, OutputStatus};
use farthing_protocol::channel::{Channel, SpendKind};
use farthing_protocol::lightspeed::RungClaim;
use farthing_protocol::payee::{self, Setup};
use farthing_protocol::{child, hashlock};

use crate::wallet::{Wallet, WalletError};

/// What a transaction must pay more than the one it replaces, for each of its own bytes (BIP125).
pub(crate) const INCREMENT: FeeRate = FeeRate::BROADCAST_MIN;

/// A commitment to be published, with the keys that claim its output where that takes a word.
#[derive(Clone)]
pub struct Publication {
    /// The commitment, and what may take its place.
    pub what: Box<payee::Publication>,
    /// Whose it is.
    pub setup: Arc<Setup>,
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("commitment", &self.what.commitment.compute_txid())
            .finish_non_exhaustive()
    }
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
    let Publication { what, setup } = publication;
    let chosen = choose(chain, what, target)?;
    match &chosen.rung {
        Some(rung) => match publish_rung(chain, setup, chosen, rung, target)? {
            Rung::Published => Ok(()),
            Rung::NotWorthIt => match &chosen.plain {
                Some(plain) => publish_plain(chain, wallet, setup, plain, target),
                None => Ok(()),
            },
        },
        None => publish_plain(chain, wallet, setup, chosen, target),
    }
}

/// The commitment that the mempool or a block has already, else the one that brings more.
fn choose<'a>(
    chain: &Chain,
    what: &'a payee::Publication,
    target: FeeRate,
) -> Result<&'a payee::Publication, ChainError> {
    let Some(plain) = &what.plain else { return Ok(what) };
    if chain.mempool_entry(&plain.commitment.compute_txid())?.is_some() {
        return Ok(plain);
    }
    let is_out = chain.mempool_entry(&what.commitment.compute_txid())?.is_some()
        || chain.output(&funding(&what.commitment))? == OutputStatus::Absent;
    // If the plain one is in a block, nothing is left to do for either.
    Ok(if is_out { what } else { what.best(target) })
}

fn funding(commitment: &Transaction) -> OutPoint {
    commitment.input.first().map(|input| input.previous_output).unwrap_or_default()
}

fn publish_plain(
    chain: &Chain,
    wallet: &Wallet,
    setup: &Setup,
    publication: &payee::Publication,
    target: FeeRate,
) -> Result<(), PublishError> {
    let payee::Publication { commitment, fee, .. } = publication;
    let script = &setup.channel.params().payee.output;
    let present = chain.mempool_entry(&commitment.compute_txid())?;
    let funding = funding(commitment);
    if present.is_none() && chain.output(&funding)? == OutputStatus::Absent {
        // A block holds this transaction or another that spends the funding: a child would only cost. Or the funding
        // is gone, and the payer's to bring back.
        return Ok(());
    }
    let rival = match present {
        Some(_) => None,
        None => Rival::of(chain, &funding, &setup.channel)?,
    };
    if rival.is_some_and(|rival| rival.serves(target)) {
        // It brings the payee what it is due, and costs it nothing.
        return Ok(());
    }
    let alone = commitment.vsize() as u64;
    let (paid, vsize, least_fee) = match (present, rival) {
        (Some(entry), _) => {
            let least = least_to_replace(&entry, child::WEIGHT.to_vbytes_ceil());
            (entry.descendant_fee, entry.descendant_vsize, least)
        }
        (None, Some(rival)) if *fee < rival.least_to_displace(alone) => {
            let with_child = (commitment.weight() + child::WEIGHT).to_vbytes_ceil();
            let least = rival.least_to_displace(with_child).checked_sub(*fee);
            (Amount::ZERO, with_child, least.unwrap_or(Amount::ZERO))
        }
        (None, _) => (*fee, alone, Amount::ZERO),
    };
    if confirms(target, paid, vsize) {
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

/// What became of a rung.
enum Rung {
    /// It is published, or nothing needs to be.
    Published,
    /// It is not in the mempool, and its claim would cost more than it brings.
    NotWorthIt,
}

/// Publishes a rung with its claim, which pays for both. Once the commitment is in a block, the claim alone.
fn publish_rung(
    chain: &Chain,
    setup: &Setup,
    publication: &payee::Publication,
    rung: &RungClaim,
    target: FeeRate,
) -> Result<Rung, PublishError> {
    let payee::Publication { commitment, fee, .. } = publication;
    let present = chain.mempool_entry(&commitment.compute_txid())?;
    let claim = |fee| rung.claim(&setup.channel, &setup.keys, commitment, fee);
    let alone = RungClaim::cost(target);
    let funding = funding(commitment);
    if present.is_none() && chain.output(&funding)? == OutputStatus::Absent {
        let locked = OutPoint { txid: commitment.compute_txid(), vout: 0 };
        let least = match chain.output(&locked)? {
            // Another transaction spends the funding, or the claim is in a block.
            OutputStatus::Absent => return Ok(Rung::Published),
            OutputStatus::SpentInMempool { .. } => match spender(chain, &locked)? {
                // The payer takes it back with another one, whatever that pays.
                Some((by, entry))
                    if entry.fee >= alone && claim(entry.fee).is_ok_and(|ours| ours.compute_txid() == by) =>
                {
                    return Ok(Rung::Published);
                }
                Some((_, entry)) => least_to_displace(&entry, claim_size()),
                None => Amount::ZERO,
            },
            OutputStatus::Confirmed { .. } | OutputStatus::Unconfirmed { .. } => Amount::ZERO,
        };
        match claim(alone.max(least)) {
            Ok(claim) => chain.broadcast(&claim)?,
            Err(reason) => {
                tracing::warn!(%reason, "the published output is left: to claim it costs more than it brings");
            }
        }
        return Ok(Rung::Published);
    }
    let size = commitment.vsize() as u64 + claim_size();
    let is_present = present.is_some();
    let rival = match present {
        Some(_) => None,
        None => Rival::of(chain, &funding, &setup.channel)?,
    };
    let least = match (present, rival) {
        // The one child may be the payer's, and large: then what they pay together is little for their size.
        (Some(entry), _)
            if entry.descendant_vsize > entry.vsize
                && confirms(target, entry.descendant_fee, entry.descendant_vsize) =>
        {
            return Ok(Rung::Published);
        }
        (Some(entry), _) => least_to_replace(&entry, claim_size()),
        (None, Some(rival)) if rival.serves(target) => return Ok(Rung::Published),
        (None, Some(rival)) => rival.least_to_displace(size).checked_sub(*fee).unwrap_or_default(),
        (None, None) => Amount::ZERO,
    };
    match claim(publication.claim_fee(target).max(least)) {
        Ok(claim) => {
            chain.broadcast_package(commitment, &claim)?;
            Ok(Rung::Published)
        }
        Err(reason) if is_present => {
            tracing::warn!(%reason, "the rung stays as it is: to raise its fee would cost more than it brings");
            Ok(Rung::Published)
        }
        Err(reason) => {
            tracing::warn!(%reason, "the rung is not published: to claim it would cost more than it brings");
            Ok(Rung::NotWorthIt)
        }
    }
}

/// What spends an output in the mempool.
pub(crate) fn spender(
    chain: &Chain,
    outpoint: &OutPoint,
) -> Result<Option<(Txid, MempoolEntry)>, ChainError> {
    let Some(by) = chain.mempool_spender(outpoint)? else { return Ok(None) };
    let txid = by.compute_txid();
    Ok(chain.mempool_entry(&txid)?.map(|entry| (txid, entry)))
}

fn claim_size() -> u64 {
    hashlock::claim_weight(1).to_vbytes_ceil()
}

pub(crate) fn confirms(target: FeeRate, paid: Amount, vsize: u64) -> bool {
    target.fee_vb(vsize).is_some_and(|needed| paid >= needed)
}

/// A transaction in the mempool that has the commitment's place: a closing, or a refund when this side comes late.
#[derive(Clone, Copy)]
struct Rival {
    entry: MempoolEntry,
    /// It is signed by both, so it pays the payee what the payee agreed to. A refund may pay the payee something, too.
    is_agreed: bool,
}

impl Rival {
    fn of(chain: &Chain, funding: &OutPoint, channel: &Channel) -> Result<Option<Self>, ChainError> {
        let Some(spender) = chain.mempool_spender(funding)? else { return Ok(None) };
        let is_agreed = channel.spend_kind(&spender) == Some(SpendKind::Closing);
        let entry = chain.mempool_entry(&spender.compute_txid())?;
        Ok(entry.map(|entry| Self { entry, is_agreed }))
    }

    /// Whether it brings the payee what it is due, and confirms by itself or since its child pays for it.
    fn serves(&self, target: FeeRate) -> bool {
        let Self { entry, is_agreed } = self;
        *is_agreed
            && (confirms(target, entry.fee, entry.vsize)
                || confirms(target, entry.descendant_fee, entry.descendant_vsize))
    }

    fn least_to_displace(&self, vsize: u64) -> Amount {
        least_to_displace(&self.entry, vsize)
    }
}

/// What must be paid for so many bytes to take a transaction's place: more than it and its child pay together, so that a large
/// child of the payer's cannot hold it in the mempool, and more for each byte (BIP125).
fn least_to_displace(rival: &MempoolEntry, vsize: u64) -> Amount {
    let at_rate = |fee: Amount, size: u64| fee.to_sat().saturating_mul(vsize) / size.max(1) + 1;
    let alone = at_rate(rival.fee, rival.vsize);
    let with_child = at_rate(rival.descendant_fee, rival.descendant_vsize);
    let increment = INCREMENT.fee_vb(vsize).unwrap_or(Amount::MAX_MONEY);
    (rival.descendant_fee + increment).max(Amount::from_sat(alone.max(with_child)))
}

/// What a child of so many bytes must pay to take the place of those that are there: more in all, and more for each byte (BIP125).
fn least_to_replace(parent: &MempoolEntry, vsize: u64) -> Amount {
    let fee = parent.descendant_fee.checked_sub(parent.fee).unwrap_or(Amount::ZERO);
    let theirs = parent.descendant_vsize.saturating_sub(parent.vsize);
    if theirs == 0 {
        return Amount::ZERO;
    }
    let at_their_rate = fee.to_sat().saturating_mul(vsize) / theirs;
    let increment = INCREMENT.fee_vb(vsize).unwrap_or(Amount::MAX_MONEY);
    (fee + increment).max(Amount::from_sat(at_their_rate + 1))
}
