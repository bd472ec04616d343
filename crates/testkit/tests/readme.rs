//! The examples of the README, compiled and run as they stand there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bitcoin::{Amount, Network};
use farthing_chain::{Chain, RegtestNode};
use farthing_http::caller::{Caller, Means};
use farthing_http::client::Client;
use farthing_http::gate::Gate;
use farthing_http::tariff::Tariff;
use farthing_node::buyer::Buyer;
use farthing_node::home::Home;
use farthing_node::seller::{Seller, Terms};
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use tokio::net::TcpListener;

include!("readme/seller.rs");
include!("readme/client.rs");

const README: &str = include_str!("../../../README.md");

#[test]
fn the_readme_shows_what_is_run_here() {
    for example in [include_str!("readme/seller.rs"), include_str!("readme/client.rs")] {
        assert!(README.contains(example), "the README has another example than\n{example}");
        assert!(example.lines().count() <= 10);
    }
}

/// Blocks come as long as somebody waits for one.
fn mine_until(node: &RegtestNode, is_done: &AtomicBool) {
    while !is_done.load(Ordering::Relaxed) {
        node.mine(1).expect("the node mines");
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

#[test]
fn the_examples_sell_and_buy_a_call() {
    let node = RegtestNode::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let home = |side: &str| Home::init(&folder.path().join(side), Network::Regtest).unwrap().0;
    let (seller, buyer) = (home("seller"), home("buyer"));
    let address = Buyer::start(&buyer, node.chain(), Pace::for_network(Network::Regtest), 6)
        .unwrap()
        .new_address()
        .unwrap();
    node.send(&address, Amount::from_sat(100_000)).unwrap();
    node.mine(1).unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| mine_until(&node, &is_done));
        let answer = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/hello", listener.local_addr().unwrap());
            let selling = tokio::spawn(sell(seller, node.chain(), listener));
            let answer = tokio::time::timeout(Duration::from_secs(60), call(buyer, node.chain(), &url)).await;
            selling.abort();
            answer
        });
        is_done.store(true, Ordering::Relaxed);
        answer
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    assert_eq!(answer.expect("a call ends in time").unwrap(), "hello, payer for 0.01 sat");
}
