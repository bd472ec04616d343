//! A `reqwest` client that pays for its calls, at a service whose price depends on the request: there is no list, so it learns the price from
//! the challenge.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use axum::routing::any;
use bitcoin::{Amount, Network};
use farthing_chain::RegtestNode;
use farthing_http::caller::{Caller, Means};
use farthing_http::client::{Client, ClientError};
use farthing_http::gate::Gate;
use farthing_http::middleware::Pay;
use farthing_http::tariff::{CallPrice, Tariff};
use farthing_node::buyer::Buyer;
use farthing_node::buyer::calls::Allowed;
use farthing_node::home::Home;
use farthing_node::seller::{Seller, Terms};
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::purse::MOST_OUTSTANDING;
use reqwest_middleware::ClientBuilder;
use tokio::net::TcpListener;

/// The large model is dearer.
fn price(parts: &Parts) -> CallPrice {
    CallPrice::per_call(Msat::new(if parts.headers.contains_key("x-large") { 700 } else { 100 }))
}

/// A service that says back what it was sent.
fn echo(seller: Arc<Seller>) -> Router {
    let gate = Gate::new(seller, Tariff::function(price));
    Router::new().route("/echo", any(async |body: String| format!("echo: {body}"))).layer(gate)
}

/// A buyer, and a seller that it reaches at an address.
struct Scene {
    buyer: Arc<Buyer>,
    seller: Arc<Seller>,
    caller: Arc<Caller>,
    address: String,
}

async fn spent(seller: &Seller) -> Vec<u64> {
    let mut all = Vec::new();
    for entry in seller.channels().await.unwrap() {
        all.push(seller.standing(entry.id).await.unwrap().expect("it pays for calls").spent.get());
    }
    all
}

async fn use_middleware(Scene { seller, caller, address, .. }: Scene) {
    let seller = &seller;
    let client = ClientBuilder::new(reqwest::Client::new()).with(Pay::new(caller)).build();
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

/// A call of this many millisatoshi takes the price of a small model.
const SMALL: Msat = Msat::new(100);

/// Calls that were prepared and never sent, as after a crash, are in the way of others until the seller says what became of them.
async fn call_after_many_that_have_no_answer(Scene { buyer, seller, caller, address }: Scene) {
    let url = format!("{address}/echo");
    let channel = caller.get(&url).await.unwrap().channel().expect("it was paid");
    let target = Target { method: "GET", authority: "seller", uri: "/echo", body: [0; 32] };
    for _ in 0..MOST_OUTSTANDING {
        buyer.call(channel, Msat::new(1), &target, Allowed::ANYTHING).await.unwrap();
    }

    let mut answer = caller.get(&url).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.cost()), (200, SMALL));
    assert_eq!(answer.bytes(100).await.unwrap(), "echo: ");
    let purse = buyer.purse(channel).await.unwrap().unwrap();
    assert_eq!((purse.unanswered().count(), purse.spent()), (0, Msat::new(200)));
    assert_eq!(spent(&seller).await, [200]);
}

/// An answer that is charged as it flows, and a seller that says afterwards that the channel is closed.
fn closing_in_the_middle(seller: Arc<Seller>) -> Router {
    let by_size = CallPrice { call: Msat::ZERO, kib: SMALL, event: Msat::ZERO };
    let gate = Gate::new(seller, Tariff::list(Vec::new(), by_size));
    let has_begun = Arc::new(AtomicBool::new(false));
    let close = move |request: Request, next: Next| {
        let has_begun = has_begun.clone();
        async move {
            if request.headers().contains_key("lightspeed") && has_begun.load(Ordering::SeqCst) {
                return (StatusCode::PAYMENT_REQUIRED, [("lightspeed", "closed")]).into_response();
            }
            let answer = next.run(request).await;
            let is_metered = answer.headers().get("lightspeed").is_some_and(|said| said == "metered");
            has_begun.fetch_or(is_metered, Ordering::SeqCst);
            answer
        }
    };
    Router::new().route("/long", any(async || vec![b'x'; 8_192])).layer(gate).layer(from_fn(close))
}

async fn read_to_the_end(Scene { buyer, seller, caller, address }: Scene) {
    let mut answer = caller.get(&format!("{address}/long")).await.unwrap();
    let channel = answer.channel().expect("it is paid");
    let read = answer.bytes(1 << 20).await.map(|body| body.len());
    assert!(matches!(read, Err(ClientError::Unsettled { .. })), "{read:?}");
    assert_eq!(spent(&seller).await, [800]);
    let purse = buyer.purse(channel).await.unwrap().unwrap();
    assert_eq!(purse.unanswered().count(), 1, "it counts until the close settles it");
    assert!(purse.ledger().spent >= Msat::new(800));
}

#[test]
fn a_client_with_the_middleware_pays_what_each_request_costs() {
    play(echo, use_middleware);
}

#[test]
fn calls_that_never_got_an_answer_are_settled_when_they_are_in_the_way() {
    play(echo, call_after_many_that_have_no_answer);
}

#[test]
fn an_answer_that_flowed_is_not_free_because_its_channel_closed() {
    play(closing_in_the_middle, read_to_the_end);
}

fn play<F>(sells: impl FnOnce(Arc<Seller>) -> Router, use_it: impl FnOnce(Scene) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
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
            let app = sells(seller.clone());
            let selling = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            let client = Client::new(buyer.clone(), Duration::from_secs(30)).unwrap();
            let caller = Arc::new(Caller::new(client, Means::default()).await.unwrap());
            let using = tokio::spawn(use_it(Scene { buyer, seller, caller, address }));
            let used = tokio::time::timeout(Duration::from_secs(120), using).await;
            selling.abort();
            used
        });
        is_done.store(true, Ordering::Relaxed);
        used.expect("the calls end in time").unwrap();
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
}
