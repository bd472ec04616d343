//! Carries orders from the desks to a device that is here, one after the other, and lets LDK go on.
//!
//! On a slow link every answer that is waited for costs a round trip. The device carries out what it is asked for in order, so the
//! bridge's secret is not waited for, nor the word that a commitment is complete before the one before it is given up.
//!
//! What the device refuses stays on the desk and the channel stands still: nothing is lost by it, and the operator sees why.

mod keys;
mod onchain;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farthing_protocol::device::Proposal;
use farthing_protocol::device::bolt3::closing::Closing;
use farthing_protocol::device::bolt3::{Commitment, CommitmentNumber, Contents, Digest, Side, Terms};
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Report, Request, Standing};
use farthing_threshold::{Gateway as GatewaySide, Share};
use lightning::chain::transaction::OutPoint;
use lightning::ln::types::ChannelId;
use secp256k1::PublicKey;
use tokio::sync::Notify;

use self::onchain::Looked;
use crate::caller::{CallError, Caller, Pending};
use crate::gateway::Gateway;
use crate::ledger::{NoSuchState, Outline, UnderWay};
use crate::records::{ChannelRecord, Stage};
use crate::shelf::ShelfError;
use crate::signer::desk::{BridgeSignatures, Desk, Order, ToValidate};

/// When fewer points than this are left, more are asked for.
const FEW_POINTS: usize = 24;
/// How long to wait before an interrupted round is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClerkError {
    /// The device.
    #[error(transparent)]
    Call(#[from] CallError),
    /// LDK's transaction.
    #[error(transparent)]
    State(#[from] NoSuchState),
    /// Storage.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A value of the device's that cannot be right.
    #[error("the device gave {0}")]
    Wrong(&'static str),
    /// The device cheated in a round of this channel.
    #[error(
        "the device cheated ({0}): no state of this channel is signed any more, close it alone at the device"
    )]
    Banned(String),
    /// The channel is in no stage for this.
    #[error("the channel has no terms yet")]
    NoTerms,
}

/// Serves the desks of one device while it is connected.
pub struct Clerk {
    gateway: Arc<Gateway>,
    device: [u8; 32],
    caller: Arc<Caller>,
    /// Channels whose terms the device has.
    opened: HashSet<[u8; 32]>,
    /// Channels that stand still since the device refused something.
    stuck: HashSet<[u8; 32]>,
    /// When channels were told to close, and their ends were looked at.
    looked: HashMap<[u8; 32], Looked>,
    /// Secrets of the bridge's that the device was told and has not confirmed yet, oldest first.
    told: VecDeque<Told>,
    /// Those that it refused: they are not told again on this connection.
    unheard: Vec<([u8; 32], CommitmentNumber)>,
}

/// A secret of the bridge's on its way to the device.
struct Told {
    channel: [u8; 32],
    number: CommitmentNumber,
    pending: Pending,
}

impl Clerk {
    /// For a device that said where its channels stand.
    pub fn new(
        gateway: Arc<Gateway>,
        device: [u8; 32],
        caller: Arc<Caller>,
        standings: &[(ChannelKeysId, Standing)],
    ) -> Self {
        let has_terms = |standing: &Standing| match standing {
            Standing::Ready => false,
            Standing::Opening | Standing::Open | Standing::Closing => true,
        };
        let opened = standings.iter().filter(|(_, standing)| has_terms(standing));
        let opened = opened.map(|(channel, _)| channel.0).collect();
        let (stuck, looked, told, unheard) = (HashSet::new(), HashMap::new(), VecDeque::new(), Vec::new());
        Self { gateway, device, caller, opened, stuck, looked, told, unheard }
    }

