//! The thread behind the books: decides on orders, stores each batch in one write, and only then answers.

use std::collections::HashMap;
use std::sync::mpsc;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use farthing_protocol::{ChannelId, Msat, Transition};
use tokio::sync::oneshot;

use super::{
    Add, BATCH, Decided, Desk, Drawn, Entry, FoldReply, Handle, Item, Order, OrderError, Outcome, Reply,
};
use crate::crash;
use crate::machine::Machine;
use crate::store::{Store, StoreError, Write};

/// A channel in the books.
pub(super) struct Page<M: Machine> {
    pub(super) record: M::Record,
    pub(super) setup: Arc<M::Setup>,
    pub(super) state: M::State,
    pub(super) opened_at: u64,
}

/// The keeper of the books.
pub(super) struct Keeper<M: Machine> {
    pub(super) store: Store,
    pub(super) pages: HashMap<ChannelId, Page<M>>,
    pub(super) setups: Arc<RwLock<HashMap<ChannelId, Arc<M::Setup>>>>,
    pub(super) desk: Arc<dyn Desk<M>>,
}

/// An order that was decided on and waits for the write.
struct Waiting<M: Machine> {
    reply: Whom<M>,
    effects: usize,
    again: Option<Msat>,
}

/// Who is to be answered.
enum Whom<M: Machine> {
    /// Who gave the order.
    One(Reply<M>),
    /// Everybody whose calls are in an account that the desk handed over.
    All(Vec<FoldReply<M>>),
}

