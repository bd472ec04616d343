//! Promises that a payee holds: the agent a writer's cheques, a node or the payee a lock.
//!
//! ```text
//!            taken                 locked onward                secret learned             paid plainly
//!   (update) ─────▶ Open ◀──────────────────────────▶ Locked ────────────────▶ Bought ────────────────▶ (gone)
//!                    │ lock ended without the secret                              ▲
//!                    └────────────────────────────────────────────────────────────┘
//!                                 the payee cashes it with its own secret
//! ```
//!
//! **What the holder can lose.** An agent pays onward what it holds a promise for. It gets that back if it can publish a
//! commitment that covers *everything* it has paid, however its open locks resolve. So:
//! * it holds a verified signature for every subset of the promises, or takes none of them ([`super::promises`]);
//! * while a lock is open it takes no update that leaves the promise out, and closes nothing ([`Held::may_close`]);
//! * what it has bought stays covered by each update it takes: the claim never falls, and a base pays for a secret only if
//!   the payer says so, who then has it;
//! * a lock ends `delta` blocks before its own channel does, so that the secret comes in time for a claim;
//! * it locks nothing that would leave either channel's total below dust and the cost of closing;
//! * it learns a secret only from where the lock is: the message of whoever cashed it, or the chain ([`super::drawn`]).
//!
//! The payee that cashes a lock loses nothing: it stores the completed signature before its secret leaves.
//!
//! **What the payer can lose** is what it signed. A holder that agreed to a cancellation can still use the older signatures
//! when it learns the secret; they die under a plain total at least their own ([`super::drawn::Drawn::most_signed`]).
//!
//! A payee that goes offline may *authorise* a payer to buy the next increment of its channel ([`super::reverse`]). Until that has
//! ended it takes nothing but this increment, or the payer could pay for what the payee has already.
//!
//! **Replay.** The same update again is answered again; an older one is refused. `resume` asks again for locks that may not
//! have been made, and hands secrets over again until the payer has paid plainly.

mod authorised;
mod given_up;
mod refusal;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::authorised::Wish;
pub use self::given_up::MOST_GIVEN_UP;
pub use self::refusal::Reject;
use super::point::{AdaptorPoint, AdaptorSecret};
use super::promises::{Promise, Signed, Update, least};
use super::reverse::authorisation::{self, Release};
use super::reverse::purchase::Delivery;
use crate::amount::Msat;
use crate::channel::{Channel, ChannelId, Expiry};
use crate::ledger::Ledger;
use crate::payment::Payment;
use crate::transition::Transition;

/// The promises of one channel, as their holder keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    signed: Signed,
    /// Of each promise, in their order.
    status: Vec<Status>,
    /// What can be published: the base and everything bought. Kept complete, so that a claim needs nothing but this.
    best: Option<Payment>,
    spent: Msat,
    /// Points that were bought and are paid: none is bought twice.
    sold: BTreeSet<AdaptorPoint>,
    /// Points of promises that the holder has signed to hold no more: none is taken again.
    given_up: BTreeSet<AdaptorPoint>,
    /// The authorisation that is open.
    authorised: Option<authorisation::Terms>,
    /// How many there were.
    authorisations: u64,
}

/// How far a promise is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    /// Held, and the payer may take it back.
    Open,
    /// A lock that depends on it is open.
    Locked(Onward),
    /// Its secret is known, and it counts as paid.
    Bought(AdaptorSecret),
}

/// A lock to be made in another channel on the strength of a promise in this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onward {
    /// The promise's point here.
    pub held: AdaptorPoint,
    /// The channel that makes the lock.
    pub channel: ChannelId,
    /// The lock's point there.
    pub point: AdaptorPoint,
    /// What leads back: the lock's point moved by this is the promise's.
    pub tweak: AdaptorSecret,
    /// What the lock pays.
    pub amount: Msat,
}

/// What the holder knows of the channel that makes the lock, and its own caution.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// That channel's expiry.
    pub expiry: Expiry,
    /// Its plain total so far.
    pub paid: Msat,
    /// Its agreed first payment: dust and the cost of closing.
    pub least: Msat,
    /// How many blocks the expiry of this channel must be later: for a refund there to confirm, and a claim here.
    pub delta: u32,
    /// What the holder wants for it.
    pub fee: Msat,
    /// Whether this channel's funding is deep enough to count in full.
    pub is_deep: bool,
    /// The tip's height.
    pub height: u32,
}

