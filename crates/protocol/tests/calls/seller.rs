//! The payee's program: a live tab, and the store behind it.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, Transaction};
use farthing_protocol::ledger::Ledger;
use farthing_protocol::lightspeed::call::{Call, MacKey};
use farthing_protocol::lightspeed::tab::{Claim, Refused};
use farthing_protocol::lightspeed::{CallNumber, ChainTerms, Ladder, Rung, Tab};
use farthing_protocol::payee::{self, Effect, State};
use farthing_protocol::sighting::Funding;
use farthing_protocol::{Channel, Msat, Payment, commitment};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use super::buyer::Logged;
use super::{Down, TARGET, payee_key};
use crate::common::{TIP, assert_valid, at, commit, spends};

/// The least delay that this payee takes.
pub const LEAST_DELAY: u16 = 36;

/// When what was served is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Durability {
    /// Before the answer leaves.
    Call,
    /// A little later. A crash costs the payee what it had not stored, and the payer nothing.
    Batch,
}

/// How a running call ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// For this much less than was set aside.
    Served { discount: u64 },
    /// The upstream failed.
    Failed,
    /// The payee dies before it has stored the outcome.
    Crash,
}

/// What survives a crash.
#[derive(Clone, Serialize, Deserialize)]
struct Disk {
    state: State,
    ladders: Vec<Ladder>,
    receipts: BTreeMap<CallNumber, Msat>,
    epoch: u32,
}

pub struct Seller {
    pub setup: payee::Setup,
    pub durability: Durability,
    key: MacKey,
    disk: Vec<u8>,
    memory: Disk,
    tab: Option<Tab>,
    running: Vec<(CallNumber, Msat)>,
    /// Calls whose answer said that they were served.
    told: BTreeSet<CallNumber>,
    /// What the stored state could claim at most so far.
    claimed: Amount,
    judged: BTreeSet<Msat>,
}

impl Seller {
    pub fn new(setup: payee::Setup, opening: &schnorr::Signature, durability: Durability) -> Self {
        let (state, _) = commit(payee::accept(&setup, opening).expect("the payer signed"));
        let confirmed = Funding::Confirmed { output: setup.channel.funding_txout(), confirmations: 3 };
        let look = payee::Input::Sighted(at(TIP, confirmed));
        let (state, _) = commit(state.handle(&setup, look).expect("a look fits"));
        let memory = Disk { state, ladders: Vec::new(), receipts: BTreeMap::new(), epoch: 1 };
        Self {
            key: payee_key(&setup.channel),
            setup,
            durability,
            disk: postcard::to_stdvec(&memory).expect("every state has an encoding"),
            memory,
            tab: None,
            running: Vec::new(),
            told: BTreeSet::new(),
            claimed: Amount::ZERO,
            judged: BTreeSet::new(),
        }
    }

    pub fn tab(&self) -> Option<&Tab> {
        self.tab.as_ref()
    }

    pub fn state(&self) -> &State {
        &self.memory.state
    }

    pub fn ledger(&self) -> Ledger {
        self.tab.as_ref().map_or(self.memory.state.ledger(), Tab::ledger)
    }

    pub fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    /// How many calls were served in all.
    pub fn served(&self) -> usize {
        self.told.len()
    }

    /// Folds the live tab into the state and stores everything.
    pub fn flush(&mut self) {
        if let Some(tab) = &self.tab {
            let fold = payee::Input::Fold(Box::new(tab.clone()));
            let folded = self.memory.state.handle(&self.setup, fold).expect("a tab never goes back");
            let (state, effects) = commit(folded);
            assert_eq!(effects, [Effect::Answer]);
            self.memory.state = state;
        }
        self.disk = postcard::to_stdvec(&self.memory).expect("every state has an encoding");
    }

    /// A new process: another epoch, and nothing that was not stored.
    pub fn crash(&mut self) {
        self.running.clear();
        if self.tab.is_none() {
            return;
        }
        self.memory = postcard::from_bytes(&self.disk).expect("what was written");
        self.memory.epoch += 1;
        self.tab = self.memory.state.tab().cloned();
        let tab = self.tab.as_mut().expect("stored with the first chain");
        tab.begin(self.memory.epoch);
        self.flush();
    }

    pub fn chain(&mut self, terms: ChainTerms, rungs: Vec<Rung>, prepaid: Payment, refuse: bool) -> Down {
        let chain = terms.number;
        if self.tab.is_none() {
            let charge = payee::Input::Charge { payment: Some(prepaid), cost: Msat::new(1_500) };
            let (state, _) = commit(self.memory.state.handle(&self.setup, charge).expect("prepaid"));
            self.memory.state = state;
            let mut tab = Tab::new(prepaid, Msat::new(1_500));
            tab.begin(self.memory.epoch);
            self.tab = Some(tab);
        }
        let tab = self.tab.as_mut().expect("it was made above");
        if tab.has_taken(&terms) {
            return Down::Taken { chain, epoch: self.memory.epoch };
        }
        let taken = tab.next_chain().ok().filter(|_| !refuse).and_then(|(_, base)| {
            let ladder = Ladder::verify(&self.setup.channel, terms, base, rungs, LEAST_DELAY).ok()?;
            tab.announce(&ladder).ok().map(|()| ladder)
        });
        if taken.is_none() {
            tab.refuse_chain(chain);
        }
        let is_taken = taken.is_some();
        self.memory.ladders.extend(taken);
        self.flush();
        if is_taken { Down::Taken { chain, epoch: self.memory.epoch } } else { Down::Refused { chain } }
    }

