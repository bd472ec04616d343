//! A payer and a payee over a wire that loses, doubles and reorders, each with a store whose writes may fail and a process
//! that may die before a save or between a save and its effects. The bytes choose what happens next.
//!
//! Beside a machine's state each party stores what the machines leave to the books: which items were bought or charged.
//!
//! After every step:
//! * `payee.spent ≤ payee.paid ≤ payer.paid`, and `payee.spent ≤ payer.spent`;
//! * the payee's claim, its newest signed total, never falls, nor does what either side has paid or spent;
//! * a failed save changed nothing and released no effect: above all, it served nothing;
//! * once the payee has signed a closing it charges nothing more, and what it signed pays all that was spent;
//! * a commitment that is published pays everything that was paid, and a refund comes only after the expiry.
#![no_main]

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, Transaction};
use farthing_fuzz::{Choices, fixture};
use farthing_protocol::closing::{self, Answer, Proposal, PublicNonce, Settlement};
use farthing_protocol::opening::Opening;
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, Payment, Transition, payee, payer};
use libfuzzer_sys::fuzz_target;
use secp256k1::schnorr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A run of more steps than this finds nothing new and costs signatures.
const MOST_STEPS: usize = 60;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let mut world = World::new();
    for _ in 0..MOST_STEPS {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
        world.check();
    }
});

enum ToPayee {
    Opening(Box<Opening>),
    Call { item: u8, cost: Msat, payment: Payment },
    Close { round: u64, settlement: Settlement, nonce: PublicNonce },
    Closed(Transaction),
}

enum ToPayer {
    Accepted(schnorr::Signature),
    Refused,
    Answer { round: u64, answer: Answer },
}

/// What a party keeps on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Page<S> {
    state: S,
    items: BTreeMap<u8, Msat>,
}

/// What befalls a save.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Well,
    /// The disk is full: the party goes on with its old state.
    SaveFails,
    /// The process dies before the save.
    DiesBefore,
    /// The process dies after the save, before its effects.
    DiesAfter,
}

impl Fate {
    fn choose(choices: &mut Choices<'_>) -> Self {
        match choices.byte() {
            0..=199 => Self::Well,
            200..=219 => Self::SaveFails,
            220..=237 => Self::DiesBefore,
            _ => Self::DiesAfter,
        }
    }
}

/// A party: its page in memory and on disk.
struct Party<S> {
    page: Page<S>,
    disk: Vec<u8>,
}

impl<S: Clone + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned> Party<S> {
    fn new(state: S) -> Self {
        let page = Page { state, items: BTreeMap::new() };
        Self { disk: postcard::to_stdvec(&page).expect("encodes"), page }
    }

    /// Stores the decision and gets its effects, as the books do. Whether the process has died as well.
    fn commit<E>(
        &mut self,
        decided: Transition<S, E>,
        item: Option<(u8, Msat)>,
        fate: Fate,
    ) -> (Option<Vec<E>>, bool) {
        let before = self.page.clone();
        let mut items = before.items.clone();
        items.extend(item);
        let disk = &mut self.disk;
        let saved = decided.commit(|state| {
            if matches!(fate, Fate::SaveFails | Fate::DiesBefore) {
                return Err(());
            }
            let page = Page { state: state.clone(), items: items.clone() };
            *disk = postcard::to_stdvec(&page).expect("encodes");
            Ok(())
        });
        match saved {
            Ok((state, effects)) => {
                self.page = Page { state, items };
                if fate == Fate::DiesAfter { (None, true) } else { (Some(effects), false) }
            }
            Err(()) => {
                assert_eq!(self.page, before, "a failed save changes nothing");
                (None, fate == Fate::DiesBefore)
            }
        }
    }

    /// A new process reads the store.
    fn restart(&mut self) {
        let read: Page<S> = postcard::from_bytes(&self.disk).expect("what was written can be read");
        assert_eq!(read, self.page, "nothing counts that is not stored");
        self.page = read;
    }
}

#[derive(Clone, Copy, Default)]
struct Marks {
    payer_paid: Msat,
    payer_spent: Msat,
    payee_paid: Msat,
    payee_spent: Msat,
}

struct World {
    payer: Party<payer::State>,
    payee: Option<Party<payee::State>>,
    up: Vec<ToPayee>,
    down: Vec<ToPayer>,
    /// In the payer's memory only.
    proposal: Option<(u64, Proposal)>,
    rounds: u64,
    height: u32,
    /// Everything that either side has broadcast and that spends the funding.
    spends: Vec<Transaction>,
    has_cosigned: bool,
    marks: Marks,
}

