//! The JSON bodies of opening and closing, and of what is said between calls: what decodes is handed on as server and client do, and ends in an
//! error or in something that fits the fixed channel. Terms of any size make a channel or an error, never a panic.
#![no_main]

use std::sync::LazyLock;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Amount, FeeRate, Transaction};
use farthing_fuzz::{Choices, fixture, json};
use farthing_http::problem::{self, Kind};
use farthing_http::wire::{
    AcceptedBody, ChainTaken, CloseBody, ClosedBody, ClosingBody, OpenBody, StandingAnswer, StandingBody,
    TopUpAnswer, TopUpBody,
};
use farthing_protocol::closing::{self, Answer, Proposal, PublicNonce};
use farthing_protocol::lightspeed::numbers::Standing;
use farthing_protocol::lightspeed::{Call, CallNumber, Ladder, Tab};
use farthing_protocol::opening::{Limits, Opening};
use farthing_protocol::payer::call;
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, Msat, commitment, payee, payer};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let fixture = fixture::fixture();
    match choices.byte() % 12 {
        0 | 1 => {
            let height = choices.u32();
            let body = OpenBody { challenge: fixture::challenge(), opening: fixture.opening.clone() };
            if let Some(body) = read(&mut choices, &body) {
                open(body, height);
            }
        }
        2 => {
            let body = AcceptedBody { channel: fixture.payer.channel.id(), signature: fixture.acceptance };
            if let Some(AcceptedBody { channel, signature }) = read(&mut choices, &body) {
                let accepted = payer::State::AwaitingAcceptance
                    .handle(&fixture.payer, payer::Input::Accepted(signature));
                assert_eq!(accepted.is_ok(), signature == fixture.acceptance);
                let _another_channel = channel != fixture.payer.channel.id();
            }
        }
        3 => {
            let nonce = proposal(1).public_nonce().0;
            let body = CloseBody { to_payee_sat: 40_000, fee_rate_sat_per_kwu: 500, nonce, mac: [9; 32] };
            if let Some(body) = read(&mut choices, &body) {
                close(&body);
            }
        }
        4 => {
            let body = ClosingBody { nonce: proposal(2).public_nonce().0, partial_signature: [1; 32] };
            if let Some(body) = read(&mut choices, &body) {
                let answer = Answer::from(body);
                // Its halves add up only if both are the payee's for this round, which nobody guesses.
                let completed = proposal(3).complete(&fixture.payer.channel, &fixture.payer.keys, &answer);
                assert!(completed.is_err());
            }
        }
        5 => {
            let body = ClosedBody { transaction: serialize_hex(&fixture.closing) };
            if let Some(body) = read(&mut choices, &body) {
                closed(&body.transaction);
            }
        }
        6 => {
            let body = StandingBody { last: RUNNING, mac: [9; 32] };
            if let Some(body) = read(&mut choices, &body) {
                standing(&body);
            }
        }
        7 => {
            let body = StandingAnswer { epoch: 2, spent_msat: Some(CALLED.get()) };
            if let Some(answer) = read(&mut choices, &body) {
                told_standing(answer);
            }
        }
        8 => {
            if let Some(body) = read(&mut choices, &TopUpBody { number: RUNNING, by_msat: 50_000 }) {
                top_up(body);
            }
        }
        9 => {
            // A payer knows itself what it has set aside.
            let _told: Option<TopUpAnswer> = read(&mut choices, &TopUpAnswer { aside_msat: 350_000 });
        }
        10 => {
            if let Some(ChainTaken { epoch }) = read(&mut choices, &ChainTaken { epoch: 2 }) {
                told_taken(epoch);
            }
        }
        _ => {
            let body = problem::Body {
                uri: "https://paymentauth.org/problems/channel-not-open".into(),
                title: "channel not open".into(),
                status: 402,
                detail: "the channel is closing".into(),
            };
            if let Some(said) = read(&mut choices, &body) {
                // A payer leaves the channel for this kind and for no other text.
                assert_eq!(said.kind() == Some(Kind::ChannelNotOpen), said.uri == body.uri);
            }
        }
    }
});

fn read<T: Serialize + DeserializeOwned>(choices: &mut Choices<'_>, example: &T) -> Option<T> {
    let example = serde_json::to_value(example).expect("a body is JSON");
    serde_json::from_slice(&json(choices, &example)).ok()
}

fn proposal(entropy: u8) -> Proposal {
    let fixture = fixture::fixture();
    Proposal::new(&fixture.payer.channel, &fixture.payer.keys, fixture.settlement, [entropy; 32])
        .expect("the settlement fits")
}

