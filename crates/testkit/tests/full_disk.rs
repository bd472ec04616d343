//! A disk that is full for a while: what could not be stored is done as soon as it can be.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::hashes::Hash as _;
use bitcoin::{ScriptBuf, WScriptHash};
use common::*;
use farthing_node::books::OrderError;
use farthing_node::buyer::SendError;
use farthing_node::full_disk::Full;
use farthing_protocol::channel::SpendKind;

fn full(story: &Story, side: &str, tables: &'static [&'static str]) -> Full {
    Full::of(&story.home(side).path().join("farthing.sqlite"), tables)
}

/// The wallet has taken the block in by then, and goes on from it.
#[test]
fn a_spend_that_could_not_be_stored_is_found_again() {
    const TABLES: [&[&str]; 3] = [&["spends"], &["wallet"], &["spends", "wallet"]];
    for (tables, restarts) in TABLES.into_iter().flat_map(|tables| [(tables, false), (tables, true)]) {
        let mut story = Story::begin();
        let id = story.open(40_000);
        story.close_alone(id);
        story.node.mine(1).unwrap();
        let disk = full(&story, "seller", tables);
        assert!(story.seller().look().is_err(), "{tables:?}");
        drop(disk);
        // The wallet is stored for another reason: the next channel gets another address.
        story.propose();
        if restarts {
            story.start_seller();
        }

        story.look();

        story.mine(FINALITY - 1);
        story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
        assert_eq!(story.seller().balance().confirmed, sat(40_000), "{tables:?}");
    }
}

/// Neither a payment that is signed nor one that is not yet: "nothing was done" is what the person is told.
#[test]
fn a_payment_that_could_not_be_stored_is_never_sent() {
    let story = Story::begin();
    let elsewhere = ScriptBuf::new_p2wsh(&WScriptHash::all_zeros());
    let disk = full(&story, "buyer", &["wallet"]);
    for amount in [Some(sat(20_000)), None] {
        let refused = story.buyer().send(elsewhere.clone(), amount);
        assert!(matches!(refused, Err(SendError::Order(OrderError::Store(_)))), "{refused:?}");
        assert_eq!(story.buyer().balance().confirmed, PURSE);
    }
    assert!(story.buyer().prepare_payment(elsewhere, sat(20_000)).is_err());
    assert_eq!(story.buyer().balance().confirmed, PURSE);
    drop(disk);

    story.mine_empty(1);

    assert_eq!(story.node.mempool().unwrap(), []);
    assert_eq!(story.buyer().balance().confirmed, PURSE);
}

/// The person who asked for it sees "closing" and goes away.
#[test]
fn a_wish_to_close_is_kept_until_the_closing_could_be_stored() {
    let story = Story::begin();
    let id = story.open(40_000);
    story.home("seller").store().unwrap().wish_close(id).unwrap();
    let disk = full(&story, "seller", &["journal"]);
    let _not_all_is_seen = story.seller().look();
    assert_eq!((story.sellers(id).name(), story.spender(id)), ("open", None));
    drop(disk);

    story.look();

    assert_eq!(story.sellers(id).name(), "closing alone");
    assert!(story.spender(id).is_some());
    assert_eq!(story.home("seller").store().unwrap().wishes().unwrap(), []);
}
