//! Promises that a payer has made: a writer its cheques, an agent or a node its lock.
//!
//! ```text
//!             promised                     secret: by message, or from a commitment on chain
//!   (nothing) ────────▶ Open ──────────────────────────────────────────────────────────────▶ paid plainly
//!                        │ ▲                                                                    ▲
//!              withdrawn ▼ │ still held                                                         │
//!                       Loose ──────────────────────────────────────────────────────────────────┘
//!                        │  the payee took a plain total that reaches every state that pays it, or another spend is deep
//!                        ▼
//!                      ended
//! ```
//!
//! **What the payer can lose.** Nothing for nothing: each state that pays a promise gives away the promise's secret, from
//! which an agent gets its own promise paid and a writer its receipt. But a promise cannot be taken back by words. Whoever
//! holds the signatures and the secret can complete one silently at any time. So a promise that was withdrawn is *loose*, and
//! it counts until it is dead: when the payee has *taken* an update without it whose plain total reaches every state that
//! pays it, or when a spend that does not pay it is deep in the chain. To sign such a total is not enough: a payee that did
//! not get it would publish the promise at the same total, and have sold its secret for what was meant to buy something else.
//!
//! A writer may have four cheques open, and writes another while one is loose ([`Drawn::most_signed`]). An agent has one lock
//! in a channel, a loose one included.
//!
//! **A secret counts only from where the promise is**: the message of this channel's payee, or this channel's funding being
//! spent. It is stored before anything follows from it. The chain may pay what was signed together, also when some of it was settled since:
//! the secret of the only other one is worked out; of several, the payee may still hand over each.
//!
//! **Replay.** The same update may be sent any number of times, and is by `resume`. An outcome is reported again until it was
//! noted by whoever waits for it.

mod refusal;
mod standing;
mod together;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::refusal::Reject;
use self::together::Together;
use super::point::{AdaptorPoint, AdaptorSecret};
use super::promises::{self, BadUpdate, Promise, Terms, Update, least};
use crate::amount::Msat;
use crate::channel::{Channel, SpendKind};
use crate::commitment;
use crate::keys::ChannelKeys;
use crate::ledger::Ledger;
use crate::payment::Payment;
use crate::sighting::{Funding, Sighting};
use crate::transition::Transition;

/// The most withdrawn promises that are not dead: beyond it the payer pays plainly first.
pub const MOST_LOOSE: usize = 64;

/// Instead of an update's number, which it never is: the payee has taken it.
const TAKEN: u64 = 0;

/// What the promises of a channel are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A writer's cheques: up to [`promises::MOST_OPEN`], and they may be withdrawn.
    Cheques,
    /// An agent's or a node's lock: one.
    Lock,
    /// The price of an agent's signature ([`super::reverse`]): one, since of several that are paid at once nobody could tell
    /// apart the secret that was bought; and it is not withdrawn.
    Purchase,
}

/// One channel's promises, as their payer keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    kind: Kind,
    number: u64,
    base: Option<Payment>,
    spent: Msat,
    open: Vec<Owed>,
    loose: Vec<Loose>,
    /// Points whose secrets came out, newest last, for the payee to know what the base pays: each with the number of the update that
    /// settled it, until the first update after that was taken.
    settled: Vec<(u64, AdaptorPoint)>,
    /// What was not noted yet.
    outcomes: Vec<Outcome>,
    /// Points whose secrets came out: whoever knows them would be paid again at once.
    paid: BTreeSet<AdaptorPoint>,
    /// What was signed together: the chain may show the joint secret of any two or more of them.
    together: Together,
    /// Points that the chain has paid together, without their single secrets.
    joint: Vec<AdaptorPoint>,
}

/// A promise, and the highest total that was signed under its point, alone or with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    promise: Promise,
    most: Msat,
}

/// A withdrawn promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loose {
    owed: Owed,
    /// The number of the first update whose plain total reaches it.
    buried_by: Option<u64>,
}

/// What became of a promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was paid, and this is the secret.
    Paid(AdaptorSecret),
    /// Several were paid at once on chain: their points, and the secret of the joint one. Which receipts it proves together is
    /// all that can be known of it, unless the holder hands over the single ones.
    PaidJointly(Vec<AdaptorPoint>, AdaptorSecret),
    /// It can never be paid any more.
    Ended(AdaptorPoint),
}

