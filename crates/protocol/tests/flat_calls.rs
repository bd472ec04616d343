//! Calls that are paid with preimages: what the payee counts, and what the payer reveals.

mod common;

use bitcoin::Amount;
use common::call_story::{PREPAID, SHAPE, ladder, number, terms};
use common::flat_story::*;
use common::payer_story::Payer;
use common::*;
use farthing_protocol::Msat;
use farthing_protocol::flat::batch::BadPreimage;
use farthing_protocol::flat::{BadTerms, Terms};
use farthing_protocol::lightspeed::Tab;
use farthing_protocol::lightspeed::purse::{Ticket, Unable};
use farthing_protocol::lightspeed::tab::{BadPay, Claim, Refused};
use farthing_protocol::payer::call::Input;
use farthing_protocol::payer::{Effect, Reject};

const UNIT: Msat = Msat::new(2_000_000);

fn call(counter: u64, cost: Msat, index: u32) -> farthing_protocol::lightspeed::Call {
    call_of(&FIRST, number(7, counter), cost, index)
}

fn serves(tab: &mut Tab, counter: u64, cost: Msat, index: u32) {
    let call = call(counter, cost, index);
    tab.admit([], &call, None).expect("an honest call");
    assert_eq!(tab.end(call.number, Some(cost)), cost);
}

#[test]
fn preimages_pay_out_of_order_and_beside_each_other() {
    let mut tab = flat_tab();
    for (counter, index) in [(3, 19), (1, 4), (2, 0)] {
        tab.admit([], &call(counter, UNIT, index), None).expect("an honest call");
    }
    assert_eq!(tab.numbers().running(), 3);
    for counter in [2, 3, 1] {
        tab.end(number(7, counter), Some(UNIT));
    }
    assert_eq!((tab.spent(), tab.paid()), (sat(6_000), sat(6_600)));
    assert_eq!(tab.uncovered(&channel()), sat(5_400), "few outputs are not worth their fees");
    assert!(tab.uncovered(&channel()) <= tab.exposure(&channel()));
}

#[test]
fn a_replay_is_not_served_again_and_a_known_preimage_pays_nothing_more() {
    let mut tab = flat_tab();
    serves(&mut tab, 1, UNIT, 4);
    let refused = tab.admit([], &call(1, UNIT, 4), None);
    assert_eq!(refused, Err(Refused::Served(number(7, 1))));
    let refused = tab.admit([], &call(2, UNIT, 4), None);
    assert_eq!(refused, Err(Refused::Unpaid { needed: sat(4_000), paid: sat(2_600) }));
    // What the credit covers needs none.
    serves(&mut tab, 3, sat(600), 4);
    assert_eq!((tab.spent(), tab.paid()), (sat(2_600), sat(2_600)));
}

#[test]
fn a_refused_call_costs_nothing_and_its_preimage_counts() {
    let mut tab = flat_tab();
    let refused = tab.admit([], &call(1, sat(3_000), 9), None);
    assert_eq!(refused, Err(Refused::Unpaid { needed: sat(3_000), paid: sat(2_600) }));
    assert_eq!((tab.spent(), tab.paid()), (Msat::ZERO, sat(2_600)));
}

#[test]
fn what_opens_no_output_pays_nothing() {
    let mut tab = flat_tab();
    let mut wrong = call(1, UNIT, 3);
    wrong.word = preimage(&FIRST, 4);
    assert_eq!(tab.admit([], &wrong, None), Err(Refused::BadPreimage(BadPreimage::Wrong(3))));
    let beyond = call(2, UNIT, 20);
    let none = BadPreimage::NoOutput { outputs: 20, got: 20 };
    assert_eq!(tab.admit([], &beyond, None), Err(Refused::BadPreimage(none)));
    let mut other = call_of(&batch_on(2, PREPAID), number(7, 3), UNIT, 0);
    assert_eq!(tab.admit([], &other, None), Err(Refused::UnknownChain { newest: 1, got: 2 }));
    other.chain = 1;
    other.number = number(7, 4);
    assert_eq!(tab.admit([], &other, None), Err(Refused::BadPreimage(BadPreimage::Wrong(0))));
    assert_eq!(tab.paid(), PREPAID);
}

