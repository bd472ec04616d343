//! A payer's purse: what it sends, what it refuses to send, and a payee that answers what it should not.

mod common;

use common::call_story::*;
use common::payer_story::{Payer, broadcast, close, state_of};
use common::*;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::ledger::Ledger;
use farthing_protocol::lightspeed::ladder::BadLadder;
use farthing_protocol::lightspeed::purse::{MOST_OUTSTANDING, Purse, Ticket, Unable};
use farthing_protocol::lightspeed::tab::MOST_STEPS;
use farthing_protocol::lightspeed::terms::BadShape;
use farthing_protocol::lightspeed::{CallNumber, Shape};
use farthing_protocol::payer::call::Input;
use farthing_protocol::payer::{self, Effect, Reject};
use farthing_protocol::{Msat, closing};
use proptest::collection::vec;
use proptest::prelude::*;

/// Open, with chain 1 of that shape taken in epoch 1.
fn payer_on(shape: Shape) -> Payer {
    let mut payer = Payer::open();
    payer.calls(Input::Announce(terms(shape, 1)));
    payer.calls(Input::Taken { chain: 1, epoch: 1 });
    payer
}

fn announce(payer: &mut Payer, shape: Shape) -> u32 {
    let purse = payer.state.purse().expect("it pays for calls");
    let (number, base) = purse.next_chain().expect("no chain waits");
    let effects = payer.calls(Input::Announce(terms(shape, number)));
    assert_eq!(effects, [Effect::Announce(terms(shape, number), base)]);
    number
}

fn buys(payer: &mut Payer, cost: Msat) -> Ticket {
    match payer.calls(Input::call(cost))[..] {
        [Effect::Call(ticket)] => ticket,
        ref other => panic!("a call, not {other:?}"),
    }
}

fn unable(payer: &Payer, input: Input) -> Unable {
    match payer.refuses(payer::Input::Call(input)) {
        Reject::Call(unable) => unable,
        other => panic!("{other:?}"),
    }
}

fn answer(payer: &mut Payer, number: CallNumber, charged: Option<Msat>) {
    assert_eq!(payer.calls(Input::Answered { number, charged }), []);
}

// Sending.

#[test]
fn each_call_shows_just_the_word_that_covers_everything_before_it() {
    let mut payer = payer_on(SHAPE);
    let sent =
        [sat(600), Msat::new(1), sat(10), Msat::new(9_999), Msat::ZERO].map(|cost| buys(&mut payer, cost));
    assert_eq!(sent.map(|ticket| ticket.index), [0, 1, 2, 2, 2]);
    assert_eq!(sent.map(|ticket| ticket.number.counter), [1, 2, 3, 4, 5]);
    // What failed pays for the next call, and no word is taken back.
    answer(&mut payer, sent[2].number, None);
    assert_eq!(buys(&mut payer, sat(10)).index, 2);
    assert_eq!(buys(&mut payer, Msat::new(1)).index, 3);
}

#[test]
fn a_word_that_is_worth_more_than_is_allowed_is_not_drawn() {
    let mut payer = payer_on(SHAPE);
    let running = buys(&mut payer, sat(600)).number;
    let most = Msat::new(609_999);
    let over = Unable::OverAllowed { most, got: sat(610) };
    for input in [Input::Call { cost: sat(1), most }, Input::TopUp { number: running, by: sat(1), most }] {
        assert_eq!(unable(&payer, input), over);
    }
    assert_eq!(payer.state.ledger().paid(), sat(600), "no word is used up");
    let allowed = payer.calls(Input::Call { cost: sat(1), most: sat(610) });
    assert!(matches!(allowed[..], [Effect::Call(Ticket { index: 1, .. })]), "{allowed:?}");
    assert_eq!(payer.state.ledger().paid(), sat(610));
}

