//! Locks, and what the two sides of a channel say about its promises.

use std::sync::Arc;

use farthing_chain::ChainError;
use farthing_protocol::cheque::drawn::{self, Kind};
use farthing_protocol::cheque::held::{self, Conditions, Onward};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::promises::Update;
use farthing_protocol::cheque::side::{Effect, Reject, Side};
use farthing_protocol::cheque::{drawer, holder};
use farthing_protocol::{ChannelId, Msat, payer};

use super::machine::{ChequeChannel, drawn, held};
use super::{Failed, Teller};
use crate::books::{Entry, OrderError};
use crate::machine::Machine as _;

/// A channel of a trunk that can pay less than this part of what it could is left to end.
const USED_UP: u64 = 10;

/// What a holder says about an update: everything that its payer still has to learn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The number of the update, if it counts.
    pub taken: Option<u64>,
    /// The secrets of promises that were cashed and are not paid plainly yet.
    pub secrets: Vec<AdaptorSecret>,
    /// A promise that the update leaves out, and a lock depends on.
    pub still_held: Option<AdaptorPoint>,
}

/// What a lock is to be made of.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The promise that is held here.
    pub held: AdaptorPoint,
    /// The lock's point.
    pub point: AdaptorPoint,
    /// What leads back.
    pub tweak: AdaptorSecret,
    /// What the lock is to pay.
    pub amount: Msat,
    /// In which channel.
    pub towards: Towards,
}

/// Where a lock is to be made.
#[derive(Clone, Debug)]
pub enum Towards {
    /// In this channel.
    Channel(ChannelId),
    /// In any channel to the node that is reached there.
    Node(String),
}

/// The channels to one node that are made for locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Of each that can serve: whether a lock holds it. It has room, is not ending, and ends in time for what waits here.
    pub held: Vec<bool>,
    /// How many there are, whatever they can.
    pub live: usize,
    /// The latest height at which a channel may expire to serve every cheque that waits here.
    pub latest: u32,
}