impl World {
    fn new() -> Self {
        let proposed = payer::propose(&fixture::fixture().payer);
        let (state, effects) = proposed.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
        let mut world = Self {
            payer: Party::new(state),
            payee: None,
            up: Vec::new(),
            down: Vec::new(),
            proposal: None,
            rounds: 0,
            height: 500,
            spends: Vec::new(),
            has_cosigned: false,
            marks: Marks::default(),
        };
        world.carry_out_payer(effects);
        world
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 16 {
            0..=2 => self.buy(choices),
            3..=6 => self.deliver_up(choices),
            7..=8 => self.deliver_down(choices),
            9 => {
                let fee_rate = FeeRate::from_sat_per_vb_u32(u32::from(choices.byte()));
                self.payer_input(payer::Input::Close { fee_rate, charged: None }, Fate::choose(choices));
            }
            10 => self.payee_input(payee::Input::Close, None, Fate::choose(choices)),
            11 => self.height = self.height.saturating_add(u32::from(choices.byte())),
            12..=13 => {
                let sighting = self.sighting(choices);
                self.payer_input(payer::Input::Sighted(sighting), Fate::choose(choices));
            }
            14 => {
                let sighting = self.sighting(choices);
                self.payee_input(payee::Input::Sighted(sighting), None, Fate::choose(choices));
            }
            _ if choices.byte().is_multiple_of(2) => self.payer_restarts(),
            _ => self.payee_restarts(),
        }
    }

    fn buy(&mut self, choices: &mut Choices<'_>) {
        let item = choices.byte() % 16;
        let fate = Fate::choose(choices);
        if let (Some(cost), Some(payment)) =
            (self.payer.page.items.get(&item), self.payer.page.state.ledger().newest)
        {
            // Bought before: asked for again with the newest payment, and nothing is decided.
            return self.up.push(ToPayee::Call { item, cost: *cost, payment });
        }
        // Mostly a fraction of the capacity, sometimes anything.
        let cost = match choices.byte() {
            0..=220 => Msat::new(choices.u64() % 8_000_000),
            _ => Msat::new(choices.amount()),
        };
        let input = payer::Input::Buy { cost };
        let Ok(decided) = self.payer.page.state.handle(&fixture::fixture().payer, input) else { return };
        let (effects, has_died) = self.payer.commit(decided, Some((item, cost)), fate);
        for effect in effects.into_iter().flatten() {
            let payer::Effect::Pay(payment) = effect else { panic!("buying pays and does nothing else") };
            self.up.push(ToPayee::Call { item, cost, payment });
        }
        if has_died {
            self.payer_restarts();
        }
    }

    /// A message arrives: any of those on the wire, and it may be there a second time.
    fn deliver_up(&mut self, choices: &mut Choices<'_>) {
        if self.up.is_empty() {
            return;
        }
        let at = usize::from(choices.byte()) % self.up.len();
        let how = choices.byte();
        let fate = Fate::choose(choices);
        let fixture = fixture::fixture();
        let message = self.up.swap_remove(at);
        let copy = match &message {
            ToPayee::Opening(opening) => ToPayee::Opening(opening.clone()),
            ToPayee::Call { item, cost, payment } => {
                ToPayee::Call { item: *item, cost: *cost, payment: *payment }
            }
            ToPayee::Close { round, settlement, nonce } => {
                ToPayee::Close { round: *round, settlement: *settlement, nonce: *nonce }
            }
            ToPayee::Closed(transaction) => ToPayee::Closed(transaction.clone()),
        };
        match how % 8 {
            0 => return, // lost
            1 | 2 => self.up.push(copy),
            _ => {}
        }
        match message {
            ToPayee::Opening(opening) => self.open(&opening, how, fate),
            ToPayee::Call { item, cost, payment } => {
                let Some(payee) = &self.payee else { return };
                if payee.page.items.contains_key(&item) {
                    return; // served again, free: the books do not ask the machine
                }
                let input = payee::Input::Charge { payment: Some(payment), cost };
                self.payee_input(input, Some((item, cost)), fate);
            }
            ToPayee::Close { round, settlement, nonce } => {
                let height = self.height;
                self.cosign(payee::Input::Settle { settlement, height }, round, &nonce, fate);
            }
            ToPayee::Closed(transaction) => {
                assert!(fixture.payee.channel.spend_kind(&transaction).is_some());
                self.payee_input(payee::Input::Settled { transaction }, None, fate);
            }
        }
    }

