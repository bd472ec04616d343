//! What is read back from the store is not trusted: bytes that decode as a state or as parameters may be asked everything
//! and may get every input. Errors and odd decisions are fine; panics are not.
#![no_main]

use bitcoin::{Amount, FeeRate, OutPoint, Transaction};
use farthing_fuzz::{Choices, fixture};
use farthing_node::machine::{Machine, Payee, PayeeRecord, Payer, PayerRecord};
use farthing_protocol::closing::Settlement;
use farthing_protocol::keys::Seed;
use farthing_protocol::lightspeed::{CallNumber, ChainTerms, Shape, Tab};
use farthing_protocol::payer::call;
use farthing_protocol::sighting::{Funding, Locked, Sighting};
use farthing_protocol::{Channel, Msat, Params, Payment, commitment, payee, payer};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many inputs a state gets, one after the other.
const INPUTS: usize = 12;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let fixture = fixture::fixture();
    match choices.byte() % 5 {
        0 => run::<Payer>(&mut choices, &fixture.payer, payer_input),
        1 => run::<Payee>(&mut choices, &fixture.payee, payee_input),
        2 => {
            if let Some(params) = decoded::<Params>(&mut choices) {
                let _may_make_no_channel = Channel::new(params);
            }
        }
        3 => record::<Payer, PayerRecord>(&mut choices),
        _ => record::<Payee, PayeeRecord>(&mut choices),
    }
});

/// The value at the front, if there is one; and what is written is read again the same.
fn decoded<T: Serialize + DeserializeOwned>(choices: &mut Choices<'_>) -> Option<T> {
    let (value, rest): (T, _) = postcard::take_from_bytes(choices.peek()).ok()?;
    choices.resume_at(rest);
    let written = postcard::to_stdvec(&value).expect("a value that was read can be written");
    let again: T = postcard::from_bytes(&written).expect("what was written can be read");
    assert_eq!(postcard::to_stdvec(&again).expect("written before"), written);
    Some(value)
}

fn record<M: Machine<Record = R>, R: Serialize + DeserializeOwned>(choices: &mut Choices<'_>) {
    let Some(record) = decoded::<R>(choices) else { return };
    let seed = Seed::new([2; 64], bitcoin::Network::Regtest);
    if let Ok(setup) = M::setup(&record, &seed) {
        let _id = M::channel(&setup).id();
    }
}

fn run<M: Machine>(choices: &mut Choices<'_>, setup: &M::Setup, input: fn(&mut Choices<'_>) -> M::Input) {
    let Some(mut state) = decoded::<M::State>(choices) else { return };
    for _ in 0..INPUTS {
        ask::<M>(&state, setup);
        if choices.is_empty() {
            break;
        }
        if let Ok(transition) = M::handle(&state, setup, input(choices)) {
            let (next, _effects) = transition.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
            state = next;
        }
    }
    ask::<M>(&state, setup);
}

fn ask<M: Machine>(state: &M::State, setup: &M::Setup) {
    let ledger = M::ledger(state);
    let _answers = (ledger.paid(), ledger.credit(), M::name(state), M::is_live(state));
    let _to_be_repeated = M::resume(state, setup);
}

fn sighting(choices: &mut Choices<'_>) -> Sighting {
    let fixture = fixture::fixture();
    let near = [0, 500, fixture::EXPIRY - 37, fixture::EXPIRY - 36, fixture::EXPIRY - 1, fixture::EXPIRY];
    let height = match choices.byte() % 8 {
        at @ 0..=5 => near[usize::from(at)],
        _ => choices.u32(),
    };
    let confirmations = if choices.byte() > 200 { choices.u32() } else { u32::from(choices.byte() % 8) };
    let mut output = fixture.payer.channel.funding_txout();
    if choices.byte() > 230 {
        output.value = Amount::from_sat(choices.amount());
    }
    let funding = match choices.byte() % 5 {
        0 => Funding::Unseen,
        1 => Funding::Unconfirmed(output),
        2 => Funding::Confirmed { output, confirmations },
        _ => Funding::Spent { by: spend(choices).into(), confirmations },
    };
    let locked = match &funding {
        Funding::Spent { by, .. } if choices.byte() > 100 => vec![locked(choices, by)],
        _ => Vec::new(),
    };
    Sighting { height, fee_rate: FeeRate::from_sat_per_kwu(choices.amount()), funding, locked }
}

