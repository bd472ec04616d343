//! A payee's tab and a payer that sends what it should not: each thing is refused, and costs nothing.

mod common;

use common::call_story::*;
use common::payee_story::{Payee, charge};
use common::*;
use farthing_protocol::amount::DUST;
use farthing_protocol::lightspeed::tab::{
    BadPay, Claim, MOST_RUNNING, MOST_STEPS, MOST_WRONG_WORDS, Refused, Tab,
};
use farthing_protocol::lightspeed::{Call, Ladder, Shape, Word};
use farthing_protocol::payee::{Effect, Input, Reject};
use farthing_protocol::{Msat, commitment};

const GARBAGE: Word = Word::from_bytes([0xee; 32]);

/// The total after so many words of the first chain.
fn after(words: u64) -> Msat {
    PREPAID.saturating_add(sat(10 * words))
}

// Words.

#[test]
fn a_word_that_does_not_hash_to_the_last_one_is_refused() {
    let mut counter = Counter::of(SHAPE);
    counter.serves(&counter.call(1, 1, 3, sat(630)));
    let good = counter.call(2, 1, 5, sat(20));
    let (later, zero) = (counter.call(9, 1, 6, sat(1)).word, Word::from_bytes([0; 32]));
    for (counter_number, word) in (2..).zip([GARBAGE, later, zero, good.word.before()]) {
        let call = Call { number: number(1, counter_number), word, ..good };
        assert_eq!(counter.refuses(&call), Refused::WrongWord { chain: 1, index: 5 });
    }
    assert_eq!(counter.tab.paid(), after(3));
    counter.serves(&Call { number: number(1, 9), ..good });
    assert_eq!(counter.tab.paid(), after(5));
}

#[test]
fn a_payer_that_sends_wrong_words_again_and_again_is_no_longer_looked_at() {
    let mut counter = Counter::of(SHAPE);
    counter.serves(&counter.call(1, 1, 3, sat(630)));
    let good = counter.call(2, 1, 5, sat(20));
    let wrongs = u64::from(MOST_WRONG_WORDS);
    for counter_number in 2..2 + wrongs {
        let call = Call { number: number(1, counter_number), word: GARBAGE, ..good };
        assert_eq!(counter.refuses(&call), Refused::WrongWord { chain: 1, index: 5 });
    }
    let late = Call { number: number(1, 50), ..good };
    assert_eq!(counter.refuses(&late), Refused::TooManyWrongWords);
    // What it has paid still counts.
    counter.serves(&counter.call(51, 1, 3, Msat::ZERO));
    assert_eq!(counter.tab.paid(), after(3));
}

#[test]
fn an_index_that_is_known_already_pays_nothing_more_whatever_its_word() {
    let mut counter = Counter::of(SHAPE);
    counter.serves(&counter.call(1, 1, 3, sat(630)));
    for (counter_number, index) in [(2, 0), (3, 2), (4, 3)] {
        let call = Call { word: GARBAGE, ..counter.call(counter_number, 1, index, Msat::new(1)) };
        let needed = after(3).saturating_add(Msat::new(1));
        assert_eq!(counter.refuses(&call), Refused::Unpaid { needed, paid: after(3) });
    }
}

/// Whether a word was hashed shows in the answer: within the limit a wrong word is found to be wrong. Beyond it the answer
/// does not depend on the word.
#[test]
fn an_index_far_ahead_is_refused_before_its_word_is_hashed() {
    let long = Shape { unit: Msat::new(1), words: 2 * MOST_STEPS + 10, rungs: 1, ..SHAPE };
    let mut counter = Counter::of(long);
    counter.serves(&counter.call(1, 1, 4, Msat::ZERO));
    let far = counter.call(2, 1, 4 + MOST_STEPS + 1, Msat::ZERO);
    for (counter_number, word) in [(2, far.word), (3, GARBAGE)] {
        let call = Call { number: number(1, counter_number), word, ..far };
        assert_eq!(counter.refuses(&call), Refused::TooFar { index: 4, got: far.index });
    }
    let farthest = counter.call(4, 1, 4 + MOST_STEPS, Msat::ZERO);
    let wrong = Call { word: GARBAGE, ..farthest };
    assert_eq!(counter.refuses(&wrong), Refused::WrongWord { chain: 1, index: farthest.index });
    counter.serves(&Call { number: number(1, 5), ..farthest });
    counter.serves(&Call { number: number(1, 6), ..far });
}

