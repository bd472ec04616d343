//! What the owner's store keeps of a channel, on another machine than the device, and when it lets the device go on.
//!
//! ```text
//!   nothing ── keep ──▶ Kept(n) ── keep ──▶ Kept(n+1) ── close ──▶ Closing(n+1): nothing is acknowledged any more
//! ```
//!
//! With the device's backup, which the owner has, a [`Kept`] is all that closes the channel by a bitcoind alone: the holder's newest complete
//! commitment with its joint signature, and what takes HTLCs out of the bridge's commitments and punishes revoked ones. It has no share
//! and no secret of a holder commitment: no other state can be signed with it, and none revoked.
//!
//! **When the device waits** ([`Effect::awaits_store`](super::Effect::awaits_store)): before it says that the funding may be signed; before it signs a
//! commitment of the bridge's, so that whichever the bridge may publish, the store knows its HTLCs; and before a secret n−1 leaves, so that
//! the store holds n.
//!
//! **The order at the store.** The next state is stored in place of the one before; every copy of that one is erased from the disk; then
//! comes the acknowledgement ([`StoreEffect`]). So what it holds is never revoked: secret n leaves the device only once n+1 is
//! acknowledged, and n gone by then. Before the owner closes, *closing* is stored, and the device gets no acknowledgement any more, and reveals no
//! secret any more.
//!
//! **Who can lose what.** A device that cannot reach its store pays nothing, and loses nothing: it can close alone. A store that comes back
//! from an **old copy** holds a state that may be revoked, and closing with it would give the channel to the bridge. It is therefore in no backup. As soon as the
//! device is connected again it brings the newest state, before anything else.
//!
//! **Replay.** The same state again is stored, erased and acknowledged the same.

use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::account::{Account, BridgeSide, HolderCommitment, HolderSide};
use super::bolt3::{Commitment, CommitmentNumber, Contents, PaymentHash, Side, Terms};
use super::machine::State;
use super::payments::Payments;
use super::policy::{Policy, Tip};
use super::reject::Reject;
use super::setup::Enrolment;
use super::wire::{BadMessage, ChannelKeysId, decode, encode};
use crate::transition::Transition;

/// A channel's newest states, as its device brings them to the owner's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    channel: ChannelKeysId,
    terms: Terms,
    /// Complete: with the joint signature.
    holder: HolderCommitment,
    /// Whatever the bridge may publish, and the secrets of what it must not.
    bridge: BridgeSide,
}

/// A state that the store does not take. Nothing changed, and nothing is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotKept {
    /// The owner closes the channel.
    #[error("store-closing: the owner is closing this channel from its store")]
    Closing,
    /// What closes would not be the owner's.
    #[error("store-card: the {0} is not that of the owner's card")]
    Card(&'static str),
    /// Another channel than before.
    #[error("store-terms: the channel has begun with other terms")]
    Terms,
    /// A state that is older than the one here.
    #[error("store-number: the store holds the {side:?}'s state {held}, got {got}")]
    Number {
        /// Whose.
        side: Side,
        /// What the store holds.
        held: CommitmentNumber,
        /// What came.
        got: CommitmentNumber,
    },
    /// Another state of the same number.
    #[error("store-retry-same: the store holds another state of the {0:?}'s with this number")]
    RetryDiffers(Side),
    /// It could not be published.
    #[error("store-incomplete: {0}")]
    Incomplete(Reject),
}

/// What the owner's store holds of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keeping {
    /// The device may go on.
    Kept(Kept),
    /// The owner closes with this state: it will not be revoked.
    Closing(Kept),
}

/// What the store is to do, in this order, once its state is stored. When one fails, none after it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEffect {
    /// Overwrite every copy of what the former state held, write-ahead log included.
    Erase,
    /// Tell the device that this state of the holder's is kept, and none before it.
    Acknowledge(CommitmentNumber),
    /// Close with this, through any node.
    Close(Box<Kept>),
}

/// Device to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStore {
    /// Keep this in place of what there is of its channel.
    Keep {
        /// Counted by the device on each connection.
        id: u64,
        /// What.
        kept: Box<Kept>,
    },
}

/// Store to device: the answer to the message with that id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStore {
    /// It is kept, and nothing older.
    Kept {
        /// The message's.
        id: u64,
    },
    /// The owner closes the channel.
    Closing {
        /// The message's.
        id: u64,
    },
    /// It is not kept.
    Refused {
        /// The message's.
        id: u64,
        /// The rule, and why, in words.
        why: String,
    },
}