    fn open(&mut self, opening: &Opening, how: u8, fate: Fate) {
        let setup = &fixture::fixture().payee;
        if self.payee.is_some() {
            let payee::Effect::Accept(signature) = payee::acceptance(setup) else { unreachable!() };
            return self.down.push(ToPayer::Accepted(signature));
        }
        if how > 240 {
            return self.down.push(ToPayer::Refused);
        }
        let accepted = payee::accept(setup, &opening.signature).expect("the payer's own signature");
        let mut party = None;
        let saved = accepted.commit(|state| {
            if matches!(fate, Fate::SaveFails | Fate::DiesBefore) {
                return Err(());
            }
            party = Some(Party::new(state.clone()));
            Ok(())
        });
        self.payee = party;
        if let (Ok((_, effects)), true) = (saved, fate != Fate::DiesAfter) {
            for effect in effects {
                let payee::Effect::Accept(signature) = effect else { panic!("only accepts") };
                self.down.push(ToPayer::Accepted(signature));
            }
        }
    }

    fn cosign(&mut self, input: payee::Input, round: u64, nonce: &PublicNonce, fate: Fate) {
        let setup = &fixture::fixture().payee;
        let Some(payee) = &mut self.payee else { return };
        let Ok(decided) = payee.page.state.handle(setup, input) else { return };
        let (effects, has_died) = payee.commit(decided, None, fate);
        let ledger = payee.page.state.ledger();
        for effect in effects.into_iter().flatten() {
            let payee::Effect::Cosign(settlement) = effect else { panic!("settling cosigns") };
            assert!(settlement.to_payee >= ledger.spent.floor(), "signed away what was earned");
            self.has_cosigned = true;
            self.rounds += 1;
            let entropy = entropy(self.rounds);
            if let Ok(answer) = closing::cosign(&setup.channel, &setup.keys, &settlement, nonce, entropy) {
                self.down.push(ToPayer::Answer { round, answer });
            }
        }
        if has_died {
            self.payee_restarts();
        }
    }

    fn deliver_down(&mut self, choices: &mut Choices<'_>) {
        if self.down.is_empty() {
            return;
        }
        let at = usize::from(choices.byte()) % self.down.len();
        let is_lost = choices.byte().is_multiple_of(8);
        let fate = Fate::choose(choices);
        let message = self.down.swap_remove(at);
        if is_lost {
            return;
        }
        let setup = &fixture::fixture().payer;
        match message {
            ToPayer::Accepted(signature) => self.payer_input(payer::Input::Accepted(signature), fate),
            ToPayer::Refused => self.payer_input(payer::Input::Refused, fate),
            ToPayer::Answer { round, answer } => {
                let Some((_, proposal)) = self.proposal.take_if(|(mine, _)| *mine == round) else { return };
                let completed = proposal.complete(&setup.channel, &setup.keys, &answer);
                let transaction = completed.expect("both halves of one round");
                self.up.push(ToPayee::Closed(transaction.clone()));
                self.payer_input(payer::Input::Countersigned { transaction }, fate);
            }
        }
    }

    fn payer_input(&mut self, input: payer::Input, fate: Fate) {
        let Ok(decided) = self.payer.page.state.handle(&fixture::fixture().payer, input) else { return };
        let (effects, has_died) = self.payer.commit(decided, None, fate);
        self.carry_out_payer(effects.into_iter().flatten().collect());
        if has_died {
            self.payer_restarts();
        }
    }

    fn payee_input(&mut self, input: payee::Input, item: Option<(u8, Msat)>, fate: Fate) {
        let Some(payee) = &mut self.payee else { return };
        let is_charge = matches!(input, payee::Input::Charge { .. });
        let Ok(decided) = payee.page.state.handle(&fixture::fixture().payee, input) else { return };
        assert!(!(is_charge && self.has_cosigned), "a payment was taken after a closing was signed");
        let (effects, has_died) = payee.commit(decided, item, fate);
        self.carry_out_payee(effects.into_iter().flatten().collect());
        if has_died {
            self.payee_restarts();
        }
    }

    fn payer_restarts(&mut self) {
        self.proposal = None;
        self.payer.restart();
        let effects = self.payer.page.state.resume(&fixture::fixture().payer);
        self.carry_out_payer(effects);
    }

    fn payee_restarts(&mut self) {
        let Some(payee) = &mut self.payee else { return };
        payee.restart();
        let effects = payee.page.state.resume(&fixture::fixture().payee);
        self.carry_out_payee(effects);
    }

    fn carry_out_payer(&mut self, effects: Vec<payer::Effect>) {
        let setup = &fixture::fixture().payer;
        for effect in effects {
            match effect {
                payer::Effect::Propose(opening) => self.up.push(ToPayee::Opening(opening)),
                payer::Effect::ReleaseCoins => {
                    assert!(self.spends.is_empty(), "the funding was used and its coins are given away");
                }
                payer::Effect::Pay(_) => panic!("only buying pays"),
                payer::Effect::Announce(..) | payer::Effect::AnnounceBatch(_) | payer::Effect::Call(_) => {
                    panic!("this channel pays for pieces")
                }
                payer::Effect::ProposeClosing(settlement) => {
                    self.rounds += 1;
                    let round = self.rounds;
                    let proposal = Proposal::new(&setup.channel, &setup.keys, settlement, entropy(round));
                    let proposal = proposal.expect("the machine has built it");
                    let nonce = proposal.public_nonce();
                    self.up.push(ToPayee::Close { round, settlement, nonce });
                    self.proposal = Some((round, proposal));
                }
                payer::Effect::Broadcast(transaction) => {
                    let is_refund = transaction.lock_time.to_consensus_u32() > 0;
                    assert!(!is_refund || self.height >= fixture::EXPIRY, "a refund before the expiry");
                    self.broadcast(transaction);
                }
            }
        }
    }

