//! A gate before services that stall, that are asked for too much at once, and whose client leaves in the middle.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use common::calls::*;
use common::*;
use farthing_http::credential::Receipt;
use farthing_http::encoding;
use farthing_http::gate::{Gate, Gated, Manner};
use farthing_http::tariff::{CallPrice, Rule, Tariff};
use farthing_node::books::{Item, OrderError};
use farthing_node::buyer::calls::Allowed;
use farthing_protocol::lightspeed::call::{MacKey, NO_BODY, Target};
use farthing_protocol::lightspeed::numbers::WINDOW;
use farthing_protocol::lightspeed::tab::MOST_RUNNING;
use farthing_protocol::lightspeed::{Call, CallNumber, Words};
use farthing_protocol::{ChannelId, Msat};
use farthing_testkit::wait::until;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tower::{Layer as _, ServiceExt as _, service_fn};

const TARGET: Target<'_> = Target { method: "GET", authority: "seller", uri: "/item", body: NO_BODY };
const PRICE: Msat = Msat::new(1_000);

/// A body that says how long it is, and never comes.
struct Stalled;

impl HttpBody for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(5)
    }
}

fn request(header: &[u8]) -> Request {
    let builder = Request::builder().uri(TARGET.uri).header("host", TARGET.authority);
    builder.header("lightspeed", encoding::encode_bytes(header)).body(Body::empty()).unwrap()
}

/// A call of that price, as the buyer sends it.
fn prepared(story: &Story, id: ChannelId, cost: Msat) -> Request {
    request(&wait(story.buyer().call(id, cost, &TARGET, Allowed::ANYTHING)).unwrap().bytes)
}

fn spent(story: &Story, id: ChannelId) -> Msat {
    wait(story.seller().standing(id)).unwrap().expect("it pays for calls").spent
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Runs on a runtime with a clock, as a server does.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn a_service_that_stalls_in_the_middle_of_its_answer_is_given_up_and_costs_nothing() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let manner = Manner { patience: Duration::from_millis(100), ..Manner::default() };
    let gate = Gate::with_manner(story.seller().clone(), Tariff::per_call(PRICE), manner);
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::new(Stalled)))));

    let answer = run(service.oneshot(prepared(&story, id, PRICE))).unwrap();

    assert_eq!((answer.status().as_u16(), header(&answer, "lightspeed")), (503, Some("free")));
    assert_eq!(spent(&story, id), Msat::ZERO);
    let seller = story.seller();
    let drained = run(seller.drain(id, Duration::ZERO));
    assert!(drained.is_some(), "nothing is left running");
}

#[test]
fn a_service_that_never_begins_its_answer_is_given_up_and_costs_nothing() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let manner = Manner { patience: Duration::from_millis(100), ..Manner::default() };
    let gate = Gate::with_manner(story.seller().clone(), Tariff::per_call(PRICE), manner);
    let service = gate.layer(service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>()));
    let bytes = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap().bytes;

    let answer = run(service.clone().oneshot(request(&bytes))).unwrap();

    assert_eq!((answer.status().as_u16(), header(&answer, "lightspeed")), (503, Some("free")));
    assert_eq!(spent(&story, id), Msat::ZERO);
    let again = run(service.oneshot(request(&bytes))).unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "lightspeed")), (409, Some("refused")));
    assert!(run(story.seller().drain(id, Duration::ZERO)).is_some(), "nothing is left running");
}

/// A service that states no length, and whose answer is all there.
#[test]
fn a_short_answer_without_a_stated_length_is_kept_and_free_when_it_breaks_off() {
    for breaks_off in [false, true] {
        let story = Story::begin();
        let id = story.open_for_calls(rungs(1, 50));
        let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
        let service = gate.layer(service_fn(move |_: Request| async move {
            let end = if breaks_off { Err(std::io::Error::other("gone")) } else { Ok("done") };
            let parts = futures_util::stream::iter([Ok("nearly "), end]);
            Ok::<_, Infallible>(Response::new(Body::from_stream(parts)))
        }));
        let bytes = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap().bytes;
        let answer = run(service.clone().oneshot(request(&bytes))).unwrap();
        if breaks_off {
            assert_eq!((answer.status().as_u16(), header(&answer, "lightspeed")), (503, Some("free")));
            assert_eq!(spent(&story, id), Msat::ZERO);
            continue;
        }
        for answer in [answer, run(service.oneshot(request(&bytes))).unwrap()] {
            assert_eq!(answer.status(), 200);
            assert_eq!(run(answer.into_body().collect()).unwrap().to_bytes(), "nearly done");
        }
        assert_eq!(spent(&story, id), PRICE);
    }
}

