//! One channel's desk: what LDK ordered, and what the device answered.
//!
//! **What survives a restart.** LDK asks again for signatures and secrets, but shows a validated commitment and a revocation secret only
//! once: both are stored before LDK is told that they are accepted, and stay stored until the device has taken them. Points are stored
//! since LDK cannot do without them. That a channel is to be closed alone LDK says once as well.
//!
//! A commitment of ours is shown to the device only when LDK wants to revoke the one before: by then LDK has stored it, so after a
//! crash LDK and the device cannot disagree about which one it was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::{Transaction, Txid};
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::{CommitmentNumber, CommitmentSecret, Terms};
use secp256k1::{PublicKey, ecdsa};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ledger::Outline;
use crate::shelf::{Shelf, ShelfError};

/// The value that says whether the device is to close alone.
const CLOSE_ALONE: &str = "close_alone";

/// The value that holds the terms of a channel that ended on the chain, until nothing of it waits there.
const ENDED: &str = "ended";

/// The value that holds the closing of both sides, until it is deep in the chain.
const CLOSING: &str = "closing";

/// Answers older than this many commitments are forgotten.
const KEPT: u64 = 4;

/// What the device is to do for a channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Sign the bridge's commitment.
    SignBridge(Outline),
    /// Validate everything up to the next commitment of ours, then give up this one.
    Revoke(CommitmentNumber),
    /// Take the secret of the bridge's commitment.
    BridgeRevoked(CommitmentNumber, CommitmentSecret),
    /// Sign a closing.
    CloseTogether(Settlement, Txid),
    /// Publish the holder's commitment: LDK has given the channel up, and only the device can.
    CloseAlone,
    /// See who has spent the funding, and sign what that leaves to be done.
    BringHome,
}

/// A commitment of ours with the bridge's signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToValidate {
    /// The commitment.
    pub outline: Outline,
    /// The bridge's signature.
    pub signature: ecdsa::Signature,
    /// Those on second stages.
    pub htlc_signatures: Vec<ecdsa::Signature>,
}

/// The bridge's signatures that the channel's parties wait for, ours on its commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSignatures {
    /// By the joint key.
    pub commitment: ecdsa::Signature,
    /// By the device's HTLC key.
    pub htlcs: Vec<ecdsa::Signature>,
}

/// A channel's orders and answers.
pub struct Desk {
    channel: [u8; 32],
    shelf: Shelf,
    inner: Mutex<Inner>,
    /// Wakes whoever serves this desk.
    bell: Arc<Notify>,
}

struct Inner {
    points: BTreeMap<CommitmentNumber, PublicKey>,
    /// The highest point that LDK asked for.
    asked: CommitmentNumber,
    to_validate: BTreeMap<CommitmentNumber, ToValidate>,
    bridge_secrets: BTreeMap<CommitmentNumber, CommitmentSecret>,
    orders: VecDeque<Order>,
    signed: BTreeMap<CommitmentNumber, (Txid, BridgeSignatures)>,
    secrets: BTreeMap<CommitmentNumber, CommitmentSecret>,
    closings: BTreeMap<Txid, ecdsa::Signature>,
    last_closing: Option<Txid>,
    /// With the signatures of both sides.
    closing: Option<Transaction>,
    ended: Option<Terms>,
}

impl Desk {
    /// A channel's desk with what was stored of it. `bell` is rung when there is an order.
    ///
    /// # Errors
    /// When the shelf cannot be read.
    pub fn open(channel: [u8; 32], shelf: Shelf, bell: Arc<Notify>) -> Result<Arc<Self>, ShelfError> {
        let mut inner = Inner {
            points: shelf.get(&channel, "points")?.unwrap_or_default(),
            to_validate: shelf.get(&channel, "to_validate")?.unwrap_or_default(),
            bridge_secrets: shelf.get(&channel, "bridge_secrets")?.unwrap_or_default(),
            asked: CommitmentNumber::FIRST,
            orders: VecDeque::new(),
            signed: BTreeMap::new(),
            secrets: BTreeMap::new(),
            closings: BTreeMap::new(),
            last_closing: None,
            closing: shelf.get(&channel, CLOSING)?.flatten(),
            ended: shelf.get(&channel, ENDED)?.flatten(),
        };
        let secrets = inner.bridge_secrets.iter();
        inner.orders =
            secrets.map(|(number, secret)| Order::BridgeRevoked(*number, secret.clone())).collect();
        if shelf.get(&channel, CLOSE_ALONE)?.unwrap_or_default() {
            inner.orders.push_back(Order::CloseAlone);
        }
        if inner.ended.is_some() {
            inner.orders.push_back(Order::BringHome);
        }
        Ok(Arc::new(Self { channel, shelf, inner: Mutex::new(inner), bell }))
    }

