//! A payee in one of its states, for stories.

use farthing_protocol::payee::{self, Effect, Input, Reject, State};
use farthing_protocol::sighting::Funding;
use farthing_protocol::{Msat, Payment, payer};

use super::*;

pub struct Payee {
    pub setup: payee::Setup,
    pub state: State,
}

impl Payee {
    /// It accepted the opening and has not seen the funding.
    pub fn awaiting_depth() -> Self {
        let setup = payee_setup();
        let (state, _) = commit(payee::accept(&setup, &opening_signature()).expect("the payer signed"));
        Self { setup, state }
    }

    /// The funding is deep enough.
    pub fn open() -> Self {
        let mut payee = Self::awaiting_depth();
        payee.sees(TIP, confirmed(POLICY.confirmations));
        payee
    }

    /// Open, with so much paid and so much of it spent.
    pub fn with(paid: Msat, spent: Msat) -> Self {
        let mut payee = Self::open();
        payee.takes(charge(Some(payment(paid)), spent));
        payee
    }

    /// 50,000 sat paid, 40,000 spent, and a closing agreed on at the tip.
    pub fn closing_together() -> Self {
        let mut payee = Self::with(sat(50_000), sat(40_000));
        payee.takes(settle(settlement(40_000)));
        payee
    }

    /// 50,000 sat paid, and the operator wants them.
    pub fn closing_alone() -> Self {
        let mut payee = Self::with(sat(50_000), sat(40_000));
        payee.takes(Input::Close);
        payee
    }

    /// 50,000 sat paid, and its commitment is final.
    pub fn closed() -> Self {
        let mut payee = Self::closing_alone();
        payee.sees(TIP + 10, spent(&commitment_to(sat(50_000)), POLICY.finality));
        payee
    }

    pub fn takes(&mut self, input: Input) -> Vec<Effect> {
        let (next, effects) = commit(self.state.handle(&self.setup, input).expect("an input that fits"));
        self.state = next;
        effects
    }

    /// The refusal. Asked again it refuses again, and nothing has changed.
    pub fn refuses(&self, input: Input) -> Reject {
        let before = (self.state.clone(), self.state.resume(&self.setup));
        let reject = self.state.handle(&self.setup, input.clone()).expect_err("an input that does not fit");
        let again = self.state.handle(&self.setup, input).expect_err("an input that does not fit");
        assert_eq!(again, reject);
        assert_eq!((self.state.clone(), self.state.resume(&self.setup)), before);
        reject
    }

    pub fn sees(&mut self, height: u32, funding: Funding) -> Vec<Effect> {
        self.takes(Input::Sighted(at(height, funding)))
    }

    pub fn paid_and_spent(&self) -> (Msat, Msat) {
        (self.state.ledger().paid(), self.state.ledger().spent)
    }
}

pub fn opening_signature() -> secp256k1::schnorr::Signature {
    match commit(payer::propose(&payer_setup())).1.remove(0) {
        payer::Effect::Propose(opening) => opening.signature,
        other => panic!("a proposal, not {other:?}"),
    }
}

pub fn charge(payment: Option<Payment>, cost: Msat) -> Input {
    Input::Charge { payment, cost }
}

/// At the tip.
pub fn settle(settlement: Settlement) -> Input {
    Input::Settle { settlement, height: TIP }
}

pub fn served(cost: Msat) -> Vec<Effect> {
    vec![Effect::Serve { cost }]
}

pub fn published(total: Msat) -> Vec<Effect> {
    vec![Effect::Publish(Box::new(publication_of(total)))]
}

/// A plain commitment and what it leaves to the miner.
pub fn publication_of(total: Msat) -> payee::Publication {
    let commitment = commitment_to(total);
    let paid: Amount = commitment.output.iter().map(|output| output.value).sum();
    payee::Publication { commitment, fee: params().capacity - paid, rung: None, plain: None }
}

pub fn state_of(payee: &Payee) -> &'static str {
    payee.state.name()
}