/// In these stories a seller looks at the chain when it is told to.
#[test]
fn a_seller_that_cannot_see_the_chain_sells_nothing() {
    let story = Story::set(|setting| setting.terms.most_blind = Duration::from_secs(3));
    let id = story.open_for_calls(rungs(1, 50));
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()))));
    let health = || {
        let asked = Request::builder().uri("/.well-known/farthing/health").body(Body::empty()).unwrap();
        run(service.clone().oneshot(asked)).unwrap().status().as_u16()
    };
    story.look();
    assert_eq!(health(), 200);
    let paid = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap().bytes;
    let answered = run(service.clone().oneshot(request(&paid))).unwrap();
    assert_eq!(answered.status().as_u16(), 200);
    until("it has not looked for too long", || Ok((health() == 503).then_some(()))).unwrap();

    // It was charged: to call it refused, and so free, would have its payer pay for it twice.
    let again = run(service.clone().oneshot(request(&paid))).unwrap();
    let receipt = |response: &Response| header(response, "payment-receipt").map(str::to_owned);
    assert_eq!((again.status().as_u16(), receipt(&again)), (200, receipt(&answered)));

    let refused = run(service.clone().oneshot(prepared(&story, id, PRICE))).unwrap();
    let said = (refused.status().as_u16(), header(&refused, "lightspeed"), header(&refused, "retry-after"));
    assert_eq!(said, (503, Some("refused"), Some("5")));
    assert_eq!(spent(&story, id), PRICE);
    let blind = wait(story.seller().charge(id, Item { id: [1; 32], cost: PRICE }, None));
    assert!(matches!(blind, Err(OrderError::Blind(Some(_)))), "{blind:?}");

    story.look();
    let served = run(service.clone().oneshot(prepared(&story, id, PRICE))).unwrap();
    assert_eq!(served.status().as_u16(), 200);
}

#[test]
fn what_was_served_before_the_price_rose_has_its_answer() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let answer = async |_: Request| Ok::<_, Infallible>(Response::new(Body::from("done")));
    let bytes = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap().bytes;
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    assert_eq!(run(gate.layer(service_fn(answer)).oneshot(request(&bytes))).unwrap().status(), 200);

    let dearer = Gate::new(story.seller().clone(), Tariff::per_call(Msat::new(1_001)));
    let service = dearer.layer(service_fn(answer));
    let again = run(service.clone().oneshot(request(&bytes))).unwrap();
    // Another gate has no copy of the answer.
    assert_eq!(again.status().as_u16(), 409);
    assert!(again.headers().contains_key("payment-receipt"));
    let new = run(service.oneshot(prepared(&story, id, PRICE))).unwrap();
    assert_eq!((new.status().as_u16(), header(&new, "lightspeed")), (402, Some("refused")));
}

/// At a price by size alone: without the cost of the first 4 KiB set aside, the service would work for nothing.
#[test]
fn a_call_that_sets_too_little_aside_does_not_reach_the_service() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let by_size = CallPrice { call: Msat::ZERO, kib: PRICE, event: Msat::ZERO };
    let gate = Gate::new(story.seller().clone(), Tariff::list(Vec::new(), by_size));
    let asked = Arc::new(Semaphore::new(0));
    let asking = asked.clone();
    let service = gate.layer(service_fn(move |_: Request| {
        asking.add_permits(1);
        async { Ok::<_, Infallible>(Response::new(Body::from("done"))) }
    }));

    let too_little = run(service.clone().oneshot(prepared(&story, id, Msat::new(3_999)))).unwrap();
    assert_eq!((too_little.status().as_u16(), header(&too_little, "lightspeed")), (402, Some("refused")));
    assert_eq!(asked.available_permits(), 0);

    let enough = run(service.oneshot(prepared(&story, id, Msat::new(4_000)))).unwrap();
    assert_eq!((enough.status().as_u16(), header(&enough, "lightspeed")), (200, Some("metered")));
    assert_eq!(asked.available_permits(), 1);
}

