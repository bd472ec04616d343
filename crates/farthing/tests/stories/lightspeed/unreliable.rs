//! Sellers that lie about a payment, change their prices, restart, or take long: the buyer pays a call once at most, within its
//! budget, and goes on.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use farthing_http::challenge::Challenge;
use farthing_http::credential::Receipt;
use farthing_http::wire;
use farthing_protocol::Msat;
use farthing_testkit::calls::curl;
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::relay::{Fate, Pipe, Relay};
use farthing_testkit::service::Latch;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, Service};

use super::{assert_closes_for, charged, people};
use crate::bad_seller::overstating;

fn is_call(request: &Message, target: &str) -> bool {
    request.target() == target && request.header("lightspeed").is_some()
}

fn status(url: &str) -> Result<String> {
    curl(&["--output", "/dev/null", "--write-out", "%{http_code}", url])
}

/// Whatever a seller says of what it charged, the budget counts what was revealed to it.
#[test]
fn a_seller_with_nonsense_for_receipts_gets_no_more_than_the_budget() -> Result<()> {
    let spoils: [fn(&str) -> String; 2] = [
        |_| "!!!".to_owned(),
        |receipt| {
            let mut receipt = Receipt::from_header(receipt).expect("the seller's own receipt");
            receipt.cost = Msat::new(500_001);
            receipt.to_header()
        },
    ];
    for spoil in spoils {
        let (world, payee, payer) = people()?;
        let service = Service::counting()?;
        let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
        let relay = Relay::before(&api.address, move |_, answer| {
            if let Some(spoiled) = answer.header("payment-receipt").map(spoil) {
                *answer = answer.clone().with("payment-receipt", &spoiled);
            }
            Fate::Deliver
        })?;
        let _miner = world.miner();
        let proxy = payer.proxy(&relay.url(&api.at("/")), &["--budget", "1250sat"])?;
        let codes: Vec<String> =
            (0..5).map(|_| status(&format!("{}/item", proxy.url))).collect::<Result<_>>()?;
        ensure!(codes == ["502", "502", "402", "402", "402"], "{codes:?}");
        ensure!(service.requests().len() == 2, "{} were served", service.requests().len());
        ensure!(payer.channel()?.spent_msat == 1_000_000, "they count until the close settles them");
    }
    Ok(())
}

/// Sells at that address again, with other options.
fn sell_again(
    payee: &Person,
    service: &Service,
    options: &[&str],
    address: &str,
) -> Result<farthing_testkit::Api> {
    payee.sell_calls_at(&service.url(), "500sat/call", options, address)
}

#[test]
fn a_route_that_became_free_serves_a_paid_call_once_for_nothing() -> Result<()> {
    for options in [&["--shadow"][..], &["--route", "/item=0sat"]] {
        let (world, payee, payer) = people()?;
        let (service, address) = (Service::counting()?, free_address()?);
        let api = sell_again(&payee, &service, &[], &address)?;
        let _miner = world.miner();
        let proxy = payer.proxy(&api.at("/"), &[])?;
        ensure!(status(&format!("{}/item", proxy.url))? == "200");
        api.process.stop()?.success()?;
        let _api = sell_again(&payee, &service, options, &address)?;
        for calls in 2..=3 {
            ensure!(status(&format!("{}/item", proxy.url))? == "200", "{options:?}");
            ensure!(service.requests().len() == calls, "{options:?}: {} requests", service.requests().len());
        }
        ensure!(charged(&payee, &payer)? == 500_000, "{options:?}");
    }
    Ok(())
}

/// The proxy has the old list: it looks again when a free call is not free any more, and when a call would cost too much.
#[test]
fn a_price_that_changed_either_way_is_looked_up_again() -> Result<()> {
    for (path, before) in [("/item", "200"), ("/other", "402")] {
        let (world, payee, payer) = people()?;
        let (service, address) = (Service::counting()?, free_address()?);
        let routes = ["--route", "/item=0sat", "--route", "/other=501sat"];
        let api = sell_again(&payee, &service, &routes, &address)?;
        let _miner = world.miner();
        let proxy = payer.proxy(&api.at("/"), &["--max-cost", "500sat"])?;
        ensure!(status(&format!("{}/opens", proxy.url))? == "200");
        ensure!(status(&format!("{}{path}", proxy.url))? == before, "{path}");
        ensure!(charged(&payee, &payer)? == 500_000, "{path}");
        api.process.stop()?.success()?;
        let _api = sell_again(&payee, &service, &[], &address)?;
        ensure!(status(&format!("{}{path}", proxy.url))? == "200", "{path}");
        ensure!(charged(&payee, &payer)? == 1_000_000, "{path}");
    }
    Ok(())
}

