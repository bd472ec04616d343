//! Openings while somebody else holds the database, so that nothing can be stored. (`crashes.rs` cannot tell these again: whoever starts
//! anew would wait for the database as well.)
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::time::Duration;

use bitcoin::hashes::Hash as _;
use bitcoin::{OutPoint, Txid};
use common::stranger::Stranger;
use common::*;
use farthing_node::books::OrderError;
use farthing_node::buyer::ProposeError;
use farthing_node::seller::AcceptError;
use farthing_protocol::Params;
use farthing_testkit::wait::never;

/// Somebody else holds the database for so long that the write fails, as on a full disk.
#[test]
fn the_coins_of_a_proposal_that_could_not_be_stored_are_free_again() {
    let mut story = Story::begin();
    let (mut database, (offer, _)) = (story.home("buyer").store().unwrap(), story.seller().offer());
    let everything = PURSE - sat(1_000);
    let propose = |story: &Story| {
        story.buyer().propose(&offer, &limits(), everything, LIFETIME, "story".to_owned()).map(|(id, _)| id)
    };

    let held = database.batch().unwrap();
    let refused = propose(&story);
    assert!(matches!(refused, Err(ProposeError::Order(OrderError::Store(_)))), "{refused:?}");
    drop(held);

    assert_eq!(story.buyer().balance().confirmed, PURSE);
    assert!(story.survive(|| wait(story.buyer().channels())).unwrap().is_empty());
    let id = propose(&story).unwrap();
    story.survive(|| wait(story.buyer().refused(id))).unwrap();
    story.mine(1);
    story.start_buyer();
    assert_eq!(story.buyer().balance().confirmed, PURSE, "also as it is stored");
    propose(&story).unwrap();
}

/// However many come while the first is being stored.
#[test]
fn no_more_openings_are_accepted_than_may_wait_for_their_funding() {
    let story = Story::set(|setting| setting.terms.most_unfunded = 2);
    let mut database = story.home("seller").store().unwrap();
    let tries = |number| {
        let (stranger, story) = (Stranger::meets(&story), &story);
        let funding = OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 };
        move || stranger.tries_to_open(story, Params { funding, ..stranger.params.clone() })
    };

    let answers: Vec<_> = std::thread::scope(|scope| {
        let held = database.batch().unwrap();
        let threads: Vec<_> = (0..16).map(tries).map(|tries| scope.spawn(tries)).collect();
        let answered = || Ok(threads.iter().any(|thread| thread.is_finished()).then_some(()));
        never("an answer before anything is stored", Duration::from_millis(500), answered).unwrap();
        drop(held);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((accepted.len(), refused.len()), (2, 14));
    assert!(refused.iter().all(|answer| matches!(answer, Err(AcceptError::TooManyUnfunded(2)))));
    assert_eq!(story.survive(|| wait(story.seller().channels())).unwrap().len(), 2);
}
