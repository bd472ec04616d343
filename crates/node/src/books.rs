//! One thread that keeps the books of one role: it owns the database connection and every channel's state, runs the
//! machines, and stores each batch of decisions in one durable write.
//!
//! Callers queue orders. While one write is under way, the next orders gather; then all of them are decided on, stored
//! together, and answered. So a thousand payments cost a few disk flushes, and each answer still comes after its own
//! state is on disk. When the write fails, every order in the batch fails, all states stay as they were, and no effect
//! comes out.

mod desk;
mod draft;
mod keeper;
mod live;
mod pace;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::mpsc;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bitcoin::OutPoint;
use farthing_protocol::channel::BadParams;
use farthing_protocol::keys::Seed;
use farthing_protocol::ledger::Ledger;
use farthing_protocol::lightspeed::Ladder;
use farthing_protocol::{ChannelId, Msat, Transition};
use tokio::sync::oneshot;

pub use crate::books::desk::{Calls, Desk, Drawn, FoldReply, NoDesk};
use crate::books::keeper::{Keeper, Page};
pub use crate::books::live::Places;
use crate::books::pace::Pace;
use crate::by_channel::ByChannel;
use crate::crash;
use crate::machine::{Machine, Watched};
use crate::store::{Followed, Spend, Store, StoreError, Write};

/// The most orders that share a write.
const BATCH: usize = 512;
/// The most orders that may wait. More callers block until there is room.
const QUEUE: usize = 4_096;

fn blindness(since: Option<Duration>) -> String {
    since.map_or_else(|| "since the start".to_owned(), |since| format!("for {} s", since.as_secs()))
}

/// Why an order was not carried out. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError<R: std::error::Error> {
    /// No such channel.
    #[error("there is no channel {0}")]
    NoChannel(ChannelId),
    /// Another channel has this funding.
    #[error("the output {0} funds another channel already")]
    FundingTaken(OutPoint),
    /// The machine refused the input.
    #[error(transparent)]
    Rejected(R),
    /// The state could not be stored.
    #[error("nothing was done, since it could not be stored: {0}")]
    Store(Arc<StoreError>),
    /// What the chain says of the channel is not known: it was not seen for that long, or not at all since the start.
    #[error("the chain has not been seen {}; nothing is sold until it is", blindness(*.0))]
    Blind(Option<Duration>),
    /// The books are closed: the program is ending.
    #[error("the program is ending")]
    Ended,
}

/// What came of an order.
#[derive(Debug)]
pub struct Outcome<E> {
    /// What is to be done now. Effects come after the state behind them is stored.
    pub effects: Vec<E>,
    /// The channel's money after it.
    pub ledger: Ledger,
    /// The item had been charged before, at that cost: nothing changed, and it may be served again.
    pub again: Option<Msat>,
}

/// Something that is charged once, however often it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// Its name.
    pub id: [u8; 32],
    /// What it costs.
    pub cost: Msat,
}

/// A channel as the books show it.
#[derive(Debug)]
pub struct Entry<M: Machine> {
    /// The channel.
    pub id: ChannelId,
    /// Its setup record.
    pub record: M::Record,
    /// Where it stands.
    pub state: M::State,
    /// When it was opened, in seconds since 1970.
    pub opened_at: u64,
}

/// What a restart must do again, in which channel.
pub type Resumed<M> = Vec<(ChannelId, <M as Machine>::Effect)>;

type Reply<M> = oneshot::Sender<Result<Outcome<<M as Machine>::Effect>, OrderError<<M as Machine>::Reject>>>;
type WithLadders<M> = Result<Option<(<M as Machine>::State, Vec<Ladder>)>, Arc<StoreError>>;
type Decided<M> = Transition<<M as Machine>::State, <M as Machine>::Effect>;

struct Handle<M: Machine> {
    id: ChannelId,
    input: M::Input,
    item: Option<Item>,
    writes: Vec<Write>,
    reply: Reply<M>,
}

struct Add<M: Machine> {
    record: Box<M::Record>,
    setup: Arc<M::Setup>,
    transition: Decided<M>,
    writes: Vec<Write>,
    reply: Reply<M>,
}