    /// Which channel.
    pub fn channel(&self) -> [u8; 32] {
        self.channel
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in points of ours and stores them.
    ///
    /// # Errors
    /// When they are not stored.
    pub fn add_points(&self, from: CommitmentNumber, points: &[PublicKey]) -> Result<(), ShelfError> {
        let mut inner = self.inner();
        let numbers = (from.get()..).filter_map(|number| CommitmentNumber::try_from(number).ok());
        inner.points.extend(numbers.zip(points.iter().copied()));
        self.shelf.put(&self.channel, "points", &inner.points)
    }

    /// The first number whose point is not known yet, and how many are known above the last one that LDK asked for.
    pub fn points_left(&self) -> (CommitmentNumber, usize) {
        let inner = self.inner();
        let next = inner.points.keys().next_back().and_then(|last| last.next());
        let left = inner.points.range(inner.asked..).count();
        (next.unwrap_or(CommitmentNumber::FIRST), left)
    }

    /// A point of ours, for LDK. When it is missing, whoever serves this desk asks for more.
    pub fn point(&self, number: CommitmentNumber) -> Option<PublicKey> {
        let mut inner = self.inner();
        inner.asked = inner.asked.max(number);
        let point = inner.points.get(&number).copied();
        if point.is_none() {
            self.bell.notify_one();
        }
        point
    }

    /// The signatures on the bridge's commitment, or an order for them.
    pub fn bridge_signatures(
        &self,
        outline: impl FnOnce() -> Outline,
        number: CommitmentNumber,
        txid: Txid,
    ) -> Option<BridgeSignatures> {
        let mut inner = self.inner();
        if let Some((_, signatures)) = inner.signed.get(&number).filter(|(signed, _)| *signed == txid) {
            return Some(signatures.clone());
        }
        let is_it = |order: &Order| matches!(order, Order::SignBridge(other) if other.txid == txid);
        if !inner.orders.iter().any(is_it) {
            inner.orders.push_back(Order::SignBridge(outline()));
            self.bell.notify_one();
        }
        None
    }

    /// The secret of a commitment of ours, or an order to revoke it.
    pub fn secret(&self, number: CommitmentNumber) -> Option<CommitmentSecret> {
        let mut inner = self.inner();
        if let Some(secret) = inner.secrets.get(&number) {
            return Some(secret.clone());
        }
        if !inner.orders.contains(&Order::Revoke(number)) {
            inner.orders.push_back(Order::Revoke(number));
            self.bell.notify_one();
        }
        None
    }

    /// The signature on a closing, or an order for it.
    pub fn closing_signature(&self, settlement: &Settlement, txid: Txid) -> Option<ecdsa::Signature> {
        let mut inner = self.inner();
        if let Some(signature) = inner.closings.get(&txid) {
            return Some(*signature);
        }
        let order = Order::CloseTogether(settlement.clone(), txid);
        if !inner.orders.contains(&order) {
            inner.orders.push_back(order);
            self.bell.notify_one();
        }
        None
    }

    /// Orders the holder's commitment to be published. LDK says only once that it has given a channel up, so that is stored.
    pub fn close_alone(&self) {
        self.note_close_alone(true);
        let mut inner = self.inner();
        // Nothing else can be done for this channel any more, but for what helps the device to punish.
        inner.orders.retain(|order| matches!(order, Order::BridgeRevoked(..) | Order::BringHome));
        // First: what the bridge published is looked for after it.
        inner.orders.push_front(Order::CloseAlone);
        self.bell.notify_one();
    }

    /// The device gave its transactions.
    pub fn published(&self) {
        self.note_close_alone(false);
        self.inner().done(|order| *order == Order::CloseAlone);
    }

    /// The channel ends on the chain, by whosever transaction. LDK says so only once.
    ///
    /// # Errors
    /// When it is not stored.
    pub fn end(&self, terms: Terms) -> Result<(), ShelfError> {
        let mut inner = self.inner();
        self.shelf.put(&self.channel, ENDED, &Some(terms))?;
        inner.ended = Some(terms);
        inner.orders.retain(|order| matches!(order, Order::BridgeRevoked(..) | Order::CloseAlone));
        inner.orders.push_back(Order::BringHome);
        self.bell.notify_one();
        Ok(())
    }

    /// The terms of a channel that ended on the chain.
    pub fn ended(&self) -> Option<Terms> {
        self.inner().ended
    }

    /// Stores the closing that both sides signed. LDK says only once what it is.
    ///
    /// # Errors
    /// When it is not stored.
    pub fn keep_closing(&self, closing: &Transaction) -> Result<(), ShelfError> {
        let mut inner = self.inner();
        self.shelf.put(&self.channel, CLOSING, &Some(closing))?;
        inner.closing = Some(closing.clone());
        Ok(())
    }

    /// The closing that both sides signed.
    pub fn closing(&self) -> Option<Transaction> {
        self.inner().closing.clone()
    }

    /// Whether the device has signed a closing of both sides by that name.
    pub fn is_closing(&self, txid: &Txid) -> bool {
        let inner = self.inner();
        let is_it = |closing: &Transaction| closing.compute_txid() == *txid;
        inner.closings.contains_key(txid) || inner.closing.as_ref().is_some_and(is_it)
    }

    /// Nothing waits on the chain any more.
    pub fn brought_home(&self) {
        let mut inner = self.inner();
        if let Err(error) = self.shelf.put(&self.channel, ENDED, &None::<Terms>) {
            tracing::warn!(%error, "the end of a channel is looked at again after the next start");
        }
        if inner.closing.is_some()
            && let Err(error) = self.shelf.put(&self.channel, CLOSING, &None::<Transaction>)
        {
            tracing::warn!(%error, "a closing that is in the chain is sent again after the next start");
        }
        // Nor is anything of the bridge's to be punished any more.
        inner.bridge_secrets.clear();
        if let Err(error) = self.shelf.put(&self.channel, "bridge_secrets", &inner.bridge_secrets) {
            tracing::warn!(%error, "a device is told of old revocations after the next start");
        }
        inner.closing = None;
        inner.ended = None;
        let was_to_close = inner.orders.contains(&Order::CloseAlone);
        inner.orders.clear();
        if was_to_close {
            self.note_close_alone(false);
        }
    }

    /// Whether the device does not know yet that the bridge has revoked something.
    pub fn has_revocations(&self) -> bool {
        self.inner().orders.iter().any(|order| matches!(order, Order::BridgeRevoked(..)))
    }

    fn note_close_alone(&self, is_ordered: bool) {
        if let Err(error) = self.shelf.put(&self.channel, CLOSE_ALONE, &is_ordered) {
            // The device can close without being told.
            tracing::error!(%error, "an order to close alone was not stored");
        }
    }

    /// Stores a commitment of ours that the bridge signed.
    ///
    /// # Errors
    /// When it is not stored.
    pub fn to_validate(&self, commitment: ToValidate) -> Result<(), ShelfError> {
        let mut inner = self.inner();
        inner.to_validate.insert(commitment.outline.number, commitment);
        self.shelf.put(&self.channel, "to_validate", &inner.to_validate)
    }

    /// Stores a secret of the bridge's, for the device.
    ///
    /// # Errors
    /// When it is not stored.
    pub fn bridge_revoked(
        &self,
        number: CommitmentNumber,
        secret: CommitmentSecret,
    ) -> Result<(), ShelfError> {
        let mut inner = self.inner();
        inner.bridge_secrets.insert(number, secret.clone());
        self.shelf.put(&self.channel, "bridge_secrets", &inner.bridge_secrets)?;
        inner.orders.push_back(Order::BridgeRevoked(number, secret));
        self.bell.notify_one();
        Ok(())
    }

    /// The first order of which that holds. It keeps its place until it is done.
    pub fn next(&self, holds: impl Fn(&Order) -> bool) -> Option<Order> {
        self.inner().orders.iter().find(|order| holds(order)).cloned()
    }

    /// The commitments of ours up to that one which the device has not validated, in order.
    pub fn unvalidated(&self, up_to: CommitmentNumber) -> Vec<ToValidate> {
        self.inner().to_validate.range(..=up_to).map(|(_, commitment)| commitment.clone()).collect()
    }

    /// The device has completed a commitment of ours. That is stored with the next one: until then a restart shows it to the device
    /// again, which gives the same answer.
    pub fn validated(&self, number: CommitmentNumber) {
        self.inner().to_validate.remove(&number);
    }

    /// The device signed the bridge's commitment.
    pub fn signed(&self, number: CommitmentNumber, txid: Txid, signatures: BridgeSignatures) {
        let mut inner = self.inner();
        inner.signed.insert(number, (txid, signatures));
        inner.signed.retain(|kept, _| kept.get() + KEPT > number.get());
        inner.done(|order| matches!(order, Order::SignBridge(outline) if outline.txid == txid));
    }

    /// The device revealed a secret.
    pub fn revealed(&self, number: CommitmentNumber, secret: CommitmentSecret) {
        let mut inner = self.inner();
        inner.secrets.insert(number, secret);
        inner.secrets.retain(|kept, _| kept.get() + KEPT > number.get());
        inner.points.retain(|kept, _| kept.get() + KEPT > number.get());
        inner.done(|order| *order == Order::Revoke(number));
    }

    /// The device took a secret of the bridge's. Stored with the next one, as above.
    pub fn took_bridge_secret(&self, number: CommitmentNumber) {
        let mut inner = self.inner();
        inner.bridge_secrets.remove(&number);
        inner.done(|order| matches!(order, Order::BridgeRevoked(other, _) if *other == number));
    }

    /// The device signed a closing.
    pub fn closed(&self, txid: Txid, signature: ecdsa::Signature) {
        let mut inner = self.inner();
        inner.closings.insert(txid, signature);
        inner.last_closing = Some(txid);
        inner.done(|order| matches!(order, Order::CloseTogether(_, other) if *other == txid));
    }

    /// The closing that was signed last.
    pub fn last_closing(&self) -> Option<Txid> {
        self.inner().last_closing
    }

    /// How many orders wait, for operators.
    pub fn waiting(&self) -> usize {
        self.inner().orders.len()
    }
}

impl Inner {
    fn done(&mut self, is_it: impl Fn(&Order) -> bool) {
        self.orders.retain(|order| !is_it(order));
    }
}
