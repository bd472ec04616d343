//! Closes channels with nothing but a bitcoind, or goes on with closings, whoever began them.
//!
//! | what spends the funding | the device | the owner gets |
//! |---|---|---|
//! | nothing, or the device's newest commitment | publishes it; takes HTLCs back once they have expired | all of it after the delay, by its delayed key |
//! | the bridge's commitment | takes HTLCs back once they have expired, to the closing script | the rest at once, by its payment key |
//! | a commitment that the bridge had revoked | takes everything else in it to the closing script, which it must before the bridge's delay is over | the same |
//! | the closing of both | nothing | all of it, at the closing script |
//!
//! The owner does the same from its store ([`crate::owner`]): it has what the device would use.
//!
//! Everything may be done again, and has to be until nothing waits: what is in a mempool already is a success, and what could not be
//! sent is sent then. What is signed anew pays the fee rate of that moment, so it replaces itself when fees have risen.

use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use farthing_chain::{BroadcastError, Chain, ChainError, OutputStatus};
use farthing_protocol::device::bolt3::{Htlc, PaymentHash};
use farthing_protocol::device::machine::{Publication, Revoked};
use farthing_protocol::device::owner::{Claim, Lock};
use farthing_protocol::device::wire::ChannelKeysId;
use farthing_protocol::device::{Effect, Input, Invoice, Reject, Setup, State};

use super::{Device, GiveError, Life};
use crate::store::StoreError;

/// How deep the chain is searched for what spent a funding: a year. A bridge may have closed as long ago as an HTLC lasts, or longer; but a
/// funding that was never sent is in no block, and the whole chain is hours of reading.
const DEPTH: u32 = 52_560;
/// In how many blocks what is signed now should be in the chain.
const TARGET: u16 = 6;
/// So many of the newest payments may have an HTLC in a revoked commitment, and are tried when one is published.
pub(crate) const MOST_HASHES: u32 = 1_000;
/// In how many blocks an HTLC expires at most, whatever the policy says now: as long as nodes of the network accept.
const MOST_EXPIRY_DELTA: u32 = 2_016;
/// So many pairs of payment hash and expiry are tried: a few seconds.
const MOST_TRIALS: u32 = 4_000_000;

/// Whose transaction spends the funding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The device's, alone.
    Device,
    /// The bridge's.
    Bridge,
    /// The bridge's, which had revoked it.
    Cheat,
    /// Both sides'.
    Both,
}

/// A transaction of the device's, and what the node said to it.
pub type Sent = (Transaction, Result<(), BroadcastError>);

/// How a channel ends on the chain.
#[derive(Debug)]
pub struct Ended {
    /// Which channel.
    pub channel: ChannelKeysId,
    /// By whose transaction.
    pub by: Closer,
    /// What spends the funding.
    pub closing: Txid,
    /// What the device had to send, the commitment first if it is the device's.
    pub sent: Vec<Sent>,
    /// What is the owner's, once it is in the chain.
    pub claims: Vec<Claim>,
}

impl Ended {
    /// The heights from which on the rest can be sent. Until then money is under way.
    pub fn waits_until(&self) -> impl Iterator<Item = u32> {
        let early = self.sent.iter().filter(|(_, sent)| matches!(sent, Err(BroadcastError::TooEarly { .. })));
        early.map(|(transaction, _)| transaction.lock_time.to_consensus_u32())
    }

    /// What the node did not take, and might later. A missing input is no failure: somebody took the output by right, or it is done.
    pub fn not_sent(&self) -> impl Iterator<Item = (&Transaction, &BroadcastError)> {
        self.sent.iter().filter_map(|(transaction, sent)| match sent {
            Ok(()) | Err(BroadcastError::TooEarly { .. } | BroadcastError::MissingInputs { .. }) => None,
            Err(error) => Some((transaction, error)),
        })
    }

    /// What the owner can claim in all, before fees.
    pub fn claimed(&self) -> Amount {
        self.claims.iter().map(|claim| claim.value).sum()
    }

    /// How many blocks after the closing the owner has to wait for all of it.
    pub fn delay(&self) -> u16 {
        let delay = |claim: &Claim| match &claim.lock {
            Lock::Payment => 0,
            Lock::Delayed { delay, .. } => *delay,
        };
        self.claims.iter().map(delay).max().unwrap_or_default()
    }
}

/// Why a channel was not closed. It may be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Its first state was never complete, so its funding was never signed.
    #[error("the channel was never complete: there is nothing to close")]
    NeverComplete,
    /// Blocks changed while they were read.
    #[error("the chain was reorganised: try again")]
    Reorganised,
    /// The bitcoind.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The device.
    #[error(transparent)]
    Give(#[from] GiveError),
}

