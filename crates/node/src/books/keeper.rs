//! The thread behind the books: decides on orders, stores each batch in one write, and only then answers.

use std::sync::mpsc;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farthing_protocol::{ChannelId, Msat, Transition};

use super::draft::{Draft, DraftBatch, Waiting, Whom};
use super::pace::Pace;
use super::{Add, BATCH, Desk, Drawn, Entry, Handle, Order, OrderError, Outcome, Places};
use crate::by_channel::ByChannel;
use crate::crash;
use crate::machine::{Machine, Watched};
use crate::store::{Store, StoreError, StoredChannel};

/// How long after a failure of the disk accounts are stored again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A channel in the books.
pub(super) struct Page<M: Machine> {
    pub(super) rest: M::Rest,
    pub(super) setup: Arc<M::Setup>,
    pub(super) state: M::State,
    pub(super) opened_at: u64,
}

/// The keeper of the books.
pub(super) struct Keeper<M: Machine> {
    pub(super) store: Store,
    pub(super) pages: ByChannel<Page<M>>,
    pub(super) setups: Arc<RwLock<ByChannel<Arc<M::Setup>>>>,
    pub(super) desk: Arc<dyn Desk<M>>,
    /// The desk has more accounts to be stored than one write takes.
    pub(super) has_more: bool,
    /// Some channels are over, and on disk only.
    pub(super) has_over: bool,
    pub(super) pace: Pace,
}

/// However the thread ends.
impl<M: Machine> Drop for Keeper<M> {
    fn drop(&mut self) {
        self.desk.ended();
    }
}