#[test]
fn the_next_batch_stands_on_what_was_earned_and_takes_the_place_of_the_one_before() {
    let mut tab = flat_tab();
    serves(&mut tab, 1, UNIT, 4);
    let (expected, got) = (sat(2_600), sat(2_599));
    assert_eq!(tab.take_batch(verified(batch_on(2, got))), Err(BadPay::Base { expected, got }));
    assert_eq!(tab.take_batch(verified(batch_on(1, expected))), Err(BadPay::Number { expected: 2, got: 1 }));
    tab.refuse_chain(2); // whoever was refused it may not take it later
    assert_eq!(tab.take_batch(verified(batch_on(2, expected))), Err(BadPay::Number { expected: 3, got: 2 }));
    // The payer counts what it sent and the payee did not see.
    let third = batch_on(3, sat(4_600));
    tab.take_batch(verified(third)).expect("the base covers everything");
    assert!(tab.has_taken_batch(&third) && !tab.has_taken_batch(&FIRST));
    assert_eq!(tab.paid(), sat(4_600));
    let Claim::Batch(claim) = tab.claim() else { panic!("its base is more than was paid plainly") };
    assert_eq!((claim.terms(), claim.revealed()), (&third, 0));
    // A call that was on its way is paid by the base.
    serves(&mut tab, 2, UNIT, 7);
    assert_eq!((tab.spent(), tab.paid()), (sat(4_000), sat(4_600)));
    let late = call_of(&third, number(7, 3), UNIT, 0);
    tab.admit([], &late, None).expect("a preimage of the new batch");
    assert_eq!(tab.paid(), sat(6_600));
}

#[test]
fn words_and_preimages_do_not_mix() {
    let mut flat = flat_tab();
    assert_eq!(flat.announce(&ladder(SHAPE, 2, PREPAID)), Err(BadPay::OtherMode));
    let mut words = Tab::new(payment(PREPAID), Msat::ZERO);
    words.announce(&ladder(SHAPE, 1, PREPAID)).unwrap();
    assert_eq!(words.take_batch(verified(batch_on(2, PREPAID))), Err(BadPay::OtherMode));
    let mut payer = flat_payer();
    assert_eq!(unable(&payer, Input::Announce(terms(SHAPE, 2))), Unable::OtherMode);
    payer = Payer::open();
    payer.calls(Input::Announce(terms(SHAPE, 1)));
    assert_eq!(unable(&payer, Input::AnnounceBatch(FIRST)), Unable::OtherMode);
}

#[test]
fn a_plain_payment_ends_the_batch_and_not_the_mode() {
    let mut tab = flat_tab();
    serves(&mut tab, 1, UNIT, 4);
    tab.pay(&channel(), payment(sat(3_000))).unwrap();
    assert_eq!(tab.claim(), Claim::Plain(payment(sat(3_000))));
    assert!(matches!(tab.admit([], &call(2, UNIT, 5), None), Err(Refused::UnknownChain { .. })));
    assert_eq!(tab.announce(&ladder(SHAPE, 2, sat(3_000))), Err(BadPay::OtherMode));
    tab.take_batch(verified(batch_on(2, sat(3_000)))).unwrap();
    assert_eq!(tab.paid(), sat(3_000));
}

// The payer.

fn unable(payer: &Payer, input: Input) -> Unable {
    match payer.refuses(farthing_protocol::payer::Input::Call(input)) {
        Reject::Call(unable) => unable,
        other => panic!("a call that cannot be sent, not {other:?}"),
    }
}

/// Sends a call, and gives the output of the preimage that it carries.
fn sends(payer: &mut Payer, cost: Msat) -> u32 {
    let effects = payer.calls(Input::call(cost));
    let [Effect::Call(Ticket { index, last: None, .. })] = effects[..] else { panic!("{effects:?}") };
    index
}

fn served(payer: &mut Payer, counter: u64, charged: Msat) {
    payer.calls(Input::Answered { number: number(7, counter), charged: Some(charged) });
}

fn paid(payer: &Payer) -> Msat {
    payer.state.ledger().paid()
}

#[test]
fn the_first_batch_is_announced_on_the_prepayment_and_what_breaks_a_limit_is_not() {
    let mut payer = Payer::open();
    let low = Terms { unit: Amount::from_sat(400), ..TERMS };
    let refused =
        unable(&payer, Input::AnnounceBatch(farthing_protocol::flat::BatchTerms { number: 1, terms: low }));
    assert!(matches!(refused, Unable::BadTerms(BadTerms::Unit { .. })));
    assert_eq!(unable(&payer, Input::AnnounceBatch(batch_on(2, PREPAID))), Unable::WrongChain(2));
    let (expected, got) = (Amount::from_sat(600), Amount::from_sat(601));
    assert_eq!(
        unable(&payer, Input::AnnounceBatch(batch_on(1, sat(601)))),
        Unable::WrongBase { expected, got }
    );
    assert_eq!(payer.calls(Input::AnnounceBatch(FIRST)), [Effect::AnnounceBatch(FIRST)]);
    assert_eq!(paid(&payer), PREPAID);
    // Until the payee has taken it nothing is revealed.
    assert_eq!(unable(&payer, Input::call(sat(1))), Unable::NeedsChain);
    assert_eq!(unable(&payer, Input::AnnounceBatch(batch_on(2, PREPAID))), Unable::Waiting(1));
    let purse = payer.state.purse().unwrap();
    assert_eq!(
        (purse.announced_batch(), purse.batches(), purse.left()),
        (Some(FIRST), &[FIRST][..], Msat::ZERO)
    );
    payer.calls(Input::Taken { chain: 1, epoch: 7 });
    payer.calls(Input::Taken { chain: 1, epoch: 7 });
    assert_eq!(payer.state.purse().unwrap().left(), sat(2_600));
    assert_eq!(sends(&mut payer, UNIT), 0);
}