#[test]
fn nothing_is_sent_before_a_chain_is_taken() {
    let mut payer = Payer::open();
    assert_eq!(payer.refuses(payer::Input::Call(Input::call(sat(1)))), Reject::PaysForPieces);
    let sum = Input::Reconcile { last: number(0, 0), spent: sat(1) };
    assert_eq!(payer.refuses(payer::Input::Call(sum)), Reject::PaysForPieces);
    let effects = payer.calls(Input::Announce(terms(SHAPE, 1)));
    assert_eq!(effects, [Effect::Announce(terms(SHAPE, 1), PREPAID)]);
    assert_eq!(unable(&payer, Input::call(sat(1))), Unable::NeedsChain);
    payer.calls(Input::Taken { chain: 1, epoch: 1 });
    assert_eq!(buys(&mut payer, sat(1)).chain, 1);
    assert_eq!(payer.refuses(payer::Input::Buy { cost: sat(1) }), Reject::PaysForCalls);
}

#[test]
fn a_chain_that_does_not_fit_is_not_announced() {
    let mut payer = payer_on(SHAPE);
    for (number, error) in [(0, 0), (1, 1), (3, 3), (u32::MAX, u32::MAX)] {
        assert_eq!(unable(&payer, Input::Announce(terms(SHAPE, number))), Unable::WrongChain(error));
    }
    let long = Shape { words: 9_900, rungs: 1, ..SHAPE };
    let (words, unit, base) = (9_900, SHAPE.unit, sat(1_100));
    let over = BadLadder::OverCapacity { words, unit, base, most: sat(99_592) };
    assert_eq!(unable(&payer, Input::Announce(terms(long, 2))), Unable::BadChain(over));
    let fit = payer.state.purse().unwrap().fit(&payer.setup.channel, long);
    assert_eq!(fit, Some(Shape { words: 9_849, ..long }));
    let no_unit = Shape { unit: Msat::ZERO, ..SHAPE };
    let bad = BadLadder::Shape(BadShape::Unit(Msat::ZERO));
    assert_eq!(unable(&payer, Input::Announce(terms(no_unit, 2))), Unable::BadChain(bad));
    announce(&mut payer, fit.unwrap());
    assert_eq!(unable(&payer, Input::Announce(terms(SHAPE, 3))), Unable::Waiting(2));
    payer.calls(Input::Taken { chain: 2, epoch: 1 });
    assert_eq!(unable(&payer, Input::Announce(terms(SHAPE, 3))), Unable::Waiting(2));
}

#[test]
fn a_chain_that_was_refused_gives_its_number_up_for_good() {
    let mut payer = payer_on(SHAPE);
    assert_eq!(announce(&mut payer, SHAPE), 2);
    assert_eq!(unable(&payer, Input::Refused { chain: 1 }), Unable::WrongChain(1));
    payer.calls(Input::Refused { chain: 2 });
    assert_eq!(unable(&payer, Input::Taken { chain: 2, epoch: 1 }), Unable::WrongChain(2));
    assert_eq!(announce(&mut payer, SHAPE), 3);
    payer.calls(Input::Taken { chain: 3, epoch: 1 });
    // A refusal that comes after the chain was taken is an old one.
    assert_eq!(unable(&payer, Input::Refused { chain: 3 }), Unable::WrongChain(3));
    buys(&mut payer, sat(1_100));
    assert_eq!(buys(&mut payer, sat(10)).chain, 3);
}

