//! A `reqwest` client that pays for its calls, at a service whose price depends on the request: there is no list, so it learns the price from
//! the challenge.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::request::Parts;
use axum::routing::any;
use bitcoin::{Amount, Network};
use farthing_chain::RegtestNode;
use farthing_http::caller::{Caller, Means};
use farthing_http::client::Client;
use farthing_http::gate::Gate;
use farthing_http::middleware::Pay;
use farthing_http::tariff::{CallPrice, Tariff};
use farthing_node::buyer::Buyer;
use farthing_node::home::Home;
use farthing_node::seller::{Seller, Terms};
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::net::TcpListener;

/// The large model is dearer.
fn price(parts: &Parts) -> CallPrice {
    CallPrice::per_call(Msat::new(if parts.headers.contains_key("x-large") { 700 } else { 100 }))
}

/// A service that says back what it was sent.
async fn sell(seller: Arc<Seller>, listener: TcpListener) {
    let gate = Gate::new(seller, Tariff::function(price));
    let app = Router::new().route("/echo", any(async |body: String| format!("echo: {body}"))).layer(gate);
    axum::serve(listener, app).await.unwrap();
}

async fn spent(seller: &Seller) -> Vec<u64> {
    let mut all = Vec::new();
    for entry in seller.channels().await.unwrap() {
        all.push(seller.standing(entry.id).await.unwrap().expect("it pays for calls").spent.get());
    }
    all
}

async fn use_it(client: &ClientWithMiddleware, seller: &Seller, address: &str) {
    let list = reqwest::get(format!("{address}/.well-known/farthing/prices")).await.unwrap();
    assert_eq!(list.status().as_u16(), 404, "there is no list");
    let url = format!("{address}/echo");

    let answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.headers().contains_key("payment-receipt"));
    assert_eq!(answer.text().await.unwrap(), "echo: ");
    assert_eq!(spent(seller).await, [100]);

    let large = client.post(&url).header("x-large", "yes").body("a question").send().await.unwrap();
    assert_eq!(large.text().await.unwrap(), "echo: a question");
    assert_eq!(spent(seller).await, [800]);

    let parts = futures_util::stream::iter([Ok::<_, std::io::Error>("a part")]);
    let refused = client.post(&url).body(reqwest::Body::wrap_stream(parts)).send().await.unwrap_err();
    assert!(format!("{refused:#}").contains("cannot be paid for"), "{refused:#}");
    assert_eq!(spent(seller).await, [800]);
}

#[test]
fn a_client_with_the_middleware_pays_what_each_request_costs() {
    let node = RegtestNode::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let home = |side: &str| Home::init(&folder.path().join(side), Network::Regtest).unwrap().0;
    let pace = Pace::for_network(Network::Regtest);
    let buyer = Arc::new(Buyer::start(&home("buyer"), node.chain(), pace, 6).unwrap());
    let seller = Arc::new(Seller::start(&home("seller"), node.chain(), pace, Terms::default()).unwrap());
    node.send(&buyer.new_address().unwrap(), Amount::from_sat(100_000)).unwrap();
    node.mine(1).unwrap();
    buyer.look().unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                node.mine(1).expect("the node mines");
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        let used = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let selling = tokio::spawn(sell(seller.clone(), listener));
            let client = Client::new(buyer, Duration::from_secs(30)).unwrap();
            let caller = Arc::new(Caller::new(client, Means::default()).await.unwrap());
            let client = ClientBuilder::new(reqwest::Client::new()).with(Pay::new(caller)).build();
            let using = tokio::spawn(async move { use_it(&client, &seller, &address).await });
            let used = tokio::time::timeout(Duration::from_secs(60), using).await;
            selling.abort();
            used
        });
        is_done.store(true, Ordering::Relaxed);
        used.expect("the calls end in time").unwrap();
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
}