impl<M: Machine> Whom<M> {
    fn refuse(self, error: OrderError<M::Reject>) {
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
type Added<M> = (Box<<M as Machine>::Record>, Arc<<M as Machine>::Setup>, u64);

/// What one channel's orders in a batch come to.
struct Draft<M: Machine> {
    transition: Option<Decided<M>>,
    added: Option<Added<M>>,
    items: Vec<Item>,
    waiting: Vec<Waiting<M>>,
}

impl<M: Machine> Default for Draft<M> {
    fn default() -> Self {
        Self { transition: None, added: None, items: Vec::new(), waiting: Vec::new() }
    }
}

struct DraftBatch<M: Machine> {
    drafts: HashMap<ChannelId, Draft<M>>,
    writes: Vec<Write>,
    written: Vec<oneshot::Sender<Result<(), Arc<StoreError>>>>,
    granted: Vec<ChannelId>,
}

impl<M: Machine> Keeper<M> {
    /// Works until the last order, or until nobody is left to give any.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Order<M>>) {
        while let Ok(first) = queue.recv() {
            let mut batch = DraftBatch {
                drafts: HashMap::new(),
                writes: Vec::new(),
                written: Vec::new(),
                granted: Vec::new(),
            };
            let mut ending = self.take(first, &mut batch);
            for _ in 1..BATCH {
                match queue.try_recv() {
                    Ok(order) if !ending => ending = self.take(order, &mut batch),
                    _ => break,
                }
            }
            self.save(batch);
            if ending {
                return;
            }
        }
    }

    /// Decides on one order. Whether it was the last.
    fn take(&mut self, order: Order<M>, batch: &mut DraftBatch<M>) -> bool {
        match order {
            Order::Handle(order) => self.decide(order, batch),
            Order::Add(add) => self.add(add, batch),
            Order::Write(writes, reply) => {
                batch.writes.extend(writes);
                batch.written.push(reply);
            }
            Order::Granted(id, reply) => {
                batch.granted.push(id);
                batch.written.push(reply);
            }
            Order::List(reply) => {
                let entry = |(id, page): (&ChannelId, &Page<M>)| Entry {
                    id: *id,
                    record: page.record.clone(),
                    state: page.state.clone(),
                    opened_at: page.opened_at,
                };
                let _caller_left = reply.send(self.pages.iter().map(entry).collect());
            }
            Order::Wishes(reply) => {
                let _caller_left = reply.send(self.store.wishes().map_err(Arc::new));
            }
            Order::Purchases(id, items, reply) => {
                let costs = items.iter().map(|item| self.store.purchase(id, item));
                let sum = costs.map(|cost| Ok(cost?.unwrap_or_default())).sum::<Result<Msat, StoreError>>();
                let _caller_left = reply.send(sum.map_err(Arc::new));
            }
            Order::Followed(reply) => {
                let _caller_left = reply.send(self.store.followed().map_err(Arc::new));
            }
            Order::Ladders(id, least, reply) => {
                let _caller_left = reply.send(self.store.ladders(id, least).map_err(Arc::new));
            }
            Order::State(id, reply) => {
                let _caller_left = reply.send(self.pages.get(&id).map(|page| page.state.clone()));
            }
            Order::Day(day, reply) => {
                let _caller_left = reply.send(self.store.spent_since(day).map_err(Arc::new));
            }
            Order::Fold(id) => self.fold(id, batch),
            Order::Spends(outpoint, reply) => {
                let _caller_left = reply.send(self.store.spends(&outpoint).map_err(Arc::new));
            }
            Order::End => return true,
        }
        false
    }

    fn add(&mut self, add: Add<M>, batch: &mut DraftBatch<M>) {
        let Add { record, setup, transition, writes, reply } = add;
        let (id, funding) = (M::channel(&setup).id(), M::channel(&setup).params().funding);
        // Two channels over one output would both look funded, and only one can be claimed.
        let is_funding_of = |other: &M::Setup| M::channel(other).params().funding == funding;
        let taken = self.pages.values().any(|page| is_funding_of(&page.setup))
            || batch
                .drafts
                .values()
                .filter_map(|draft| draft.added.as_ref())
                .any(|added| is_funding_of(&added.1));
        if taken {
            let _caller_left = reply.send(Err(OrderError::FundingTaken(funding)));
            return;
        }
        let waiting = Waiting { reply: Whom::One(reply), effects: transition.effect_count(), again: None };
        batch.writes.extend(writes);
        let draft = batch.drafts.entry(id).or_default();
        draft.transition = Some(transition);
        draft.added = Some((record, setup, now()));
        draft.waiting.push(waiting);
    }

    fn decide(&mut self, order: Handle<M>, batch: &mut DraftBatch<M>) {
        let Handle { id, input, item, writes, reply } = order;
        if !self.pages.contains_key(&id) {
            return Whom::<M>::One(reply).refuse(OrderError::NoChannel(id));
        }
        // Every decision stands on the newest account.
        self.fold(id, batch);
        let draft = batch.drafts.entry(id).or_default();
        if let Some(item) = item {
            let in_batch = draft.items.iter().find(|other| other.id == item.id).map(|other| other.cost);
            match in_batch.map_or_else(|| self.store.purchase(id, &item.id), |cost| Ok(Some(cost))) {
                Ok(None) => {}
                Ok(again @ Some(_)) => {
                    return draft.waiting.push(Waiting { reply: Whom::One(reply), effects: 0, again });
                }
                Err(error) => return Whom::<M>::One(reply).refuse(OrderError::Store(Arc::new(error))),
            }
        }
        if self.handle(id, input, Whom::One(reply), batch) {
            batch.drafts.entry(id).or_default().items.extend(item);
            batch.writes.extend(writes);
        }
    }

    /// Takes in the account that the desk has, if it is newer.
    fn fold(&mut self, id: ChannelId, batch: &mut DraftBatch<M>) {
        if let Some(Drawn { input, waiting }) = self.desk.draw(id)
            && !self.handle(id, input, Whom::All(waiting), batch)
        {
            self.desk.not_taken(id);
        }
    }

    /// Gives a channel an input. Whether it was taken.
    fn handle(&mut self, id: ChannelId, input: M::Input, whom: Whom<M>, batch: &mut DraftBatch<M>) -> bool {
        let Some(page) = self.pages.get(&id) else {
            whom.refuse(OrderError::NoChannel(id));
            return false;
        };
        let draft = batch.drafts.entry(id).or_default();
        let (transition, decided) = match draft.transition.take() {
            None => match M::handle(&page.state, &page.setup, input) {
                Ok(transition) => {
                    let effects = transition.effect_count();
                    (Some(transition), Ok(effects))
                }
                Err(reject) => (None, Err(reject)),
            },
            Some(earlier) => {
                let (both, decided) = earlier.and_then(|state| M::handle(state, &page.setup, input));
                (Some(both), decided)
            }
        };
        draft.transition = transition;
        match decided {
            Ok(effects) => {
                draft.waiting.push(Waiting { reply: whom, effects, again: None });
                true
            }
            Err(reject) => {
                whom.refuse(OrderError::Rejected(reject));
                false
            }
        }
    }

    /// Makes a batch durable and only then answers.
    fn save(&mut self, batch: DraftBatch<M>) {
        let DraftBatch { drafts, writes, written, granted } = batch;
        let mut transitions = Vec::new();
        let mut rest = HashMap::new();
        for (id, mut draft) in drafts {
            if let Some(transition) = draft.transition.take() {
                transitions.push((id, transition));
            }
            rest.insert(id, draft);
        }
        let store = &mut self.store;
        let nothing_to_write = transitions.is_empty() && writes.is_empty() && granted.is_empty();
        let committed = Transition::commit_all(transitions, |states: &[(&ChannelId, &M::State)]| {
            if nothing_to_write {
                return Ok(());
            }
            crash::point();
            let batch = store.batch()?;
            for (id, state) in states {
                let draft = &rest[*id];
                match &draft.added {
                    Some((record, setup, opened_at)) => {
                        let agreement = M::channel(setup).params();
                        batch.add_channel::<M>(**id, agreement, record, state, *opened_at)?;
                    }
                    None => batch.set_state::<M>(**id, state)?,
                }
                for item in &draft.items {
                    batch.add_purchase(**id, &item.id, item.cost)?;
                }
            }
            for write in &writes {
                batch.write(write)?;
            }
            for id in &granted {
                batch.forget_wish(*id)?;
            }
            batch.commit()?;
            crash::point();
            Ok::<(), StoreError>(())
        });
        match committed {
            Ok(committed) => {
                let effects = self.turn_pages(committed, &mut rest);
                self.answer(rest, effects);
                for reply in written {
                    let _caller_left = reply.send(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(%error, "could not store: every request in this batch is refused");
                let error = Arc::new(error);
                rest.keys().for_each(|id| self.desk.not_stored(*id));
                for waiting in rest.into_values().flat_map(|draft| draft.waiting) {
                    waiting.reply.refuse(OrderError::Store(error.clone()));
                }
                for reply in written {
                    let _caller_left = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn turn_pages(
        &mut self,
        committed: Vec<(ChannelId, M::State, Vec<M::Effect>)>,
        drafts: &mut HashMap<ChannelId, Draft<M>>,
    ) -> HashMap<ChannelId, Vec<M::Effect>> {
        let mut released = HashMap::new();
        for (id, state, effects) in committed {
            if let Some((record, setup, opened_at)) = drafts.get_mut(&id).and_then(|draft| draft.added.take())
            {
                self.setups.write().expect("no holder of this lock panics").insert(id, setup.clone());
                self.pages.insert(id, Page { record: *record, setup, state, opened_at });
            } else if let Some(page) = self.pages.get_mut(&id) {
                page.state = state;
            }
            if let Some(page) = self.pages.get(&id) {
                self.desk.turned(id, &page.state, &page.setup);
            }
            released.insert(id, effects);
        }
        released
    }

    /// Hands each order its own share of its channel's effects, in order.
    fn answer(&self, drafts: HashMap<ChannelId, Draft<M>>, mut released: HashMap<ChannelId, Vec<M::Effect>>) {
        for (id, draft) in drafts {
            let Some(page) = self.pages.get(&id) else { continue };
            let ledger = M::ledger(&page.state);
            let mut effects = released.remove(&id).unwrap_or_default().into_iter();
            for Waiting { reply, effects: count, again } in draft.waiting {
                let effects: Vec<M::Effect> = effects.by_ref().take(count).collect();
                match reply {
                    Whom::One(reply) => {
                        let _caller_left = reply.send(Ok(Outcome { effects, ledger, again }));
                    }
                    // The one effect of an account that was stored: those who wait for it may be answered.
                    Whom::All(replies) => {
                        for reply in replies {
                            let _caller_left = reply.send(Ok(()));
                        }
                    }
                }
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