/// A body that never comes is waited for only where there is a channel, and not for long.
#[test]
fn a_body_is_read_for_a_channel_that_exists_and_only_for_so_long() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let manner = Manner { body_patience: Duration::from_millis(50), ..Manner::default() };
    let gate = Gate::with_manner(story.seller().clone(), Tariff::per_call(PRICE), manner);
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()))));
    let call = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap();
    let stalled = |bytes: &[u8]| request(bytes).map(|_| Body::new(Stalled));

    let slow = run(service.clone().oneshot(stalled(&call.bytes))).unwrap();
    assert_eq!((slow.status().as_u16(), header(&slow, "lightspeed")), (400, None));

    let mut foreign = call.bytes.clone();
    foreign[0] ^= 1;
    let unknown = run(service.oneshot(stalled(&foreign))).unwrap();
    assert_eq!((unknown.status().as_u16(), header(&unknown, "lightspeed")), (402, Some("closed")));
}

/// Whoever passes a request on can state any length: its payer must not hear that the call is free for good.
#[test]
fn a_stated_length_settles_no_call() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()))));
    let call = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap();
    let mut damaged = request(&call.bytes).map(|_| Body::new(Stalled));
    damaged.headers_mut().insert("content-length", (2 << 20).into());

    let refused = run(service.clone().oneshot(damaged)).unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "lightspeed")), (400, None));

    let served = run(service.oneshot(request(&call.bytes))).unwrap();
    assert_eq!(served.status().as_u16(), 200);
    assert_eq!(spent(&story, id), PRICE);
}

/// An opening costs nothing, and an announcement may be large.
#[test]
fn an_announcement_is_read_only_for_a_channel_that_is_funded() {
    let story = Story::begin();
    let (id, _) = story.propose();
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()))));
    for what in ["chains", "batches"] {
        let announces = Request::post(format!("/.well-known/farthing/channels/{id}/{what}"));
        let announces =
            announces.header("content-type", "application/json").body(Body::new(Stalled)).unwrap();
        let refused = run(async {
            let answer = service.clone().oneshot(announces);
            tokio::time::timeout(Duration::from_secs(20), answer)
                .await
                .expect("it waits for no body")
                .unwrap()
        });
        assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (402, Some("1")), "{what}");
    }
}

/// Answers of a free route are not kept: any number of them would take the place of those that were paid for.
#[test]
fn what_costs_nothing_takes_no_kept_answers_place() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let free = CallPrice::default();
    let rules = vec![Rule { method: None, path: "/free".to_owned(), price: free }];
    let tariff = Tariff::list(rules, CallPrice { call: PRICE, ..free });
    let manner = Manner { most_answers: 4_096, ..Manner::default() };
    let gate = Gate::with_manner(story.seller().clone(), tariff, manner);
    let service = gate.layer(service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; 1_024])))
    }));
    let paid = wait(story.buyer().call(id, PRICE, &TARGET, Allowed::ANYTHING)).unwrap().bytes;
    assert_eq!(run(service.clone().oneshot(request(&paid))).unwrap().status(), 200);

    let target = Target { uri: "/free", ..TARGET };
    for _ in 0..8 {
        let bytes = wait(story.buyer().call(id, Msat::new(1), &target, Allowed::ANYTHING)).unwrap().bytes;
        let mut asked = request(&bytes);
        *asked.uri_mut() = target.uri.parse().unwrap();
        let answer = run(service.clone().oneshot(asked)).unwrap();
        assert_eq!(answer.status(), 200);
        let receipt = Receipt::from_header(header(&answer, "payment-receipt").unwrap()).unwrap();
        assert_eq!(receipt.cost, Msat::ZERO);
    }

    let again = run(service.oneshot(request(&paid))).unwrap();
    assert_eq!(again.status(), 200, "it is kept");
    assert_eq!(spent(&story, id), PRICE);
}