/// An answer is lost, the seller restarts, the retry brings the receipt, and the seller restarts again: each time in a new
/// epoch, of which the buyer hears.
#[test]
fn a_buyer_follows_a_seller_through_two_restarts() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (service, address) = (Service::counting()?, free_address()?);
    let api = sell_again(&payee, &service, &[], &address)?;
    let loses = Arc::new(AtomicBool::new(true));
    let losing = loses.clone();
    let pipe = Pipe::to(&address)?;
    let relay = Relay::before(pipe.address(), move |request, _| {
        let is_lost = is_call(request, "/lost") && losing.load(Ordering::SeqCst);
        if is_lost { Fate::Swallow } else { Fate::Deliver }
    })?;
    let miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "5");
    let at = |path: &str| relay.url(&pipe.url(&format!("http://{address}{path}")));
    payer.call(&at("/opens"), &[])?;
    let calling = payer.start_calling(&at("/lost"), &[])?;
    until("the call is served", || Ok((service.requests().len() == 2).then_some(())))?;
    until("it is stored", || Ok((payee.channel()?.spent_msat == 1_000_000).then_some(())))?;
    api.kill()?;
    let api = sell_again(&payee, &service, &[], &address)?;
    loses.store(false, Ordering::SeqCst);
    let said = calling.wait()?.failure(3)?;
    ensure!(said.contains("was served and cost 500"), "{said}");
    api.kill()?;
    let _api = sell_again(&payee, &service, &[], &address)?;
    payer.call(&at("/after"), &[])?;
    assert_eq!(charged(&payee, &payer)?, 1_500_000);
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_500)
}

/// The answer is lost, or the call is said to run, and then the seller says that the channel is closed: it may have been served
/// before.
#[test]
fn a_call_that_may_have_been_served_is_not_paid_again_in_another_channel() -> Result<()> {
    for first in [None, Some(Message::refusal(409, "call-running").with("lightspeed", "running"))] {
        let (world, payee, payer) = people()?;
        let service = Service::counting()?;
        let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
        let sent = AtomicUsize::new(0);
        let relay = Relay::before(&api.address, move |request, answer| {
            if is_call(request, "/lost") {
                *answer = Message::refusal(402, "channel-not-open").with("lightspeed", "closed");
                if sent.fetch_add(1, Ordering::SeqCst) == 0 {
                    let Some(first) = &first else { return Fate::Cut };
                    *answer = first.clone();
                }
            }
            Fate::Deliver
        })?;
        let _miner = world.miner();
        payer.call(&relay.url(&api.at("/opens")), &[])?;
        let said = payer.try_to_call(&relay.url(&api.at("/lost")), &[])?.failure(3)?;
        ensure!(said.contains("not known whether the call was served"), "{said}");
        assert_eq!((payer.channels()?.len(), service.requests().len()), (1, 2));
        assert_eq!(payer.channel()?.spent_msat, 1_000_000, "it counts until the close settles it");
    }
    Ok(())
}

/// A service that keeps calls of `/slow` waiting until the latch is open.
fn slow(latch: &Latch) -> Result<Service> {
    slow_with(latch, None)
}

/// The same, with one answer to all; else each gets its own path.
fn slow_with(latch: &Latch, body: Option<Vec<u8>>) -> Result<Service> {
    let latch = latch.clone();
    Service::answering(move |request| {
        if request.target() == "/slow" {
            latch.pass();
        }
        Message::answer(200, body.as_deref().unwrap_or(request.target().as_bytes()))
    })
}

/// Programs leave while their calls run: these are settled all the same, and what failed is there for others.
#[test]
fn calls_that_programs_abandon_at_the_proxy_are_settled_and_give_their_budget_back() -> Result<()> {
    let (world, payee, payer) = people()?;
    let latch = Latch::default();
    let waiting = latch.clone();
    let service = Service::answering(move |request| match request.target() {
        "/opens" => Message::answer(200, b"open"),
        "/slow" => {
            waiting.pass();
            Message::answer(500, b"a fault")
        }
        _other => Message::answer(200, b"served"),
    })?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--budget", "2100sat"])?;
    ensure!(status(&format!("{}/opens", proxy.url))? == "200");
    let address = proxy.url.split('/').nth(2).context("host and port")?.to_owned();
    for calls in 2..=4 {
        let mut program = std::net::TcpStream::connect(&address)?;
        write!(program, "GET /slow HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        until("the call reaches the service", || Ok((service.requests().len() == calls).then_some(())))?;
    }
    until("the programs' calls are outstanding", || {
        Ok((payer.channel()?.spent_msat == 2_000_000).then_some(()))
    })?;
    latch.open();
    until("they are settled, and free", || Ok((payer.channel()?.spent_msat == 500_000).then_some(())))?;
    for _ in 0..3 {
        ensure!(status(&format!("{}/item", proxy.url))? == "200");
    }
    assert_eq!(charged(&payee, &payer)?, 2_000_000);
    proxy.process.stop()?.success()?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 2_000)
}