impl Device {
    /// Closes the channel that pays, and goes on with all that are being closed. Nothing when there is none.
    pub fn close_alone(&mut self, chain: &Chain) -> Vec<(ChannelKeysId, Result<Ended, CloseError>)> {
        let may_be_funded = |state: &State| match state {
            State::Opening(_) => false,
            State::Open(_) | State::Closing(_) => true,
        };
        let mut funded: Vec<_> = self.lives().filter(|(_, life)| may_be_funded(life.state())).collect();
        // The one that pays first: to find how an older one ended may take long.
        funded.sort_by_key(|(_, life)| !matches!(life.state(), State::Open(_)));
        let channels: Vec<ChannelKeysId> = funded.into_iter().map(|(id, _)| id).collect();
        let one = |channel| (channel, close(chain, channel, &mut OfDevice { device: &mut *self, channel }));
        channels.into_iter().map(one).collect()
    }
}

impl Device {
    /// The holder's HTLCs in a commitment that the bridge had revoked: who asks for the penalty need not know them. None when it is no
    /// such commitment.
    pub(super) fn htlcs_of_revoked(
        &mut self,
        channel: ChannelKeysId,
        commitment: &Transaction,
    ) -> Result<Vec<Htlc>, GiveError> {
        if !self.lives().any(|(id, _)| id == channel) {
            return Err(GiveError::Unknown);
        }
        let tip = self.headers().tip().height;
        Ok(old_htlcs(&OfDevice { device: self, channel }, commitment, tip)?)
    }
}

/// A channel that can be closed with nothing but a bitcoind: of a device, or of an owner that has its store and the device's backup.
pub(crate) trait Closable {
    /// What stays the same.
    fn setup(&self) -> &Setup;
    /// Where it stands.
    fn state(&self) -> &State;
    /// One input to its machine: decided, stored, and only then the effects.
    fn give(&mut self, input: Input) -> Result<Vec<Effect>, GiveError>;
    /// The payment hashes that a revoked commitment may have, the newest first.
    fn hashes(&self) -> Result<Vec<PaymentHash>, StoreError>;
}

/// A channel of a device.
struct OfDevice<'a> {
    device: &'a mut Device,
    channel: ChannelKeysId,
}

impl OfDevice<'_> {
    fn life(&self) -> &Life {
        let life = self.device.channels.get(&self.channel).and_then(|channel| channel.life.as_ref());
        life.expect("it was among those that have begun")
    }
}

impl Closable for OfDevice<'_> {
    fn setup(&self) -> &Setup {
        self.life().setup()
    }

    fn state(&self) -> &State {
        self.life().state()
    }

    fn give(&mut self, input: Input) -> Result<Vec<Effect>, GiveError> {
        self.device.give(self.channel, input)
    }

    fn hashes(&self) -> Result<Vec<PaymentHash>, StoreError> {
        let paid = self.device.store.payments(MOST_HASHES)?;
        let network = self.device.enrolled.enrolment.network;
        let invoices = paid.iter().filter_map(|paid| Invoice::parse(&paid.invoice, network).ok());
        Ok(invoices.map(|invoice| invoice.payment_hash()).collect())
    }
}

/// Closes one channel, or goes on with its closing.
pub(crate) fn close(
    chain: &Chain,
    channel: ChannelKeysId,
    closing: &mut impl Closable,
) -> Result<Ended, CloseError> {
    match spender(chain, &closing.setup().terms.funding)? {
        Some(found) if !is_ours(closing, &found.transaction) => after(chain, channel, closing, &found),
        Some(_) | None => publish(chain, channel, closing),
    }
}

/// Publishes the newest commitment that is complete.
fn publish(chain: &Chain, channel: ChannelKeysId, closing: &mut impl Closable) -> Result<Ended, CloseError> {
    let publication = closing.give(Input::CloseAlone)?.into_iter().find_map(published);
    let Publication { commitment, htlc_timeouts, claims } = publication.ok_or(CloseError::NeverComplete)?;
    let closing = commitment.compute_txid();
    let all = std::iter::once(commitment).chain(htlc_timeouts);
    Ok(Ended { channel, by: Closer::Device, closing, sent: send(chain, all)?, claims })
}

/// Whether it is the commitment that would be published, or has been.
fn is_ours(closing: &impl Closable, spender: &Transaction) -> bool {
    // Looks only: nothing is stored.
    let Ok(transition) = closing.state().handle(closing.setup(), Input::CloseAlone) else { return false };
    let looked = transition.commit(|_| Ok::<_, std::convert::Infallible>(()));
    let (_, effects) = looked.unwrap_or_else(|never| match never {});
    let ours = effects.into_iter().find_map(published);
    ours.is_some_and(|ours| ours.commitment.compute_txid() == spender.compute_txid())
}

