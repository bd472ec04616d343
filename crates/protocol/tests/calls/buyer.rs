//! The payer's program: its machine, and the bytes of each call until it is answered.

use std::collections::BTreeMap;

use farthing_protocol::closing::Settlement;
use farthing_protocol::lightspeed::call::{Call, MacKey};
use farthing_protocol::lightspeed::ladder;
use farthing_protocol::lightspeed::purse::{Purse, Unable};
use farthing_protocol::lightspeed::{CallNumber, ChainTerms, Rung, Shape, Words};
use farthing_protocol::payer::call::Input;
use farthing_protocol::payer::{self, Effect, State};
use farthing_protocol::sighting::Funding;
use farthing_protocol::{Msat, Payment};
use secp256k1::schnorr;

use super::seller::Seller;
use super::{TARGET, Up, payer_key};
use crate::common::{TIP, at, commit, rate};

/// A call as it was sent, and the call that it tops up, if it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    pub bytes: Vec<u8>,
    pub tops_up: Option<(CallNumber, Msat)>,
}

pub struct Buyer {
    pub setup: payer::Setup,
    key: MacKey,
    state: State,
    /// What was stored: the machine's state, in the same save as the log.
    disk: Vec<u8>,
    log: BTreeMap<CallNumber, Logged>,
    /// In memory only; drawn again after a restart.
    words: BTreeMap<u32, Words>,
    /// The most that calls which were sent could have cost at any time.
    high: Msat,
    widest: Msat,
}

impl Buyer {
    /// Open, with one piece bought before the first call.
    pub fn new(setup: payer::Setup, state: State, accepted: schnorr::Signature) -> Self {
        let mut buyer = Self {
            key: payer_key(&setup.channel),
            setup,
            disk: Vec::new(),
            state,
            log: BTreeMap::new(),
            words: BTreeMap::new(),
            high: Msat::ZERO,
            widest: Msat::ZERO,
        };
        buyer.takes(payer::Input::Accepted(accepted)).expect("the payee signed");
        let output = buyer.setup.channel.funding_txout();
        let confirmed = Funding::Confirmed { output, confirmations: 3 };
        buyer.takes(payer::Input::Sighted(at(TIP, confirmed))).expect("a look fits");
        buyer.takes(payer::Input::Buy { cost: Msat::new(1_500) }).expect("the capacity covers it");
        buyer
    }

    fn takes(&mut self, input: payer::Input) -> Result<Vec<Effect>, payer::Reject> {
        let transition = self.state.handle(&self.setup, input)?;
        let (state, effects) = commit(transition);
        self.disk = postcard::to_stdvec(&state).expect("every state has an encoding");
        self.state = state;
        self.high = self.high.max(self.state.ledger().spent);
        Ok(effects)
    }

    /// A new process. It repeats what was not answered.
    pub fn restart(&mut self) -> Vec<Up> {
        self.words.clear();
        self.state = postcard::from_bytes(&self.disk).expect("what was written");
        self.unanswered()
    }

    /// Its purse, or the one that it would begin with.
    pub fn purse(&self) -> Purse {
        self.state.purse().cloned().unwrap_or_else(|| Purse::new(self.plain(), self.state.ledger().spent))
    }

    /// The channel has announced a chain at some time.
    pub fn has_purse(&self) -> bool {
        self.state.purse().is_some()
    }

    fn plain(&self) -> Payment {
        self.state.ledger().newest.expect("it has prepaid")
    }

    fn words(&mut self, number: u32) -> &mut Words {
        let (terms, _) = self
            .state
            .purse()
            .expect("it was announced")
            .chains()
            .iter()
            .find(|(terms, _)| terms.number == number)
            .expect("it was announced");
        let (keys, id) = (&self.setup.keys, self.setup.channel.id());
        self.words.entry(number).or_insert_with(|| Words::draw(keys, id, &terms.shape, number))
    }

    /// Stores a call and gives its bytes. They show no word that the call does not need.
    pub fn call(&mut self, cost: Msat) -> Result<Logged, payer::Reject> {
        self.sends(Input::call(cost), None)
    }

    /// A call that lets another cost more; one of those that were not answered.
    pub fn top_up(&mut self, which: usize, by: Msat) -> Result<Option<Logged>, payer::Reject> {
        let waiting: Vec<CallNumber> = self.log.keys().copied().collect();
        if waiting.is_empty() {
            return Ok(None);
        }
        let number = waiting[which % waiting.len()];
        self.sends(Input::top_up(number, by), Some((number, by))).map(Some)
    }