/// The service takes longer than the buyer waits for one answer, again and again.
#[test]
fn a_call_that_takes_long_is_waited_for_and_served_once() -> Result<()> {
    let (world, payee, payer) = people()?;
    let latch = Latch::default();
    let service = slow(&latch)?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let relay = Relay::recording(&api.address)?;
    let miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "2");
    payer.call(&relay.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&relay.url(&api.at("/slow")), &[])?;
    until("it was sent more often than an answer that is lost", || {
        let sent = relay.requests().iter().filter(|request| is_call(request, "/slow")).count();
        Ok((sent > 12).then_some(()))
    })?;
    latch.open();
    calling.wait()?.success()?;
    assert_eq!(payer.answer()?.body, b"/slow");
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// An answer that is too long to be kept comes on the connection on which the call was sent, or not at all.
#[test]
fn a_long_answer_that_takes_long_to_begin_is_waited_for_and_delivered() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (latch, body) = (Latch::default(), vec![b'x'; 100_000]);
    let service = slow_with(&latch, Some(body.clone()))?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let relay = Relay::recording(&api.address)?;
    let miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "1");
    payer.call(&relay.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&relay.url(&api.at("/slow")), &[])?;
    until("the buyer asks what became of it", || {
        let sent = relay.requests().iter().filter(|request| is_call(request, "/slow")).count();
        Ok((sent > 2).then_some(()))
    })?;
    latch.open();
    calling.wait()?.success()?;
    assert!(payer.answer()?.body == body);
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// While the answer is on its way on the connection on which the call was sent, others find no seat, a server that is overloaded, and then
/// a channel that closes.
#[test]
fn what_others_hear_ends_no_call_whose_answer_may_still_come() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (latch, body) = (Latch::default(), vec![b'x'; 100_000]);
    let service = slow_with(&latch, Some(body.clone()))?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = asked.clone();
    let relay = Relay::before(&api.address, move |request, answer| {
        if !is_call(request, "/slow") || answer.status() != 409 {
            return Fate::Deliver;
        }
        match asking.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => return Fate::Cut,
            1 => *answer = Message::answer(503, b"too many connections"),
            _closes => *answer = Message::refusal(402, "channel-not-open").with("lightspeed", "closed"),
        }
        Fate::Deliver
    })?;
    let miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "1");
    payer.call(&relay.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&relay.url(&api.at("/slow")), &[])?;
    until("others have asked", || Ok((asked.load(Ordering::SeqCst) > 4).then_some(())))?;
    latch.open();
    calling.wait()?.success()?;
    assert!(payer.answer()?.body == body);
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// The service never answers one call: after `--timeout` it is cut off and free, and the next one is served.
#[test]
fn a_call_that_outlives_the_sellers_timeout_is_free() -> Result<()> {
    let (world, payee, payer) = people()?;
    let latch = Latch::default();
    let service = slow(&latch)?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--timeout", "1"])?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &[])?;
    ensure!(status(&format!("{}/opens", proxy.url))? == "200");
    ensure!(status(&format!("{}/slow", proxy.url))? == "503");
    ensure!(status(&format!("{}/item", proxy.url))? == "200");
    latch.open();
    assert_eq!(charged(&payee, &payer)?, 1_000_000);
    proxy.process.stop()?.success()?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// The buyer was killed before it had an answer, so it asks what it is to pay. It signs no closing for more than its calls could
/// have come to, and goes on when the seller tells the truth.
#[test]
fn a_seller_that_states_more_than_was_called_for_gets_no_closing_until_it_tells_the_truth() -> Result<()> {
    let (world, payee, payer) = people()?;
    let latch = Latch::default();
    let service = slow(&latch)?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let lies = Arc::new(AtomicBool::new(true));
    let relay = overstating(&api.address, 1_000_001, &lies)?;
    let miner = world.miner();
    payer.call(&relay.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&relay.url(&api.at("/slow")), &[])?;
    until("the call reaches the service", || Ok((service.requests().len() == 2).then_some(())))?;
    calling.kill()?;
    latch.open();
    until("it is charged", || Ok((payee.channel()?.spent_msat == 1_000_000).then_some(())))?;
    drop(miner);

    let channel = payer.channel()?;
    let close = ["channels", "close", &channel.channel];
    let said = payer.attempt(&close)?.failure(3)?;
    ensure!(
        said.contains("says that 1000.001 sat is spent") && said.contains("it is 1000 sat at most"),
        "{said}"
    );
    assert_eq!((payer.channel()?, world.mempool()?.len()), (channel, 0), "nothing came of the lie");
    lies.store(false, Ordering::SeqCst);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// What the seller issues has expired by the buyer's clock, which is ahead: nothing is opened under it, and what is open is paid in. The
/// seller has no list of prices, so each call asks for a challenge first.
#[test]
fn a_buyer_whose_clock_is_ahead_opens_nothing_and_pays_in_the_channel_that_it_has() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let is_ahead = Arc::new(AtomicBool::new(true));
    let ahead = is_ahead.clone();
    let relay = Relay::before(&api.address, move |request, answer| {
        if request.target() == wire::PRICES {
            *answer = Message::refusal(404, "not-found");
        }
        if let Some(challenge) = answer.header("www-authenticate").filter(|_| ahead.load(Ordering::SeqCst)) {
            let mut challenge = Challenge::from_header(challenge).expect("the seller's own challenge");
            challenge.expires = "2009-01-03T18:15:05Z".to_owned();
            *answer = answer.clone().with("www-authenticate", &challenge.to_header());
        }
        Fate::Deliver
    })?;
    let miner = world.miner();
    let at = |path: &str| relay.url(&api.at(path));
    let said = payer.try_to_call(&at("/opens"), &[])?.failure(3)?;
    ensure!(said.contains("expired at 2009-01-03T18:15:05Z, and the clock here says 20"), "{said}");
    ensure!(payer.channels()?.is_empty() && service.requests().is_empty());
    is_ahead.store(false, Ordering::SeqCst);
    payer.call(&at("/opens"), &[])?;
    is_ahead.store(true, Ordering::SeqCst);
    payer.call(&at("/item"), &[])?;
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// 500,000 times as dear as the cheapest: a word is worth more than that then, and what is left of it pays the next call.
#[test]
fn prices_that_are_far_apart_are_paid_by_one_chain() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "/cheap=1msat"])?;
    let miner = world.miner();
    let mut due = 0;
    for _ in 0..4 {
        for (path, cost) in [("/dear", 500_000), ("/cheap", 1)] {
            payer.call(&api.at(path), &[])?;
            due += cost;
            ensure!(charged(&payee, &payer)? == due, "{path}: {} of {due}", charged(&payee, &payer)?);
        }
    }
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 2_000)
}