/// Another commitment of the device's, the bridge's, a revoked one, or the closing of both sides.
fn after(
    chain: &Chain,
    channel: ChannelKeysId,
    closing: &mut impl Closable,
    found: &Found,
) -> Result<Ended, CloseError> {
    let (spender, txid) = (&found.transaction, found.transaction.compute_txid());
    // An owner's store may be one state behind what the device, cut off from it, published itself.
    if let Some(claim) = Claim::of_holder_commitment(closing.setup(), spender) {
        return Ok(Ended { channel, by: Closer::Device, closing: txid, sent: vec![], claims: vec![claim] });
    }
    let fee_rate = onchain_fee_rate(chain, closing)?;
    let enrolment = &closing.setup().enrolment;
    let claims = Claim::of_bridge_commitment(spender, &enrolment.payment).into_iter().collect();
    let pays_owner = spender.output.iter().any(|output| output.script_pubkey == enrolment.closing_script);
    let (by, effects) = match closing.give(Input::TakeBack { commitment: txid, fee_rate }) {
        Ok(effects) => (Closer::Bridge, effects),
        Err(GiveError::Rule(Reject::UnknownCommitment(_))) if pays_owner => (Closer::Both, Vec::new()),
        Err(GiveError::Rule(Reject::UnknownCommitment(_))) => {
            (Closer::Cheat, punish(chain, closing, found, fee_rate)?)
        }
        Err(error) => return Err(error.into()),
    };
    let transactions = effects.into_iter().flat_map(broadcasts);
    Ok(Ended { channel, by, closing: txid, sent: send(chain, transactions)?, claims })
}