impl<M: Machine> Keeper<M> {
    /// Works until the last order, or until nobody is left to give any.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Order<M>>) {
        while let Some(first) = self.next(queue) {
            if matches!(first, Order::Fold) {
                self.pace.gather(|| self.desk.calls());
            }
            let mut batch = DraftBatch::default();
            let mut ending = self.take(first, &mut batch);
            for _ in 1..BATCH {
                match queue.try_recv() {
                    Ok(order) if !ending => ending = self.take(order, &mut batch),
                    _ => break,
                }
            }
            let mut is_stored = self.save(batch);
            // With a disk that fails this would have no end, and no order would have its turn.
            while is_stored && std::mem::take(&mut self.has_more) {
                let mut batch = DraftBatch::default();
                self.fold_asked(&mut batch);
                is_stored = self.save(batch);
            }
            if ending {
                return;
            }
        }
    }

    /// The next order. What a disk that failed left unstored is tried again in a while, without one.
    fn next(&self, queue: &mpsc::Receiver<Order<M>>) -> Option<Order<M>> {
        if !self.has_more {
            return queue.recv().ok();
        }
        match queue.recv_timeout(TRY_AGAIN) {
            Ok(order) => Some(order),
            Err(mpsc::RecvTimeoutError::Timeout) => Some(Order::Fold),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
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
                let _caller_left = reply.send(self.list().map_err(Arc::new));
            }
            Order::Present(reply) => {
                let _caller_left = reply.send(self.present());
            }
            Order::Watched(reply) => {
                let live = self.pages.iter().filter(|(_, page)| M::is_live(&page.state));
                let _caller_left = reply.send(live.map(|(id, page)| watched(*id, page)).collect());
            }
            Order::Oldest(is_meant, reply) => {
                let meant = || self.pages.iter().filter(|(_, page)| is_meant(&page.state));
                let now = now();
                let opened = meant().map(|(id, page)| (*id, page.opened_at));
                let oldest = opened.min_by_key(|(_, at)| place_in_line(*at, now));
                let _caller_left = reply.send(Places { taken: meant().count(), oldest });
            }
            Order::Forget(id, reply) => {
                let _caller_left = reply.send(self.forget(id, batch).map_err(Arc::new));
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
            Order::Ladders(id, reply) => {
                let with_ladders = |page: &Page<M>| {
                    let ladders = self.store.ladders(id, M::least_chain(&page.state))?;
                    Ok((page.state.clone(), ladders))
                };
                let found = self.pages.get(&id).map(with_ladders).transpose();
                let _caller_left = reply.send(found.map_err(Arc::new));
            }
            Order::State(id, reply) => {
                let _caller_left = reply.send(self.pages.get(&id).map(|page| page.state.clone()));
            }
            Order::Day(day, reply) => {
                let _caller_left = reply.send(self.store.spent_since(day).map_err(Arc::new));
            }
            Order::Fold => self.fold_asked(batch),
            Order::Spends(outpoint, reply) => {
                let _caller_left = reply.send(self.store.spends(&outpoint).map_err(Arc::new));
            }
            Order::End => return true,
        }
        false
    }

    fn present(&self) -> Vec<Entry<M>> {
        let entry = |(id, page): (&ChannelId, &Page<M>)| Entry {
            id: *id,
            record: M::record(&page.setup, &page.rest),
            state: page.state.clone(),
            opened_at: page.opened_at,
        };
        self.pages.iter().map(entry).collect()
    }

    /// All channels: those that are over come from the disk.
    fn list(&self) -> Result<Vec<Entry<M>>, StoreError> {
        let mut entries = self.present();
        if self.has_over {
            let stored = self.store.channels::<M>()?.into_iter();
            entries.extend(stored.filter(|stored| !self.pages.contains_key(&stored.id)).map(|stored| {
                let StoredChannel { id, record, state, opened_at } = stored;
                Entry { id, record, state, opened_at }
            }));
        }
        Ok(entries)
    }

    /// Why a channel that is not in memory takes nothing: it is over, or was never here.
    fn not_in_memory(&self, id: ChannelId) -> OrderError<M::Reject> {
        let Some(too_late) = M::too_late().filter(|_| self.has_over) else {
            return OrderError::NoChannel(id);
        };
        match self.store.is_there::<M>(id) {
            Ok(true) => OrderError::Rejected(too_late),
            Ok(false) => OrderError::NoChannel(id),
            Err(error) => OrderError::Store(Arc::new(error)),
        }
    }

    /// Deletes a channel if nothing was given for what is in it. Whether it did.
    fn forget(&mut self, id: ChannelId, batch: &DraftBatch<M>) -> Result<bool, StoreError> {
        let is_worthless = self.pages.get(&id).is_some_and(|page| M::is_worthless(&page.state));
        // What was decided and waits for the write may have brought a payment.
        if !is_worthless || batch.drafts.contains_key(&id) {
            return Ok(false);
        }
        crash::point();
        self.store.forget::<M>(id)?;
        crash::point();
        self.drop_page(id);
        Ok(true)
    }

    fn drop_page(&mut self, id: ChannelId) {
        self.pages.remove(&id);
        self.setups.write().expect("no holder of this lock panics").remove(&id);
    }

    fn add(&mut self, add: Add<M>, batch: &mut DraftBatch<M>) {
        let Add { record, setup, transition, writes, reply } = add;
        let (id, funding) = (M::channel(&setup).id(), M::channel(&setup).params().funding);
        // Two channels over one output would both look funded, and only one can be claimed.
        let added = batch.drafts.values().filter_map(|draft| draft.added.as_ref());
        let mut fundings = added.map(|added| M::channel(&added.1).params().funding);
        let taken = match fundings.any(|other| other == funding) {
            true => Ok(true),
            false => self.store.is_funding::<M>(&funding),
        };
        let refused = match taken {
            Ok(false) => None,
            Ok(true) => Some(OrderError::FundingTaken(funding)),
            Err(error) => Some(OrderError::Store(Arc::new(error))),
        };
        if let Some(refused) = refused {
            let _caller_left = reply.send(Err(refused));
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
            return Whom::<M>::One(reply).refuse(self.not_in_memory(id));
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

    /// Takes in the accounts that are to be stored, as many as a write takes.
    fn fold_asked(&mut self, batch: &mut DraftBatch<M>) {
        let (asked, has_more) = self.desk.asked(BATCH);
        self.has_more |= has_more;
        asked.into_iter().for_each(|id| self.fold(id, batch));
    }

    /// Takes in the account that the desk has, if it is newer.
    fn fold(&mut self, id: ChannelId, batch: &mut DraftBatch<M>) {
        if let Some(Drawn { input, waiting }) = self.desk.draw(id) {
            batch.calls += waiting.len();
            if !self.handle(id, input, Whom::All(waiting), batch) {
                self.desk.not_taken(id);
            }
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

    /// Makes a batch durable and only then answers. Whether the disk took it.
    fn save(&mut self, batch: DraftBatch<M>) -> bool {
        let DraftBatch { mut drafts, writes, written, granted, calls } = batch;
        self.pace.begin(calls);
        let mut transitions = Vec::with_capacity(drafts.len());
        for (id, draft) in &mut drafts {
            transitions.extend(draft.transition.take().map(|transition| (*id, transition)));
        }
        let (store, pages) = (&mut self.store, &self.pages);
        let nothing_to_write = transitions.is_empty() && writes.is_empty() && granted.is_empty();
        let committed = Transition::commit_all(transitions, |states: &[(&ChannelId, &M::State)]| {
            if nothing_to_write {
                return Ok(());
            }
            let mut batch = store.batch()?;
            for (id, state) in states {
                let draft = &drafts[*id];
                match &draft.added {
                    Some((record, setup, opened_at)) => {
                        let agreement = M::channel(setup).params();
                        batch.add_channel::<M>(**id, agreement, record, state, *opened_at)?;
                    }
                    None => batch.set_state::<M>(**id, state),
                }
                let least = M::least_chain(state);
                if pages.get(*id).is_some_and(|page| M::least_chain(&page.state) < least) {
                    batch.forget_chains(**id, least)?;
                }
                if M::is_ended(state) && pages.get(*id).is_some_and(|page| !M::is_ended(&page.state)) {
                    batch.end::<M>(**id)?;
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
            batch.commit()
        });
        match committed {
            Ok(committed) => {
                let over: Vec<ChannelId> =
                    committed.iter().filter(|(_, state, _)| M::is_over(state)).map(|(id, ..)| *id).collect();
                self.turn_pages(committed, &mut drafts);
                self.answer(drafts);
                self.has_over |= !over.is_empty();
                over.into_iter().for_each(|id| self.drop_page(id));
                for reply in written {
                    let _caller_left = reply.send(Ok(()));
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "could not store: every request in this batch is refused");
                let error = Arc::new(error);
                drafts.keys().for_each(|id| self.desk.not_stored(*id));
                for waiting in drafts.into_values().flat_map(|draft| draft.waiting) {
                    waiting.reply.refuse(OrderError::Store(error.clone()));
                }
                for reply in written {
                    let _caller_left = reply.send(Err(error.clone()));
                }
                false
            }
        }
    }

    /// Turns to what was stored, and puts the effects that this releases with the orders they are for.
    fn turn_pages(
        &mut self,
        committed: Vec<(ChannelId, M::State, Vec<M::Effect>)>,
        drafts: &mut ByChannel<Draft<M>>,
    ) {
        for (id, state, effects) in committed {
            let Some(draft) = drafts.get_mut(&id) else { continue };
            draft.effects = effects;
            let page = match draft.added.take() {
                Some((record, setup, opened_at)) => {
                    self.setups.write().expect("no holder of this lock panics").insert(id, setup.clone());
                    let page = Page { rest: M::rest(*record), setup, state, opened_at };
                    self.pages.entry(id).insert_entry(page).into_mut()
                }
                None => {
                    let Some(page) = self.pages.get_mut(&id) else { continue };
                    page.state = state;
                    page
                }
            };
            self.desk.turned(id, &page.state, &page.setup);
        }
    }

    /// Hands each order its own share of its channel's effects, in order.
    fn answer(&self, drafts: ByChannel<Draft<M>>) {
        for (id, draft) in drafts {
            let Some(page) = self.pages.get(&id) else { continue };
            let ledger = M::ledger(&page.state);
            let mut effects = draft.effects.into_iter();
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

fn watched<M: Machine>(id: ChannelId, page: &Page<M>) -> Watched {
    let params = M::channel(&page.setup).params();
    let parties = [params.payer.output.clone(), params.payee.output.clone()];
    Watched { id, outpoint: params.funding, parties }
}

/// One of a time to come is from before the clock was set back: it comes first.
pub(super) fn place_in_line(opened_at: u64, now: u64) -> (bool, u64) {
    (opened_at <= now, opened_at)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