/// A word is worth at most what the seller puts at stake, so a call that is dearer takes several.
#[test]
fn a_call_that_is_dearer_than_what_a_seller_puts_at_stake_is_served() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "4500sat/call", &[])?;
    let miner = world.miner();
    for calls in 1..=3 {
        payer.call(&api.at("/dear"), &[])?;
        ensure!(charged(&payee, &payer)? == calls * 4_500_000);
    }
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 13_500)
}

/// Whatever page a browser shows, it spends nothing through a proxy on the same machine.
#[test]
fn a_web_page_cannot_spend_through_the_proxy() -> Result<()> {
    let (_world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let proxy = payer.proxy(&api.at("/"), &[])?;
    let address = proxy.url.split('/').nth(2).context("host and port")?;
    let request = || Message::request("GET", "/item", address);
    for (what, request) in [
        ("another site", request().with("sec-fetch-site", "cross-site")),
        ("a name that leads here", request().with("host", "evil.example:80")),
        (
            "an address that no browser guards",
            request().with("host", &address.replace("127.0.0.1", "0.0.0.0")),
        ),
        ("a neighbour's address", request().with("host", "192.168.0.7:8403")),
        ("a page of plain http", request().with("origin", "http://evil.example")),
        ("a page of another port", request().with("origin", "http://127.0.0.1:1")),
        ("a page of nowhere", request().with("origin", "null")),
    ] {
        let answer = request.send_to(address)?;
        ensure!((answer.status(), answer.problem().as_str()) == (403, "forbidden"), "{what}: {answer:?}");
    }
    assert!(payer.channels()?.is_empty() && service.requests().is_empty());
    Ok(())
}
