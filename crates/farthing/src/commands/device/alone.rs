//! `farthing device force-close`: with nothing but a bitcoind. Whoever closed first, what the owner may claim is written down, and what
//! the device must sign for it is sent.

use std::path::Path;

use anyhow::Context as _;
use bitcoin::hex::DisplayHex as _;
use bitcoin::{Amount, FeeRate, OutPoint, Transaction, TxOut, Txid};
use farthing_chain::{BroadcastError, Chain};
use farthing_node::device::{Device, GiveError};
use farthing_protocol::device::machine::{Publication, Revoked};
use farthing_protocol::device::owner::{Claim, Lock};
use farthing_protocol::device::wire::ChannelKeysId;
use farthing_protocol::device::{Effect, Input, Reject, State};
use serde_json::json;

use super::files::{self, Claims};
use super::{here, short};
use crate::config::Context;

/// How deep the chain is searched for what spent a funding: as long as a bridge waits for its money at most.
const DEPTH: u32 = 2_016;

/// How a channel ended on the chain.
struct Ended {
    /// By whose transaction.
    by: &'static str,
    closing: Txid,
    /// What waits for its lock time.
    later: Vec<Transaction>,
    claims: Vec<Claim>,
}

/// Closes, or goes on with a closing.
pub fn run(context: &Context, output: &Path) -> anyhow::Result<()> {
    let chain = context.chain()?;
    let (_lock, mut device) = here(context)?;
    let channel = to_close(&device).context("there is no channel to close")?;
    let funding = device.lives().find(|(id, _)| *id == channel).map(|(_, life)| life.setup().terms.funding);
    let funding = funding.expect("it was just found");
    let ended = match spender(&chain, &funding)? {
        Some(spender) if !is_ours(&mut device, channel, &spender) => {
            by_the_bridge(&chain, &mut device, channel, &spender)?
        }
        Some(_) | None => alone(&chain, &mut device, channel)?,
    };
    let Ended { by, closing, later, claims } = ended;
    let height = chain.tip()?.height;
    let mut waiting = Vec::new();
    for transaction in &later {
        let expiry = transaction.lock_time.to_consensus_u32();
        match chain.broadcast(transaction) {
            Ok(()) => {}
            Err(BroadcastError::TooEarly { .. }) => waiting.push(expiry),
            // The payee took it with the preimage, or it is done.
            Err(BroadcastError::MissingInputs { .. }) => {}
            Err(error) => eprintln!("farthing: a payment that was under way until {expiry}: {error}"),
        }
    }
    files::write(output, &Claims { channel, claims: claims.clone() })?;
    let delay = claims.iter().map(delay).max().unwrap_or_default();
    let total: Amount = claims.iter().map(|claim| claim.value).sum();
    let value = json!({
        "channel": channel.0.to_lower_hex_string(),
        "by": by,
        "commitment": closing,
        "claims": output,
        "claim_sat": total.to_sat(),
        "delay_blocks": delay,
        "height": height,
        "htlcs_wait_until": waiting,
    });
    let mut line = format!(
        "Channel {} is closed by transaction {closing} ({by}). {delay} blocks after it is in the chain, the owner can claim {total}.\n\
         Next, on the owner's machine: farthing owner sweep NAME {}",
        short(channel),
        output.display()
    );
    if let Some(expiry) = waiting.iter().max() {
        line.push_str(&format!("\nPayments were under way: run this again after block {expiry}."));
    }
    context.output.say(&value, &line)
}

/// The channel that pays, or the one that is being closed.
fn to_close(device: &Device) -> Option<ChannelKeysId> {
    let closing = device.lives().find(|(_, life)| matches!(life.state(), State::Closing(_)));
    device.paying().or(closing).map(|(id, _)| id)
}