#[test]
fn the_first_calls_on_a_chain_carry_the_last_word_of_the_one_before_until_one_is_served() {
    let mut payer = payer_on(SHAPE);
    let old = buys(&mut payer, sat(1_000));
    assert_eq!(unable(&payer, Input::call(sat(101))), Unable::NeedsChain);
    announce(&mut payer, SHAPE);
    assert_eq!(unable(&payer, Input::call(sat(101))), Unable::NeedsChain, "it is not taken");
    payer.calls(Input::Taken { chain: 2, epoch: 1 });
    let [first, second, third] = [sat(101), sat(10), sat(10)].map(|cost| buys(&mut payer, cost));
    let carried = Some((1, 50));
    assert_eq!((first.chain, first.index, first.last), (2, 1, carried));
    assert_eq!((second.last, third.last), (carried, carried));
    answer(&mut payer, old.number, Some(sat(1_000)));
    answer(&mut payer, first.number, None);
    assert_eq!(buys(&mut payer, sat(10)).last, carried, "neither tells that the payee has it");
    answer(&mut payer, third.number, Some(Msat::ZERO));
    assert_eq!(buys(&mut payer, sat(10)).last, None);
    // A payee that starts afresh may have lost it.
    payer.calls(Input::Epoch(2));
    let again = buys(&mut payer, sat(10));
    assert_eq!((again.number, again.last), (number(2, 1), carried));
    answer(&mut payer, second.number, Some(sat(10)));
    assert_eq!(buys(&mut payer, sat(10)).last, carried, "that one was served before");
    answer(&mut payer, again.number, Some(sat(10)));
    assert_eq!(buys(&mut payer, sat(10)).last, None);
    payer.calls(Input::Epoch(1));
    assert_eq!(buys(&mut payer, sat(10)).number, number(2, 4), "epochs only grow");
}

#[test]
fn no_call_takes_more_than_the_channel_the_chain_or_the_payee_allows() {
    let mut payer = payer_on(SHAPE);
    let most = sat(99_592);
    let over = Unable::OverCapacity { most, got: Msat::new(99_592_001) };
    assert_eq!(unable(&payer, Input::call(Msat::new(99_592_001))), over);
    buys(&mut payer, sat(1));
    let over = Unable::OverCapacity { most, got: Msat::new(u64::MAX) };
    assert_eq!(unable(&payer, Input::call(Msat::new(u64::MAX))), over);
    // A chain that waits must be worth a call.
    announce(&mut payer, Shape { words: 7, rungs: 7, ..SHAPE });
    payer.calls(Input::Taken { chain: 2, epoch: 1 });
    let cost = Msat::new(1_169_001);
    assert_eq!(unable(&payer, Input::call(cost)), Unable::TooDear { cost, most: sat(70) });
    assert_eq!(buys(&mut payer, sat(1_169)).index, 7);

    let long = Shape { unit: Msat::new(1), words: 3 * MOST_STEPS, rungs: 1, ..SHAPE };
    let mut payer = payer_on(long);
    let steps = Msat::new(MOST_STEPS.into());
    let cost = Msat::new(600_000 + u64::from(MOST_STEPS) + 1);
    assert_eq!(unable(&payer, Input::call(cost)), Unable::TooDear { cost, most: steps });
    let first = buys(&mut payer, PREPAID.saturating_add(steps));
    assert_eq!(unable(&payer, Input::call(Msat::new(1))), Unable::TooManyOutstanding(1));
    answer(&mut payer, first.number, Some(PREPAID.saturating_add(steps)));
    buys(&mut payer, steps);
}

#[test]
fn only_so_many_calls_wait_for_an_answer() {
    let mut payer = payer_on(SHAPE);
    let first = buys(&mut payer, Msat::ZERO);
    for _ in 1..MOST_OUTSTANDING {
        buys(&mut payer, Msat::ZERO);
    }
    let refused = unable(&payer, Input::call(Msat::ZERO));
    assert_eq!(refused, Unable::TooManyOutstanding(MOST_OUTSTANDING));
    answer(&mut payer, first.number, None);
    buys(&mut payer, Msat::ZERO);
}

// Answers.

#[test]
fn a_payee_that_charges_more_than_the_call_allowed_is_not_believed() {
    let mut payer = payer_on(SHAPE);
    let call = buys(&mut payer, sat(100));
    let (most, got) = (sat(100), Msat::new(100_001));
    let refused = unable(&payer, Input::Answered { number: call.number, charged: Some(got) });
    assert_eq!(refused, Unable::Overcharged { most, got });
    assert_eq!(payer.state.ledger().spent, sat(100), "it counts in full as long as it is not answered");
    answer(&mut payer, call.number, Some(sat(60)));
    assert_eq!(payer.state.ledger().spent, sat(60));
}