#[test]
fn a_last_word_far_ahead_is_refused_before_it_is_hashed() {
    let long = Shape { unit: Msat::new(1), words: MOST_STEPS + 5, rungs: 1, ..SHAPE };
    let mut counter = Counter::of(long).and_next(SHAPE);
    let call = counter.carrying(counter.call(1, 2, 1, Msat::ZERO));
    let refused = Refused::TooFar { index: 0, got: long.words };
    assert_eq!(counter.refuses(&call), refused);
    assert_eq!(counter.refuses(&Call { number: number(1, 2), last: Some(GARBAGE), ..call }), refused);
    counter.serves(&counter.call(3, 1, 5, Msat::ZERO));
    counter.serves(&Call { number: number(1, 4), ..call });
}

#[test]
fn an_index_beyond_the_chain_is_refused_whatever_its_word() {
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    let end = counter.call(1, 1, 50, sat(1));
    for (counter_number, index) in [(1, 51), (2, u32::MAX)] {
        for word in [end.word, GARBAGE] {
            let call = Call {
                number: number(1, 2 * counter_number + u64::from(word == end.word)),
                index,
                word,
                ..end
            };
            assert_eq!(counter.refuses(&call), Refused::BeyondChain { words: 50, got: index });
        }
    }
    // Neither on the chain that begins with this call; its start counts all the same.
    let beyond = counter.carrying(Call { index: 51, ..counter.call(20, 2, 50, sat(1)) });
    assert_eq!(counter.refuses(&beyond), Refused::BeyondChain { words: 50, got: 51 });
    assert_eq!(counter.tab.paid(), after(50));
}

// Rungs.

/// A ladder in which these rungs are signed, but locked with words of another chain.
fn lying(rungs_that_lie: &[usize]) -> Ladder {
    let mut rungs = rungs(SHAPE, 1, PREPAID);
    let others = self::rungs_of_another_chain();
    for rung in rungs_that_lie {
        rungs[rung - 1] = others[rung - 1];
    }
    Ladder::verify(&channel(), terms(SHAPE, 1), PREPAID, rungs, LEAST_DELAY).expect("every rung is signed")
}

fn rungs_of_another_chain() -> Vec<farthing_protocol::lightspeed::Rung> {
    rungs(SHAPE, 77, PREPAID)
}

/// The claim's total, and that consensus takes the commitment and its child.
fn claimable(tab: &Tab) -> Msat {
    let (channel, keys) = (channel(), payee_keys());
    match tab.claim() {
        Claim::Batch(_) => panic!("this channel pays with words"),
        Claim::Plain(payment) => {
            assert_valid(&channel, &commitment::complete(&channel, &keys, &payment));
            payment.total
        }
        Claim::Rung(rung) => {
            let commitment = rung.commitment(&channel, &keys);
            assert_valid(&channel, &commitment);
            let child = rung.claim(&channel, &keys, &commitment, DUST).expect("worth its fee");
            assert!(spends(&commitment.output[..1], &child));
            rung.total
        }
    }
}

#[test]
fn a_rung_locked_with_another_word_is_found_out_at_that_rung() {
    let mut counter = Counter::with(lying(&[3]));
    for index in 1..30 {
        counter.serves(&counter.call(u64::from(index), 1, index, sat(if index == 1 { 610 } else { 10 })));
    }
    assert_eq!(counter.tab.spent(), after(29));
    assert_eq!(counter.refuses(&counter.call(30, 1, 30, sat(10))), Refused::LyingRung { chain: 1, rung: 3 });
    // Nothing is served from then on, not even what is paid.
    for (counter_number, index) in [(31, 30), (32, 31), (33, 50), (34, 1)] {
        let refused = counter.refuses(&counter.call(counter_number, 1, index, Msat::ZERO));
        assert!(matches!(refused, Refused::LyingRung { chain: 1, .. }));
    }
    // The rung below is good. It holds 800 sat and its claim costs 308, so the first payment brings more.
    assert_eq!(claimable(&counter.tab), after(20));
    assert_eq!(counter.tab.uncovered(&channel()), sat(290));
    assert!(counter.tab.uncovered(&channel()) < counter.tab.exposure(&channel()));
}

