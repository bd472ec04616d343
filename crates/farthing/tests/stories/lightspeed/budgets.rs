//! What a buyer allows is never exceeded, and what is not to be paid is not paid.

use anyhow::{Result, ensure};
use farthing_testkit::calls::curl;
use farthing_testkit::{Api, Person, Service, World};

use super::{charged, people};
use crate::COINS;

struct Shop {
    world: World,
    payee: Person,
    payer: Person,
    service: Service,
    api: Api,
}

/// A shop where a call costs 500 sat.
fn shop() -> Result<Shop> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    Ok(Shop { world, payee, payer, service, api })
}

impl Shop {
    /// The buyer has locked nothing, and nothing was served.
    fn assert_untouched(&self) -> Result<()> {
        let (channels, balance) = (self.payer.channels()?, self.payer.balance()?);
        ensure!(channels.is_empty() && balance == COINS, "{balance} and {channels:?}");
        ensure!(self.service.requests().is_empty() && self.world.mempool()?.is_empty());
        Ok(())
    }
}

#[test]
fn a_call_above_what_is_allowed_is_not_sent() -> Result<()> {
    let shop = shop()?;
    for option in ["--max-cost", "--budget", "--payee-budget"] {
        let said = shop.payer.try_to_call(&shop.api.at("/item"), &[option, "499999msat"])?.failure(2)?;
        assert!(said.contains("nothing was paid"), "{option}: {said}");
        shop.assert_untouched()?;
    }
    Ok(())
}

#[test]
fn looking_and_asking_pay_nothing() -> Result<()> {
    let shop = shop()?;
    let plan = shop.payer.run(&["call", &shop.api.at("/item"), "--dry-run", "--deposit", "30000sat"])?;
    assert_eq!((plan["cost_msat"].as_u64(), plan["prepaid_sat"].as_u64()), (Some(500_000), Some(552)));
    assert_eq!(plan["capacity_sat"].as_u64(), Some(30_000 + 408), "the deposit and the commitment's fee");
    let answer = shop.payer.call(&shop.api.at("/item"), &["--no-pay"])?;
    assert_eq!((answer.status(), answer.problem().as_str()), (402, "payment-required"));
    shop.assert_untouched()
}

#[test]
fn to_ask_for_the_price_of_a_call_carries_none_out() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &["--route", "POST /free=0msat"])?;
    let shop = Shop { world, payee, payer, service, api };
    let asked = |path: &str| shop.payer.run(&["call", &shop.api.at(path), "-X", "POST", "--dry-run"]);
    assert_eq!(asked("/free")?["cost_msat"].as_u64(), Some(0));
    assert_eq!(asked("/item")?["cost_msat"].as_u64(), Some(500_000));
    shop.assert_untouched()
}

#[test]
fn a_proxy_stops_at_its_budget() -> Result<()> {
    let shop = shop()?;
    let _miner = shop.world.miner();
    let proxy = shop.payer.proxy(&shop.api.at("/"), &["--budget", "1250sat"])?;
    let codes = curl(&[
        "--parallel",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}\n",
        &format!("{}/[1-6]", proxy.url),
    ])?;
    let count = |code: &str| codes.lines().filter(|line| *line == code).count();
    assert_eq!((count("200"), count("402")), (2, 4), "{codes}");
    assert_eq!((shop.service.requests().len(), charged(&shop.payee, &shop.payer)?), (2, 1_000_000));
    Ok(())
}

#[test]
fn what_one_seller_may_get_and_what_a_day_may_cost_count_over_all_processes() -> Result<()> {
    for option in ["--payee-budget", "--day-budget"] {
        let shop = shop()?;
        let _miner = shop.world.miner();
        let call = || shop.payer.try_to_call(&shop.api.at("/item"), &[option, "1250sat"]);
        call()?.success()?;
        call()?.success()?;
        let said = call()?.failure(2)?;
        ensure!(said.contains("250") && said.contains("nothing was paid"), "{option}: {said}");
        ensure!(charged(&shop.payee, &shop.payer)? == 1_000_000, "{option}");
    }
    Ok(())
}