/// Signs calls as no honest buyer would: any number of them, all with the same word.
struct Flood {
    mac: MacKey,
    call: Call,
}

impl Flood {
    fn new(story: &Story, id: ChannelId) -> Self {
        let entry = wait(story.buyer().channels()).unwrap().pop().unwrap();
        let keys = story.home("buyer").seed().unwrap().channel_keys(entry.record.key);
        let purse = wait(story.buyer().purse(id)).unwrap().unwrap();
        let terms = purse.chains().first().unwrap().0;
        let mut words = Words::draw(&keys, id, &terms.shape, terms.number);
        let index = terms.shape.words;
        let number = CallNumber { epoch: story.seller().epoch(), counter: 0 };
        let word = words.word(index).unwrap();
        let call = Call { channel: id, number, cost: PRICE, chain: terms.number, index, word, last: None };
        Self { mac: MacKey::new(&story.buyer().call_key(id).unwrap()), call }
    }

    fn request(&self, counter: u64) -> Request {
        let mut call = self.call;
        call.number.counter = counter;
        request(&call.to_bytes(&self.mac.mac(&call, &TARGET)))
    }

    fn request_to(&self, uri: &'static str, counter: u64) -> Request {
        let target = Target { uri, ..TARGET };
        let mut call = self.call;
        (call.number.counter, call.cost) = (counter, Msat::new(50_000));
        let mut asked = request(&call.to_bytes(&self.mac.mac(&call, &target)));
        *asked.uri_mut() = uri.parse().unwrap();
        asked
    }
}

#[test]
fn more_calls_at_once_than_a_payer_may_have_are_told_to_wait() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(30, 100));
    let flood = Flood::new(&story, id);
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    let (go_on, may_go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let waiting = (go_on.clone(), may_go_on.clone());
    let service = gate.layer(service_fn(move |_: Request| {
        let (begun, may_go_on) = (waiting.0.clone(), waiting.1.clone());
        async move {
            begun.add_permits(1);
            let _one = may_go_on.acquire().await;
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    }));
    run(async {
        let most = MOST_RUNNING as u64;
        let mut running = tokio::task::JoinSet::new();
        for counter in 1..=most {
            running.spawn(service.clone().oneshot(flood.request(counter)));
        }
        drop(go_on.acquire_many(most as u32).await);
        let refused = service.clone().oneshot(flood.request(most + 1)).await.unwrap();
        let said =
            (refused.status().as_u16(), header(&refused, "retry-after"), header(&refused, "lightspeed"));
        assert_eq!(said, (429, Some("1"), Some("refused")));

        may_go_on.add_permits(MOST_RUNNING);
        while let Some(answer) = running.join_next().await {
            assert_eq!(answer.unwrap().unwrap().status(), 200);
        }
        let after = service.clone().oneshot(flood.request(most + 2)).await.unwrap();
        assert_eq!(after.status(), 200);
    });
    assert_eq!(spent(&story, id), Msat::new((MOST_RUNNING as u64 + 1) * 1_000));
}

/// The same number again is the same call only within the window: beyond it nobody knows any more what became of it.
#[test]
fn a_call_that_has_left_the_window_is_neither_served_again_nor_charged() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(30, 100));
    let flood = Flood::new(&story, id);
    let gate = Gate::new(story.seller().clone(), Tariff::per_call(PRICE));
    let service =
        gate.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::from("done")))));
    let send = |counter| run(service.clone().oneshot(flood.request(counter))).unwrap();

    assert_eq!(send(1).status().as_u16(), 200);
    assert_eq!(send(WINDOW).status().as_u16(), 200);
    let again = send(1);
    assert!(again.headers().contains_key("payment-receipt"), "it is in the window: {}", again.status());
    assert_eq!(send(1 + WINDOW).status().as_u16(), 200);
    let forgotten = send(1);
    assert_eq!((forgotten.status().as_u16(), header(&forgotten, "lightspeed")), (409, Some("forgotten")));
    assert!(!forgotten.headers().contains_key("payment-receipt"));
    assert_eq!(spent(&story, id), Msat::new(3_000));
}

