//! The answer is lost after the seller has served: the same call again brings it, and is charged once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use farthing_testkit::Service;
use farthing_testkit::message::Message;
use farthing_testkit::relay::{Fate, Relay};

use super::{assert_closes_for, charged, people};

/// A relay that loses the first so many paid answers to calls of `/lost`.
fn losing(address: &str, answers: usize) -> Result<Relay> {
    let lost = AtomicUsize::new(0);
    Relay::before(address, move |request, answer| {
        let is_paid = request.target() == "/lost" && answer.header("payment-receipt").is_some();
        if is_paid && lost.fetch_add(1, Ordering::SeqCst) < answers { Fate::Cut } else { Fate::Deliver }
    })
}

#[test]
fn an_answer_that_was_lost_comes_again_and_is_charged_once() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let relay = losing(&api.address, 2)?;
    let miner = world.miner();
    payer.call(&relay.url(&api.at("/opens")), &[])?;
    let answer = payer.call(&relay.url(&api.at("/lost")), &[])?;
    assert_eq!(answer.body, b"/lost 2");
    assert!(answer.header("payment-receipt").is_some());
    let requests = relay.requests();
    let lost = requests.iter().filter(|request| request.target() == "/lost");
    let calls: Vec<&str> = lost.filter_map(|request| request.header("lightspeed")).collect();
    assert_eq!(calls, [calls[0]; 3], "the same bytes three times");
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_000_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 1_000)
}

/// Above 64 KiB an answer is not kept, so its receipt is all that is left.
#[test]
fn an_answer_that_is_too_large_to_keep_leaves_its_receipt() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::answering(|_| Message::answer(200, &[7; 100_000]))?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let relay = losing(&api.address, 1)?;
    let miner = world.miner();
    let said = payer.try_to_call(&relay.url(&api.at("/lost")), &[])?.failure(3)?;
    assert!(said.contains("was served and cost 500"), "{said}");
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (1, 500_000));
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 500)
}

/// One that is charged as it flows is not kept either: what its payer gets in its place must not look like an answer.
#[test]
fn a_metered_answer_that_was_lost_leaves_its_receipt_and_is_no_success() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::answering(|_| Message::answer(200, b"data: one\n\ndata: two\n\n"))?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "/lost=2sat+500msat/event"])?;
    // It breaks at an answer in chunks.
    let relay = Relay::recording(&api.address)?;
    let _miner = world.miner();
    let said = payer.try_to_call(&relay.url(&api.at("/lost")), &[])?.failure(3)?;
    assert!(said.contains("was served and cost 3 sat"), "{said}");
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (1, 3_000));
    Ok(())
}