/// What can happen to a payer of promises.
#[derive(Clone, Debug)]
pub enum Input {
    /// So much is promised under a point.
    Promise(Promise),
    /// The promise under that point is not to be kept up.
    Withdraw(AdaptorPoint),
    /// The holder has locked something on the strength of a promise that was withdrawn meanwhile.
    StillHeld(AdaptorPoint),
    /// The promise under that point is dead: its secret is this program's own, and will never leave it.
    Dead(AdaptorPoint),
    /// The payee answered that the update of this number counts.
    Taken(u64),
    /// Something is bought from the payee itself.
    Pay {
        /// What it costs.
        cost: Msat,
    },
    /// The payee handed over a secret.
    Secret(AdaptorSecret),
    /// A look at the chain.
    Sighted {
        /// What was seen.
        sighting: Box<Sighting>,
        /// How deep a spend must be to count for good.
        finality: u32,
    },
    /// Whoever waits for this outcome has stored it.
    Noted(Outcome),
}

/// What the payer is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to the payee.
    Send(Box<Update>),
    /// Tell whoever waits for it: for a lock the promise behind it, for a cheque the receipt.
    Report(Outcome),
}

impl Drawn {
    /// The payer of a channel that has paid plainly so far.
    pub fn new(kind: Kind, newest: Option<Payment>, spent: Msat) -> Self {
        Self {
            kind,
            number: 0,
            base: newest,
            spent,
            open: Vec::new(),
            loose: Vec::new(),
            settled: Vec::new(),
            outcomes: Vec::new(),
            paid: BTreeSet::new(),
            together: Together::default(),
            joint: Vec::new(),
        }
    }

    /// The channel's money: the newest plain payment, and what was spent.
    pub fn ledger(&self) -> Ledger {
        Ledger { newest: self.base, words: Msat::ZERO, spent: self.spent }
    }

    /// What its promises are for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of the newest update; zero before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The most that the payee can ever claim with what was signed.
    pub fn most_signed(&self) -> Msat {
        let loose = self.loose.iter().map(|loose| &loose.owed);
        let owed = self.open.iter().chain(loose).map(|owed| owed.most);
        owed.fold(self.base_total(), Msat::max)
    }

