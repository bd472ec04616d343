//! One side is killed while calls run, and comes back: nobody pays twice, and nothing that was served is lost.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::calls::curl;
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::relay::{Pipe, Relay};
use farthing_testkit::service::Latch;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, Service};

use super::{assert_closes_for, charged, people};

/// A service that keeps calls of `/held` waiting until the latch is open, and fails calls of `/fails`.
fn service(latch: &Latch) -> Result<Service> {
    let latch = latch.clone();
    Service::answering(move |request| match request.target() {
        "/fails" => Message::answer(500, b"a fault"),
        target => {
            if target.starts_with("/held") {
                latch.pass();
            }
            if target == "/long" {
                // The rest never comes, so it flows until somebody is gone.
                let length = (8_u32 << 20).to_string();
                return Message::answer(200, &vec![b'x'; 1 << 20]).with("content-length", &length);
            }
            Message::answer(200, target.as_bytes())
        }
    })
}

/// So many requests have reached the service.
fn await_requests(service: &Service, count: usize) -> Result<()> {
    until("the calls reach the service", || Ok((service.requests().len() >= count).then_some(())))
}

#[test]
fn a_seller_killed_while_it_serves_charges_the_call_once() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (latch, address) = (Latch::default(), free_address()?);
    let service = service(&latch)?;
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    let (miner, pipe) = (world.miner(), Pipe::to(&address)?);
    payer.call(&pipe.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&pipe.url(&api.at("/held")), &[])?;
    await_requests(&service, 2)?;
    api.kill()?;
    latch.open();
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    calling.wait()?.success()?;

    assert_eq!(payer.answer()?.body, b"/held");
    assert_eq!(
        (service.requests().len(), charged(&payee, &payer)?),
        (3, 1_000_000),
        "served twice, paid once"
    );
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)?;
    api.kill()?;
    assert_eq!(payee.balance()?, 1_000);
    Ok(())
}

/// What an answer that flows has used is charged with each top-up, so a crash forgets no more than came after the last one;
/// and the buyer pays just what the seller remembers.
#[test]
fn a_seller_killed_while_an_answer_flows_keeps_what_was_used_before_the_last_top_up() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (miner, address) = (world.miner(), free_address()?);
    let service = service(&Latch::default())?;
    let prices = ["--route", "/long=1sat/KiB"];
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &prices, &address)?;
    let pipe = Pipe::to(&address)?;
    payer.call(&pipe.url(&api.at("/opens")), &[])?;
    let calling = payer.start_calling(&pipe.url(&api.at("/long")), &[])?;
    until("the answer is topped up", || Ok((payee.channel()?.spent_msat > 1_000_000).then_some(())))?;
    api.kill()?;
    let known = payee.channel()?.spent_msat;
    ensure!(known <= 500_000 + 1_024_000, "{known}");
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &prices, &address)?;
    let said = calling.wait()?.failure(4)?;
    ensure!(said.contains("broke off, and cost"), "{said}");

    assert_eq!(charged(&payee, &payer)?, known);
    payer.call(&pipe.url(&api.at("/item")), &[])?;
    assert_eq!(charged(&payee, &payer)?, known + 500_000);
    drop(miner);
    assert_closes_for(&world, &payee, &payer, (known + 500_000) / 1_000)
}

/// Three calls were answered, and then the seller is killed. What it still knows is theirs, in millisatoshi.
fn killed_after_three_calls(payee: &Person, payer: &Person, address: &str) -> Result<(Service, u64)> {
    let service = service(&Latch::default())?;
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], address)?;
    for _ in 0..3 {
        payer.call(&api.at("/item"), &[])?;
    }
    api.kill()?;
    Ok((service, payee.channel()?.spent_msat))
}

#[test]
fn a_seller_that_stores_each_call_loses_nothing_that_it_served() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (miner, address) = (world.miner(), free_address()?);
    let (service, known) = killed_after_three_calls(&payee, &payer, &address)?;
    assert_eq!(known, 1_500_000);
    let _api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_500)
}

