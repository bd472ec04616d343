//! A payer in one of its states, for stories.

use bitcoin::{FeeRate, Transaction};
use farthing_protocol::payer::{self, Effect, Input, Reject, State};
use farthing_protocol::sighting::Funding;
use farthing_protocol::{Msat, payee};
use secp256k1::schnorr;

use super::*;

pub struct Payer {
    pub setup: payer::Setup,
    pub state: State,
}

impl Payer {
    pub fn awaiting_acceptance() -> Self {
        let setup = payer_setup();
        let (state, _) = commit(payer::propose(&setup));
        Self { setup, state }
    }

    pub fn abandoned() -> Self {
        let mut payer = Self::awaiting_acceptance();
        payer.takes(Input::Refused);
        payer
    }

    pub fn awaiting_funding() -> Self {
        let mut payer = Self::awaiting_acceptance();
        payer.takes(Input::Accepted(acceptance()));
        payer
    }

    pub fn open() -> Self {
        let mut payer = Self::awaiting_funding();
        payer.sees(TIP, confirmed(1));
        payer
    }

    /// It bought something for 40,000 sat.
    pub fn with_spent() -> Self {
        let mut payer = Self::open();
        payer.buys(sat(40_000));
        payer
    }

    /// It proposed to settle the 40,000 sat.
    pub fn closing() -> Self {
        let mut payer = Self::with_spent();
        payer.takes(close(rate(2)));
        payer
    }

    /// The payee signed, too.
    pub fn closing_complete() -> Self {
        let mut payer = Self::closing();
        payer.takes(Input::Countersigned { transaction: closing_of(&settlement(40_000)) });
        payer
    }

    pub fn refunding() -> Self {
        let mut payer = Self::with_spent();
        payer.sees(EXPIRY, confirmed(900));
        payer
    }

    pub fn closed() -> Self {
        let mut payer = Self::closing_complete();
        payer.sees(TIP + 9, spent(&closing_of(&settlement(40_000)), FINALITY));
        payer
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

    pub fn buys(&mut self, cost: Msat) -> Vec<Effect> {
        self.takes(Input::Buy { cost })
    }

    pub fn sees(&mut self, height: u32, funding: Funding) -> Vec<Effect> {
        self.takes(Input::Sighted(at(height, funding)))
    }

    pub fn paid_and_spent(&self) -> (Msat, Msat) {
        (self.state.ledger().paid(), self.state.ledger().spent)
    }
}

pub fn acceptance() -> schnorr::Signature {
    match payee::acceptance(&payee_setup()) {
        payee::Effect::Accept(signature) => signature,
        other => panic!("an acceptance, not {other:?}"),
    }
}

pub fn close(fee_rate: FeeRate) -> Input {
    Input::Close { fee_rate, charged: None }
}

pub fn paid(total: Msat) -> Vec<Effect> {
    vec![Effect::Pay(payment(total))]
}

pub fn broadcast(transaction: &Transaction) -> Vec<Effect> {
    vec![Effect::Broadcast(transaction.clone())]
}

pub fn funding() -> Transaction {
    funding_transaction(&channel())
}

pub fn state_of(payer: &Payer) -> &'static str {
    payer.state.name()
}
