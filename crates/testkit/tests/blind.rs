//! A seller that does not see the present chain: it has just started, or its node stands still.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::Network;
use common::*;
use farthing_chain::{Chain, RpcConfig};
use farthing_node::books::{Item, OrderError};
use farthing_node::entropy;
use farthing_node::seller::Seller;
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::until;

/// How sellers look at the chain where they are not told to.
const BY_ITSELF: Duration = Duration::from_millis(50);

/// The payer may have taken its refund while the seller was off: what is stored says "open".
#[test]
fn a_seller_that_starts_again_sells_nothing_before_it_has_seen_what_became_of_its_channels() {
    let mut story = Story::begin();
    let id = story.open(10_000);
    let item = Item { id: entropy::bytes(), cost: Msat::new(5_000_000) };
    let payment = wait(story.buyer().buy(id, item)).unwrap().payment;
    let expiry = story.expiry(id);
    story.stop_seller();
    story.mine_to(expiry);
    story.look();
    story.mine(FINALITY);
    assert_eq!(story.buyers_end(id).kind, farthing_protocol::channel::SpendKind::Refund);

    // The node is slow: it says how high the chain is, and does not get to its blocks yet.
    let RpcConfig { url, auth } = story.node.rpc_config();
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = is_slow.clone();
    let line = Relay::instead_of(url.strip_prefix("http://").unwrap(), move |request| {
        let asks_for_block = String::from_utf8_lossy(&request.body).contains("\"getblock\"");
        (asks_for_block && slow.load(Ordering::SeqCst)).then(|| Message::refusal(503, "busy"))
    });
    let line = line.unwrap();
    let config = RpcConfig { url: format!("http://{}", line.address()), auth };
    let chain = Chain::connect(&config, Network::Regtest).unwrap();
    let pace = Pace { interval: BY_ITSELF, ..story.setting.pace };
    let seller = Seller::start(&story.home("seller"), chain, pace, story.setting.terms).unwrap();
    assert_eq!(wait(seller.channels()).unwrap()[0].state.name(), "open", "so it is stored");
    let charge = || wait(seller.charge(id, item, Some(payment)));
    let blind = charge();
    assert!(matches!(blind, Err(OrderError::Blind(None))), "{blind:?}");

    is_slow.store(false, Ordering::SeqCst);
    until("it sees the chain", || Ok(seller.sees().ok())).unwrap();
    let refused = charge();
    assert!(matches!(refused, Err(OrderError::Rejected(_) | OrderError::NoChannel(_))), "{refused:?}");
}

/// A node without peers answers as ever, and its blocks do not get any newer.
#[test]
fn a_node_that_stands_still_is_noticed() {
    // 2023: the blocks that the node mines are that old.
    const LONG_AGO: &str = "-mocktime=1700000000";
    let mut story = Story::set(|setting| setting.node = &[LONG_AGO]);
    let id = story.open(10_000);
    assert!(story.buy(id, 1).is_ok(), "on a private chain blocks come when somebody wants them");

    let public = Pace::for_network(Network::Signet);
    story.setting.pace = Pace { interval: BY_ITSELF, ..public };
    story.start_seller();
    story.look();
    let blind = story.buy(id, 1);
    assert!(matches!(blind, Err(OrderError::Blind(None))), "{blind:?}");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    story.node.set_time(now).unwrap();
    story.mine(1);
    assert!(story.buy(id, 1).is_ok());
}
