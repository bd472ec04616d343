//! Calls side by side, over the end of one chain of words and into the next: none stalls, and each is charged once.

use std::collections::HashSet;

use anyhow::Result;
use farthing_testkit::Service;
use farthing_testkit::calls::curl;

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