#[test]
fn an_answer_counts_once_and_only_for_a_call_that_was_sent() {
    let mut payer = payer_on(SHAPE);
    let call = buys(&mut payer, sat(100));
    for charged in [Some(sat(60)), Some(sat(60)), Some(sat(900)), None] {
        answer(&mut payer, call.number, charged);
        assert_eq!(payer.state.ledger().spent, sat(60));
    }
    for unknown in [number(1, 2), number(2, 1), number(0, 0)] {
        answer(&mut payer, unknown, Some(sat(900)));
    }
    assert_eq!(payer.state.ledger().spent, sat(60));
}

#[test]
fn a_payee_that_states_more_than_was_sent_is_not_believed() {
    let mut payer = payer_on(SHAPE);
    let answered = buys(&mut payer, sat(100));
    answer(&mut payer, answered.number, Some(sat(100)));
    buys(&mut payer, sat(20));
    buys(&mut payer, sat(3));
    for got in [Msat::new(123_001), Msat::new(u64::MAX)] {
        let refused = unable(&payer, payer.sum(got));
        assert_eq!(refused, Unable::WrongSum { most: sat(123), got });
    }
    assert_eq!(payer.refuses(close(rate(2))), Reject::CallsUnanswered(2));
    let sum = payer.sum(sat(120));
    payer.calls(sum);
    assert_eq!(payer.state.ledger().spent, sat(120));
    let to_payee = closing::due(sat(120), PREPAID);
    let settlement = closing::Settlement { to_payee, fee_rate: rate(2) };
    assert_eq!(payer.takes(close(rate(2))), [Effect::ProposeClosing(settlement)]);
}

/// The payee may have admitted it after it said what is spent: it would be in nobody's sum, and the payer's one too small for good.
#[test]
fn a_sum_says_nothing_of_what_was_sent_after_the_payee_was_asked() {
    let mut payer = payer_on(SHAPE);
    buys(&mut payer, sat(100));
    let stated = payer.sum(sat(100));
    let since = buys(&mut payer, sat(20));
    let (asked, last) = (number(1, 1), number(1, 2));
    assert_eq!(unable(&payer, stated.clone()), Unable::SentSince { asked, last });
    payer.calls(Input::top_up(since.number, sat(3)));
    let stated = Input::Reconcile { last, spent: sat(100) };
    assert_eq!(unable(&payer, stated), Unable::SentSince { asked: last, last: number(1, 3) });
    payer.calls(Input::Epoch(2));
    assert!(matches!(
        unable(&payer, Input::Reconcile { last: number(1, 3), spent: sat(100) }),
        Unable::SentSince { .. }
    ));
    assert_eq!(payer.state.ledger().spent, sat(123));
    let sum = payer.sum(sat(100));
    payer.calls(sum);
    assert_eq!(payer.state.ledger().spent, sat(100));
}

/// It forgot what it had not stored when it crashed. The payer could not close otherwise.
#[test]
fn a_payee_that_states_less_than_was_answered_gets_what_was_answered() {
    for stated in [Msat::ZERO, Msat::new(99_999)] {
        let mut payer = payer_on(SHAPE);
        let answered = buys(&mut payer, sat(100));
        answer(&mut payer, answered.number, Some(sat(100)));
        buys(&mut payer, sat(20));
        let sum = payer.sum(stated);
        payer.calls(sum);
        assert_eq!(payer.state.ledger().spent, sat(100));
    }
}

/// The answers were lost, and the words were not.
#[test]
fn a_sum_that_is_agreed_on_says_how_far_the_payee_has_the_words() {
    let long = Shape { unit: Msat::new(1), words: 3 * MOST_STEPS, rungs: 1, ..SHAPE };
    let mut payer = payer_on(long);
    let most = PREPAID.saturating_add(Msat::new(MOST_STEPS.into()));
    buys(&mut payer, most);
    let sum = payer.sum(most);
    payer.calls(sum);
    assert_eq!(buys(&mut payer, Msat::new(MOST_STEPS.into())).index, 2 * MOST_STEPS);
}