#[test]
fn a_word_that_crosses_a_lying_rung_counts_up_to_the_rung_below() {
    for (lies, from, to, paid, claim) in [
        (&[3][..], 15, 45, 20, 20),
        (&[2, 4], 5, 45, 10, 10),
        (&[1, 2, 3, 4, 5], 5, 50, 5, 0),
        (&[3], 25, 35, 25, 20),
        (&[5], 0, 50, 40, 40),
    ] {
        let mut counter = Counter::with(lying(lies));
        counter.serves(&counter.call(1, 1, from, after(from.into())));
        let refused = counter.refuses(&counter.call(2, 1, to, Msat::ZERO));
        let lowest = lies.iter().copied().find(|rung| rung * 10 > from as usize).unwrap() as u32;
        assert_eq!(refused, Refused::LyingRung { chain: 1, rung: lowest });
        assert_eq!((counter.tab.paid(), claimable(&counter.tab)), (after(paid), after(claim)), "{lies:?}");
    }
}

#[test]
fn a_wrong_word_is_no_proof_that_a_rung_lies() {
    let mut counter = Counter::of(SHAPE);
    let call = Call { word: GARBAGE, ..counter.call(1, 1, 25, sat(1)) };
    assert_eq!(counter.refuses(&call), Refused::WrongWord { chain: 1, index: 25 });
    assert_eq!(claimable(&counter.tab), PREPAID);
    counter.serves(&counter.call(2, 1, 25, sat(1)));
    assert_eq!(claimable(&counter.tab), after(20));
}

#[test]
fn the_last_word_of_a_chain_is_checked_against_its_rungs_too() {
    let mut counter = Counter::with(lying(&[5])).and_next(SHAPE);
    counter.serves(&counter.call(1, 1, 41, sat(1)));
    let call = counter.carrying(counter.call(2, 2, 1, sat(1)));
    assert_eq!(counter.refuses(&call), Refused::LyingRung { chain: 1, rung: 5 });
    assert_eq!((counter.tab.paid(), claimable(&counter.tab)), (after(41), after(40)));
}

// Chains.

#[test]
fn calls_of_two_chains_out_of_order_are_all_served() {
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    let in_flight = counter.call(1, 1, 7, sat(670));
    let last_of_first = counter.call(2, 1, 50, sat(430));
    let first_of_second = counter.carrying(counter.call(3, 2, 2, sat(20)));
    let second = counter.call(4, 2, 4, sat(20));
    // A call runs while its chain ends.
    counter.admits(&in_flight);
    counter.serves(&first_of_second);
    counter.serves(&second);
    assert_eq!(counter.tab.end(in_flight.number, Some(sat(670))), sat(670));
    counter.ladders.remove(0);
    counter.serves(&last_of_first);
    assert_eq!(counter.tab.spent(), after(54));
    assert_eq!(counter.tab.paid(), after(54));
    assert_eq!(claimable(&counter.tab), after(50), "the first rung of the second chain is at word 10");
}

#[test]
fn a_chain_begins_only_with_the_last_word_of_the_one_before() {
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    counter.serves(&counter.call(1, 1, 49, sat(1)));
    let call = counter.call(2, 2, 5, sat(1));
    assert_eq!(counter.refuses(&call), Refused::LastWordMissing(2));
    let other = Some(words(SHAPE, 1).word(49).unwrap());
    for (counter_number, last) in [(3, other), (4, Some(GARBAGE)), (5, Some(call.word))] {
        let call = Call { number: number(1, counter_number), last, ..call };
        assert_eq!(counter.refuses(&call), Refused::WrongWord { chain: 1, index: 50 });
    }
    assert_eq!(counter.tab.paid(), after(49));
    // When it is known already, it need not be carried.
    counter.serves(&counter.call(6, 1, 50, sat(1)));
    counter.serves(&Call { number: number(1, 7), ..call });
    assert_eq!(counter.tab.paid(), after(55));
}

#[test]
fn a_chain_that_nobody_announced_is_unknown() {
    let mut counter = Counter::of(SHAPE);
    let call = counter.call(1, 1, 1, sat(1));
    for (counter_number, chain) in [(1, 2), (2, 3), (3, u32::MAX)] {
        let call = Call { number: number(1, counter_number), chain, last: Some(GARBAGE), ..call };
        assert_eq!(counter.refuses(&call), Refused::UnknownChain { newest: 1, got: chain });
    }
    let mut without = Tab::new(payment(PREPAID), Msat::ZERO);
    without.begin(1);
    let refused = without.admit(&counter.ladders, &call, None);
    assert_eq!(refused, Err(Refused::UnknownChain { newest: 0, got: 1 }));
}

