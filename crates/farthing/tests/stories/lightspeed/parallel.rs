//! Calls side by side and one after another, over the end of a chain and of a channel: none stalls, and each is charged once.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use farthing_http::encoding;
use farthing_node::home::Home;
use farthing_node::machine::Payer;
use farthing_protocol::lightspeed::Call;
use farthing_testkit::Service;
use farthing_testkit::calls::curl;
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::relay::Relay;
use farthing_testkit::service::Latch;
use farthing_testkit::wait::until;
use serde_json::Value;

use super::{assert_closes_for, charged, people};

/// A word is worth the cheapest route, 0.1 sat, and a chain has at most 65,536 words: 131 calls of 50 sat.
const PRICES: [&str; 2] = ["--route", "/cheap=100msat"];
const CALLS: usize = 390;
const AT_ONCE: usize = 24;

/// Calls `/item/1` to the last through a proxy, side by side. Each answer's body goes to a file of its number. Gives the statuses.
fn call_all(proxy: &str, answers: &Path) -> Result<String> {
    curl(&[
        "--parallel",
        "--parallel-max",
        &AT_ONCE.to_string(),
        "--output",
        &format!("{}/#1", answers.display()),
        "--write-out",
        "%{http_code}\n",
        &format!("{proxy}/item/[1-{CALLS}]"),
    ])
}

fn count(statuses: &str, status: &str) -> usize {
    statuses.lines().filter(|line| *line == status).count()
}

#[test]
fn calls_of_many_words_run_side_by_side_through_three_chains() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "50sat/call", &PRICES)?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--deposit", "30000sat"])?;
    let codes = call_all(&proxy.url, world.folder())?;
    assert_eq!(count(&codes, "200"), CALLS, "{codes}");
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

/// Which of the items the service fails.
const FAILS: usize = 7;
/// When so many calls have reached the service the first chain is about to end: they failed or took 500 words each.
const KILLED_AT: usize = 150;
/// These wait until the seller is back, so it is killed before the calls are through.
const WAITS: usize = 300;

/// The number of an item.
fn item(request: &Message) -> usize {
    request.target().rsplit('/').next().and_then(|item| item.parse().ok()).unwrap_or_default()
}

/// What failed costs nothing, and what was served is charged once, also where the answer went down with the seller: then the buyer is
/// told so.
#[test]
fn calls_of_many_words_outlive_faults_and_a_kill_of_the_seller_between_two_chains() -> Result<()> {
    let (world, payee, payer) = people()?;
    let (latch, address) = (Latch::default(), free_address()?);
    let waiting = latch.clone();
    let service = Service::answering(move |request| match item(request) {
        item if item % FAILS == 0 => Message::answer(500, b"a fault"),
        item => {
            if item > WAITS {
                waiting.pass();
            }
            Message::answer(200, request.target().as_bytes())
        }
    })?;
    let api = payee.sell_calls_at(&service.url(), "50sat/call", &PRICES, &address)?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--deposit", "30000sat"])?;
    let (url, folder) = (proxy.url.clone(), world.folder().to_owned());
    let calling = std::thread::spawn(move || call_all(&url, &folder));
    until("the first chain is about to end", || Ok((service.requests().len() >= KILLED_AT).then_some(())))?;
    api.kill()?;
    let _api = payee.sell_calls_at(&service.url(), "50sat/call", &PRICES, &address)?;
    latch.open();
    until("every call comes to an end", || Ok(calling.is_finished().then_some(())))?;
    let codes = calling.join().expect("curl was run")?;

    let (mut answered, mut lost) = (0, 0);
    for item in 1..=CALLS {
        let answer = std::fs::read_to_string(world.folder().join(item.to_string()))?;
        match item % FAILS == 0 {
            true => ensure!(answer == "a fault", "{item} got the answer {answer}"),
            false if answer == format!("/item/{item}") => answered += 1,
            false => {
                ensure!(answer.contains("was served and cost 50 sat"), "{item} got the answer {answer}");
                lost += 1;
            }
        }
    }
    let (failed, served) = (CALLS / FAILS, CALLS - CALLS / FAILS);
    let expected = [("200", answered), ("500", failed), ("502", lost)];
    ensure!(expected.iter().all(|(code, calls)| count(&codes, code) == *calls), "{expected:?}: {codes}");
    ensure!(answered + lost == served && lost <= AT_ONCE, "{answered} answers, {lost} lost");
    let requests: Vec<usize> = service.requests().iter().map(item).collect();
    let asked: HashSet<usize> = requests.iter().copied().collect();
    ensure!(asked.len() == CALLS, "only {} items reached the service", asked.len());
    // Only what was on its way when the seller was killed is asked for again.
    ensure!(requests.len() <= CALLS + AT_ONCE, "{} requests for {CALLS} calls", requests.len());

    // The channel goes on, on its third chain.
    let after = curl(&["--fail", &format!("{}/item/1", proxy.url)])?;
    assert_eq!(after, "/item/1");
    let due = (served as u64 + 1) * 50_000;
    assert_eq!(charged(&payee, &payer)?, due);
    proxy.process.stop()?.success()?;
    let stored = Home::open(&payer.path(""), Network::Regtest)?.store()?.channels::<Payer>()?;
    let chains = stored[0].state.purse().context("it pays for calls")?.chains().len();
    ensure!(chains >= 3, "only {chains} chains were announced");
    drop(miner);
    assert_closes_for(&world, &payee, &payer, due / 1_000)?;
    assert_eq!(charged(&payee, &payer)?, due);
    Ok(())
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
    let call = |items: &str| -> Result<usize> {
        let url = format!("{}/[{items}]", proxy.url);
        let codes = curl(&["--output", "/dev/null", "--write-out", "%{http_code}\n", &url])?;
        Ok(count(&codes, "200"))
    };
    // More than three quarters of the first chain, and not all of it.
    assert_eq!(call("1-120")?, 120);
    let announces =
        |request: &Message| serde_json::from_slice::<Value>(&request.body).ok()?["terms"]["number"].as_u64();
    let second = until("the second chain is announced", || {
        Ok(relay.requests().iter().position(|request| announces(request) == Some(2)))
    })?;
    assert_eq!(call("121-160")?, 40);
    let requests = relay.requests();
    let after = &requests[second..];
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
    assert_eq!(count(&codes, "200"), 9, "{codes}");
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