    fn sends(&mut self, input: Input, tops_up: Option<(CallNumber, Msat)>) -> Result<Logged, payer::Reject> {
        let effects = self.takes(payer::Input::Call(input))?;
        let [Effect::Call(ticket)] = effects[..] else { panic!("a call, not {effects:?}") };
        let last = ticket.last.map(|(chain, index)| self.words(chain).word(index).expect("on the chain"));
        let call = Call {
            channel: self.setup.channel.id(),
            number: ticket.number,
            cost: ticket.cost,
            chain: ticket.chain,
            index: ticket.index,
            word: self.words(ticket.chain).word(ticket.index).expect("on the chain"),
            last,
        };
        let bytes = call.to_bytes(&self.key.mac(&call, &TARGET));
        let logged = Logged { bytes, tops_up };
        assert_eq!(self.log.insert(ticket.number, logged.clone()), None, "a number is used once");
        Ok(logged)
    }

    /// Stores a chain and signs its rungs, if none waits and the capacity covers one.
    pub fn announce(&mut self, shape: Shape) -> Option<Up> {
        let purse = self.purse();
        let (number, _) = purse.next_chain().ok()?;
        let shape = purse.fit(&self.setup.channel, shape)?;
        let words = Words::draw(&self.setup.keys, self.setup.channel.id(), &shape, number);
        let terms = *words.terms();
        self.words.insert(number, words);
        let effects = self.takes(payer::Input::Call(Input::Announce(terms))).expect("it fits");
        let [Effect::Announce(terms, base)] = effects[..] else { panic!("a chain, not {effects:?}") };
        self.widest = self.widest.max(shape.unit);
        Some(self.announcement(terms, base))
    }

    fn announcement(&mut self, terms: ChainTerms, base: Msat) -> Up {
        let prepaid = self.plain();
        self.words(terms.number);
        let words = &self.words[&terms.number];
        let rungs = ladder::sign(&self.setup.channel, &self.setup.keys, words, base).expect("it fits");
        self.no_lock_is_a_word(terms, &rungs);
        Up::Chain { terms, rungs, prepaid }
    }

    /// What is handed over ahead of time tells no word.
    fn no_lock_is_a_word(&mut self, terms: ChainTerms, rungs: &[Rung]) {
        let words = self.words(terms.number);
        for index in 0..=terms.shape.words {
            let word = words.word(index).expect("on the chain");
            assert!(rungs.iter().all(|rung| rung.lock != *word.as_bytes()));
        }
    }

    /// What waits for an answer, byte for byte as it was sent.
    pub fn unanswered(&mut self) -> Vec<Up> {
        let mut waiting: Vec<Up> = self.log.values().cloned().map(Up::Call).collect();
        if let Some((terms, base)) = self.purse().announced() {
            waiting.push(self.announcement(terms, base));
        }
        waiting
    }

    /// What the payee says. What does not fit any more is ignored.
    pub fn hears(&mut self, input: Input) {
        if self.has_purse() {
            match self.takes(payer::Input::Call(input)) {
                Ok(_) | Err(payer::Reject::Call(Unable::WrongChain(_))) => {}
                Err(other) => panic!("an honest payee is refused: {other}"),
            }
        }
    }

    pub fn answered(&mut self, number: CallNumber, charged: Option<Msat>) {
        self.takes(payer::Input::Call(Input::Answered { number, charged })).expect("an honest answer");
        self.log.remove(&number);
    }

    pub fn hears_the_sum(&mut self, last: CallNumber, spent: Msat) -> Result<(), Unable> {
        match self.takes(payer::Input::Call(Input::Reconcile { last, spent })) {
            Ok(_) => self.log.clear(),
            Err(payer::Reject::Call(unable)) => return Err(unable),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    pub fn proposes_closing(&mut self) -> Option<Settlement> {
        match self.takes(payer::Input::Close { fee_rate: rate(2), charged: None }) {
            Ok(effects) => match effects[..] {
                [Effect::ProposeClosing(settlement)] => Some(settlement),
                _ => panic!("a closing, not {effects:?}"),
            },
            Err(payer::Reject::CallsUnanswered(_)) => None,
            Err(other) => panic!("{other}"),
        }
    }

    pub fn check(&self, seller: &Seller) {
        let ledger = self.state.ledger();
        let logged: Vec<_> = self.log.keys().copied().collect();
        let outstanding: Vec<_> = self.purse().unanswered().map(|(number, _)| number).collect();
        assert_eq!(outstanding, logged);
        assert!(seller.ledger().spent <= ledger.spent, "charged more than was sent");
        assert!(seller.ledger().paid() <= ledger.paid(), "has words that were not sent");
        let most = self.high.saturating_add(self.widest).max(self.plain().total);
        assert!(ledger.paid() <= most, "shows words that no call needed");
    }
}