    /// Works until the connection ends.
    pub async fn work(mut self) {
        let bell = self.gateway.books().bell(self.device);
        loop {
            match self.round().await {
                Ok(true) => {}
                Ok(false) => match self.wait(&bell).await {
                    Ok(()) => {}
                    Err(ClerkError::Call(CallError::Gone)) => return,
                    Err(error) => pause(&error).await,
                },
                Err(ClerkError::Call(CallError::Gone)) => return,
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Waits for an order, or for the device to confirm what it was told.
    async fn wait(&mut self, bell: &Notify) -> Result<(), ClerkError> {
        let Some(oldest) = self.told.front_mut() else {
            bell.notified().await;
            return Ok(());
        };
        let answer = tokio::select! {
            () = bell.notified() => return Ok(()),
            answer = oldest.pending.answer() => answer,
        };
        let Some(Told { channel, number, .. }) = self.told.pop_front() else { return Ok(()) };
        match answer {
            Ok(Answer::Done) => {
                if let Some(desk) = self.gateway.desk(&channel) {
                    desk.took_bridge_secret(number);
                }
                Ok(())
            }
            Ok(_other) => self.refused(channel, number, CallError::OutOfTurn),
            Err(error) => self.refused(channel, number, error),
        }
    }

    fn refused(
        &mut self,
        channel: [u8; 32],
        number: CommitmentNumber,
        error: CallError,
    ) -> Result<(), ClerkError> {
        self.unheard.push((channel, number));
        self.fail(channel, error.into())
    }

    /// One look at every desk. Returns whether anything was done.
    async fn round(&mut self) -> Result<bool, ClerkError> {
        let channels = match self.gateway.books().devices.get(&self.device) {
            Some(record) => record.channels.clone(),
            None => return Ok(false),
        };
        let mut was_busy = false;
        for channel in channels {
            let was_stuck = self.stuck.contains(&channel);
            match self.serve(channel).await {
                Ok(did) => was_busy |= did,
                Err(error) => {
                    self.fail(channel, error)?;
                    // What concerns its end has its turn all the same.
                    was_busy |= !was_stuck;
                }
            }
        }
        if was_busy {
            return Ok(true);
        }
        self.keep_keys_ready().await
    }

    fn fail(&mut self, channel: [u8; 32], error: ClerkError) -> Result<(), ClerkError> {
        match error {
            ClerkError::Call(CallError::Cheated(why)) => {
                // Nothing else is said to this device before the ban is on the disk.
                let stored = self.gateway.bans.ban(channel, &why);
                let error = ClerkError::Banned(why);
                tracing::error!(%error, "a channel is banned");
                self.gateway.books().trouble.insert(channel, error.to_string());
                Ok(stored?)
            }
            ClerkError::Call(CallError::Gone | CallError::Interrupted(_)) | ClerkError::Shelf(_) => {
                Err(error)
            }
            ClerkError::Call(CallError::Refused { .. } | CallError::OutOfTurn)
            | ClerkError::Banned(_)
            | ClerkError::State(_)
            | ClerkError::Wrong(_)
            | ClerkError::NoTerms => {
                tracing::error!(%error, "a channel stands still");
                self.gateway.books().trouble.insert(channel, error.to_string());
                self.stuck.insert(channel);
                Ok(())
            }
        }
    }

    /// Everything that one channel needs now.
    async fn serve(&mut self, channel: [u8; 32]) -> Result<bool, ClerkError> {
        let Some(desk) = self.gateway.desk(&channel) else { return Ok(false) };
        let mut did = false;
        if desk.points_left().1 < FEW_POINTS && !self.stuck.contains(&channel) {
            self.more_points(&desk).await?;
            did = true;
        }
        while let Some(order) = self.next(&desk) {
            if order == Order::CloseAlone {
                self.close_alone(&desk).await?;
                continue;
            }
            if order == Order::BringHome {
                self.bring_home(&desk).await?;
                continue;
            }
            let terms = self.record(channel);
            if let Ok((record, _)) = &terms {
                self.tell_terms(channel, record).await?;
            }
            // Also for a channel that is over, whose terms only the device has: its bridge may have published what it revoked.
            if let Order::BridgeRevoked(number, secret) = order {
                let request = Request::BridgeRevoked { number, secret };
                let pending = self.caller.begin_to_ask(channel, request)?;
                self.told.push_back(Told { channel, number, pending });
                did = true;
                continue;
            }
            let (_, terms) = terms?;
            match order {
                Order::SignBridge(outline) => self.sign_bridge(&desk, &terms, &outline).await?,
                Order::Revoke(number) => self.revoke(&desk, &terms, number).await?,
                Order::CloseTogether(settlement, txid) => {
                    let closing = Closing::build(&terms, &settlement);
                    if closing.txid() != txid {
                        return Err(ClerkError::Wrong("nothing: LDK's closing is another"));
                    }
                    let request = |first| Request::CloseTogether { settlement: settlement.clone(), first };
                    let (signature, _) = self.sign(channel, closing.digest(), request).await?;
                    desk.closed(txid, signature);
                }
                Order::BridgeRevoked(..) | Order::CloseAlone | Order::BringHome => continue,
            }
            self.unblock(channel);
            did = true;
        }
        if self.gateway.bans.of(&channel).is_some() || self.stuck.contains(&channel) {
            return Ok(did);
        }
        Ok(did | self.fund(channel, &desk).await?)
    }

    /// The first order that the device does not know yet; of a channel that is banned or over, that needs no round; of one that stands still,
    /// that concerns its end: where the channel has ended, what the bridge has revoked is what may be punished.
    fn next(&self, desk: &Desk) -> Option<Order> {
        let channel = desk.channel();
        let is_over = || match self.gateway.books().channels.get(&channel) {
            Some(record) => matches!(record.stage, Stage::Over(_)),
            None => false,
        };
        let is_stuck = self.stuck.contains(&channel);
        let is_heard = !is_stuck || desk.ended().is_some();
        let is_silent = is_stuck || self.gateway.bans.of(&channel).is_some() || is_over();
        // Before the desk is locked: LDK holds its newest block while it asks for a signature, which locks the desk.
        let (is_to_close, is_to_look) = (self.is_to_close(&channel), self.is_to_look(&channel));
        desk.next(|order| match order {
            Order::BridgeRevoked(number, _) => {
                is_heard
                    && !self.unheard.contains(&(channel, *number))
                    && !self.told.iter().any(|told| (told.channel, told.number) == (channel, *number))
            }
            Order::SignBridge(_) | Order::Revoke(_) | Order::CloseTogether(..) => !is_silent,
            Order::CloseAlone => is_to_close,
            Order::BringHome => is_to_look,
        })
    }

    fn record(&self, channel: [u8; 32]) -> Result<(ChannelRecord, Terms), ClerkError> {
        let record = self.gateway.books().channels.get(&channel).cloned();
        let record = record.ok_or(ClerkError::NoTerms)?;
        let terms = record.terms().ok_or(ClerkError::NoTerms)?;
        Ok((record, terms))
    }

    async fn tell_terms(&mut self, channel: [u8; 32], record: &ChannelRecord) -> Result<(), ClerkError> {
        let Stage::Agreed { terms, .. } = &record.stage else { return Err(ClerkError::NoTerms) };
        if !self.opened.contains(&channel) {
            self.done(channel, Request::Open(*terms)).await?;
            self.opened.insert(channel);
        }
        Ok(())
    }

    async fn done(&self, channel: [u8; 32], request: Request) -> Result<(), ClerkError> {
        match self.caller.ask(channel, request).await? {
            Answer::Done => Ok(()),
            _other => Err(CallError::OutOfTurn.into()),
        }
    }

    /// The share that a round needs. Nothing else gives it out.
    fn share(&self, channel: [u8; 32]) -> Result<Arc<Share<GatewaySide>>, ClerkError> {
        if let Some(why) = self.gateway.bans.of(&channel) {
            return Err(ClerkError::Banned(why));
        }
        self.gateway.books().shares.get(&channel).cloned().ok_or(ClerkError::NoTerms)
    }

    async fn sign(
        &self,
        channel: [u8; 32],
        digest: Digest,
        request: impl FnOnce(Vec<u8>) -> Request,
    ) -> Result<(secp256k1::ecdsa::Signature, Vec<secp256k1::ecdsa::Signature>), ClerkError> {
        let share = self.share(channel)?;
        let signed = self.caller.sign(channel, &share, digest, request).await?;
        self.gateway.books().tally.joint_signatures += 1;
        Ok(signed)
    }

    async fn sign_bridge(&self, desk: &Desk, terms: &Terms, outline: &Outline) -> Result<(), ClerkError> {
        let proposal = self.propose(desk.channel(), terms, Side::Bridge, outline)?;
        let digest = digest_of(terms, Side::Bridge, &proposal, outline);
        let point = outline.point;
        let request = |first| Request::SignBridge { proposal, point, first };
        let (commitment, htlcs) = self.sign(desk.channel(), digest, request).await?;
        if htlcs.len() != outline.htlcs.len() {
            return Err(ClerkError::Wrong("another number of HTLC signatures"));
        }
        desk.signed(outline.number, outline.txid, BridgeSignatures { commitment, htlcs });
        Ok(())
    }

    /// Has every commitment of ours up to that one completed, then asks for what that allows.
    async fn validate(
        &self,
        desk: &Desk,
        terms: &Terms,
        up_to: CommitmentNumber,
        then: Request,
    ) -> Result<Answer, ClerkError> {
        let channel = desk.channel();
        let (mut unvalidated, mut then) = (desk.unvalidated(up_to).into_iter().peekable(), Some(then));
        while let Some(ToValidate { outline, signature, htlc_signatures }) = unvalidated.next() {
            let number = outline.number;
            let newest = self.gateway.holder_state(channel).map(|(_, newest)| newest.number);
            if newest.is_some_and(|newest| newest > number) {
                // The device had completed it before it was shown the next.
                desk.validated(number);
                continue;
            }
            let proposal = self.propose(channel, terms, Side::Holder, &outline)?;
            let digest = digest_of(terms, Side::Holder, &proposal, &outline);
            let share = self.share(channel)?;
            let request = |first| Request::ValidateHolder { proposal, signature, htlc_signatures, first };
            let following = if unvalidated.peek().is_none() { then.take() } else { None };
            let answer = self.caller.complete(channel, &share, digest, number, request, following).await?;
            self.gateway.books().tally.joint_signatures += 1;
            desk.validated(number);
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        let then = then.expect("it goes with the last commitment only, whose answer was returned");
        Ok(self.caller.ask(channel, then).await?)
    }

    async fn revoke(&self, desk: &Desk, terms: &Terms, number: CommitmentNumber) -> Result<(), ClerkError> {
        let request = Request::Revoke { number };
        let answer = match number.next() {
            Some(next) => self.validate(desk, terms, next, request).await?,
            None => self.caller.ask(desk.channel(), request).await?,
        };
        let Answer::Secret { number: got, secret } = answer else { return Err(CallError::OutOfTurn.into()) };
        if got != number || secret.point() != desk.point(number) {
            return Err(ClerkError::Wrong("a secret that does not fit its point"));
        }
        desk.revealed(number, secret);
        Ok(())
    }

    /// Asks for the word by which the owner's wallet signs, once LDK holds the bridge's signature.
    async fn fund(&mut self, channel: [u8; 32], desk: &Desk) -> Result<bool, ClerkError> {
        let Ok((record, terms)) = self.record(channel) else { return Ok(false) };
        let Stage::Agreed { is_signed: true, is_funded: false, .. } = record.stage else { return Ok(false) };
        let answer = self.validate(desk, &terms, CommitmentNumber::FIRST, Request::Fund).await?;
        let Answer::Fund(statement) = answer else {
            return Err(CallError::OutOfTurn.into());
        };
        if statement.outpoint != terms.funding {
            return Err(ClerkError::Wrong("a statement about another funding"));
        }
        self.gateway.set_stage(channel, |stage| {
            if let Stage::Agreed { is_funded, .. } = stage {
                *is_funded = true;
            }
        })?;
        let order = self.gateway.books().opening_orders.remove(&channel);
        if let Some(order) = order {
            self.caller.report(order, Report::Funded { channel: ChannelKeysId(channel) });
        }
        Ok(true)
    }

    /// Works out and stores what the device is asked.
    fn propose(
        &self,
        channel: [u8; 32],
        terms: &Terms,
        side: Side,
        outline: &Outline,
    ) -> Result<Proposal, ClerkError> {
        let under_way = self.gateway.details(channel).map(|details| UnderWay::all_of(&details));
        // Others' channels go on meanwhile. Nobody else writes this one.
        let mut ledger = self.gateway.books().ledgers.get(&channel).cloned().unwrap_or_default();
        let proposal = ledger.propose(terms, side, outline, under_way.as_deref())?;
        self.gateway.channel_shelf.put(&channel, "ledger", &ledger)?;
        let mut books = self.gateway.books();
        books.ledgers.insert(channel, ledger);
        books.tally.commitments += 1;
        books.tally.with_htlcs += u64::from(!outline.htlcs.is_empty());
        Ok(proposal)
    }

    fn unblock(&self, channel: [u8; 32]) {
        match self.name_at_ldk(channel) {
            Some((bridge, name)) => self.gateway.node.unblock(bridge, name),
            None => self.gateway.node.unblock_all(),
        }
    }

    /// The bridge, and LDK's name for a channel. Of one that is funded it follows from the funding (BOLT 2), without asking LDK, which
    /// would look at all channels.
    fn name_at_ldk(&self, channel: [u8; 32]) -> Option<(PublicKey, ChannelId)> {
        let stage = self.gateway.books().channels.get(&channel).map(|record| record.stage.clone());
        if let Some(Stage::Agreed { bridge, terms, is_funded: true, .. }) = stage
            && let Ok(index) = u16::try_from(terms.funding.vout)
        {
            let funding = OutPoint { txid: terms.funding.txid, index };
            return Some((bridge, ChannelId::v1_from_funding_outpoint(funding)));
        }
        let details = self.gateway.details(channel)?;
        Some((details.counterparty.node_id, details.channel_id))
    }
}

async fn pause(error: &ClerkError) {
    tracing::warn!(%error, "an order of a channel waits");
    tokio::time::sleep(PAUSE).await;
}

/// What both sides sign, by our own building.
fn digest_of(terms: &Terms, side: Side, proposal: &Proposal, outline: &Outline) -> Digest {
    let Proposal { number, fee_rate, to_holder, to_bridge, htlcs, .. } = proposal.clone();
    let contents = Contents { number, point: outline.point, fee_rate, to_holder, to_bridge, htlcs };
    Commitment::build(terms, side, &contents).digest()
}