/// What can happen to a holder.
#[derive(Clone, Debug)]
pub enum Input {
    /// The payer sent an update, perhaps with a purchase.
    Take {
        /// The update.
        update: Box<Update>,
        /// What is bought with it; zero for none.
        cost: Msat,
    },
    /// A lock is to be made on the strength of a promise.
    Lock(Onward, Conditions),
    /// The lock under that point, in the other channel, ended without its secret.
    Unlocked(AdaptorPoint),
    /// The secret of a lock's point, in the other channel, was learnt.
    Learned(AdaptorSecret),
    /// The payee cashes a lock with its own secret.
    Cash {
        /// The secret of the promise's point.
        secret: AdaptorSecret,
        /// The least that it is to bring.
        least: Msat,
        /// Whether this channel's funding is deep enough to count in full.
        is_deep: bool,
        /// The tip's height.
        height: u32,
        /// How many blocks before its expiry the payee closes the channel.
        margin: u32,
    },
    /// The payer asks for the holder's word that it holds the promise under that point no more.
    GiveUp(AdaptorPoint),
    /// The payee authorises a payer, and goes offline.
    Authorise(Wish),
    /// A payer gave an authorisation back.
    Release(Release),
    /// The chain has reached this height.
    Height(u32),
    /// A payer's mail came: the increment, and its secret.
    Collect {
        /// What the payer mailed.
        delivery: Box<Delivery>,
        /// Whether this channel's funding is deep enough to count in full.
        is_deep: bool,
        /// The tip's height.
        height: u32,
        /// How many blocks before its expiry the payee closes the channel.
        margin: u32,
    },
}

/// What the holder is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer that the update of this number counts.
    Taken(u64),
    /// Make this lock.
    Lock(Onward),
    /// Hand this secret to the payer: it opens what the payer promised.
    HandOver(AdaptorSecret),
    /// Sign this and give it to the payer that it names.
    Authorise(authorisation::Terms),
    /// Sign that no promise under that point is held since the update of that number, at the latest.
    GiveUp(AdaptorPoint, u64),
}

impl Held {
    /// The holder of a channel that has paid plainly so far, and for no calls.
    pub fn new(newest: Option<Payment>, spent: Msat) -> Self {
        let mut signed = Signed::default();
        signed.terms.base = newest;
        Self {
            signed,
            status: Vec::new(),
            best: newest,
            spent,
            sold: BTreeSet::new(),
            given_up: BTreeSet::new(),
            authorised: None,
            authorisations: 0,
        }
    }

    /// The channel's money: what can be published, and what was spent.
    pub fn ledger(&self) -> Ledger {
        Ledger { newest: self.best, words: Msat::ZERO, spent: self.spent }
    }

    /// The promises, and whether a lock depends on each.
    pub fn promises(&self) -> impl Iterator<Item = (&Promise, bool)> {
        let is_locked = |status: &Status| matches!(status, Status::Locked(_));
        self.signed.terms.promises.iter().zip(self.status.iter().map(is_locked))
    }

    /// Whether the channel may be settled, or closed before it must be. A lock that is open may yet take money which only the
    /// promise behind it brings back; and a payer that was authorised may be paying into it just now.
    ///
    /// # Errors
    /// When a lock or an authorisation is open.
    pub fn may_close(&self) -> Result<(), Reject> {
        if self.promises().any(|(_, is_locked)| is_locked) {
            return Err(Reject::LockOpen);
        }
        self.is_not_authorised()
    }

    /// Whether nothing is left but plain payments, so that the channel may be used for anything again.
    pub fn is_empty(&self) -> bool {
        self.status.is_empty()
    }

    /// The lock that depends on the promise under that point, while one does.
    pub fn onward(&self, point: &AdaptorPoint) -> Option<&Onward> {
        match self.status.get(self.place_of(point)?)? {
            Status::Locked(onward) => Some(onward),
            Status::Open | Status::Bought(_) => None,
        }
    }

    /// Whether the secret of that point was bought, or sold, here.
    pub fn has_bought(&self, point: &AdaptorPoint) -> bool {
        let is_bought = |index: usize| matches!(self.status.get(index), Some(Status::Bought(_)));
        self.sold.contains(point) || self.place_of(point).is_some_and(is_bought)
    }

