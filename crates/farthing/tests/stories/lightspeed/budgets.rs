//! What a buyer allows is never exceeded, and what is not to be paid is not paid.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::calls::curl;
use farthing_testkit::wait::until;
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

/// As the call itself would be.
#[test]
fn a_dry_run_is_refused_where_a_budget_refuses_the_call() -> Result<()> {
    let shop = shop()?;
    for option in ["--max-cost", "--budget", "--day-budget", "--payee-budget"] {
        let asked = ["call", &shop.api.at("/item"), "--dry-run", option, "499999msat"];
        let said = shop.payer.attempt(&asked)?.failure(2)?;
        ensure!(said.contains("499.999 sat"), "{option}: {said}");
    }
    shop.assert_untouched()
}

#[test]
fn an_answer_that_cannot_be_written_is_not_paid_for() -> Result<()> {
    let shop = shop()?;
    let nowhere = shop.payer.path("no/such/folder");
    let nowhere = nowhere.to_str().context("a path")?;
    let said = shop.payer.attempt(&["call", &shop.api.at("/item"), "-o", nowhere])?.failure(1)?;
    ensure!(said.contains("nothing was paid"), "{said}");
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

/// A word is worth more than a call costs when the one before leaves less than a word. One that the budget does not allow stays, and pays
/// for no call of the next process.
#[test]
fn a_call_that_a_budget_refuses_is_refused_by_the_next_process_too() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "600sat/call", &[])?;
    let _miner = world.miner();
    payer.call(&api.at("/opens"), &[])?;
    let before = payer.channel()?;
    for budget in ["--budget", "--day-budget", "--payee-budget"] {
        for _ in 0..2 {
            let most = if budget == "--budget" { "100sat" } else { "1700sat" };
            let said = payer.try_to_call(&api.at("/item"), &[budget, most])?.failure(2)?;
            ensure!(said.contains("nothing was paid"), "{budget}: {said}");
            ensure!(payer.channel()? == before, "{budget}: {:?}", payer.channel()?);
        }
    }
    payer.call(&api.at("/item"), &["--budget", "600sat"])?;
    assert_eq!((service.requests().len(), charged(&payee, &payer)?), (2, 1_200_000));
    Ok(())
}

/// First payment and words of 600 sat make 552, 1,152, 1,752 and 2,352: the fourth call does not fit, and leaves nothing behind.
#[test]
fn calls_at_once_leave_a_proxy_what_its_budget_still_allows() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "600sat/call", &[])?;
    let _miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--budget", "2500sat"])?;
    let url = format!("{}/[1-10]", proxy.url);
    let write = ["--parallel", "--output", "/dev/null", "--write-out", "%{http_code}\n", &url];
    let (codes, again) = (curl(&write)?, curl(&write)?);
    let count = |codes: &str, code: &str| codes.lines().filter(|line| *line == code).count();
    let served = service.requests().len();
    assert_eq!((count(&codes, "200") + count(&again, "200"), served), (3, 3), "{codes}, then {again}");
    assert_eq!(count(&again, "402"), 10 - count(&again, "200"), "{again}");
    assert_eq!(charged(&payee, &payer)?, 1_800_000);
    ensure!(payer.channel()?.paid_msat <= 2_500_000, "{:?}", payer.channel()?);
    Ok(())
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

/// Its floor for fee rates makes the first payment in a channel 3,660 sat, which it could take without serving anything.
fn dear_shop() -> Result<Shop> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let payee = payee.with("FARTHING_SELL__FEE_RATE", "[30,200]");
    let api = payee.sell_calls(&service.url(), "1sat/call", &[])?;
    Ok(Shop { world, payee, payer, service, api })
}

#[test]
fn a_first_payment_above_a_budget_locks_nothing() -> Result<()> {
    let shop = dear_shop()?;
    for option in ["--budget", "--payee-budget", "--day-budget"] {
        let said = shop.payer.try_to_call(&shop.api.at("/item"), &[option, "1000sat"])?.failure(2)?;
        ensure!(said.contains("the first payment in a new channel is"), "{option}: {said}");
        shop.assert_untouched()?;
    }
    // The commitment's fee would be 6,120 sat.
    let said = shop.payer.try_to_call(&shop.api.at("/item"), &["--deposit", "6000sat"])?.failure(2)?;
    ensure!(said.contains("raise --deposit"), "{said}");
    shop.assert_untouched()
}

