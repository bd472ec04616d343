//! What a call costs: by its route, and nothing when it fails.

use anyhow::Result;
use farthing_http::wire;
use farthing_testkit::Service;
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::relay::Relay;

use super::{charged, people};

#[test]
fn the_price_is_that_of_the_route_and_the_list_says_so() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let routes = ["--route", "/free=0sat", "--route", "POST /v1/*=700sat", "--route", "/v1/*=300sat"];
    let api = payee.sell_calls(&service.url(), "500sat/call", &routes)?;
    let list = Message::request("GET", "/.well-known/farthing/prices", &api.address).send_to(&api.address)?;
    let list: serde_json::Value = serde_json::from_slice(&list.body)?;
    assert_eq!(
        (&list["otherwise"]["call"], list["rules"].as_array().map(Vec::len)),
        (&serde_json::json!("500000"), Some(3))
    );

    let _miner = world.miner();
    payer.call(&api.at("/free"), &[])?;
    assert!(payer.channels()?.is_empty(), "what is free needs no channel");
    let mut cost = 0;
    for (path, options, price) in [
        ("/other", &[][..], 500_000),
        ("/v1/item", &[], 300_000),
        ("/v1/item", &["-d", "a body"], 700_000),
        ("/v1/item", &["-X", "DELETE"], 300_000),
        ("/free", &[], 0),
    ] {
        payer.call(&api.at(path), options)?;
        cost += price;
        assert_eq!(charged(&payee, &payer)?, cost, "after {path}");
    }
    assert_eq!(service.requests()[3].body, b"a body");
    Ok(())
}

/// The service would make `/v1/item` of each.
#[test]
fn nobody_chooses_a_price_by_the_way_it_writes_a_path() -> Result<()> {
    let (_world, payee, _) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "0sat/call", &["--route", "/v1/item=700sat"])?;
    for path in
        ["/free/../v1/item", "/free/%2e%2e/v1/item", "//v1/item", "/v1//item", "/v1%2fitem", "/v1/./item"]
    {
        let answer = Message::request("GET", path, &api.address).send_to(&api.address)?;
        assert_eq!((answer.status(), answer.problem().as_str()), (400, "bad-request"), "{path}");
    }
    let answer = Message::request("GET", "/v1/%69tem", &api.address).send_to(&api.address)?;
    assert_eq!(answer.status(), 402, "it is the dear one");
    assert!(service.requests().is_empty());
    Ok(())
}

#[test]
fn what_fails_is_free_and_comes_as_it_is() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::answering(|request| {
        let status = request.target().trim_start_matches('/').parse().unwrap_or(200);
        Message::answer(status, request.target().as_bytes())
    })?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let _miner = world.miner();
    for status in [404, 500, 503, 429, 301] {
        let answer = payer.call(&api.at(&format!("/{status}")), &[])?;
        assert_eq!(answer.header("payment-receipt").is_some(), status < 400);
        assert_eq!((answer.status(), answer.body), (status, format!("/{status}").into_bytes()));
    }
    assert_eq!(charged(&payee, &payer)?, 500_000, "the redirection was served");
    Ok(())
}

#[test]
fn a_call_to_a_service_that_is_not_there_is_free() -> Result<()> {
    let (world, payee, payer) = people()?;
    let api = payee.sell_calls(&format!("http://{}", free_address()?), "500sat/call", &[])?;
    let _miner = world.miner();
    let answer = payer.call(&api.at("/item"), &[])?;
    assert_eq!((answer.status(), answer.header("lightspeed")), (503, Some("free")));
    assert_eq!(charged(&payee, &payer)?, 0);
    Ok(())
}

/// Prices that depend on the request are told by asking, which carries out what is free. So a list that cannot be read is not
/// taken for one that is not there.
#[test]
fn only_a_list_that_is_not_found_has_the_buyer_ask_for_the_price() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let before = |status: u16| {
        Relay::instead_of(&api.address, move |request| {
            (request.target() == wire::PRICES).then(|| Message::refusal(status, "unavailable"))
        })
    };
    let _miner = world.miner();
    for status in [503, 403, 410] {
        let relay = before(status)?;
        let said = payer.try_to_call(&relay.url(&api.at("/item")), &[])?.failure(3)?;
        assert!(said.contains(&format!("HTTP {status}")), "{said}");
        let asked: Vec<String> = relay.requests().iter().map(|request| request.target().to_owned()).collect();
        assert_eq!(asked, [wire::PRICES]);
        assert!(payer.channels()?.is_empty() && service.requests().is_empty());
    }
    payer.call(&before(404)?.url(&api.at("/item")), &[])?;
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (1, 500_000));
    Ok(())
}

#[test]
fn the_service_never_sees_the_payment() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "/free=0sat"])?;
    let _miner = world.miner();
    payer.call(&api.at("/item"), &["-H", "x-own: kept"])?;
    let free = Message::request("GET", "/free", &api.address).with("lightspeed", "a payment for nothing");
    assert_eq!(free.send_to(&api.address)?.status(), 200);

    let requests = service.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("x-own"), Some("kept"));
    assert!(requests.iter().all(|request| request.header("lightspeed").is_none()), "{requests:?}");
    Ok(())
}

#[test]
fn a_call_without_a_payment_does_not_reach_the_service() -> Result<()> {
    let (_world, payee, _) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    for method in ["GET", "HEAD", "POST"] {
        let answer = Message::request(method, "/item", &api.address).send_to(&api.address)?;
        assert_eq!((answer.status(), answer.header("cache-control")), (402, Some("no-store")));
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Payment ") && challenge.len() < 2_048, "{challenge}");
    }
    assert!(service.requests().is_empty());
    Ok(())
}