#[test]
fn a_chain_number_is_never_used_again() {
    let mut counter = Counter::of(SHAPE);
    let end = after(50);
    let announce = |counter: &mut Counter, chain, base| counter.tab.announce(&ladder(SHAPE, chain, base));
    for chain in [0, 1] {
        let refused = announce(&mut counter, chain, end);
        assert_eq!(refused, Err(BadPay::Number { expected: 2, got: chain }));
    }
    assert_eq!(announce(&mut counter, 2, PREPAID), Err(BadPay::Base { expected: end, got: PREPAID }));
    // One that was refused is not taken later either, and the payer goes on with the next.
    counter.tab.refuse_chain(2);
    assert_eq!(announce(&mut counter, 2, end), Err(BadPay::Number { expected: 3, got: 2 }));
    counter.takes(ladder(SHAPE, 4, end));
    assert_eq!(announce(&mut counter, 5, after(100)), Err(BadPay::Waiting(4)));
    let has_taken = |shape, chain| counter.tab.has_taken(ladder(shape, chain, end).terms());
    assert!(has_taken(SHAPE, 1) && has_taken(SHAPE, 4) && !has_taken(SHAPE, 2));
    assert!(
        !has_taken(Shape { words: SHAPE.words - 1, ..SHAPE }, 4),
        "another chain under a number that is taken"
    );
    // Not even when a payment has voided it.
    counter.tab.pay(&channel(), payment(sat(5_000))).unwrap();
    for chain in [1, 2, 4] {
        let refused = announce(&mut counter, chain, sat(5_000));
        assert_eq!(refused, Err(BadPay::Number { expected: 5, got: chain }));
    }
    counter.takes(ladder(SHAPE, u32::MAX, sat(5_000)));
    let refused = announce(&mut counter, u32::MAX, sat(5_500));
    assert_eq!(refused, Err(BadPay::Number { expected: u32::MAX, got: u32::MAX }), "no number is left");
}

#[test]
fn a_plain_payment_ends_the_chain_and_voids_the_next_one() {
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    counter.serves(&counter.call(1, 1, 35, sat(900)));
    let got = after(35);
    for total in [sat(600), got] {
        let refused = counter.tab.pay(&channel(), payment(total));
        assert_eq!(refused, Err(BadPay::NotIncreasing { paid: got, got: total }));
    }
    let forged = farthing_protocol::Payment { total: after(36), ..payment(after(37)) };
    assert!(matches!(counter.tab.pay(&channel(), forged), Err(BadPay::WrongSignature(_))));
    let most = channel().max_total();
    let above = most.saturating_add(Msat::new(1));
    let refused = counter.tab.pay(&channel(), payment(above));
    assert_eq!(refused, Err(BadPay::OverCapacity { most, got: above }));
    assert_eq!(claimable(&counter.tab), after(30));

    counter.tab.pay(&channel(), payment(after(36))).unwrap();
    assert_eq!(counter.tab.claim(), Claim::Plain(payment(after(36))));
    for (counter_number, chain) in [(2, 1), (3, 2)] {
        let call = counter.call(counter_number, chain, 50, Msat::ZERO);
        let refused = counter.refuses(&call);
        assert_eq!(refused, Refused::UnknownChain { newest: 2, got: chain });
    }
    assert_eq!(counter.tab.next_chain(), Ok((3, after(36))));
}

// Numbers.

#[test]
fn a_call_that_was_recorded_is_not_served_again() {
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    let first = counter.call(1, 1, 20, sat(100));
    counter.serves(&first);
    assert_eq!(counter.refuses(&first), Refused::Served(number(1, 1)));
    let turned = counter.carrying(counter.call(2, 2, 1, sat(10)));
    counter.serves(&turned);
    assert_eq!(counter.refuses(&first), Refused::Served(number(1, 1)), "its chain is over");
    counter.tab.begin(2);
    assert_eq!(counter.refuses(&first), Refused::Served(number(1, 1)));
    let unserved = Call { number: number(1, 9), ..first };
    assert_eq!(counter.refuses(&unserved), Refused::Void { number: number(1, 9), epoch: 2 });
    counter.tab.begin(3);
    assert_eq!(counter.refuses(&first), Refused::Forgotten { number: number(1, 1), epoch: 3 });
    let of_the_future = Call { number: number(4, 1), ..first };
    assert_eq!(counter.refuses(&of_the_future), Refused::Void { number: number(4, 1), epoch: 3 });
}

