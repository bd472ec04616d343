//! A payer and a payee that trade calls, as programs would run the machines, and between them a wire that loses, doubles
//! and reorders. Each stores before it sends; the payee may crash before it stores, and begins a new epoch then.

pub mod buyer;
pub mod seller;

use bitcoin::Amount;
use buyer::{Buyer, Logged};
use farthing_protocol::lightspeed::call::{MacKey, Target};
use farthing_protocol::lightspeed::purse::Unable;
use farthing_protocol::lightspeed::{CallNumber, ChainTerms, Rung, Shape};
use farthing_protocol::payer::call::Input;
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, Msat, Params, Payment, closing, payee, payer};
use seller::{Durability, Seller};

use crate::common::{self, FINALITY, POLICY, funded, funding_transaction, params, payee_keys, payer_keys};

/// What every call asks for.
pub const TARGET: Target<'static> =
    Target { method: "GET", authority: "a.example", uri: "/v1/weather", body: [9; 32] };

pub enum Up {
    Chain { terms: ChainTerms, rungs: Vec<Rung>, prepaid: Payment },
    Call(Logged),
    Reconcile { last: CallNumber },
}

#[derive(Clone)]
pub enum Down {
    Taken {
        chain: u32,
        epoch: u32,
    },
    Refused {
        chain: u32,
    },
    Served {
        number: CallNumber,
        charged: Msat,
    },
    /// Not served, and never to be.
    Free {
        number: CallNumber,
        epoch: u32,
    },
    /// Whether it was served, nobody remembers.
    Forgotten {
        epoch: u32,
    },
    Spent {
        last: CallNumber,
        spent: Msat,
    },
}

pub struct Calls {
    pub buyer: Buyer,
    pub seller: Seller,
    pub up: Vec<Up>,
    pub down: Vec<Down>,
}

/// Small, so that a story reaches the end of the capacity.
fn terms() -> Params {
    funded(Params { capacity: Amount::from_sat(1_600), ..params() })
}

pub fn small_channel() -> Channel {
    Channel::new(terms()).expect("the fixture makes a channel")
}

pub fn payee_key(channel: &Channel) -> MacKey {
    MacKey::new(&CallKey::agree(&payee_keys(), &channel.params().payer.session, channel.id()))
}

pub fn payer_key(channel: &Channel) -> MacKey {
    MacKey::new(&CallKey::agree(&payer_keys(), &channel.params().payee.session, channel.id()))
}

impl Calls {
    pub fn new(durability: Durability) -> Self {
        let channel = small_channel();
        let funding = funding_transaction(&channel);
        let payer = payer::Setup { channel, keys: payer_keys(), funding, finality: FINALITY };
        let payee = payee::Setup { channel: small_channel(), keys: payee_keys(), policy: POLICY };
        let payee::Effect::Accept(acceptance) = payee::acceptance(&payee) else { panic!("an acceptance") };
        let (proposed, proposal) = common::commit(payer::propose(&payer));
        let [payer::Effect::Propose(opening)] = &proposal[..] else { panic!("a proposal") };
        let seller = Seller::new(payee, &opening.signature, durability);
        let buyer = Buyer::new(payer, proposed, acceptance);
        Self { buyer, seller, up: Vec::new(), down: Vec::new() }
    }

    /// Sends a call of at most `cost`, if the purse is able to.
    pub fn call(&mut self, cost: Msat) -> Result<(), payer::Reject> {
        let call = self.buyer.call(cost)?;
        self.up.push(Up::Call(call));
        Ok(())
    }

    /// Lets a call that waits for its answer cost more, if the purse is able to.
    pub fn top_up(&mut self, which: usize, by: Msat) {
        if let Ok(call) = self.buyer.top_up(which, by) {
            self.up.extend(call.map(Up::Call));
        }
    }

    /// Announces a chain of that shape, or as much of it as the capacity covers, unless one waits. Whether it did.
    pub fn announce(&mut self, shape: Shape) -> bool {
        let announcement = self.buyer.announce(shape);
        let did = announcement.is_some();
        self.up.extend(announcement);
        did
    }

    /// Asks again for everything that was not answered.
    pub fn ask_again(&mut self) {
        self.up.extend(self.buyer.unanswered());
    }

    /// Asks what is spent in all, so as to resolve calls that nobody remembers.
    pub fn ask_for_the_sum(&mut self) {
        self.up.push(Up::Reconcile { last: self.buyer.purse().last_number() });
    }