#[test]
fn a_call_reveals_one_preimage_at_most_and_only_when_the_credit_does_not_cover_it() {
    let mut payer = flat_payer();
    assert_eq!(sends(&mut payer, sat(100)), 0, "the first always shows one");
    assert_eq!(sends(&mut payer, sat(500)), 0, "the prepayment covers it, and the first may have been lost");
    assert_eq!(paid(&payer), sat(2_600));
    served(&mut payer, 1, sat(100));
    served(&mut payer, 2, sat(500));
    assert_eq!(sends(&mut payer, UNIT), 0, "the first output is known to the payee and pays for it");
    assert_eq!(sends(&mut payer, UNIT), 1);
    let too_dear = Unable::TooDear { cost: sat(2_001), most: sat(2_000) };
    assert_eq!(unable(&payer, Input::call(sat(2_001))), too_dear);
}

#[test]
fn a_preimage_whose_call_was_lost_is_credit_again_in_the_next_batch() {
    let mut payer = flat_payer();
    for index in 0..20 {
        assert_eq!(sends(&mut payer, UNIT), index);
    }
    for counter in 1..=19 {
        served(&mut payer, counter, UNIT);
    }
    // Whether the last one was served nobody remembers, nor whether its preimage arrived.
    let sum = payer.sum(sat(38_000));
    payer.calls(sum);
    assert_eq!(paid(&payer), sat(40_600));
    assert_eq!(unable(&payer, Input::call(UNIT)), Unable::NeedsChain);
    let next = payer.state.purse().unwrap().fit_batch(&payer.setup.channel, &TERMS).unwrap().unwrap();
    assert_eq!(next, batch_on(2, sat(40_600)));
    payer.calls(Input::AnnounceBatch(next));
    payer.calls(Input::Taken { chain: 2, epoch: 7 });
    assert_eq!(sends(&mut payer, sat(2_600)), 0);
    assert_eq!(paid(&payer), sat(42_600), "the first call of a batch shows a preimage");
    assert_eq!(sends(&mut payer, UNIT), 0, "2,000 sat of the credit are left, whether it arrives or not");
    assert_eq!(sends(&mut payer, UNIT), 1);
    assert_eq!(paid(&payer), sat(44_600));
}

/// Else a payee that refuses would be paid by each try.
#[test]
fn a_preimage_whose_call_was_refused_pays_for_the_next_one() {
    let mut payer = flat_payer();
    for counter in 1..=5 {
        assert_eq!(sends(&mut payer, UNIT), 0, "try {counter}");
        payer.calls(Input::Answered { number: number(7, counter), charged: None });
    }
    assert_eq!(paid(&payer), sat(2_600));
    assert_eq!((sends(&mut payer, UNIT), sends(&mut payer, UNIT)), (0, 1));
    served(&mut payer, 6, UNIT);
    payer.calls(Input::Answered { number: number(7, 7), charged: None });
    // The payee has it from the call that it refused, or gets it now: for the tab it is the same.
    let mut tab = flat_tab();
    serves(&mut tab, 6, UNIT, 0);
    let refused = tab.admit([], &call(7, sat(9_000), 1), None);
    assert!(matches!(refused, Err(Refused::Unpaid { .. })));
    assert_eq!(sends(&mut payer, UNIT), 1);
    serves(&mut tab, 8, UNIT, 1);
    assert_eq!(tab.paid(), paid(&payer));
}

#[test]
fn what_the_payee_says_it_has_served_is_certain() {
    let mut payer = flat_payer();
    for _ in 0..5 {
        sends(&mut payer, UNIT);
    }
    let sum = payer.sum(sat(6_000));
    payer.calls(sum);
    assert_eq!(payer.state.purse().unwrap().spent(), sat(6_000));
    assert_eq!(sends(&mut payer, UNIT), 5, "which of the five arrived is not known: a new one pays for sure");
}

#[test]
fn the_last_batch_has_as_many_outputs_as_the_capacity_covers() {
    let channel = channel();
    let fit = |paid| farthing_protocol::flat::BatchTerms::fit(&channel, 9, paid, &TERMS);
    assert_eq!(fit(sat(600)).unwrap(), batch_on(9, sat(600)));
    // 99,592 sat can be paid at most.
    assert_eq!(fit(sat(79_000)).unwrap().terms.outputs, 10);
    assert_eq!(fit(Msat::new(79_000_001)).unwrap().terms.prepaid, Amount::from_sat(79_001));
    assert_eq!(fit(sat(96_000)), None, "one output is not worth a transaction of its own");
    assert_eq!(fit(sat(99_592)), None);
    assert_eq!(fit(sat(200_000)), None);
}