#[test]
fn a_number_is_not_used_for_a_second_call() {
    let mut counter = Counter::of(SHAPE);
    let call = counter.call(5, 1, 20, sat(100));
    counter.admits(&call);
    let second = Call { cost: sat(1), ..counter.call(5, 1, 30, sat(1)) };
    assert_eq!(counter.refuses(&second), Refused::Running(number(1, 5)));
    counter.tab.end(call.number, Some(sat(60)));
    assert_eq!(counter.refuses(&second), Refused::Served(number(1, 5)));
    assert_eq!(counter.tab.end(call.number, Some(sat(100))), Msat::ZERO, "it has ended");
    assert_eq!(counter.tab.spent(), sat(60));
    assert_eq!(counter.tab.paid(), after(20), "the word of a refused copy pays nothing");
}

/// Its payer was told that it is free, and has spent the money on another call.
#[test]
fn a_call_that_was_refused_or_failed_is_not_served_when_a_copy_comes_late() {
    let mut counter = Counter::of(SHAPE);
    let failed = counter.call(1, 1, 10, sat(100));
    counter.admits(&failed);
    counter.tab.end(failed.number, None);
    let unpaid = counter.call(2, 1, 10, sat(701));
    assert!(matches!(counter.refuses(&unpaid), Refused::Unpaid { .. }));
    let disliked = counter.call(3, 1, 10, sat(1));
    assert_eq!(counter.tab.refuse(disliked.number), Ok(()));
    counter.serves(&counter.call(4, 1, 50, sat(1)));
    for call in [failed, unpaid, disliked] {
        assert_eq!(counter.refuses(&call), Refused::Void { number: call.number, epoch: 1 });
    }
    // What was served is not refused by that, and whoever asks for it hears so.
    assert_eq!(counter.tab.refuse(number(1, 4)), Err(Refused::Served(number(1, 4))));
    assert_eq!(counter.refuses(&counter.call(4, 1, 50, sat(1))), Refused::Served(number(1, 4)));
}

#[test]
fn no_call_up_to_a_stated_sum_is_served_after_it() {
    let mut counter = Counter::of(SHAPE);
    counter.serves(&counter.call(2, 1, 10, sat(100)));
    counter.admits(&counter.call(3, 1, 10, sat(50)));
    assert_eq!(counter.tab.reconcile(number(1, 6)), None, "a call runs");
    counter.tab.end(number(1, 3), Some(sat(40)));
    assert_eq!(counter.tab.reconcile(number(1, 6)), Some(sat(140)));
    for late in [1, 4, 6] {
        let call = counter.call(late, 1, 10, sat(1));
        assert_eq!(counter.refuses(&call), Refused::Void { number: call.number, epoch: 1 });
    }
    counter.serves(&counter.call(7, 1, 10, sat(1)));
}

#[test]
fn only_so_many_calls_run_at_once() {
    let mut counter = Counter::of(SHAPE);
    for running in 0..MOST_RUNNING as u64 {
        counter.admits(&counter.call(running, 1, 0, Msat::ZERO));
    }
    let next = counter.call(2_000, 1, 0, Msat::ZERO);
    assert_eq!(counter.refuses(&next), Refused::TooMany);
    assert_eq!(counter.tab.top_up(number(1, 0), sat(1), None), Ok(sat(1)), "one that runs may go on");
    counter.tab.end(number(1, 0), None);
    counter.admits(&Call { number: number(1, 2_001), ..next });
}

// Money.

#[test]
fn nothing_is_served_beyond_what_the_words_pay() {
    let mut counter = Counter::of(SHAPE);
    counter.admits(&counter.call(1, 1, 5, sat(400)));
    counter.serves(&counter.call(2, 1, 5, sat(200)));
    let unpaid = |needed| Refused::Unpaid { needed, paid: after(5) };
    let dear = counter.call(3, 1, 5, Msat::new(50_001));
    assert_eq!(counter.refuses(&dear), unpaid(Msat::new(650_001)));
    let absurd = counter.call(4, 1, 5, Msat::new(u64::MAX));
    assert_eq!(counter.refuses(&absurd), unpaid(Msat::new(u64::MAX)));
    counter.serves(&counter.call(5, 1, 5, sat(50)));
    // What failed is free again.
    counter.tab.end(number(1, 1), None);
    counter.serves(&counter.call(6, 1, 5, sat(400)));
    assert_eq!(counter.tab.spent(), after(5));
}