/// Why no lock was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// No such promise.
    #[error("no promise is held here under that point")]
    Unknown,
    /// No such channel, or none that is free.
    #[error(
        "there is no open channel from here to there without a lock, with room, that ends in time: try again later"
    )]
    NoWay,
    /// The promises of this channel hold enough of the channels to there.
    #[error(
        "cheques of one writer hold {0} channels from here to there, and one is left for others: try again when one of them is cashed"
    )]
    HoldsEnough(usize),
    /// The machine refused, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The other channel refused.
    #[error(transparent)]
    Refused(Reject),
    /// The node cannot be asked for the height.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Teller {
    /// The newest update of a channel in which this side pays; `None` before the first. The same is always signed alike.
    /// Blocks.
    ///
    /// # Errors
    /// When there is no such channel.
    pub fn update(&self, id: ChannelId) -> Result<Option<Box<Update>>, Failed> {
        let effects = self.resumed(id)?;
        Ok(effects.into_iter().find_map(|effect| match effect {
            Effect::Drawer(drawer::Effect::Promises(drawn::Effect::Send(update))) => Some(update),
            Effect::Drawer(_) | Effect::Holder(_) => None,
        }))
    }

    /// Takes a payer's update, and says what is to be said to it. Blocks.
    ///
    /// # Errors
    /// When the update is not one to take, or could not be stored. One that is too old, that leaves out what must stay, that
    /// does not pay for what was cashed, or that comes while a payer is authorised to something else, is no error: the answer says
    /// so. Nor is one that comes when the channel is closing, or over, as long as there are secrets to hand over.
    pub fn take(&self, id: ChannelId, update: Box<Update>, cost: Msat) -> Result<Answer, Failed> {
        use held::Reject as Held;

        let points: Vec<AdaptorPoint> =
            update.signed.terms.promises.iter().map(|promise| promise.point).collect();
        let mut answer = Answer { secrets: self.secrets(id)?, ..Answer::default() };
        match self.books.handle_blocking(id, held(held::Input::Take { update, cost })) {
            Ok(outcome) => {
                self.router.hold(id)?;
                answer.taken = self.carry_out(id, outcome.effects).taken;
                self.collect_sales(id, &points);
            }
            Err(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(reject)))) => match reject {
                Held::LeavesOut(point) => answer.still_held = Some(point),
                Held::Stale { .. } | Held::ClaimFalls { .. } | Held::Unsettled(_) | Held::Authorised(_) => {}
                other => return Err(OrderError::Rejected(holder::Reject::Promises(other).into())),
            },
            Err(OrderError::Rejected(Reject::Holder(holder::Reject::Channel(_))))
                if !answer.secrets.is_empty() => {}
            Err(error) => return Err(error),
        }
        answer.secrets = self.secrets(id)?;
        Ok(answer)
    }

    /// What a holder's payer has to learn, without an update. Blocks.
    ///
    /// # Errors
    /// When there is no such channel.
    pub fn secrets(&self, id: ChannelId) -> Result<Vec<AdaptorSecret>, Failed> {
        let effects = self.resumed(id)?;
        let secret = |effect| match effect {
            Effect::Holder(holder::Effect::Promises(held::Effect::HandOver(secret))) => Some(secret),
            Effect::Holder(_) | Effect::Drawer(_) => None,
        };
        Ok(effects.into_iter().filter_map(secret).collect())
    }

    /// Takes a holder's answer, as its payer. Whether there is a newer update to send. That it still holds a cheque of which it has signed that it
    /// holds it no more is not believed: its word would be worth nothing. Blocks.
    ///
    /// # Errors
    /// When something of it could not be stored. A secret that opens nothing is passed over.
    pub fn hear(&self, id: ChannelId, answer: &Answer) -> Result<bool, Failed> {
        use drawn::Reject as Drawn;

        let secrets = answer.secrets.iter().cloned().map(drawn::Input::Secret);
        let still = answer.still_held.map(drawn::Input::StillHeld);
        let taken = answer.taken.map(drawn::Input::Taken);
        let mut is_newer = false;
        for input in secrets.chain(still).chain(taken) {
            let handled = match &input {
                drawn::Input::StillHeld(point) => {
                    // Nor may the word come in between.
                    let _one_at_a_time = self.router.one_at_a_time();
                    let issued = self.router.issued(point);
                    let issued = issued.map_err(|error| OrderError::Store(Arc::new(error)))?;
                    if issued.is_some_and(|issued| issued.fate.word().is_some()) {
                        continue;
                    }
                    self.books.handle_blocking(id, drawn(input))
                }
                _other => self.books.handle_blocking(id, drawn(input)),
            };
            match handled {
                Ok(outcome) => {
                    let send = |effect: &Effect| {
                        matches!(effect, Effect::Drawer(drawer::Effect::Promises(drawn::Effect::Send(_))))
                    };
                    is_newer |= outcome.effects.iter().any(send);
                    self.carry_out(id, outcome.effects);
                }
                Err(OrderError::Rejected(Reject::Drawer(drawer::Reject::Promises(
                    Drawn::Unknown | Drawn::BadTerms(_),
                )))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_newer)
    }

    /// Makes a lock on the strength of a promise that is held here. The same again is the same. Returns the channel that the
    /// lock is in, to which its update must be brought. Blocks.
    ///
    /// # Errors
    /// When a rule forbids it, there is no way, or it could not be stored. Then there is no lock.
    pub fn lock(&self, ask: &Ask) -> Result<ChannelId, LockError> {
        let mut last = LockError::Unknown;
        for id in self.router.holders_of(&ask.held) {
            match self.lock_behind(id, ask) {
                Ok(channel) => return Ok(channel),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn lock_behind(&self, id: ChannelId, ask: &Ask) -> Result<ChannelId, LockError> {
        let state = self.books.state_blocking(id)?.ok_or(LockError::Unknown)?;
        let holder = state.holder().ok_or(LockError::Unknown)?;
        let locked = holder.held().onward(&ask.held);
        let channel = match (&ask.towards, locked) {
            (Towards::Channel(channel), _) => *channel,
            (Towards::Node(_), Some(locked)) => locked.channel,
            (Towards::Node(node), None) => {
                let (held, most) = (self.held_towards(holder, node)?, self.terms.most_towards);
                if held > 0 && held + 1 >= most {
                    return Err(LockError::HoldsEnough(held));
                }
                let behind = self.books.setup(&id).ok_or(LockError::Unknown)?;
                let latest = behind.channel().params().expiry.height().saturating_sub(self.terms.delta);
                self.free_channel_to(node, ask.amount, latest)?.ok_or(LockError::NoWay)?.0
            }
        };
        let onward = self.books.state_blocking(channel)?.ok_or(LockError::NoWay)?;
        let drawer = onward.drawer().filter(|drawer| drawer.drawn().kind() == Kind::Lock);
        let paid = drawer.ok_or(LockError::NoWay)?.drawn().ledger().paid();
        let setup = self.books.setup(&channel).ok_or(LockError::NoWay)?;
        let params = setup.channel().params();
        let conditions = Conditions {
            expiry: params.expiry,
            paid,
            least: Msat::from_amount(params.prepaid).unwrap_or(Msat::new(u64::MAX)),
            delta: self.terms.delta,
            fee: self.terms.fee,
            // The channel's own state says so.
            is_deep: false,
            height: self.chain.tip()?.height,
        };
        let Ask { held: behind, point, tweak, amount, towards: _ } = ask.clone();
        let onward = Onward { held: behind, channel, point, tweak, amount };
        let effects = self.router.want(id, onward, conditions)?;
        match self.carry_out(id, effects).refused {
            Some(reject) => Err(LockError::Refused(reject)),
            None => Ok(channel),
        }
    }

    /// How many channels to a node are held by locks that depend on the promises of one channel.
    fn held_towards(&self, holder: &holder::Holder, node: &str) -> Result<usize, Failed> {
        let entries = self.books.present_blocking()?;
        let is_there = |channel: ChannelId| {
            entries.iter().any(|entry| entry.id == channel && entry.record.peer() == Some(node))
        };
        let promises = holder.held().promises();
        let locks = promises.filter_map(|(promise, _)| holder.held().onward(&promise.point));
        Ok(locks.filter(|onward| is_there(onward.channel)).count())
    }

    /// Where the other side of a channel is reached, if it serves. Blocks.
    pub fn peer(&self, id: ChannelId) -> Option<String> {
        let entries = self.books.present_blocking().ok()?;
        entries.into_iter().find(|entry| entry.id == id)?.record.peer().map(str::to_owned)
    }

    /// The channels in which this side pays, and whose payee may have something to say to the newest update. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn awaiting_word(&self) -> Result<Vec<ChannelId>, Failed> {
        let waits = |state: &Side| {
            state
                .drawer()
                .map(drawer::Drawer::drawn)
                .is_some_and(|drawn| drawn.lacks_secrets() || (state.is_live() && drawn.awaits_word()))
        };
        let entries = self.books.present_blocking()?;
        let waiting = entries.iter().filter(|entry| entry.record.peer().is_some() && waits(&entry.state));
        Ok(waiting.map(|entry| entry.id).collect())
    }

    /// When the channel expires in which a lock of that amount towards a node would be made, if it must expire at `latest` at the latest; or in
    /// which it was made, on the strength of what is `held`. `None` when there is none: then [`Self::trunk`] wants one. A payee asks that of
    /// everybody on its way before it has anything locked. Blocks.
    ///
    /// # Errors
    /// When the program is ending, or the node cannot be asked for the height.
    pub fn way(
        &self,
        node: &str,
        amount: Msat,
        latest: u32,
        held: Option<AdaptorPoint>,
    ) -> Result<Option<u32>, LockError> {
        if let Some(held) = held {
            for id in self.router.holders_of(&held) {
                let state = self.books.state_blocking(id)?;
                let locked =
                    state.as_ref().and_then(Side::holder).and_then(|holder| holder.held().onward(&held));
                if let Some(setup) = locked.and_then(|onward| self.books.setup(&onward.channel)) {
                    return Ok(Some(setup.channel().params().expiry.height()));
                }
            }
        }
        let way = self.free_channel_to(node, amount, latest)?.map(|(_, expiry)| expiry);
        let is_served = self.books.present_blocking()?.iter().any(|entry| entry.record.peer() == Some(node));
        let soonest = self.soonest()?;
        if way.is_none() && is_served && latest >= soonest {
            let mut wanted = self.wanted.lock().expect("no holder of this lock panics");
            let other = wanted.get(node).copied().filter(|other| *other >= soonest);
            wanted.insert(node.to_owned(), other.map_or(latest, |other| latest.min(other)));
        }
        Ok(way)
    }

    /// The soonest expiry of a channel to a node that leaves a payee behind it time.
    fn soonest(&self) -> Result<u32, ChainError> {
        let least_life = self.terms.paid.lifetime.0.saturating_add(self.terms.delta);
        Ok(self.chain.tip()?.height.saturating_add(least_life))
    }

    /// The channels to a node that are made for locks. Blocks.
    ///
    /// # Errors
    /// When the program is ending, or the node cannot be asked for the height.
    pub fn trunk(&self, node: &str) -> Result<Trunk, LockError> {
        let entries = self.books.present_blocking()?;
        let soonest = self.soonest()?;
        let waits = |entry: &&Entry<ChequeChannel>| {
            let holder = entry.state.holder().filter(|_| entry.state.is_live());
            holder.is_some_and(|holder| holder.held().promises().any(|(_, is_locked)| !is_locked))
        };
        let must_end = |entry: &Entry<ChequeChannel>| {
            entry.record.params().expiry.height().saturating_sub(self.terms.delta)
        };
        let wanted = self.wanted.lock().expect("no holder of this lock panics").get(node).copied();
        let waiting = entries.iter().filter(waits).map(must_end).chain(wanted);
        let latest = waiting.filter(|latest| *latest >= soonest).min().unwrap_or(u32::MAX);
        let mut trunk = Trunk { held: Vec::new(), live: 0, latest };
        for entry in entries.iter().filter(|entry| entry.record.peer() == Some(node)) {
            let Some(drawer) = entry.state.drawer().filter(|drawer| drawer.drawn().kind() == Kind::Lock)
            else {
                continue;
            };
            let is_ready = matches!(drawer.life(), payer::State::AwaitingFunding(_) | payer::State::Open(_));
            trunk.live += usize::from(is_ready);
            let most = self.books.setup(&entry.id).map_or(Msat::ZERO, |setup| setup.channel().max_total());
            let has_room = self.room(entry) >= Some(Msat::new(most.get() / USED_UP));
            let expiry = entry.record.params().expiry.height();
            if is_ready && has_room && (soonest..=latest).contains(&expiry) {
                trunk.held.push(drawer.drawn().is_open());
            }
        }
        if trunk.held.contains(&false) {
            self.wanted.lock().expect("no holder of this lock panics").remove(node);
        }
        Ok(trunk)
    }

    /// A channel to a node with no lock in it, and room for one of that amount: of those that expire at `latest` at the latest, the one that expires
    /// last; and when it does.
    fn free_channel_to(
        &self,
        node: &str,
        amount: Msat,
        latest: u32,
    ) -> Result<Option<(ChannelId, u32)>, Failed> {
        let is_free = |entry: &&Entry<ChequeChannel>| {
            entry.record.peer() == Some(node)
                && entry.state.name() == "open"
                && entry
                    .state
                    .drawer()
                    .is_some_and(|drawer| drawer.drawn().kind() == Kind::Lock && !drawer.drawn().is_open())
                && self.room(entry).is_some_and(|room| amount <= room)
        };
        let entries = self.books.present_blocking()?;
        let free =
            entries.iter().filter(is_free).map(|entry| (entry.id, entry.record.params().expiry.height()));
        Ok(free.filter(|(_, expiry)| *expiry <= latest).max_by_key(|(_, expiry)| *expiry))
    }

    /// What a channel in which this side pays can still pay.
    fn room(&self, entry: &Entry<ChequeChannel>) -> Option<Msat> {
        let drawn = entry.state.drawer()?.drawn();
        let setup = self.books.setup(&entry.id)?;
        Some(setup.channel().max_total().saturating_sub(drawn.ledger().paid()))
    }

    fn resumed(&self, id: ChannelId) -> Result<Vec<Effect>, Failed> {
        let state = self.books.state_blocking(id)?.ok_or(OrderError::NoChannel(id))?;
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        Ok(ChequeChannel::resume(&state, &setup))
    }
}