/// It forgets what it served since the last batch. The buyer does not, and pays it at the close; and what it has not paid for
/// it cannot have, since its words count from where the seller remembers them.
#[test]
fn a_seller_that_stores_batches_forgets_the_last_one_and_the_buyer_pays_it_all_the_same() -> Result<()> {
    let (world, payee, payer) = people()?;
    let payee = payee.with("FARTHING_SELL__DURABILITY", "batch:60000ms");
    let (miner, address) = (world.miner(), free_address()?);
    let (service, known) = killed_after_three_calls(&payee, &payer, &address)?;
    assert!(known < 1_500_000, "{known} was stored");
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    payer.call(&api.at("/item"), &[])?;
    assert_eq!((service.requests().len(), payer.channel()?.spent_msat), (4, 2_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 2_000)
}

/// The number that the seller forgot is of an epoch before, and those serve nothing.
#[test]
fn a_call_that_a_seller_forgot_is_not_served_again_to_who_recorded_it() -> Result<()> {
    let (world, payee, payer) = people()?;
    let payee = payee.with("FARTHING_SELL__DURABILITY", "batch:60000ms");
    let (miner, address) = (world.miner(), free_address()?);
    let service = service(&Latch::default())?;
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    let relay = Relay::recording(&address)?;
    payer.call(&relay.url(&api.at("/item")), &[])?;
    let recorded = relay.requests().into_iter().rfind(|request| request.header("lightspeed").is_some());
    let recorded = recorded.context("a paid call")?;
    api.kill()?;
    assert_eq!(payee.channel()?.spent_msat, 0, "it had not stored the call");
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;

    for _ in 0..2 {
        let again = recorded.send_to(&address)?;
        assert_eq!((again.status(), again.problem().as_str()), (409, "call-void"));
        assert!(again.header("payment-receipt").is_none());
    }
    assert_eq!((service.requests().len(), payee.channel()?.spent_msat), (1, 0));
    payer.call(&relay.url(&api.at("/item")), &[])?;
    assert_eq!((service.requests().len(), payer.channel()?.spent_msat), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// The buyer lost an answer as well, so it asks the seller what is spent. The seller knows of less than the buyer does.
#[test]
fn a_buyer_closes_with_a_seller_that_forgot_a_batch() -> Result<()> {
    let (world, payee, payer) = people()?;
    let payee = payee.with("FARTHING_SELL__DURABILITY", "batch:60000ms");
    let (miner, address, latch) = (world.miner(), free_address()?, Latch::default());
    let service = service(&latch)?;
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    for _ in 0..3 {
        payer.call(&api.at("/item"), &[])?;
    }
    let calling = payer.start_calling(&api.at("/held"), &[])?;
    await_requests(&service, 4)?;
    calling.kill()?;
    api.kill()?;
    assert_eq!(
        payer.channel()?.spent_msat,
        2_000_000,
        "the call without an answer counts until it is settled"
    );
    let _api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_500)
}

#[test]
fn a_proxy_killed_with_calls_outstanding_settles_for_what_was_served() -> Result<()> {
    let (world, payee, payer) = people()?;
    let latch = Latch::default();
    let service = service(&latch)?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &[])?;
    curl(&["--fail", &format!("{}/opens", proxy.url)])?;
    curl(&[&format!("{}/fails", proxy.url)])?;
    let held = format!("{}/held/[1-5]", proxy.url);
    let waiting = std::thread::spawn(move || curl(&["--parallel", "--parallel-immediate", &held]));
    await_requests(&service, 7)?;
    proxy.process.kill()?;
    latch.open();
    assert!(waiting.join().expect("curl was run").is_err(), "the proxy left without an answer");
    // The seller finishes what it began, also for a client that has left.
    until("the seller has served", || Ok((payee.channel()?.spent_msat == 6 * 500_000).then_some(())))?;
    assert_eq!(payer.channel()?.spent_msat, 6 * 500_000);
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 3_000)?;
    assert_eq!(charged(&payee, &payer)?, 3_000_000);
    Ok(())
}