/// Publishes the newest commitment that is complete.
fn alone(chain: &Chain, device: &mut Device, channel: ChannelKeysId) -> anyhow::Result<Ended> {
    let publication = device.give(channel, Input::CloseAlone)?.into_iter().find_map(published);
    let publication = publication.context("the channel was never complete: there is nothing to close")?;
    let Publication { commitment, htlc_timeouts, claims } = publication;
    match chain.broadcast(&commitment) {
        // In the chain already, and its outputs are spent; or the other side was quicker, which the next run sees.
        Ok(()) | Err(BroadcastError::MissingInputs { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Ended { by: "device", closing: commitment.compute_txid(), later: htlc_timeouts, claims })
}

fn published(effect: Effect) -> Option<Publication> {
    if let Effect::Publish(publication) = effect { Some(*publication) } else { None }
}

/// Whether it is the commitment that the device would publish, or has published.
fn is_ours(device: &mut Device, channel: ChannelKeysId, spender: &Transaction) -> bool {
    let Some((_, life)) = device.lives().find(|(id, _)| *id == channel) else { return false };
    // Looks only: nothing is stored.
    let Ok(transition) = life.state().handle(life.setup(), Input::CloseAlone) else { return false };
    let looked = transition.commit(|_| Ok::<_, std::convert::Infallible>(()));
    let (_, effects) = looked.unwrap_or_else(|never| match never {});
    let ours = effects.into_iter().find_map(published);
    ours.is_some_and(|ours| ours.commitment.compute_txid() == spender.compute_txid())
}

/// The bridge's commitment, a revoked one, or the closing of both sides.
fn by_the_bridge(
    chain: &Chain,
    device: &mut Device,
    channel: ChannelKeysId,
    spender: &Transaction,
) -> anyhow::Result<Ended> {
    let closing = spender.compute_txid();
    let fee_rate = chain.fee_rate(6)?.unwrap_or(FeeRate::BROADCAST_MIN).max(chain.minimum_fee_rate()?);
    let enrolment = &device.enrolled().enrolment;
    let claims: Vec<Claim> = Claim::of_bridge_commitment(spender, &enrolment.payment).into_iter().collect();
    let pays_owner = spender.output.iter().any(|output| output.script_pubkey == enrolment.closing_script);
    match device.give(channel, Input::TakeBack { commitment: closing, fee_rate }) {
        Ok(effects) => Ok(Ended { by: "bridge", closing, later: broadcasts(effects), claims }),
        Err(GiveError::Rule(Reject::UnknownCommitment(_))) if pays_owner => {
            Ok(Ended { by: "both", closing, later: Vec::new(), claims })
        }
        Err(GiveError::Rule(Reject::UnknownCommitment(_))) => {
            // Revoked, then. Which HTLCs an old state had nobody tells the device here: what is not HTLCs is taken.
            let place = |(vout, output): (usize, &TxOut)| {
                (OutPoint { txid: closing, vout: vout as u32 }, output.clone())
            };
            let outputs = spender.output.iter().enumerate().map(place).collect();
            let revoked = Revoked { commitment: spender.clone(), outputs, htlcs: Vec::new(), fee_rate };
            let effects = device.give(channel, Input::Punish(Box::new(revoked)))?;
            Ok(Ended { by: "bridge, by a revoked commitment", closing, later: broadcasts(effects), claims })
        }
        Err(error) => Err(error.into()),
    }
}

fn broadcasts(effects: Vec<Effect>) -> Vec<Transaction> {
    let take = |effect| if let Effect::Broadcast(transactions) = effect { transactions } else { Vec::new() };
    effects.into_iter().flat_map(take).collect()
}

fn delay(claim: &Claim) -> u16 {
    match &claim.lock {
        Lock::Payment => 0,
        Lock::Delayed { delay, .. } => *delay,
    }
}

/// What spent the funding, in the mempool or in the newest blocks. Searched from the tip down, as far as the block of the funding.
fn spender(chain: &Chain, funding: &OutPoint) -> anyhow::Result<Option<Transaction>> {
    if let Some(spender) = chain.mempool_spender(funding)? {
        return Ok(Some(spender));
    }
    let tip = chain.tip()?.height;
    for height in (tip.saturating_sub(DEPTH)..=tip).rev() {
        let hash = chain.block_hash(height)?.context("the chain was reorganised: run this again")?;
        for transaction in chain.block(&hash)?.txdata {
            if transaction.input.iter().any(|input| input.previous_output == *funding) {
                return Ok(Some(transaction));
            }
            if transaction.compute_txid() == funding.txid {
                return Ok(None);
            }
        }
    }
    Ok(None)
}