fn locked(choices: &mut Choices<'_>, by: &Transaction) -> Locked {
    let outpoint = OutPoint { txid: by.compute_txid(), vout: 0 };
    let confirmations = u32::from(choices.byte() % 64);
    let status = match (choices.byte() % 3, by.output.first()) {
        (0, Some(output)) => Funding::Confirmed { output: output.clone(), confirmations },
        (1, _) => Funding::Spent { by: spend(choices).into(), confirmations },
        _ => Funding::Unseen,
    };
    Locked { outpoint, status }
}

fn spend(choices: &mut Choices<'_>) -> Transaction {
    let fixture = fixture::fixture();
    let spends = [&fixture.commitment, &fixture.closing, &fixture.refund, &fixture.stranger];
    let mut spend = spends[usize::from(choices.byte() % 4)].clone();
    if choices.byte() > 230 {
        spend.input[0].witness.push(choices.take(40));
    }
    spend
}

fn payer_input(choices: &mut Choices<'_>) -> payer::Input {
    let fixture = fixture::fixture();
    match choices.byte() % 12 {
        0 => payer::Input::Accepted(fixture.acceptance),
        1 => payer::Input::Refused,
        2 => payer::Input::Buy { cost: Msat::new(choices.amount()) },
        3 => payer::Input::Close {
            fee_rate: FeeRate::from_sat_per_kwu(choices.amount()),
            charged: Some(Msat::new(choices.amount())),
        },
        4 => payer::Input::Countersigned { transaction: spend(choices) },
        5..=8 => payer::Input::Call(call_input(choices)),
        _ => payer::Input::Sighted(sighting(choices)),
    }
}

fn call_input(choices: &mut Choices<'_>) -> call::Input {
    let number = CallNumber { epoch: choices.byte().into(), counter: choices.amount() };
    let small = u32::from(choices.byte() % 4);
    match choices.byte() % 8 {
        0 => {
            let shape = Shape { unit: Msat::new(choices.amount()), words: choices.u32(), ..fixture::SHAPE };
            call::Input::Announce(ChainTerms { shape, ..*fixture::chains()[usize::from(small > 1)].terms() })
        }
        1 => call::Input::Announce(*fixture::chains()[usize::from(small > 1)].terms()),
        2 => call::Input::Taken { chain: small, epoch: number.epoch },
        3 => call::Input::Refused { chain: small },
        4 => call::Input::Call { cost: Msat::new(choices.amount()), most: Msat::new(choices.amount()) },
        5 => call::Input::Answered { number, charged: Some(Msat::new(choices.amount())) },
        6 => call::Input::Epoch(choices.u32()),
        _ => call::Input::Reconcile { last: number, spent: Msat::new(choices.amount()) },
    }
}

fn payee_input(choices: &mut Choices<'_>) -> payee::Input {
    match choices.byte() % 10 {
        0 | 1 => payee::Input::Charge { payment: payment(choices), cost: Msat::new(choices.amount()) },
        2 => {
            let (to_payee, fee_rate) =
                (Amount::from_sat(choices.amount()), FeeRate::from_sat_per_kwu(choices.amount()));
            payee::Input::Settle {
                settlement: Settlement { to_payee, fee_rate },
                height: choices.amount() as u32,
            }
        }
        3 => payee::Input::Settled { transaction: spend(choices) },
        4 => payee::Input::Close,
        5 | 6 => {
            let total = Msat::new(choices.amount());
            let prepaid = Payment { total, ..fixture::prepayment() };
            payee::Input::Fold(Box::new(Tab::new(prepaid, Msat::new(choices.amount()))))
        }
        _ => payee::Input::Sighted(sighting(choices)),
    }
}

/// None, a genuine one, or bytes.
fn payment(choices: &mut Choices<'_>) -> Option<Payment> {
    let setup = &fixture::fixture().payer;
    match choices.byte() % 3 {
        0 => None,
        1 => {
            let total = Msat::new(choices.amount()).min(setup.channel.max_total());
            Some(commitment::sign(&setup.channel, &setup.keys, total))
        }
        _ => Payment::from_bytes(&choices.array::<72>()).ok(),
    }
}