    /// What is promised and kept up.
    pub fn promises(&self) -> impl Iterator<Item = &Promise> {
        self.open.iter().map(|owed| &owed.promise)
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the input does not fit. Then nothing changes.
    pub fn handle(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        input: Input,
    ) -> Result<Transition<Self, Effect>, Reject> {
        match input {
            Input::Promise(promise) => self.promise(channel, keys, promise),
            Input::Withdraw(point) => {
                let index = place(&self.open, &point).ok_or(Reject::Unknown)?;
                if self.kind == Kind::Purchase {
                    return Err(Reject::Bought);
                }
                if self.loose.len() == MOST_LOOSE {
                    return Err(Reject::TooManyLoose);
                }
                let mut next = self.clone();
                let owed = next.open.remove(index);
                next.loose.push(Loose { owed, buried_by: None });
                next.send(channel, keys)
            }
            Input::StillHeld(point) => {
                let index = self.loose_place(&point).ok_or(Reject::Unknown)?;
                let mut next = self.clone();
                let loose = next.loose.remove(index);
                next.open.push(loose.owed);
                next.send(channel, keys)
            }
            Input::Dead(point) => {
                let mut next = self.clone();
                if next.take_out(&point).is_none() {
                    return Ok(Transition::to(next));
                }
                let outcome = Outcome::Ended(point);
                next.outcomes.push(outcome.clone());
                // Nobody is asked to take an update without it, and another promise under the point is never made.
                next.paid.insert(point);
                next.forget_what_is_over();
                next.number += 1;
                Ok(Transition::to(next).then(Effect::Report(outcome)))
            }
            Input::Taken(number) => Ok(self.taken(number)),
            Input::Pay { cost } => self.pay(channel, keys, cost),
            Input::Secret(secret) => self.secret(channel, keys, secret),
            Input::Sighted { sighting, finality } => Ok(self.sighted(channel, keys, &sighting, finality)),
            Input::Noted(outcome) => {
                let outcomes = self.outcomes.iter().filter(|other| **other != outcome).cloned().collect();
                Ok(Transition::to(Self { outcomes, ..self.clone() }))
            }
        }
    }

    /// What a restart must do again.
    pub fn resume(&self, channel: &Channel, keys: &ChannelKeys) -> Vec<Effect> {
        let update = (self.number > 0).then(|| Effect::Send(Box::new(self.terms().sign(channel, keys))));
        update.into_iter().chain(self.outcomes.iter().cloned().map(Effect::Report)).collect()
    }

    fn terms(&self) -> Terms {
        let promises = self.open.iter().map(|owed| owed.promise).collect();
        let settled = self.settled.iter().map(|(_, point)| *point).collect();
        Terms { number: self.number, base: self.base, promises, settled }
    }

    fn base_total(&self) -> Msat {
        self.base.map_or(Msat::ZERO, |payment| payment.total)
    }

    fn promise(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        promise: Promise,
    ) -> Result<Transition<Self, Effect>, Reject> {
        if self.open.iter().any(|owed| owed.promise == promise) {
            let update = Box::new(self.terms().sign(channel, keys));
            return Ok(Transition::to(self.clone()).then(Effect::Send(update)));
        }
        let is_owed = place(&self.open, &promise.point).or(self.loose_place(&promise.point)).is_some();
        if is_owed || self.paid.contains(&promise.point) {
            return Err(Reject::PointUsed);
        }
        match self.kind {
            Kind::Cheques => {}
            Kind::Lock | Kind::Purchase if self.is_open() => return Err(Reject::LockOpen),
            Kind::Lock | Kind::Purchase => {}
        }
        let (least, got) = (least(channel), self.base_total().saturating_add(promise.amount));
        if got < least {
            return Err(Reject::Dust { least, got });
        }
        let mut next = self.clone();
        next.open.push(Owed { promise, most: Msat::ZERO });
        next.send(channel, keys)
    }

    /// A plain payment counts only together with everything that is open, signed again above it.
    fn pay(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        cost: Msat,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let mut next = self.clone();
        next.spent = self.spent.saturating_add(cost);
        let total = next.spent.max(self.base_total()).max(least(channel));
        next.raise(channel, keys, total)?;
        next.send(channel, keys)
    }

    fn secret(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        secret: AdaptorSecret,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let point = secret.point();
        let mut next = self.clone();
        let outcome = Outcome::Paid(secret.clone());
        next.outcomes.push(outcome.clone());
        if let Some(index) = self.joint.iter().position(|other| *other == point) {
            next.joint.remove(index);
            return Ok(Transition::to(next).then(Effect::Report(outcome)));
        }
        let owed = next.take_out(&point).ok_or(Reject::Unknown)?;
        next.together.learn(secret);
        next.forget_what_is_over();
        next.settle(point);
        next.spent = self.spent.saturating_add(owed.promise.amount);
        let total = self.base_total().saturating_add(owed.promise.amount).min(channel.max_total());
        // Whatever is paid next, the secret is stored. A withdrawn promise may find its room taken by others since; then the
        // payee has the state that it was signed in, and needs no other.
        let mut paid = next.clone();
        if paid.raise(channel, keys, total).is_ok()
            && let Ok(transition) = paid.send(channel, keys)
        {
            return Ok(transition.then(Effect::Report(outcome)));
        }
        Ok(Transition::to(next).then(Effect::Report(outcome)))
    }

    fn sighted(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        sighting: &Sighting,
        finality: u32,
    ) -> Transition<Self, Effect> {
        let (by, confirmations) = match &sighting.funding {
            Funding::Spent { by, confirmations } => (by, *confirmations),
            Funding::Unseen | Funding::Unconfirmed(_) | Funding::Confirmed { .. } => {
                return Transition::to(self.clone());
            }
        };
        let mut next = self.clone();
        let mut outcomes = Vec::new();
        if channel.spend_kind(by) == Some(SpendKind::Commitment)
            && let Some((points, secret)) =
                promises::given_away(channel, keys, by, self.together.choices(&self.unresolved()))
        {
            for point in &points {
                let Some(owed) = next.take_out(point) else { continue };
                next.settle(*point);
                next.spent = next.spent.saturating_add(owed.promise.amount);
            }
            outcomes.push(match self.together.single(&points, &secret) {
                Some(single) => Outcome::Paid(single),
                None => {
                    next.joint = points.iter().filter(|point| !self.paid.contains(point)).copied().collect();
                    Outcome::PaidJointly(points, secret)
                }
            });
        }
        // What this spend does not pay is dead once no other can take its place.
        if confirmations >= finality {
            let loose = next.loose.drain(..).map(|loose| loose.owed);
            let dead = next.open.drain(..).chain(loose);
            outcomes.extend(dead.map(|owed| Outcome::Ended(owed.promise.point)));
        }
        next.forget_what_is_over();
        next.outcomes.extend(outcomes.iter().cloned());
        outcomes.into_iter().map(Effect::Report).fold(Transition::to(next), Transition::then)
    }

    fn forget_what_is_over(&mut self) {
        let unresolved = self.unresolved();
        self.together.keep(&unresolved);
    }

    fn take_out(&mut self, point: &AdaptorPoint) -> Option<Owed> {
        if let Some(index) = place(&self.open, point) {
            return Some(self.open.remove(index));
        }
        self.loose_place(point).map(|index| self.loose.remove(index).owed)
    }

    fn loose_place(&self, point: &AdaptorPoint) -> Option<usize> {
        self.loose.iter().position(|loose| loose.owed.promise.point == *point)
    }

    /// Notes that the next base pays for the secret of a point. A payee that has not heard of it holds the promise still, and
    /// takes no other before: so of more than [`promises::MOST_SETTLED`] it has heard.
    fn settle(&mut self, point: AdaptorPoint) {
        self.paid.insert(point);
        self.settled.push((self.number + 1, point));
        let heard = self.settled.len().saturating_sub(promises::MOST_SETTLED);
        self.settled.drain(..heard);
    }

    /// The payee has an update: what was withdrawn before is dead if that reaches it.
    fn taken(&self, number: u64) -> Transition<Self, Effect> {
        let mut next = self.clone();
        // Nobody can have what was not sent yet.
        if number > self.number {
            return Transition::to(next);
        }
        // Noted, and left out of the next update only: the same update is the same whenever it is sent.
        for (since, _) in next.settled.iter_mut().filter(|(since, _)| *since <= number) {
            *since = TAKEN;
        }
        let (dead, loose) =
            self.loose.iter().partition(|loose| loose.buried_by.is_some_and(|by| by <= number));
        next.loose = loose;
        next.forget_what_is_over();
        let dead: Vec<Loose> = dead;
        let dead: Vec<Outcome> = dead.iter().map(|loose| Outcome::Ended(loose.owed.promise.point)).collect();
        next.outcomes.extend(dead.iter().cloned());
        dead.into_iter().map(Effect::Report).fold(Transition::to(next), Transition::then)
    }

    fn raise(&mut self, channel: &Channel, keys: &ChannelKeys, total: Msat) -> Result<(), Reject> {
        if total > channel.max_total() {
            return Err(BadUpdate::OverCapacity { most: channel.max_total() }.into());
        }
        if total > self.base_total() {
            self.base = Some(commitment::sign(channel, keys, total));
        }
        Ok(())
    }

    /// Signs the next update, which may bury what was withdrawn.
    fn send(mut self, channel: &Channel, keys: &ChannelKeys) -> Result<Transition<Self, Effect>, Reject> {
        self.number += 1;
        self.settled.retain(|(since, _)| *since != TAKEN);
        let terms = self.terms();
        terms.check(channel)?;
        let most = terms.most().expect("checked to be within the channel");
        for owed in &mut self.open {
            owed.most = owed.most.max(most);
        }
        let base = self.base_total();
        for loose in &mut self.loose {
            if loose.owed.most <= base {
                loose.buried_by = loose.buried_by.or(Some(self.number));
            }
        }
        self.together.note(self.open.iter().map(|owed| owed.promise.point).collect());
        let update = Box::new(terms.sign(channel, keys));
        Ok(Transition::to(self).then(Effect::Send(update)))
    }
}

fn place(list: &[Owed], point: &AdaptorPoint) -> Option<usize> {
    list.iter().position(|owed| owed.promise.point == *point)
}

#[cfg(test)]
mod tests;