/// Takes what is left of a revoked commitment and of what the bridge made of it since.
fn punish(
    chain: &Chain,
    closing: &mut impl Closable,
    found: &Found,
    fee_rate: FeeRate,
) -> Result<Vec<Effect>, CloseError> {
    let outputs = found.left(chain, &closing.setup().enrolment.closing_script)?;
    let htlcs = old_htlcs(closing, &found.transaction, chain.tip()?.height).map_err(GiveError::from)?;
    let revoked = Revoked { commitment: found.transaction.clone(), outputs, htlcs, fee_rate };
    match closing.give(Input::Punish(Box::new(revoked))) {
        Ok(effects) => Ok(effects),
        // Everything was taken, or what is left is not worth the fee.
        Err(GiveError::Rule(Reject::OnchainFee(_))) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The holder's HTLCs in a commitment that the bridge had revoked, by the payments that the device remembers.
fn old_htlcs(closing: &impl Closable, commitment: &Transaction, tip: u32) -> Result<Vec<Htlc>, StoreError> {
    let hashes = closing.hashes()?;
    let account = closing.state().account();
    // The policy may have allowed more when they were offered.
    let most = account.policy().most_expiry_delta.max(MOST_EXPIRY_DELTA);
    let highest = tip.saturating_add(most);
    let heights = MOST_TRIALS / u32::try_from(hashes.len().max(1)).unwrap_or(u32::MAX);
    let expiries = highest.saturating_sub(heights)..=highest;
    Ok(account.revoked_htlcs(closing.setup(), commitment, &hashes, expiries))
}

/// What the node estimates, within what the owner allows: above that the machine signs nothing, and a penalty at the highest rate
/// that is allowed is better than none.
fn onchain_fee_rate(chain: &Chain, closing: &impl Closable) -> Result<FeeRate, ChainError> {
    let estimate = chain.fee_rate(TARGET)?.unwrap_or(FeeRate::BROADCAST_MIN);
    let wanted = estimate.max(chain.minimum_fee_rate()?);
    Ok(wanted.min(closing.state().account().policy().most_fee_rate))
}

fn published(effect: Effect) -> Option<Publication> {
    if let Effect::Publish(publication) = effect { Some(*publication) } else { None }
}

fn broadcasts(effect: Effect) -> Vec<Transaction> {
    if let Effect::Broadcast(transactions) = effect { transactions } else { Vec::new() }
}

/// Sends all of them, whatever the node says to one.
fn send(chain: &Chain, transactions: impl Iterator<Item = Transaction>) -> Result<Vec<Sent>, ChainError> {
    transactions
        .map(|transaction| match chain.broadcast(&transaction) {
            Err(BroadcastError::Chain(error)) => Err(error),
            said => Ok((transaction, said)),
        })
        .collect()
}

/// What spends a funding.
#[derive(Clone, Debug)]
pub struct Found {
    /// The transaction.
    pub transaction: Transaction,
    /// The height of its block, once it has one.
    pub height: Option<u32>,
}

impl Found {
    /// What of its outputs, and of the outputs of what spends them, is not spent by somebody else. `own` is where the device takes what it
    /// takes.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub fn left(&self, chain: &Chain, own: &ScriptBuf) -> Result<Vec<(OutPoint, TxOut)>, CloseError> {
        let in_blocks = self.spenders_in_blocks(chain)?;
        let is_own = |spender: &Transaction| spender.output.iter().all(|output| output.script_pubkey == *own);
        let mut left = Vec::new();
        for (outpoint, output) in outputs(&self.transaction) {
            let spends =
                |spender: &&Transaction| spender.input.iter().any(|input| input.previous_output == outpoint);
            if let Some(spender) = in_blocks.iter().find(spends) {
                for (outpoint, output) in outputs(spender).filter(|_| !is_own(spender)) {
                    if chain.output(&outpoint)? != OutputStatus::Absent {
                        left.push((outpoint, output));
                    }
                }
                continue;
            }
            match chain.mempool_spender(&outpoint)? {
                // What is our own is signed anew, and replaces itself if fees have risen.
                Some(spender) if !is_own(&spender) => left.extend(outputs(&spender)),
                Some(_) | None => left.push((outpoint, output)),
            }
        }
        Ok(left)
    }

    fn spenders_in_blocks(&self, chain: &Chain) -> Result<Vec<Transaction>, CloseError> {
        let Some(height) = self.height else { return Ok(Vec::new()) };
        let txid = self.transaction.compute_txid();
        let mut spenders = Vec::new();
        for height in height..=chain.tip()?.height {
            let hash = chain.block_hash(height)?.ok_or(CloseError::Reorganised)?;
            let spends = |transaction: &Transaction| {
                transaction.input.iter().any(|input| input.previous_output.txid == txid)
            };
            spenders.extend(chain.block(&hash)?.txdata.into_iter().filter(spends));
        }
        Ok(spenders)
    }
}

fn outputs(transaction: &Transaction) -> impl Iterator<Item = (OutPoint, TxOut)> {
    let txid = transaction.compute_txid();
    (0..).zip(&transaction.output).map(move |(vout, output)| (OutPoint { txid, vout }, output.clone()))
}

/// Whether a funding is spent, as far as that is known without reading blocks.
#[derive(Debug)]
pub enum Spent {
    /// By nothing.
    Not,
    /// By this. From [`spent`] it is in the mempool.
    By(Found),
    /// By what is in a block; or the node does not know the funding.
    InSomeBlock,
}

/// Whether the funding is spent.
///
/// # Errors
/// When the bitcoind gives no answer.
pub fn spent(chain: &Chain, funding: &OutPoint) -> Result<Spent, ChainError> {
    if let Some(transaction) = chain.mempool_spender(funding)? {
        return Ok(Spent::By(Found { transaction, height: None }));
    }
    Ok(match chain.output(funding)? {
        OutputStatus::Absent => Spent::InSomeBlock,
        OutputStatus::Confirmed { .. }
        | OutputStatus::SpentInMempool { .. }
        | OutputStatus::Unconfirmed { .. } => Spent::Not,
    })
}

/// What spends the funding, in the mempool or in a block. Searched from the tip down, as far as the block of the funding.
///
/// # Errors
/// See [`CloseError`].
pub fn spender(chain: &Chain, funding: &OutPoint) -> Result<Option<Found>, CloseError> {
    match spent(chain, funding)? {
        Spent::Not => Ok(None),
        Spent::By(found) => Ok(Some(found)),
        Spent::InSomeBlock => spender_in_blocks(chain, funding, chain.tip()?.height, 0),
    }
}

/// What spends the funding in a block, from that height down to the other, but for a year at most. Reads whole blocks, for hours if need be.
///
/// # Errors
/// See [`CloseError`].
pub fn spender_in_blocks(
    chain: &Chain,
    funding: &OutPoint,
    highest: u32,
    lowest: u32,
) -> Result<Option<Found>, CloseError> {
    for height in (highest.saturating_sub(DEPTH).max(lowest)..=highest).rev() {
        let hash = chain.block_hash(height)?.ok_or(CloseError::Reorganised)?;
        let mut transactions = chain.block(&hash)?.txdata;
        let spends = |transaction: &Transaction| {
            transaction.input.iter().any(|input| input.previous_output == *funding)
        };
        // A block may hold both, the funding first.
        if let Some(at) = transactions.iter().position(spends) {
            return Ok(Some(Found { transaction: transactions.swap_remove(at), height: Some(height) }));
        }
        if transactions.iter().any(|transaction| transaction.compute_txid() == funding.txid) {
            return Ok(None);
        }
    }
    Ok(None)
}