/// A stream beside many other calls, or one that uses a number with each of its top-ups.
#[test]
fn an_answer_that_outlives_the_window_has_its_receipt_at_its_end_and_after_a_restart() {
    let mut story = Story::begin();
    let id = story.open_for_calls(rungs(30, 100));
    let service = |story: &Story| {
        let by_size = CallPrice { call: Msat::ZERO, kib: PRICE, event: Msat::ZERO };
        let rules = vec![Rule { method: None, path: "/stream".to_owned(), price: by_size }];
        let tariff = Tariff::list(rules, CallPrice::per_call(PRICE));
        let gate = Gate::new(story.seller().clone(), tariff);
        gate.layer(service_fn(async |asked: Request| {
            let parts = if asked.uri().path() == "/stream" { 7 } else { 0 };
            let parts = (0..parts).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1_024])));
            Ok::<_, Infallible>(Response::new(Body::from_stream(futures_util::stream::iter(parts))))
        }))
    };
    let flood = Flood::new(&story, id);
    let selling = service(&story);
    run(async {
        let answer = selling.clone().oneshot(flood.request_to("/stream", 1)).await.unwrap();
        assert_eq!(header(&answer, "lightspeed"), Some("metered"));
        for counter in 2..=1 + WINDOW {
            assert_eq!(selling.clone().oneshot(flood.request(counter)).await.unwrap().status(), 200);
        }
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 7 * 1_024);
    });
    let receipt = |service, counter: u64| {
        let again = run(tower::ServiceExt::oneshot(service, flood.request_to("/stream", counter))).unwrap();
        let receipt = header(&again, "payment-receipt").map(|receipt| Receipt::from_header(receipt).unwrap());
        (again.status().as_u16(), receipt.map(|receipt| receipt.cost))
    };
    assert_eq!(receipt(selling, 1), (409, Some(Msat::new(7_000))));
    story.start_seller();
    assert_eq!(receipt(service(&story), 1), (409, Some(Msat::new(7_000))));
    assert_eq!(spent(&story, id), Msat::new(7_000 + WINDOW * 1_000));
}

/// A service that answers in parts of 1 KiB for ever.
type Endless = Gated<tower::util::BoxCloneSyncService<Request, Response, Infallible>>;

fn endless(story: &Story) -> Endless {
    let price = CallPrice { call: Msat::ZERO, kib: PRICE, event: Msat::ZERO };
    let gate = Gate::new(story.seller().clone(), Tariff::list(Vec::new(), price));
    let service = service_fn(async |_: Request| {
        let parts = std::iter::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1_024])));
        Ok(Response::new(Body::from_stream(futures_util::stream::iter(parts))))
    });
    gate.layer(tower::util::BoxCloneSyncService::new(service))
}

#[test]
fn a_client_that_leaves_pays_what_has_flowed_and_gets_its_receipt_later() {
    let mut story = Story::begin();
    let id = story.open_for_calls(rungs(1, 50));
    let bytes = wait(story.buyer().call(id, Msat::new(50_000), &TARGET, Allowed::ANYTHING)).unwrap().bytes;
    let service = endless(&story);
    run(async {
        let mut answer = service.oneshot(request(&bytes)).await.unwrap();
        for _ in 0..7 {
            let part = answer.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(part.into_data().unwrap().len(), 1_024);
        }
    });
    assert_eq!(spent(&story, id), Msat::new(7_000));
    // Nobody waited for it to be stored, and it is all the same.
    story.start_seller();
    assert_eq!(spent(&story, id), Msat::new(7_000));
    let again = run(endless(&story).oneshot(request(&bytes))).unwrap();
    assert_eq!(again.status(), 409);
    let receipt = Receipt::from_header(header(&again, "payment-receipt").unwrap()).unwrap();
    assert_eq!(receipt.cost, Msat::new(7_000));
}
