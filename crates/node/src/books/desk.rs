//! Where accounts are kept that are newer than what the books have stored.

use farthing_protocol::ChannelId;
use tokio::sync::oneshot;

use super::OrderError;
use crate::machine::Machine;

/// Keeps accounts in memory that are newer than the stored ones, where a decision cannot wait for the books: the calls of
/// Lightspeed. The books ask it for the newest account before every other decision on a channel.
pub trait Desk<M: Machine>: Send + Sync {
    /// At most so many channels whose accounts are to be stored, and whether there are more.
    fn asked(&self, most: usize) -> (Vec<ChannelId>, bool);

    /// How many calls there are that want to be stored, or soon will.
    fn calls(&self) -> Calls;

    /// The account of a channel if it is newer than the stored one, and those who wait for it to be stored.
    fn draw(&self, id: ChannelId) -> Option<Drawn<M>>;

    /// What was drawn could not be stored.
    fn not_stored(&self, id: ChannelId);

    /// What was drawn was refused: the channel takes no account any more.
    fn not_taken(&self, id: ChannelId);

    /// A channel's new state was stored.
    fn turned(&self, id: ChannelId, state: &M::State, setup: &M::Setup);

    /// The books are closed: nothing is stored any more, and whoever waits for it waits in vain.
    fn ended(&self);
}

/// The calls of a desk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// They run.
    pub running: usize,
    /// They have ended and wait to be stored.
    pub waiting: usize,
}

/// What a desk hands over to be stored.
pub struct Drawn<M: Machine> {
    /// The newest account.
    pub input: M::Input,
    /// Who waits for it.
    pub waiting: Vec<FoldReply<M>>,
}

/// Answers one who waits for an account to be stored.
pub type FoldReply<M> = oneshot::Sender<Result<(), OrderError<<M as Machine>::Reject>>>;

/// The desk of a role that decides everything in the books.
#[derive(Debug)]
pub struct NoDesk;

impl<M: Machine> Desk<M> for NoDesk {
    fn asked(&self, _most: usize) -> (Vec<ChannelId>, bool) {
        (Vec::new(), false)
    }

    fn calls(&self) -> Calls {
        Calls::default()
    }

    fn draw(&self, _id: ChannelId) -> Option<Drawn<M>> {
        None
    }

    fn not_stored(&self, _id: ChannelId) {}

    fn not_taken(&self, _id: ChannelId) {}

    fn turned(&self, _id: ChannelId, _state: &M::State, _setup: &M::Setup) {}

    fn ended(&self) {}
}
