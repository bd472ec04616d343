//! What one write will bring, and who waits for it.

use std::sync::Arc;

use farthing_protocol::{ChannelId, Msat};
use tokio::sync::oneshot;

use super::{Decided, FoldReply, Item, OrderError, Reply};
use crate::by_channel::ByChannel;
use crate::machine::Machine;
use crate::store::{StoreError, Write};

/// An order that was decided on and waits for the write.
pub(super) struct Waiting<M: Machine> {
    pub(super) reply: Whom<M>,
    pub(super) effects: usize,
    pub(super) again: Option<Msat>,
}

/// Who is to be answered.
pub(super) enum Whom<M: Machine> {
    /// Who gave the order.
    One(Reply<M>),
    /// Everybody whose calls are in an account that the desk handed over.
    All(Vec<FoldReply<M>>),
}

impl<M: Machine> Whom<M> {
    pub(super) fn refuse(self, error: OrderError<M::Reject>) {
        match self {
            Self::One(reply) => {
                let _caller_left = reply.send(Err(error));
            }
            Self::All(replies) => {
                for reply in replies {
                    let _caller_left = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// A channel that is to be added, and when, in seconds since 1970.
pub(super) type Added<M> = (Box<<M as Machine>::Record>, Arc<<M as Machine>::Setup>, u64);

/// What one channel's orders in a batch come to.
pub(super) struct Draft<M: Machine> {
    pub(super) transition: Option<Decided<M>>,
    pub(super) added: Option<Added<M>>,
    pub(super) items: Vec<Item>,
    pub(super) waiting: Vec<Waiting<M>>,
    /// Released once it is stored.
    pub(super) effects: Vec<M::Effect>,
}

impl<M: Machine> Default for Draft<M> {
    fn default() -> Self {
        let (items, waiting, effects) = (Vec::new(), Vec::new(), Vec::new());
        Self { transition: None, added: None, items, waiting, effects }
    }
}

/// All of it.
pub(super) struct DraftBatch<M: Machine> {
    pub(super) drafts: ByChannel<Draft<M>>,
    pub(super) writes: Vec<Write>,
    pub(super) written: Vec<oneshot::Sender<Result<(), Arc<StoreError>>>>,
    pub(super) granted: Vec<ChannelId>,
    /// How many calls wait for it.
    pub(super) calls: usize,
}

impl<M: Machine> Default for DraftBatch<M> {
    fn default() -> Self {
        let (writes, written, granted) = (Vec::new(), Vec::new(), Vec::new());
        Self { drafts: ByChannel::default(), writes, written, granted, calls: 0 }
    }
}
