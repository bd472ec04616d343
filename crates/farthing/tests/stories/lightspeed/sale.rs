//! Calls are sold, and both sides close: each has its share to the satoshi.

use anyhow::{Result, ensure};
use farthing_testkit::Service;
use farthing_testkit::calls::{StockServer, curl, find_wrk, wrk};
use farthing_testkit::wait::until;

use super::{assert_closes_for, charged, people};

#[test]
fn calls_move_their_price_and_the_channel_costs_two_fees() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1000337msat/call", &[])?;
    let miner = world.miner();
    for call in 1..=3 {
        let answer = payer.call(&api.at("/item?q=1"), &["--max-cost", "1001sat"])?;
        assert_eq!((answer.status(), answer.body), (200, format!("/item?q=1 {call}").into_bytes()));
    }
    drop(miner);
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (3, 3 * 1_000_337));

    assert_closes_for(&world, &payee, &payer, 3_001)?;
    api.kill()?;
    assert_eq!(payee.balance()?, 3_001);
    Ok(())
}

/// The service is the web server of Python's standard library, and the client is curl: neither knows of payments.
#[test]
fn curl_buys_from_a_stock_web_server() -> Result<()> {
    let (world, payee, payer) = people()?;
    let files = world.folder().join("files");
    std::fs::create_dir(&files)?;
    std::fs::rename(world.file("page", 30_000)?, files.join("page"))?;
    let server = StockServer::of(&files)?;
    let api = payee.sell_calls(&server.url, "40sat/call", &[])?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--max-cost", "40sat"])?;
    let copy = payer.path("copy");
    for _ in 0..5 {
        curl(&["--fail", "--output", &copy.display().to_string(), &format!("{}/page", proxy.url)])?;
        assert_eq!(std::fs::read(&copy)?, std::fs::read(files.join("page"))?);
    }
    let missing =
        curl(&["--output", "/dev/null", "--write-out", "%{http_code}", &format!("{}/none", proxy.url)])?;
    assert_eq!((missing.as_str(), charged(&payee, &payer)?), ("404", 200_000));
    proxy.process.stop()?.success()?;
    drop(miner);

    // 200 sat would be dust, so the least that an output may hold is due.
    assert_closes_for(&world, &payee, &payer, 330)?;
    api.kill()?;
    assert_eq!(payee.balance()?, 330);
    Ok(())
}

/// A stock load generator against a stock web server, with a paying proxy and a seller between them.
#[test]
fn a_load_generator_pays_for_every_call_that_it_gets() -> Result<()> {
    let Some(program) = find_wrk() else { return Ok(()) };
    let (world, payee, payer) = people()?;
    let files = world.folder().join("files");
    std::fs::create_dir(&files)?;
    std::fs::rename(world.file("page", 1_000)?, files.join("page"))?;
    let server = StockServer::of(&files)?;
    let api = payee.sell_calls(&server.url, "500msat/call", &[])?;
    let miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &[])?;
    curl(&["--fail", "--output", "/dev/null", &format!("{}/page", proxy.url)])?; // the channel is open
    let answered = 1 + wrk(&program, &format!("{}/page", proxy.url))?;
    // It leaves with up to 16 calls under way, which are served to their end.
    let spent = until("all calls have ended", || {
        let (theirs, ours) = (payee.channel()?.spent_msat, payer.channel()?.spent_msat);
        Ok((theirs == ours).then_some(ours))
    })?;
    let charged = spent / 500;
    ensure!(
        answered > 1 && (answered..=answered + 16).contains(&charged),
        "{answered} answered, {charged} charged"
    );
    proxy.process.stop()?.success()?;
    drop(miner);
    assert_closes_for(&world, &payee, &payer, (spent / 1_000).max(330))
}