/// It takes the first payment and serves next to nothing. The next process opens another channel, as far as the budgets go.
#[test]
fn a_seller_that_closes_alone_again_and_again_gets_no_more_than_the_budget() -> Result<()> {
    for option in ["--payee-budget", "--day-budget"] {
        let shop = shop()?;
        let call =
            || shop.payer.try_to_call(&shop.api.at("/item"), &[option, "1200sat", "--max-cost", "500sat"]);
        for opened in 1..=2 {
            let miner = shop.world.miner();
            call()?.success()?;
            drop(miner);
            let channels = shop.payer.channels()?;
            ensure!(channels.len() == opened, "{option}: {channels:?}");
            let newest = channels.iter().find(|channel| channel.ending.is_none());
            let newest = newest.context("one that is open")?;
            shop.payee.run(&["channels", "close", &newest.channel])?;
            shop.world.await_spend(&newest.funding)?;
            shop.world.make_final()?;
        }
        let said = call()?.failure(2)?;
        ensure!(said.contains("the first payment in a new channel is 552 sat"), "{option}: {said}");
        // Two first payments, which their calls did not use up.
        ensure!(shop.payer.channels()?.len() == 2 && shop.service.requests().len() == 2);
    }
    Ok(())
}

/// One process does not risk a second first payment for next to nothing.
#[test]
fn a_proxy_opens_no_other_channel_to_a_seller_that_closed_alone_and_kept_the_first_payment() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "1sat/call", &[])?;
    let proxy = payer.proxy(&api.at("/"), &[])?;
    let call = || curl(&["--write-out", " %{http_code}", &format!("{}/item", proxy.url)]);
    let miner = world.miner();
    ensure!(call()? == "/item 1 200");
    drop(miner);
    let channel = payee.channel()?;
    payee.run(&["channels", "close", &channel.channel])?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    until("the buyer sees the end", || Ok((payer.channel()?.state == "closed").then_some(())))?;
    for _ in 0..2 {
        let said = call()?;
        let kept = "alone, and 551 sat of the first payment bought nothing";
        ensure!(said.contains(kept) && said.ends_with(" 502"), "{said}");
    }
    ensure!(payer.channels()?.len() == 1 && service.requests().len() == 1 && world.mempool()?.is_empty());
    Ok(())
}

#[test]
fn what_calls_may_cost_is_in_the_configuration_and_the_command_line_goes_before_it() -> Result<()> {
    let shop = shop()?;
    for name in ["MAX_COST", "BUDGET", "DAY_BUDGET", "PAYEE_BUDGET"] {
        let payer = shop.payer.with(&format!("FARTHING_CALL__{name}"), "499sat");
        let said = payer.try_to_call(&shop.api.at("/item"), &[])?.failure(2)?;
        ensure!(said.contains("nothing was paid"), "{name}: {said}");
        shop.assert_untouched()?;
    }
    let payer = shop.payer.with("FARTHING_CALL__DEPOSIT", "30000sat").with("FARTHING_CALL__MAX_COST", "1sat");
    let plan = payer.run(&["call", &shop.api.at("/item"), "--dry-run", "--max-cost", "500sat"])?;
    assert_eq!(plan["capacity_sat"].as_u64(), Some(30_000 + 408));
    let _miner = shop.world.miner();
    payer.try_to_call(&shop.api.at("/item"), &["--max-cost", "500sat"])?.success()?;
    Ok(())
}

#[test]
fn a_proxy_pays_no_call_above_2000_sat_unless_it_is_told_to() -> Result<()> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "2001sat/call", &["--route", "/cheap=1sat"])?;
    let status = |url: &str| curl(&["--output", "/dev/null", "--write-out", "%{http_code}", url]);
    let proxy = payer.proxy(&api.at("/"), &[])?;
    ensure!(status(&format!("{}/item", proxy.url))? == "402" && payer.channels()?.is_empty());
    proxy.process.stop()?.success()?;
    let _miner = world.miner();
    let proxy = payer.proxy(&api.at("/"), &["--max-cost", "2001sat"])?;
    ensure!(status(&format!("{}/item", proxy.url))? == "200");
    Ok(())
}