#[test]
fn a_call_that_runs_is_topped_up_with_what_is_paid_and_no_more() {
    let mut counter = Counter::of(SHAPE);
    counter.admits(&counter.call(1, 1, 5, sat(600)));
    assert_eq!(counter.tab.top_up(number(1, 1), sat(40), None), Ok(sat(640)));
    let unpaid = Refused::Unpaid { needed: Msat::new(650_001), paid: after(5) };
    assert_eq!(counter.tab.top_up(number(1, 1), Msat::new(10_001), None), Err(unpaid));
    let cap = sat(645);
    let shallow = counter.tab.top_up(number(1, 1), sat(10), Some(cap));
    assert_eq!(shallow, Err(Refused::NotDeepEnough { cap }));
    for unknown in [number(1, 2), number(0, 1)] {
        let refused = counter.tab.top_up(unknown, sat(1), None);
        assert_eq!(refused, Err(Refused::Void { number: unknown, epoch: 1 }));
    }
    assert_eq!(counter.tab.end(number(1, 1), Some(sat(1_000))), sat(640), "never more than was set aside");
}

#[test]
fn a_funding_that_is_not_deep_caps_what_is_served() {
    let mut counter = Counter::of(SHAPE);
    let cap = Some(sat(300));
    let first = counter.call(1, 1, 5, sat(300));
    counter.tab.admit(&counter.ladders, &first, cap).unwrap();
    let second = counter.call(2, 1, 5, Msat::new(1));
    let refused = counter.tab.admit(&counter.ladders, &second, cap);
    assert_eq!(refused, Err(Refused::NotDeepEnough { cap: sat(300) }));
}

// The machine.

#[test]
fn a_channel_of_calls_takes_no_pieces_and_its_tab_never_goes_back() {
    let mut payee = payee_of_calls();
    let reject = payee.refuses(charge(Some(payment(sat(9_000))), sat(1)));
    assert_eq!(reject, Reject::PaysForCalls);
    let older = payee.state.tab().unwrap().clone();
    let mut counter = Counter { tab: older.clone(), ladders: vec![ladder(SHAPE, 1, PREPAID)] };
    counter.serves(&counter.call(9, 1, 24, sat(10)));
    assert_eq!(payee.takes(Input::Fold(Box::new(counter.tab))), [Effect::Answer]);
    assert_eq!(payee.refuses(Input::Fold(Box::new(older))), Reject::StaleTab);
    let unpaid = Payee::open();
    let tab = Tab::new(payment(PREPAID), Msat::ZERO);
    assert_eq!(unpaid.refuses(Input::Fold(Box::new(tab))), Reject::StaleTab, "nothing was prepaid");
}

#[test]
fn what_ends_after_the_closing_is_stored_is_not_answered() {
    let mut payee = payee_of_calls();
    let tab = Box::new(payee.state.tab().unwrap().clone());
    payee.takes(common::payee_story::settle(settlement(830)));
    assert_eq!(payee.state.tab(), None);
    assert_eq!(payee.refuses(Input::Fold(tab.clone())), Reject::NotOpen("closing"));
    payee.takes(Input::Close);
    assert_eq!(payee.refuses(Input::Fold(tab)), Reject::NotOpen("closing alone"));
}

#[test]
fn it_settles_only_when_no_call_runs_and_for_what_was_spent() {
    let mut payee = payee_of_calls();
    let mut counter =
        Counter { tab: payee.state.tab().unwrap().clone(), ladders: vec![ladder(SHAPE, 1, PREPAID)] };
    counter.admits(&counter.call(9, 1, 24, sat(10)));
    payee.takes(Input::Fold(Box::new(counter.tab.clone())));
    let settle = |sat| common::payee_story::settle(settlement(sat));
    assert_eq!(payee.refuses(settle(840)), Reject::CallsRunning(1));
    counter.tab.end(number(7, 9), Some(sat(9)));
    payee.takes(Input::Fold(Box::new(counter.tab)));
    let [due, got] = [839, 838].map(bitcoin::Amount::from_sat);
    assert_eq!(payee.refuses(settle(838)), Reject::Underpaid { due, got });
    assert_eq!(payee.takes(settle(839)), [Effect::Cosign(settlement(839))]);
}