    pub fn call(&mut self, sent: &Logged) -> Option<Down> {
        let (call, mac) = Call::from_bytes(&sent.bytes).expect("a call");
        self.key.verify(&call, &TARGET, &mac).expect("authentic");
        let number = call.number;
        let epoch = self.memory.epoch;
        let Some(tab) = &mut self.tab else { return Some(Down::Free { number, epoch }) };
        let before = (tab.spent(), tab.numbers().pending());
        let admitted = tab.admit(&self.memory.ladders, &call, None);
        if let Some((present, ..)) = tab.newest_word() {
            self.memory.ladders.retain(|ladder| ladder.terms().number >= present);
        }
        match admitted {
            Ok(()) => {
                self.running.push((number, call.cost));
                let (of, by) = sent.tops_up?;
                return self.top_up(number, of, by);
            }
            Err(Refused::Served(_)) => {
                let charged = self.memory.receipts[&number];
                return Some(Down::Served { number, charged });
            }
            Err(Refused::Running(_)) => return None,
            Err(Refused::Forgotten { .. }) => return Some(Down::Forgotten { epoch }),
            Err(Refused::Void { .. } | Refused::UnknownChain { .. }) => {}
            Err(refused) => panic!("an honest call is refused: {refused}"),
        }
        assert_eq!((tab.spent(), tab.numbers().pending()), before, "a refused call costs nothing");
        Some(Down::Free { number, epoch })
    }

    /// A call that tops another up is over at once.
    fn top_up(&mut self, number: CallNumber, of: CallNumber, by: Msat) -> Option<Down> {
        let raised = self.tab.as_mut()?.top_up(of, by, None);
        if let (Ok(aside), Some(call)) =
            (&raised, self.running.iter_mut().find(|(running, _)| *running == of))
        {
            call.1 = *aside;
        }
        let end = if raised.is_ok() { End::Served { discount: 0 } } else { End::Failed };
        let at = self.running.iter().position(|(running, _)| *running == number)?;
        self.finish(at, end)
    }

    pub fn finish(&mut self, which: usize, end: End) -> Option<Down> {
        if self.running.is_empty() {
            return None;
        }
        let (number, cost) = self.running.swap_remove(which % self.running.len());
        let tab = self.tab.as_mut().expect("a call runs");
        let before = tab.spent();
        let End::Served { discount } = end else {
            if let End::Crash = end {
                self.crash();
                return None;
            }
            tab.end(number, None);
            assert_eq!(tab.spent(), before, "a failed call costs nothing");
            return Some(Down::Free { number, epoch: self.memory.epoch });
        };
        let charged = cost.saturating_sub(Msat::new(discount));
        assert_eq!(tab.end(number, Some(charged)), charged);
        assert_eq!(self.memory.receipts.insert(number, charged), None, "charged twice");
        if self.durability == Durability::Call {
            self.flush();
        }
        assert!(self.told.insert(number), "served twice");
        Some(Down::Served { number, charged })
    }

    pub fn reconcile(&mut self, last: CallNumber) -> Option<Msat> {
        self.tab.as_mut()?.reconcile(last)
    }

    pub fn check(&mut self) {
        let Some(tab) = &self.tab else { return };
        let receipts: Msat = self.memory.receipts.values().copied().sum();
        assert_eq!(
            tab.spent(),
            receipts.checked_add(Msat::new(1_500)).expect("small numbers"),
            "the sum of what was served"
        );
        let taken = tab.spent().checked_add(tab.numbers().pending()).expect("small numbers");
        assert!(taken <= tab.paid(), "serves what was not paid for");
        let channel = &self.setup.channel;
        assert!(tab.uncovered(channel) <= tab.exposure(channel), "more at stake than was said");
        if self.durability == Durability::Call {
            assert!(self.told.iter().all(|number| self.memory.receipts.contains_key(number)));
        }
        let stored: Tab = self.memory.state.tab().cloned().expect("stored with the first chain");
        let claim = stored.claim();
        let worth = self.judge(&claim);
        assert!(worth >= self.claimed, "the claim fell");
        self.claimed = worth;
    }

    /// What a claim is worth, and that the chain takes it.
    fn judge(&mut self, claim: &Claim) -> Amount {
        let (channel, keys) = (&self.setup.channel, &self.setup.keys);
        let total = match claim {
            Claim::Batch(_) => panic!("this channel pays with words"),
            Claim::Plain(payment) => payment.total,
            Claim::Rung(rung) => rung.total,
        };
        if !self.judged.insert(total) {
            return total.floor();
        }
        let commitment: Transaction = match claim {
            Claim::Batch(_) => panic!("this channel pays with words"),
            Claim::Plain(payment) => commitment::complete(channel, keys, payment),
            Claim::Rung(rung) => rung.commitment(channel, keys),
        };
        assert_valid(channel, &commitment);
        if let Claim::Rung(rung) = claim {
            let fee = Amount::from_sat(150);
            let child = rung.claim(channel, keys, &commitment, fee).expect("worth its fee");
            assert!(spends(&commitment.output[..1], &child), "consensus rejects {child:#?}");
            assert_eq!(Channel::paid_to(&child, &channel.params().payee) + fee, total.floor());
        }
        total.floor()
    }
}