    /// A message reaches the payee; `refuse`: it does not like a chain that comes now.
    pub fn deliver_up(&mut self, which: usize, refuse: bool) {
        if self.up.is_empty() {
            return;
        }
        let which = which % self.up.len();
        let answer = match self.up.remove(which) {
            Up::Chain { terms, rungs, prepaid } => Some(self.seller.chain(terms, rungs, prepaid, refuse)),
            Up::Call(call) => self.seller.call(&call),
            Up::Reconcile { last } => self.seller.reconcile(last).map(|spent| Down::Spent { last, spent }),
        };
        self.down.extend(answer);
    }

    pub fn deliver_down(&mut self, which: usize) {
        if self.down.is_empty() {
            return;
        }
        let which = which % self.down.len();
        match self.down.remove(which) {
            Down::Taken { chain, epoch } => self.buyer.hears(Input::Taken { chain, epoch }),
            Down::Refused { chain } => self.buyer.hears(Input::Refused { chain }),
            Down::Served { number, charged } => self.buyer.answered(number, Some(charged)),
            Down::Free { number, epoch } => {
                self.buyer.answered(number, None);
                self.buyer.hears(Input::Epoch(epoch));
            }
            Down::Forgotten { epoch } => self.buyer.hears(Input::Epoch(epoch)),
            Down::Spent { last, spent } => match self.buyer.hears_the_sum(last, spent) {
                Ok(()) | Err(Unable::SentSince { .. }) => {}
                // What a crash took of it was free in the end.
                Err(Unable::WrongSum { .. }) if self.seller.durability == Durability::Batch => {}
                Err(other) => panic!("an honest sum: {other}"),
            },
        }
    }

    /// A running call ends.
    pub fn finish(&mut self, which: usize, ending: seller::End) {
        let answer = self.seller.finish(which, ending);
        self.down.extend(answer);
    }

    /// Delivers everything, and again, until every call is answered and every chain is taken. The wire is good now.
    pub fn settle(&mut self) {
        for round in 0..20 {
            self.deliver_all();
            self.buyer.check(&self.seller);
            if self.buyer.purse().announced().is_none() && self.buyer.purse().unanswered().count() == 0 {
                return;
            }
            if round > 2 && self.seller.durability == Durability::Call {
                self.ask_for_the_sum(); // what is left now is what nobody remembers
            } else {
                self.ask_again();
            }
            if round > 5 && self.seller.durability == Durability::Batch {
                return; // what a crash took is not in the payee's sum: it stays outstanding
            }
        }
        panic!("it stalls: {:?}", self.buyer.purse());
    }

    fn deliver_all(&mut self) {
        while !self.up.is_empty() || !self.down.is_empty() || self.seller.is_busy() {
            while !self.up.is_empty() {
                self.deliver_up(0, false);
            }
            while self.seller.is_busy() {
                self.finish(0, seller::End::Served { discount: 0 });
            }
            while !self.down.is_empty() {
                self.deliver_down(0);
            }
        }
    }

    /// One more call, with as many chains as it takes. Whether it was served; `false`: the capacity is used up.
    pub fn is_served_afresh(&mut self, cost: Msat, shape: Shape) -> bool {
        let served = self.seller.served();
        for _ in 0..3 {
            match self.call(cost) {
                Ok(()) => {
                    self.settle();
                    // An epoch that the payer had not heard of costs one more try.
                    if self.seller.served() > served {
                        return true;
                    }
                }
                Err(_unable) => {
                    if !self.announce(shape) {
                        let most = self.buyer.setup.channel.max_total();
                        let spent = self.buyer.purse().ledger().spent;
                        let left = most.saturating_sub(spent);
                        let needed = cost.saturating_add(shape.unit);
                        assert!(left < needed, "stalls with {left} left for a call of {cost}");
                        return false;
                    }
                    self.settle();
                }
            }
        }
        panic!("stalls on a call of {cost}: {:?}\n{:?}", self.buyer.purse(), self.seller.tab());
    }

    /// Both close together, and settle on what was spent.
    pub fn close(&mut self) {
        let Some(settlement) = self.buyer.proposes_closing() else { return };
        // What runs or was paid since is not in the stored state yet.
        self.seller.flush();
        let ledger = self.seller.ledger();
        assert!(settlement.to_payee >= closing::due(ledger.spent, ledger.paid()));
        let input = payee::Input::Settle { settlement, height: common::TIP };
        let agreed = self.seller.state().handle(&self.seller.setup, input);
        assert!(agreed.is_ok(), "an honest closing is refused: {:?}", agreed.err());
    }

    /// What must hold after every step.
    pub fn check(&mut self) {
        self.buyer.check(&self.seller);
        self.seller.check();
    }
}