    /// Whether the payer has not paid plainly yet for a secret that is known here.
    pub fn owes_secrets(&self) -> bool {
        self.status.iter().any(|status| matches!(status, Status::Bought(_)))
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the other side is wrong, or the holder would risk money. Then nothing changes.
    pub fn handle(&self, channel: &Channel, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        if self.status.len() != self.signed.terms.promises.len() {
            return Err(Reject::Damaged);
        }
        match input {
            Input::Take { update, cost } => self.take(channel, *update, cost),
            Input::Lock(onward, conditions) => {
                self.is_not_authorised()?;
                self.lock(channel, onward, &conditions)
            }
            Input::Unlocked(point) => {
                let unlocked = self.locked_as(&point).map(|index| self.with(index, Status::Open));
                Ok(Transition::to(unlocked.unwrap_or_else(|| self.clone())))
            }
            Input::Learned(secret) => self.learned(channel, &secret),
            Input::Cash { secret, least, is_deep, height, margin } => {
                in_time(channel, is_deep, height, margin)?;
                self.is_not_authorised()?;
                self.cash(channel, secret, least)
            }
            Input::GiveUp(point) => self.give_up(point),
            Input::Authorise(wish) => self.authorise(channel, wish),
            Input::Release(release) => Ok(self.released(&release)),
            Input::Height(height) => Ok(self.lapsed(height)),
            Input::Collect { delivery, is_deep, height, margin } => {
                in_time(channel, is_deep, height, margin)?;
                self.collect(channel, *delivery)
            }
        }
    }

    /// What a restart must do again.
    pub fn resume(&self) -> Vec<Effect> {
        let effect = |status: &Status| match status {
            Status::Open => None,
            Status::Locked(onward) => Some(Effect::Lock(onward.clone())),
            Status::Bought(secret) => Some(Effect::HandOver(secret.clone())),
        };
        let authorise = self.authorised.iter().cloned().map(Effect::Authorise);
        self.status.iter().filter_map(effect).chain(authorise).collect()
    }

    fn paid(&self) -> Msat {
        self.best.map_or(Msat::ZERO, |payment| payment.total)
    }

    fn take(
        &self,
        channel: &Channel,
        update: Update,
        cost: Msat,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let (newest, got) = (self.signed.terms.number, update.signed.terms.number);
        if update.signed == self.signed && cost == Msat::ZERO {
            return Ok(Transition::to(self.clone()).then(Effect::Taken(got)));
        }
        if got <= newest {
            update.check_statement(channel)?;
            return Err(Reject::Stale { newest, got });
        }
        update.check_above(channel, self.signed.terms.base.as_ref())?;
        let terms = &update.signed.terms;
        let base = terms.base_total();
        let cost = cost.saturating_add(self.increment_in(terms)?);
        let least = least(channel);
        if self.signed.terms.base.is_none() && terms.base.is_some() && base < least {
            return Err(Reject::FirstTooSmall { least, got: base });
        }
        if base < self.signed.terms.base_total() {
            return Err(Reject::ClaimFalls { claim: self.signed.terms.base_total(), got: base });
        }
        if let Some(sold) = terms.promises.iter().find(|promise| self.sold.contains(&promise.point)) {
            return Err(Reject::Sold(sold.point));
        }
        if let Some(again) = terms.promises.iter().find(|promise| self.given_up.contains(&promise.point)) {
            return Err(Reject::GivenUp(again.point));
        }
        let mut next =
            Self { signed: update.signed.clone(), status: Vec::new(), authorised: None, ..self.clone() };
        next.status = vec![Status::Open; terms.promises.len()];
        for (promise, status) in self.signed.terms.promises.iter().zip(&self.status) {
            let place = terms.promises.iter().position(|other| other == promise);
            match (status, place) {
                (_, Some(index)) => next.status[index] = status.clone(),
                (Status::Open, None) => {}
                (Status::Locked(_), None) => return Err(Reject::LeavesOut(promise.point)),
                // The same point for another amount would be bought twice.
                (Status::Bought(_), None) if terms.promise(&promise.point).is_some() => {
                    return Err(Reject::Sold(promise.point));
                }
                // A plain payment for something else would be taken for the secret's price.
                (Status::Bought(_), None) if !terms.settled.contains(&promise.point) => {
                    return Err(Reject::Unsettled(promise.point));
                }
                (Status::Bought(_), None) => {
                    next.sold.insert(promise.point);
                }
            }
        }
        next.complete(channel)?;
        if next.paid() < self.paid() {
            return Err(Reject::ClaimFalls { claim: self.paid(), got: next.paid() });
        }
        let needed = self.spent.saturating_add(cost);
        if needed > next.paid() {
            return Err(Reject::Unpaid { needed, paid: next.paid() });
        }
        next.spent = needed;
        Ok(Transition::to(next).then(Effect::Taken(got)))
    }

    fn lock(
        &self,
        channel: &Channel,
        onward: Onward,
        conditions: &Conditions,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let index = self.place_of(&onward.held).ok_or(Reject::Unknown)?;
        match &self.status[index] {
            Status::Open => {}
            Status::Locked(same) if *same == onward => {
                return Ok(Transition::to(self.clone()).then(Effect::Lock(onward)));
            }
            Status::Locked(_) => return Err(Reject::Locked),
            Status::Bought(_) => return Err(Reject::Bought),
        }
        if onward.point.tweaked(&onward.tweak) != Some(onward.held) {
            return Err(Reject::WrongTweak);
        }
        // One secret would come back for both, and only one of them would be found by it.
        if self.locked_as(&onward.point).is_some() {
            return Err(Reject::LockTaken(onward.point));
        }
        let brings = self.signed.terms.promises[index].amount;
        let takes = onward.amount.saturating_add(conditions.fee);
        if takes > brings || onward.amount == Msat::ZERO {
            return Err(Reject::Unprofitable { brings, takes });
        }
        let (ends, expires) = (conditions.expiry.height(), channel.params().expiry.height());
        if ends.saturating_add(conditions.delta) > expires {
            return Err(Reject::TooLate { ends, delta: conditions.delta, expires });
        }
        if conditions.height >= ends {
            return Err(Reject::TooNear { expiry: ends, height: conditions.height });
        }
        if !conditions.is_deep {
            return Err(Reject::NotDeep);
        }
        above_dust(self.paid().saturating_add(brings), least(channel))?;
        above_dust(conditions.paid.saturating_add(onward.amount), conditions.least)?;
        let next = self.with(index, Status::Locked(onward.clone()));
        Ok(Transition::to(next).then(Effect::Lock(onward)))
    }

    /// The other channel learnt the secret of its lock.
    fn learned(&self, channel: &Channel, secret: &AdaptorSecret) -> Result<Transition<Self, Effect>, Reject> {
        let (index, tweak) = match self.locked_as(&secret.point()).map(|index| (index, &self.status[index])) {
            Some((index, Status::Locked(onward))) => (index, &onward.tweak),
            Some((_, Status::Open | Status::Bought(_))) | None => return Err(Reject::Unknown),
        };
        // The points' sum was checked to be the promise's point.
        let own = secret.plus(tweak).ok_or(Reject::Damaged)?;
        self.bought(channel, index, own)
    }

    fn cash(
        &self,
        channel: &Channel,
        secret: AdaptorSecret,
        at_least: Msat,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let index = self.place_of(&secret.point()).ok_or(Reject::Unknown)?;
        match &self.status[index] {
            Status::Open => {}
            Status::Locked(_) => return Err(Reject::Locked),
            // Handed over before; the payer may not have got it.
            Status::Bought(_) => return Ok(Transition::to(self.clone()).then(Effect::HandOver(secret))),
        }
        let got = self.signed.terms.promises[index].amount;
        if got < at_least {
            return Err(Reject::TooLittle { least: at_least, got });
        }
        above_dust(self.paid().saturating_add(got), least(channel))?;
        self.bought(channel, index, secret)
    }

    fn bought(
        &self,
        channel: &Channel,
        index: usize,
        secret: AdaptorSecret,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let mut next = self.with(index, Status::Bought(secret.clone()));
        next.spent = next.spent.saturating_add(self.signed.terms.promises[index].amount);
        next.complete(channel)?;
        Ok(Transition::to(next).then(Effect::HandOver(secret)))
    }

    /// Works out the best payment from what is known. Every subset was verified when the update was taken, and each secret against its
    /// point, so it fails for a state that was damaged in the store only.
    fn complete(&mut self, channel: &Channel) -> Result<(), Reject> {
        let secret = |status: &Status| match status {
            Status::Open | Status::Locked(_) => None,
            Status::Bought(secret) => Some(secret.clone()),
        };
        let secrets: Vec<Option<AdaptorSecret>> = self.status.iter().map(secret).collect();
        self.best = if secrets.iter().any(Option::is_some) {
            Some(self.signed.open(channel, &secrets).ok_or(Reject::Damaged)?)
        } else {
            self.signed.terms.base
        };
        Ok(())
    }

    fn with(&self, index: usize, status: Status) -> Self {
        let mut next = self.clone();
        next.status[index] = status;
        next
    }

    fn place_of(&self, point: &AdaptorPoint) -> Option<usize> {
        self.signed.terms.promises.iter().position(|promise| promise.point == *point)
    }

    /// The promise that is locked under that point in another channel.
    fn locked_as(&self, point: &AdaptorPoint) -> Option<usize> {
        let is_it = |status: &Status| matches!(status, Status::Locked(onward) if onward.point == *point);
        self.status.iter().position(is_it)
    }
}

/// Whether something may be handed over, or counted on, in this channel.
fn in_time(channel: &Channel, is_deep: bool, height: u32, margin: u32) -> Result<(), Reject> {
    let expiry = channel.params().expiry.height();
    if height.saturating_add(margin) >= expiry {
        return Err(Reject::TooNear { expiry, height });
    }
    if is_deep { Ok(()) } else { Err(Reject::NotDeep) }
}

fn above_dust(got: Msat, least: Msat) -> Result<(), Reject> {
    if got < least { Err(Reject::Dust { least, got }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