    fn carry_out_payee(&mut self, effects: Vec<payee::Effect>) {
        let fixture = fixture::fixture();
        let Some(payee) = &self.payee else { return };
        let ledger = payee.page.state.ledger();
        let mut spends = Vec::new();
        for effect in effects {
            match effect {
                payee::Effect::Accept(_) | payee::Effect::Cosign(_) => panic!("handled where they arise"),
                payee::Effect::Serve { cost } => {
                    assert!(payee.page.items.values().any(|charged| *charged == cost));
                    assert!(!self.has_cosigned, "served after a closing was signed");
                }
                payee::Effect::Answer | payee::Effect::Spread { .. } => {
                    panic!("this channel pays for pieces")
                }
                payee::Effect::Publish(publication) => {
                    let transaction = publication.commitment;
                    let paid = Channel::paid_to(&transaction, &fixture.payee.channel.params().payee);
                    assert_eq!(paid, ledger.paid().floor(), "a commitment that is not the newest");
                    spends.push(transaction);
                }
                payee::Effect::Broadcast(transaction) => {
                    let paid = Channel::paid_to(&transaction, &fixture.payee.channel.params().payee);
                    assert!(paid >= ledger.spent.floor(), "a closing below what was earned");
                    spends.push(transaction);
                }
            }
        }
        for spend in spends {
            self.broadcast(spend);
        }
    }

    fn broadcast(&mut self, transaction: Transaction) {
        let channel = &fixture::fixture().payer.channel;
        let is_new = !self.spends.contains(&transaction);
        if channel.spend_kind(&transaction).is_some() && is_new && self.spends.len() < 32 {
            self.spends.push(transaction);
        }
    }

    /// Anything that the chain might show: also what the other side does not see.
    fn sighting(&self, choices: &mut Choices<'_>) -> Sighting {
        let output = fixture::fixture().payer.channel.funding_txout();
        let confirmations = u32::from(choices.byte() % 8);
        let funding = match choices.byte() % 8 {
            0 => Funding::Unseen,
            1 => Funding::Unconfirmed(output),
            2 | 3 if !self.spends.is_empty() => {
                let by = self.spends[usize::from(choices.byte()) % self.spends.len()].clone();
                Funding::Spent { by: by.into(), confirmations }
            }
            _ => Funding::Confirmed { output, confirmations: confirmations + 1 },
        };
        let fee_rate = FeeRate::from_sat_per_vb_u32(1 + u32::from(choices.byte()));
        Sighting { height: self.height, fee_rate, funding, locked: Vec::new() }
    }

    fn check(&mut self) {
        let payer = self.payer.page.state.ledger();
        let payee = self.payee.as_ref().map(|payee| payee.page.state.ledger()).unwrap_or_default();
        let now = Marks {
            payer_paid: payer.paid(),
            payer_spent: payer.spent,
            payee_paid: payee.paid(),
            payee_spent: payee.spent,
        };
        assert!(now.payee_spent <= now.payee_paid, "served more than was paid");
        assert!(now.payee_paid <= now.payer_paid, "holds a payment that was not made");
        assert!(now.payee_spent <= now.payer_spent, "charged more than was bought");
        assert!(now.payer_spent <= now.payer_paid);
        assert!(
            now.payer_paid.floor() <= fixture::CAPACITY - fixture::fixture().payer.channel.commitment_fee()
        );
        let before = std::mem::replace(&mut self.marks, now);
        assert!(now.payee_paid >= before.payee_paid, "the payee's claim fell");
        assert!(now.payee_spent >= before.payee_spent && now.payer_paid >= before.payer_paid);
        assert!(now.payer_spent >= before.payer_spent);
        assert!(self.spends.iter().all(|spend| {
            let paid: Amount = spend.output.iter().map(|output| output.value).sum();
            paid <= fixture::CAPACITY
        }));
    }
}

/// Nonces need randomness that is fresh, not unknown, in a test.
fn entropy(round: u64) -> [u8; 32] {
    let mut entropy = [0x77; 32];
    entropy[..8].copy_from_slice(&round.to_be_bytes());
    entropy
}