impl Account {
    /// What the owner's store is to hold now; `None` before a state is complete.
    pub fn to_keep(&self, channel: ChannelKeysId, terms: &Terms) -> Option<Kept> {
        let holder = [&self.holder.newest, &self.holder.previous];
        let is_complete = |holder: &&HolderCommitment| holder.joint_signature.is_some();
        let holder = holder.into_iter().flatten().find(is_complete)?.clone();
        Some(Kept { channel, terms: *terms, holder, bridge: self.bridge.clone() })
    }
}

impl Kept {
    /// Which channel.
    pub fn channel(&self) -> ChannelKeysId {
        self.channel
    }

    /// What was agreed on when it began.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The holder's state by which the channel can be closed.
    pub fn number(&self) -> CommitmentNumber {
        self.holder.contents.number
    }

    /// The payment hashes of the holder's HTLCs that the bridge may have in a commitment. The store collects them: the HTLCs of a revoked
    /// commitment are found by trying them.
    pub fn hashes(&self) -> impl Iterator<Item = PaymentHash> {
        let htlcs = self.bridge.newest.iter().flat_map(|contents| &contents.htlcs);
        htlcs.filter(|htlc| htlc.offered_by == Side::Holder).map(|htlc| htlc.payment_hash)
    }

    /// The device's machine as far as the owner needs it to close: no update, and no secret, comes out of it.
    pub fn state(&self, policy: Policy) -> State {
        let holder = HolderSide {
            newest: Some(self.holder.clone()),
            previous: None,
            erasing: None,
            revealed: self.number().get(),
        };
        let (tip, payments, bridge) = (Tip::default(), Payments::default(), self.bridge.clone());
        State::closing_alone(Account { policy, tip, payments, holder, bridge })
    }

    /// Whether the owner could close with it: nothing is believed that can be computed.
    fn check(&self, enrolment: &Enrolment) -> Result<(), NotKept> {
        let own = &self.terms.holder.basepoints;
        let is = |name, got: PublicKey, expected| {
            if got == expected { Ok(()) } else { Err(NotKept::Card(name)) }
        };
        is("payment basepoint", own.payment, enrolment.payment)?;
        is("delayed payment basepoint", own.delayed_payment, enrolment.delayed_payment)?;
        let built = Commitment::build(&self.terms, Side::Holder, &self.holder.contents);
        self.holder.check(&self.terms, &built).map_err(NotKept::Incomplete)?;
        let joint = self.holder.joint_signature.as_ref();
        let key = &self.terms.holder.funding_key;
        if joint.is_some_and(|joint| built.digest().is_signed(key, joint)) {
            Ok(())
        } else {
            Err(NotKept::Incomplete(Reject::JointSignature))
        }
    }

    /// States only go forward.
    fn follows(&self, before: &Self) -> Result<(), NotKept> {
        if (self.channel, &self.terms) != (before.channel, &before.terms) {
            return Err(NotKept::Terms);
        }
        forward(Side::Holder, Some(&before.holder.contents), Some(&self.holder.contents))?;
        forward(Side::Bridge, before.bridge.newest.as_ref(), self.bridge.newest.as_ref())
    }
}

fn forward(side: Side, before: Option<&Contents>, next: Option<&Contents>) -> Result<(), NotKept> {
    let Some(before) = before else { return Ok(()) };
    let held = before.number;
    match next {
        Some(next) if next.number > held => Ok(()),
        Some(next) if next == before => Ok(()),
        Some(next) if next.number == held => Err(NotKept::RetryDiffers(side)),
        Some(next) => Err(NotKept::Number { side, held, got: next.number }),
        None => Err(NotKept::RetryDiffers(side)),
    }
}

impl Keeping {
    /// Takes a device's newest state.
    ///
    /// # Errors
    /// See [`NotKept`].
    pub fn keep(
        before: Option<&Self>,
        enrolment: &Enrolment,
        next: Kept,
    ) -> Result<Transition<Self, StoreEffect>, NotKept> {
        match before {
            None => {}
            Some(Self::Kept(before)) => next.follows(before)?,
            Some(Self::Closing(_)) => return Err(NotKept::Closing),
        }
        next.check(enrolment)?;
        let acknowledge = StoreEffect::Acknowledge(next.number());
        Ok(Transition::to(Self::Kept(next)).then(StoreEffect::Erase).then(acknowledge))
    }

    /// The owner closes. Again it gives the same.
    pub fn close(&self) -> Transition<Self, StoreEffect> {
        let (Self::Kept(kept) | Self::Closing(kept)) = self;
        Transition::to(Self::Closing(kept.clone())).then(StoreEffect::Close(Box::new(kept.clone())))
    }
}

impl ToStore {
    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        decode(bytes)
    }
}

impl FromStore {
    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        decode(bytes)
    }
}
