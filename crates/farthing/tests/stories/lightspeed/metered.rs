//! Answers that are charged as they flow: each event and each byte once, more set aside in the middle, and nothing
//! beyond what the buyer allows.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::Service;
use farthing_testkit::message::Message;

use super::{assert_closes_for, charged, people};

const PRICES: [&str; 6] = [
    "--route",
    "/events*=2sat+500msat/event",
    "--route",
    "/ticks*=2sat+500msat/event",
    "--route",
    "/bytes*=1sat/KiB",
];

/// A service whose answers have as many events, or bytes, as they are asked for.
fn service() -> Result<Service> {
    Service::answering(|request| {
        let target = request.target();
        let count = target.rsplit('/').next().and_then(|count| count.parse().ok()).unwrap_or(0);
        let events = match target.split('/').nth(1) {
            Some("events") => events(count),
            Some("ticks") => ticks(count),
            _bytes => return Message::answer(200, &vec![b'x'; count]),
        };
        Message::answer(200, events.as_bytes()).with("content-type", "text/event-stream")
    })
}

/// Short events, of which a hundred come at once.
fn ticks(count: usize) -> String {
    (0..count).map(|event| format!("data: {event:032}\n\n")).collect()
}

fn events(count: usize) -> String {
    (0..count).map(|event| format!("id: {event}\ndata: {}\n\n", "x".repeat(1_000))).collect()
}

/// 16 events or 64 KiB are set aside ahead, so the long answers come whole only if more is set aside while they flow.
#[test]
fn events_and_bytes_are_charged_as_they_flow_with_more_set_aside_in_the_middle() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = service()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &PRICES)?;
    let miner = world.miner();
    let mut due = 0;
    for (path, cost) in [
        ("/events/3", 3_500),
        ("/events/0", 2_000),
        ("/events/300", 152_000),
        ("/ticks/300", 152_000),
        ("/bytes/200000", 195_313), // 195.3125 KiB
        ("/bytes/1", 1),
    ] {
        let answer = payer.call(&api.at(path), &[])?;
        let count: usize = path.rsplit('/').next().context("a count")?.parse()?;
        let expected = match path.split('/').nth(1) {
            Some("events") => events(count).len(),
            Some("ticks") => ticks(count).len(),
            _bytes => count,
        };
        ensure!(answer.body.len() == expected, "{path}: {} bytes of {expected}", answer.body.len());
        due += cost;
        ensure!(charged(&payee, &payer)? == due, "{path}: {} of {due}", charged(&payee, &payer)?);
    }
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 504)
}

/// Each top-up uses a number, so a long answer is further behind at its end than the seller's window is wide.
#[test]
fn an_answer_that_takes_more_top_ups_than_a_seller_remembers_numbers_ends_with_its_receipt() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = service()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "/events*=1msat/event"])?;
    let _miner = world.miner();
    let (count, ahead) = (16_800, 16);
    assert!(count / ahead > farthing_protocol::lightspeed::numbers::WINDOW as usize);
    let answer = payer.call(&api.at(&format!("/events/{count}")), &[])?;
    assert_eq!(answer.body.len(), events(count).len());
    assert_eq!(charged(&payee, &payer)?, count as u64);
    Ok(())
}

#[test]
fn an_answer_is_cut_off_at_what_the_buyer_allows_and_costs_no_more() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = service()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &PRICES)?;
    let miner = world.miner();
    let said = payer.try_to_call(&api.at("/events/300"), &["--max-cost", "50sat"])?.failure(2)?;
    ensure!(said.contains("50 sat is the most") && said.contains("raise --max-cost"), "{said}");
    let cost = charged(&payee, &payer)?;
    // Parts of 4 KiB hold four events each.
    ensure!((46_000..=50_000).contains(&cost), "{cost} msat");
    // What comes after it is served.
    payer.call(&api.at("/bytes/1"), &["--max-cost", "50sat"])?;
    assert_eq!(charged(&payee, &payer)?, cost + 1);
    drop(miner);
    assert_closes_for(&world, &payee, &payer, 330) // below that it would be dust
}

/// 64 KiB would cost more than the deposit: what is set aside ahead goes as far as that.
#[test]
fn an_answer_whose_first_part_costs_more_than_the_deposit_can_be_called_for() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = service()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "/bytes*=400sat/KiB"])?;
    let _miner = world.miner();
    let answer = payer.call(&api.at("/bytes/10240"), &[])?;
    assert_eq!((answer.body.len(), charged(&payee, &payer)?), (10_240, 4_000_000));
    Ok(())
}

/// Shadow mode: the operator sees what would be charged, and nobody pays.
#[test]
fn in_shadow_mode_everything_is_served_and_nothing_is_charged() -> Result<()> {
    let (_world, payee, payer) = people()?;
    let service = service()?;
    let options = [&PRICES[..], &["--shadow", "--log", "farthing_http=info"]].concat();
    let api = payee.sell_calls(&service.url(), "500sat/call", &options)?;
    let answer = payer.call(&api.at("/events/300"), &[])?;
    assert_eq!(answer.body.len(), events(300).len());
    let plain = Message::request("GET", "/bytes/10", &api.address).send_to(&api.address)?;
    assert_eq!((plain.status(), plain.body.len(), plain.header("payment-receipt")), (200, 10, None));
    assert!(payer.channels()?.is_empty());
    let log = api.process.stop()?.errors;
    for said in
        ["path=\"/events/300\" price=2 sat a call", "path=\"/bytes/10\" price=0 sat a call and 1 sat a KiB"]
    {
        ensure!(log.contains(said), "{said}: {log}");
    }
    Ok(())
}