/// As the server opens a channel, without the chain.
fn open(body: OpenBody, height: u32) {
    let OpenBody { challenge, opening } = body;
    let offer = match challenge.request() {
        Ok(request) => request.method_details.offer,
        Err(_) => fixture::offer(),
    };
    let Opening { params, signature } = opening;
    let limits = Limits {
        most_capacity: Amount::MAX_MONEY,
        fee_rate: (FeeRate::ZERO, FeeRate::MAX),
        most_lifetime: u32::MAX,
        most_prepaid: Amount::MAX_MONEY,
        most_confirmations: u32::MAX,
    };
    let _may_be_refused = (offer.check(&params, height), limits.check(&offer, &params, height));
    let Ok(channel) = Channel::new(params) else { return };
    let params = channel.params();
    let most = channel.max_total();
    assert!(Msat::from_amount(params.prepaid).is_some_and(|prepaid| prepaid <= most));
    // Every total makes a transaction that pays no more than is locked.
    for total in [Msat::ZERO, Msat::from_amount(params.prepaid).unwrap_or_default(), most] {
        let transaction = commitment::build(&channel, total);
        let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
        assert!(paid + channel.commitment_fee() <= params.capacity);
    }
    let setup = payee::Setup { keys: fixture::keys(2), policy: fixture::POLICY, channel };
    let accepted = payee::accept(&setup, &signature);
    if setup.channel.id() != fixture::fixture().payee.channel.id() {
        // The example's signature is on another channel.
        assert!(accepted.is_err(), "nobody guesses a signature");
    }
}

fn close(body: &CloseBody) {
    let fixture = fixture::fixture();
    let setup = &fixture.payee;
    let id = setup.channel.id();
    let mut scratch = String::new();
    let key = CallKey::agree(&setup.keys, &fixture.payer.keys.session(), id);
    let call = body.call(id, "files.example:8402", "/close", &mut scratch);
    assert!(key.verify(&call, &body.mac).is_err(), "nobody guesses a MAC");
    // As if the MAC had fitted.
    let (settlement, nonce) = (body.settlement(), PublicNonce(body.nonce));
    let accepted = payee::accept(setup, &fixture.opening.signature).expect("the payer's own signature");
    let (state, _) = accepted.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
    let agreed = state.handle(setup, payee::Input::Settle { settlement, height: 500 });
    let signed = closing::cosign(&setup.channel, &setup.keys, &settlement, &nonce, [5; 32]);
    if agreed.is_ok() {
        let transaction = closing::build(&setup.channel, &settlement).expect("the machine has built it");
        let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
        assert!(paid <= fixture::CAPACITY);
    } else {
        let _the_machine_refuses_more = signed.is_ok();
    }
}

fn closed(hex: &str) {
    let Ok(transaction) = deserialize_hex::<Transaction>(hex) else { return };
    let fixture = fixture::fixture();
    let channel = &fixture.payee.channel;
    let _kind = channel.spend_kind(&transaction);
    if closing::is_complete(channel, &fixture.settlement, &transaction) {
        assert_eq!(transaction, fixture.closing, "nobody guesses a signature");
    }
}

/// A call that runs at the payee of [`TAB`].
const RUNNING: CallNumber = CallNumber { epoch: 1, counter: 2 };

/// A payee's tab on the first chain: of two calls of 300,000 msat one was served, and the other runs.
static TAB: LazyLock<Tab> = LazyLock::new(|| {
    let (channel, chain) = (&fixture::fixture().payee.channel, &fixture::chains()[0]);
    let (terms, rungs) = (*chain.terms(), chain.rungs.clone());
    let ladder = Ladder::verify(channel, terms, chain.base, rungs, fixture::POLICY.margin as u16);
    let ladder = ladder.expect("the fixture's chains fit");
    let mut tab = Tab::new(fixture::prepayment(), Msat::ZERO);
    tab.begin(RUNNING.epoch);
    tab.announce(&ladder).expect("the next chain");
    let served = CallNumber { counter: 1, ..RUNNING };
    for number in [served, RUNNING] {
        let (cost, word) = (Msat::new(300_000), chain.word(5));
        let call =
            Call { channel: channel.id(), number, cost, chain: terms.number, index: 5, word, last: None };
        tab.admit([&ladder], &call, None).expect("it is paid for");
    }
    assert_eq!(tab.end(served, Some(Msat::new(300_000))), Msat::new(300_000));
    tab
});