enum Order<M: Machine> {
    Add(Add<M>),
    Handle(Handle<M>),
    Write(Vec<Write>, oneshot::Sender<Result<(), Arc<StoreError>>>),
    List(oneshot::Sender<Result<Vec<Entry<M>>, Arc<StoreError>>>),
    Present(oneshot::Sender<Vec<Entry<M>>>),
    Watched(oneshot::Sender<Vec<Watched>>),
    Oldest(fn(&M::State) -> bool, oneshot::Sender<Places>),
    Forget(ChannelId, oneshot::Sender<Result<bool, Arc<StoreError>>>),
    Wishes(oneshot::Sender<Result<Vec<ChannelId>, Arc<StoreError>>>),
    Granted(ChannelId, oneshot::Sender<Result<(), Arc<StoreError>>>),
    Purchases(ChannelId, Vec<[u8; 32]>, oneshot::Sender<Result<Msat, Arc<StoreError>>>),
    Followed(oneshot::Sender<Result<Followed, Arc<StoreError>>>),
    Ladders(ChannelId, oneshot::Sender<WithLadders<M>>),
    State(ChannelId, oneshot::Sender<Option<M::State>>),
    Day(u64, oneshot::Sender<Result<Msat, Arc<StoreError>>>),
    Fold,
    Spends(OutPoint, oneshot::Sender<Result<Vec<Spend>, Arc<StoreError>>>),
    End,
}

/// A way to the books, shared by all parts of a program.
pub struct Books<M: Machine> {
    orders: mpsc::SyncSender<Order<M>>,
    setups: Arc<RwLock<ByChannel<Arc<M::Setup>>>>,
    thread: Option<JoinHandle<()>>,
}

/// Why the books could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored channel makes no sense.
    #[error("the stored channel {id} makes no sense: {source}")]
    Corrupt {
        /// Which.
        id: ChannelId,
        /// Why.
        source: BadParams,
    },
}

impl<M: Machine> Books<M> {
    /// Reads all channels of the role from the database and starts the thread. Returns what a restart must do again.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that makes no sense.
    pub fn open(
        mut store: Store,
        seed: &Seed,
        desk: Arc<dyn Desk<M>>,
    ) -> Result<(Self, Resumed<M>), OpenError> {
        let mut pages = ByChannel::default();
        let mut setups = ByChannel::default();
        let mut resumed = Vec::new();
        let stored = store.channels::<M>()?;
        // Layout 6 did not note it.
        store.end_all::<M>(
            stored.iter().filter(|stored| M::is_ended(&stored.state)).map(|stored| stored.id),
        )?;
        let (over, live): (Vec<_>, Vec<_>) = stored.into_iter().partition(|stored| M::is_over(&stored.state));
        for stored in live {
            let setup = M::setup(&stored.record, seed)
                .map_err(|source| OpenError::Corrupt { id: stored.id, source })?;
            let setup = Arc::new(setup);
            resumed.extend(M::resume(&stored.state, &setup).into_iter().map(|effect| (stored.id, effect)));
            setups.insert(stored.id, setup.clone());
            let page = Page {
                rest: M::rest(stored.record),
                setup,
                state: stored.state,
                opened_at: stored.opened_at,
            };
            pages.insert(stored.id, page);
        }
        let setups = Arc::new(RwLock::new(setups));
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        let keeper = Keeper {
            store,
            pages,
            setups: setups.clone(),
            desk,
            has_more: false,
            has_over: !over.is_empty(),
            pace: Pace::new(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("{} books", M::ROLE.name()))
            .spawn(crash::inherited(move || keeper.run(&queue)))
            .expect("the operating system starts a thread");
        Ok((Self { orders, setups, thread: Some(thread) }, resumed))
    }

    /// A channel's setup; `None` for one that is over, where the machine lets such a channel leave the memory.
    pub fn setup(&self, id: &ChannelId) -> Option<Arc<M::Setup>> {
        self.setups.read().expect("no holder of this lock panics").get(id).cloned()
    }

    /// Adds a channel with its first transition, and `writes` in the same durable write. Blocks.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn add_blocking(
        &self,
        record: M::Record,
        setup: M::Setup,
        transition: Decided<M>,
        writes: Vec<Write>,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        let (record, setup) = (Box::new(record), Arc::new(setup));
        self.ask(|reply| Order::Add(Add { record, setup, transition, writes, reply }))?
    }

    /// Gives a channel an input. With an item, the input counts only if the item was never charged in this channel.
    ///
    /// # Errors
    /// When the input was refused or the state could not be stored.
    pub async fn handle(
        &self,
        id: ChannelId,
        input: M::Input,
        item: Option<Item>,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        self.order(id, input, item, Vec::new()).await
    }

    /// Gives a channel an input, with `writes` in the same durable write if it is taken.
    ///
    /// # Errors
    /// When the input was refused or the state could not be stored.
    pub async fn handle_and_write(
        &self,
        id: ChannelId,
        input: M::Input,
        writes: Vec<Write>,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        self.order(id, input, None, writes).await
    }

