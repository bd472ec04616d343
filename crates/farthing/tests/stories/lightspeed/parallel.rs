//! Calls side by side and one after another, over the end of a chain and of a channel: none stalls, and each is charged once.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use farthing_http::encoding;
use farthing_protocol::lightspeed::Call;
use farthing_testkit::Service;
use farthing_testkit::calls::curl;
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::until;
use serde_json::Value;

use super::{assert_closes_for, charged, people};

/// A word is worth the cheapest route, 0.1 sat, and a chain has at most 65,536 words: 131 calls of 50 sat.
const PRICES: [&str; 2] = ["--route", "/cheap=100msat"];
const CALLS: usize = 390;

#[test]
fn calls_of_many_words_run_side_by_side_through_three_chains() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "50sat/call", &PRICES)?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--deposit", "30000sat"])?;
    let folder = world.folder().display();
    let codes = curl(&[
        "--parallel",
        "--parallel-max",
        "24",
        "--output",
        &format!("{folder}/#1"),
        "--write-out",
        "%{http_code}\n",
        &format!("{}/item/[1-{CALLS}]", proxy.url),
    ])?;
    assert_eq!(codes.lines().filter(|code| *code == "200").count(), CALLS, "{codes}");
    for item in 1..=CALLS {
        let answer = std::fs::read_to_string(world.folder().join(item.to_string()))?;
        assert!(answer.starts_with(&format!("/item/{item} ")), "{item} got the answer {answer}");
    }
    let asked: HashSet<String> =
        service.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!((service.requests().len(), asked.len()), (CALLS, CALLS), "each call reached the service once");
    assert_eq!(charged(&payee, &payer)?, CALLS as u64 * 50_000);
    proxy.process.stop()?.success()?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, CALLS as u64 * 50)
}

/// The number of the chain that pays for a request; `None` for one that is no paid call.
fn chain(request: &Message) -> Option<u32> {
    let bytes = encoding::decode_bytes(request.header("lightspeed")?).ok()?;
    Some(Call::from_bytes(&bytes).ok()?.0.chain)
}

#[test]
fn the_next_chain_is_announced_while_calls_go_on_with_the_present_one() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "50sat/call", &PRICES)?;
    let relay = Relay::recording(&api.address)?;
    let _miner = world.miner();
    let proxy = payer.proxy(&relay.url(&api.at("/")), &["--deposit", "30000sat"])?;
    let codes =
        curl(&["--output", "/dev/null", "--write-out", "%{http_code}\n", &format!("{}/[1-160]", proxy.url)])?;
    assert_eq!(codes.lines().filter(|code| *code == "200").count(), 160, "{codes}");
    let requests = relay.requests();
    let announces =
        |request: &Message| serde_json::from_slice::<Value>(&request.body).ok()?["terms"]["number"].as_u64();
    let second = requests.iter().position(|request| announces(request) == Some(2));
    let after = &requests[second.context("the second chain is announced")?..];
    let still_on_the_first = after.iter().filter(|request| chain(request) == Some(1)).count();
    let on_the_second = after.iter().filter(|request| chain(request) == Some(2)).count();
    assert!(still_on_the_first > 10 && on_the_second > 0, "{still_on_the_first} and {on_the_second}");
    assert_eq!(charged(&payee, &payer)?, 160 * 50_000);
    Ok(())
}

#[test]
fn when_a_deposit_is_used_up_another_channel_goes_on_and_the_first_one_closes() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1500sat/call", &[])?;
    let miner = world.miner();
    let too_little = payer.try_to_call(&api.at("/item"), &["--deposit", "1499sat"])?.failure(2)?;
    assert!(too_little.contains("raise --deposit") && payer.channels()?.is_empty(), "{too_little}");
    let proxy = payer.proxy(&api.at("/"), &["--deposit", "10000sat"])?;
    let codes =
        curl(&["--output", "/dev/null", "--write-out", "%{http_code}\n", &format!("{}/[1-9]", proxy.url)])?;
    assert_eq!(codes.lines().filter(|code| *code == "200").count(), 9, "{codes}");
    assert_eq!(service.requests().len(), 9);
    let mut spent: Vec<u64> = payer.channels()?.iter().map(|channel| channel.spent_msat).collect();
    spent.sort_unstable();
    assert_eq!(spent, [4_500_000, 9_000_000], "six calls fit the first channel");

    drop(miner);
    let ended = until("the buyer sees the first one's end", || {
        world.make_final()?;
        Ok(payer.channels()?.into_iter().find_map(|channel| channel.ending.map(|ending| ending.kind)))
    })?;
    assert_eq!(ended, "closing");
    Ok(())
}