/// As the payee tells a payer where it stands: whatever number that has named, the sum stays what it is told.
fn standing(body: &StandingBody) {
    let fixture = fixture::fixture();
    let id = fixture.payee.channel.id();
    let key = CallKey::agree(&fixture.payee.keys, &fixture.payer.keys.session(), id);
    let call = body.call(id, "files.example:8402", "/standing");
    assert!(key.verify(&call, &body.mac).is_err(), "nobody guesses a MAC");
    // As if the MAC had fitted.
    let mut tab = Tab::clone(&TAB);
    assert_eq!(tab.reconcile(body.last), None, "a call runs");
    tab.end(RUNNING, None);
    assert_eq!(tab.reconcile(body.last), Some(TAB.spent()));
    for counter in [body.last.counter, body.last.counter / 2] {
        let standing = tab.numbers().standing(CallNumber { counter, ..body.last });
        assert_ne!(standing, Standing::New, "a call up to this one may be served and change the sum");
    }
}

/// As the payee sets more aside: only for the call that runs, and only what is paid for.
fn top_up(body: TopUpBody) {
    let mut tab = Tab::clone(&TAB);
    let taken = |tab: &Tab| tab.spent().saturating_add(tab.numbers().pending());
    let (by, left) = (Msat::new(body.by_msat), tab.paid().saturating_sub(taken(&tab)));
    let raised = tab.top_up(body.number, by, None);
    assert_eq!(raised.is_ok(), body.number == RUNNING && by <= left);
    assert!(taken(&tab) <= tab.paid(), "serves what was not paid for");
}

/// What the calls of [`PAYING`] may have cost.
const CALLED: Msat = Msat::new(750_000);

/// A payer whose first chain is taken: two calls have no answer, and the second chain is announced.
static PAYING: LazyLock<payer::State> = LazyLock::new(|| {
    let fixture = fixture::fixture();
    let accepted = payer::Input::Accepted(fixture.acceptance);
    let accepted = payer::State::AwaitingAcceptance.handle(&fixture.payer, accepted);
    let accepted = accepted.expect("the payee has signed it").commit(|_| Ok::<(), ()>(()));
    let (mut state, _) = accepted.expect("this save does not fail");
    let [first, second] = fixture::chains().each_ref().map(|chain| *chain.terms());
    for input in [
        call::Input::Announce(first),
        call::Input::Taken { chain: first.number, epoch: 1 },
        call::Input::call(Msat::new(700_000)),
        call::Input::call(Msat::new(50_000)),
        call::Input::Announce(second),
    ] {
        state = after(&state, input).expect("this input fits");
    }
    assert_eq!(state.ledger().spent, CALLED);
    state
});

fn after(state: &payer::State, input: call::Input) -> Result<payer::State, payer::Reject> {
    let decided = state.handle(&fixture::fixture().payer, payer::Input::Call(input))?;
    Ok(decided.commit(|_| Ok::<(), ()>(())).expect("this save does not fail").0)
}

/// As the payer takes the payee's sum: never more than what it has sent.
fn told_standing(answer: StandingAnswer) {
    let state = after(&PAYING, call::Input::Epoch(answer.epoch)).expect("any epoch is taken note of");
    assert_eq!(state.ledger(), PAYING.ledger(), "an epoch costs nothing");
    let Some(spent) = answer.spent_msat.map(Msat::new) else { return };
    let last = state.purse().expect("it pays for calls").last_number();
    let reconciled = after(&state, call::Input::Reconcile { last, spent });
    assert_eq!(reconciled.is_ok(), spent <= CALLED);
    if let Ok(state) = reconciled {
        assert_eq!(state.ledger().spent, spent);
        assert_eq!(state.ledger().paid(), PAYING.ledger().paid(), "no word was sent");
    }
}

/// As the payer goes on once its chain is taken, in whatever epoch that is.
fn told_taken(epoch: u32) {
    let purse = |state: &payer::State| state.purse().expect("it pays for calls").clone();
    let (chain, _) = purse(&PAYING).announced().expect("the second chain waits");
    let state = after(&PAYING, call::Input::Taken { chain: chain.number, epoch }).expect("it was announced");
    assert_eq!(state.ledger(), PAYING.ledger(), "an epoch costs nothing");
    assert_eq!((purse(&state).epoch(), purse(&state).announced()), (epoch.max(1), None));
    let state = after(&state, call::Input::call(Msat::new(1))).expect("its words cover it");
    assert_eq!(purse(&state).last_number().epoch, epoch.max(1));
}