#[test]
fn nothing_is_called_when_the_channel_closes() {
    let mut payer = payer_of_calls();
    let sum = payer.sum(sat(829));
    payer.calls(sum);
    payer.takes(close(rate(2)));
    let call = payer::Input::Call(Input::call(sat(1)));
    assert_eq!(payer.refuses(call), Reject::NotOpen("closing"));
    let mut expired = payer_of_calls();
    assert_eq!(expired.sees(EXPIRY, confirmed(900)), broadcast(&refund_at(rate(2))));
    assert_eq!(state_of(&expired), "refunding");
}

// Anything.

fn any_shape() -> impl Strategy<Value = Shape> {
    (0..30_000_u64, 0..60_u32, 0..8_u32).prop_map(|(unit, words, rungs)| Shape {
        unit: Msat::new(unit),
        words,
        rungs,
        delay: Delay::blocks(36),
    })
}

fn any_input() -> impl Strategy<Value = Input> {
    let amount =
        || prop_oneof![8 => 0..300_000_u64, 2 => 0..2_000_000_u64, 1 => any::<u64>()].prop_map(Msat::new);
    let small = || prop_oneof![20 => 0..6_u32, 1 => any::<u32>()];
    let number = (small(), prop_oneof![20 => 0..40_u64, 1 => any::<u64>()])
        .prop_map(|(epoch, counter)| CallNumber { epoch, counter });
    prop_oneof![
        2 => (any_shape(), small()).prop_map(|(shape, number)| Input::Announce(terms(shape_or(shape), number))),
        4 => (small(), small()).prop_map(|(chain, epoch)| Input::Taken { chain, epoch }),
        1 => small().prop_map(|chain| Input::Refused { chain }),
        12 => amount().prop_map(Input::call),
        12 => (number, prop::option::of(amount()))
            .prop_map(|(number, charged)| Input::Answered { number, charged }),
        1 => small().prop_map(Input::Epoch),
        1 => amount().prop_map(|spent| Input::Reconcile { last: CallNumber { epoch: 0, counter: 0 }, spent }),
    ]
}

/// Words cannot be drawn for what is no shape; the machine refuses it by its numbers.
fn shape_or(shape: Shape) -> Shape {
    if shape.check().is_ok() { shape } else { SHAPE }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// It never shows a word that no call needed, and never counts more than its calls allow.
    #[test]
    fn a_payer_loses_nothing_to_a_payee_that_answers_anything(inputs in vec(any_input(), 0..80)) {
        let mut payer = payer_on(SHAPE);
        let most = payer.setup.channel.max_total();
        let (mut high, mut called, mut widest) = (Msat::ZERO, Msat::ZERO, SHAPE.unit);
        let mut numbers = std::collections::BTreeSet::new();
        for mut input in inputs {
            if let Input::Reconcile { last, .. } = &mut input {
                // The payer knows what it had sent.
                *last = payer.state.purse().unwrap().last_number();
            }
            let Ok(transition) = payer.state.handle(&payer.setup, payer::Input::Call(input)) else { continue };
            let before = payer.state.ledger();
            let (next, effects) = commit(transition);
            for effect in effects {
                match effect {
                    Effect::Call(ticket) => {
                        prop_assert!(numbers.insert(ticket.number), "a number is used once");
                        called = called.saturating_add(ticket.cost);
                    }
                    Effect::Announce(terms, _) => widest = widest.max(terms.shape.unit),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let ledger: Ledger = next.ledger();
            high = high.max(ledger.spent);
            let purse: &Purse = next.purse().unwrap();
            prop_assert!(ledger.spent <= called && ledger.spent <= ledger.paid() && ledger.paid() <= most);
            prop_assert!(purse.spent() <= ledger.spent);
            prop_assert!(ledger.paid() >= before.paid());
            prop_assert!(ledger.paid() <= PREPAID.max(high.saturating_add(widest)), "shows words in advance");
            payer.state = next;
        }
    }
}
