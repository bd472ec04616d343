//! What payers may take of a seller: accounts leave the memory when they take too much of it and come back as they were, and
//! who signs wrongly is not looked at for ever.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::time::Duration;

use common::calls::*;
use common::*;
use farthing_node::buyer::calls::Allowed;
use farthing_node::tabs::{AnnounceError, Announced, CallError, Durability};
use farthing_protocol::lightspeed::tab::Refused;
use farthing_protocol::lightspeed::{Call, CallNumber};
use farthing_protocol::{ChannelId, Msat};

/// What all accounts may take: two with a chain of as many rungs as there can be, and not three.
const MOST: usize = 1 << 20;

fn spent(story: &Story, id: ChannelId) -> (Msat, Msat) {
    (wait(story.seller().standing(id)).unwrap().unwrap().spent, story.buyers(id).ledger().spent)
}

#[test]
fn accounts_that_leave_the_memory_lose_nothing_and_serve_nothing_that_was_refused() {
    let story = Story::set(|setting| setting.terms.most_resident = MOST);
    let open = || story.open_for_calls(rungs(1, 4_096));
    let first = open();
    story.call(first, 10).unwrap();
    // It is refused, and its payer spends the money on another call.
    let refused = wait(story.buyer().call(first, Msat::new(10_000), &TARGET, Allowed::ANYTHING)).unwrap();
    let (call, mac) = Call::from_bytes(&refused.bytes).unwrap();
    wait(story.seller().refuse(&call, &TARGET, &mac)).unwrap();
    wait(story.buyer().answered(&refused, None)).unwrap();
    let alone = story.seller().resident();
    assert!(alone > MOST / 3, "{alone} bytes");

    let others: Vec<ChannelId> = (0..4).map(|_| open()).collect();
    // What was newer than the database is stored by now, and leaves with the next one that comes.
    for id in &others {
        story.call(*id, 7).unwrap();
    }
    story.call(others[0], 7).unwrap();

    let resident = story.seller().resident();
    assert!(resident <= MOST, "{resident} bytes");
    let late = wait(story.seller().admit(&call, &TARGET, &mac));
    assert!(matches!(late, Err(CallError::Refused(Refused::Void { .. }))), "{late:?}");
    assert_eq!(spent(&story, first), (Msat::new(10_000), Msat::new(10_000)));
    story.call(first, 10).unwrap();
    assert_eq!(spent(&story, first), (Msat::new(20_000), Msat::new(20_000)));
    assert_eq!(spent(&story, others[3]).0, Msat::new(7_000));
}

/// Calls are stored with each block here, and an answer about the standing does not wait for it.
#[test]
fn a_call_that_its_payer_gave_up_is_not_served_after_its_account_left_the_memory() {
    let story = Story::set(|setting| {
        setting.terms.most_resident = MOST;
        setting.terms.durability = Durability::Batch(Duration::from_secs(3_600));
    });
    let open = || story.open_for_calls(rungs(1, 4_096));
    let id = open();
    story.call(id, 10).unwrap();
    let delayed = wait(story.buyer().call(id, Msat::new(10_000), &TARGET, Allowed::ANYTHING)).unwrap();
    story.mine(1);
    story.reconcile(id).unwrap();
    let before = story.seller().resident();
    for _ in 0..4 {
        open();
    }
    assert!(story.seller().resident() < 5 * before, "all five are in memory");

    let (call, mac) = Call::from_bytes(&delayed.bytes).unwrap();
    let late = wait(story.seller().admit(&call, &TARGET, &mac));
    assert!(matches!(late, Err(CallError::Refused(Refused::Void { .. }))), "{late:?}");
}

/// Each of them has a receipt of its own, which takes memory.
#[test]
fn calls_that_cost_less_than_they_stated_count_as_memory() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let before = story.seller().resident();
    for _ in 0..100 {
        let prepared = wait(story.buyer().call(id, Msat::new(1), &TARGET, Allowed::ANYTHING)).unwrap();
        let (call, mac) = Call::from_bytes(&prepared.bytes).unwrap();
        let admission = wait(story.seller().admit(&call, &TARGET, &mac)).unwrap();
        wait(story.seller().end(admission, Some(Msat::ZERO)).stored()).unwrap();
        wait(story.buyer().answered(&prepared, Some(Msat::ZERO))).unwrap();
    }
    let more = story.seller().resident() - before;
    assert!(more >= 100 * size_of::<(CallNumber, Msat)>(), "{more} bytes");
}

#[test]
fn a_chain_with_too_much_between_two_rungs_is_refused_and_the_next_one_is_taken() {
    let story = Story::set(|setting| setting.terms.most_exposure = Msat::new(1_000_000));
    let id = story.fund();
    story.mine(1);
    for (shape, is_taken) in [(rungs(1_001, 2), false), (rungs(1_000, 4), true)] {
        let told = story.buyer().announce(id, shape).unwrap();
        let announced = Announced::Chain(told.terms, told.rungs);
        let taken = wait(story.seller().announce(id, announced, told.payment));
        wait(story.buyer().announced(id, told.terms.number, taken.as_ref().ok().copied())).unwrap();
        match taken {
            Ok(_) => assert!(is_taken),
            Err(AnnounceError::Exposure { most, got }) => {
                assert_eq!((is_taken, most, got), (false, Msat::new(1_000_000), Msat::new(1_001_000)));
            }
            Err(other) => panic!("{other}"),
        }
    }
    story.call(id, 1_000).unwrap();
    assert_eq!(spent(&story, id), (Msat::new(1_000_000), Msat::new(1_000_000)));
}

#[test]
fn a_payer_that_signs_wrongly_again_and_again_is_no_longer_looked_at() {
    let mut story = Story::begin();
    let id = story.fund();
    story.mine(1);
    let announce = |story: &Story, is_honest: bool| {
        let mut told = story.buyer().announce(id, rungs(1_000, 2)).unwrap();
        if !is_honest {
            told.rungs[0].signature = told.rungs[1].signature;
        }
        let announced = Announced::Chain(told.terms, told.rungs);
        let taken = wait(story.seller().announce(id, announced, told.payment));
        wait(story.buyer().announced(id, told.terms.number, taken.as_ref().ok().copied())).unwrap();
        taken
    };
    for attempt in 1..=8 {
        let refused = announce(&story, false);
        assert!(matches!(refused, Err(AnnounceError::BadLadder(_))), "{attempt}: {refused:?}");
    }
    let refused = announce(&story, true);
    assert!(matches!(refused, Err(AnnounceError::TooManyWrong)), "{refused:?}");
    // It is not stored: a seller that starts anew looks again.
    story.start_seller();
    announce(&story, true).unwrap();
    story.call(id, 1_000).unwrap();
}