    async fn order(
        &self,
        id: ChannelId,
        input: M::Input,
        item: Option<Item>,
        writes: Vec<Write>,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Handle(Handle { id, input, item, writes, reply });
        self.orders.send(order).map_err(|_| OrderError::Ended)?;
        answer.await.unwrap_or(Err(OrderError::Ended))
    }

    /// [`Self::handle`] for a thread of its own.
    ///
    /// # Errors
    /// When the input was refused or the state could not be stored.
    pub fn handle_blocking(
        &self,
        id: ChannelId,
        input: M::Input,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        self.ask(|reply| Order::Handle(Handle { id, input, item: None, writes: Vec::new(), reply }))?
    }

    /// Makes something else durable, from a thread of its own.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn write_blocking(&self, writes: Vec<Write>) -> Result<(), OrderError<M::Reject>> {
        self.ask(|reply| Order::Write(writes, reply))?.map_err(OrderError::Store)
    }

    /// All channels, as they stand now, those that are over included. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list_blocking(&self) -> Result<Vec<Entry<M>>, OrderError<M::Reject>> {
        self.ask(Order::List)?.map_err(OrderError::Store)
    }

    /// All channels, as they stand now, those that are over included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(&self) -> Result<Vec<Entry<M>>, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::List(reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)?.map_err(OrderError::Store)
    }

    /// What these items cost together, as far as they were charged in a channel.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn purchases(
        &self,
        id: ChannelId,
        items: Vec<[u8; 32]>,
    ) -> Result<Msat, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Purchases(id, items, reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)?.map_err(OrderError::Store)
    }

    /// The outputs whose spends are to be noted, for all channels of all roles. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn followed_blocking(&self) -> Result<Followed, OrderError<M::Reject>> {
        self.ask(Order::Followed)?.map_err(OrderError::Store)
    }

    /// Where a channel stands; `None` if there is no such channel.
    ///
    /// # Errors
    /// When the program is ending.
    pub async fn state(&self, id: ChannelId) -> Result<Option<M::State>, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::State(id, reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)
    }

    /// [`Self::state`] for a thread of its own.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn state_blocking(&self, id: ChannelId) -> Result<Option<M::State>, OrderError<M::Reject>> {
        self.ask(|reply| Order::State(id, reply))
    }

    /// [`Self::handle_and_write`] for a thread of its own.
    ///
    /// # Errors
    /// When the input was refused or the state could not be stored.
    pub fn handle_and_write_blocking(
        &self,
        id: ChannelId,
        input: M::Input,
        writes: Vec<Write>,
    ) -> Result<Outcome<M::Effect>, OrderError<M::Reject>> {
        self.ask(|reply| Order::Handle(Handle { id, input, item: None, writes, reply }))?
    }

    /// Where a channel stands, with the chains of words that it may still need: of one moment, since a state that came
    /// between the two would have had its chains deleted. `None` if there is no such channel.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn ladders(
        &self,
        id: ChannelId,
    ) -> Result<Option<(M::State, Vec<Ladder>)>, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Ladders(id, reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)?.map_err(OrderError::Store)
    }

    /// What calls cost on a day, counted from 1970.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn spent_since(&self, day: u64) -> Result<Msat, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Day(day, reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)?.map_err(OrderError::Store)
    }

    /// Makes something else durable.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn write(&self, writes: Vec<Write>) -> Result<(), OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Write(writes, reply)).map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)?.map_err(OrderError::Store)
    }

    /// Asks the desk which accounts are to be stored, and stores them; those who wait for them are answered then.
    pub fn fold(&self) {
        // When the books are closed, those who wait learn it from the desk that is dropped.
        let _ended = self.orders.send(Order::Fold);
    }

    /// The channels that a person asked to close from another process. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn wishes_blocking(&self) -> Result<Vec<ChannelId>, OrderError<M::Reject>> {
        self.ask(Order::Wishes)?.map_err(OrderError::Store)
    }

    /// Forgets such a wish. Blocks.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn granted_blocking(&self, id: ChannelId) -> Result<(), OrderError<M::Reject>> {
        self.ask(|reply| Order::Granted(id, reply))?.map_err(OrderError::Store)
    }

    /// The spends of an outpoint that were seen in blocks. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn spends_blocking(&self, outpoint: OutPoint) -> Result<Vec<Spend>, OrderError<M::Reject>> {
        self.ask(|reply| Order::Spends(outpoint, reply))?.map_err(OrderError::Store)
    }

    fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order<M>) -> Result<T, OrderError<M::Reject>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).map_err(|_| OrderError::Ended)?;
        answer.blocking_recv().map_err(|_| OrderError::Ended)
    }
}

impl<M: Machine> Drop for Books<M> {
    fn drop(&mut self) {
        // Orders that are queued before this one are still carried out.
        let _ended_already = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
