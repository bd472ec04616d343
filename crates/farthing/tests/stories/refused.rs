//! What the program does not do, and says why. Nothing is locked, and nothing is lost.

use anyhow::{Result, ensure};
use farthing_testkit::{Ended, Person, World};

use crate::{COINS, scene};

/// The buyer has everything still, and no channel.
fn assert_untouched(world: &World, payer: &Person) -> Result<()> {
    let channels: Vec<String> = payer.channels()?.into_iter().map(|channel| channel.state).collect();
    ensure!(channels.iter().all(|state| state == "abandoned"), "channels: {channels:?}");
    ensure!(world.mempool()?.is_empty(), "something was broadcast");
    let balance = payer.balance()?;
    ensure!(balance == COINS, "the buyer has {balance}");
    Ok(())
}

/// It failed with that code and said all of this.
fn assert_said(ended: Ended, code: i32, words: &[&str]) -> Result<()> {
    let said = ended.failure(code)?;
    ensure!(words.iter().all(|word| said.contains(word)), "not all of {words:?} in: {said}");
    Ok(())
}

#[test]
fn what_costs_too_much_is_not_bought() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    let most = format!("{}msat", seller.cost_msat - 1);
    let ended = payer.buy(&seller.url, "out", &["--max-cost", &most])?;
    assert_said(ended, 2, &["nothing was paid", "--max-cost"])?;
    assert!(payer.channels()?.is_empty());
    assert_untouched(&world, &payer)
}

#[test]
fn a_dry_run_shows_what_would_be_locked() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    let plan = payer.buy(&seller.url, "out", &["--dry-run", "--lifetime", "50"])?.result()?;
    assert_eq!(plan["cost_msat"], seller.cost_msat);
    // 408 sat is the commitment's fee at 2 sat/vB; the seller takes no channel below 10,000 sat.
    assert_eq!(
        (plan["capacity_sat"].as_u64(), plan["commitment_fee_sat"].as_u64()),
        (Some(10_000), Some(408))
    );
    assert_eq!((plan["lifetime_blocks"].as_u64(), plan["confirmations"].as_u64()), (Some(50), Some(1)));
    let most = format!("{}msat", seller.cost_msat - 1);
    let too_dear = payer.buy(&seller.url, "out", &["--dry-run", "--max-cost", &most])?;
    assert_said(too_dear, 2, &["nothing was paid", "--max-cost"])?;
    assert!(payer.channels()?.is_empty() && !payer.path("out.part").exists());
    assert_untouched(&world, &payer)
}

#[test]
fn a_wallet_with_too_little_says_so() -> Result<()> {
    let (world, payee, _, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    let poor = Person::new(&world, "poor", 9_000)?;
    let said = poor.buy(&seller.url, "out", &[])?.failure(3)?;
    assert!(said.contains("9000") || said.contains("enough") || said.contains("too little"), "{said}");
    assert_eq!((poor.channels()?.len(), world.mempool()?.len(), poor.balance()?), (0, 0, 9_000));
    Ok(())
}

#[test]
fn terms_out_of_bounds_are_named_with_both_bounds() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    for (name, value, words) in [
        ("FARTHING_BUY__MOST_CAPACITY", "9999", ["capacity", "10000", "from 0 to 9999"]),
        ("FARTHING_BUY__MOST_LIFETIME", "19", ["expiry", "20", "from 1 to 19"]),
        ("FARTHING_BUY__FEE_RATE", "[300, 400]", ["fee rate", "75000", "from 250 to 50000"]),
        ("FARTHING_BUY__MOST_PREPAID", "551", ["first payment", "552", "from 0 to 551"]),
    ] {
        assert_said(payer.with(name, value).buy(&seller.url, "out", &[])?, 3, &words)?;
    }
    seller.process.stop()?.success()?;
    for (name, value, words) in [
        ("FARTHING_SELL__CAPACITY", "[1000, 4000]", ["capacity", "from 1000 to 4000"]),
        ("FARTHING_SELL__FEE_RATE", "[300, 400]", ["fee rate", "from 250 to 50000"]),
        ("FARTHING_SELL__LIFETIME", "[2000, 3000]", ["expiry", "from 1 to 1008"]),
    ] {
        let seller = payee.with(name, value).sell(&goods)?;
        assert_said(payer.buy(&seller.url, "out", &[])?, 3, &words)?;
        seller.process.stop()?.success()?;
    }
    assert!(payer.channels()?.is_empty());
    assert_untouched(&world, &payer)
}

#[test]
fn nobody_at_the_other_end_is_an_exit_code_of_its_own() -> Result<()> {
    let (world, _, payer, _) = scene(1)?;
    payer.buy("http://127.0.0.1:1/file", "out", &[])?.failure(4)?;
    let without_node = payer.with("FARTHING_BITCOIND__URL", "http://127.0.0.1:1");
    without_node.attempt(&["wallet", "balance"])?.failure(4)?;
    without_node.buy("http://127.0.0.1:1/file", "out", &[])?.failure(4)?;
    let elsewhere = payer.buy("http://farthing.example/file", "out", &[])?;
    assert_said(elsewhere, 1, &["plain http", "--allow-http"])?;
    assert_untouched(&world, &payer)
}

#[test]
fn mistakes_in_the_configuration_are_named() -> Result<()> {
    let (_world, _, payer, _) = scene(1)?;
    let balance = ["wallet", "balance"];
    assert_said(payer.with("FARTHING_BUY__MOST_PREPAYED", "1").attempt(&balance)?, 1, &["most_prepayed"])?;
    assert_said(payer.with("FARTHING_BYU__FINALITY", "1").attempt(&balance)?, 1, &["byu"])?;
    assert_said(payer.with("FARTHING_BUY__FINALITY", "soon").attempt(&balance)?, 1, &["FINALITY"])?;
    std::fs::write(payer.path("farthing.toml"), "[sell]\nmarigin = 3\n")?;
    assert_said(payer.attempt(&balance)?, 1, &["marigin"])?;
    for (name, value, said) in [
        ("FARTHING_SELL__FINALITY", "0", "finality is 0, but must be from 1"),
        ("FARTHING_SELL__MARGIN", "1", "margin in blocks is 1, but must be from 2"),
        ("FARTHING_SELL__FEE_RATE", "[9,8]", "lowest fee rate"),
        ("FARTHING_BUY__FINALITY", "0", "finality in [buy] is 0"),
        ("FARTHING_BUY__IN_FLIGHT", "0", "in_flight in [buy] is 0"),
        ("FARTHING_BUY__MOST_LIFETIME", "0", "most_lifetime"),
    ] {
        std::fs::write(payer.path("farthing.toml"), "")?;
        assert_said(payer.with(name, value).attempt(&balance)?, 1, &[said])?;
    }
    let digits =
        payer.with("FARTHING_BITCOIND__PASSWORD", "0123456789").with("FARTHING_BITCOIND__USER", "nobody");
    let refused = digits.attempt(&balance)?;
    assert!(!refused.status.success() && !refused.errors.contains("0123456789"), "{}", refused.errors);
    assert!(!refused.errors.contains("invalid type"), "{}", refused.errors);
    std::fs::write(payer.path("farthing.toml"), "")?;
    let mainnet = payer.with("FARTHING_NETWORK", "bitcoin").attempt(&balance)?;
    assert_said(mainnet, 1, &["not audited", "--mainnet-unaudited"])?;
    let nowhere = ["--config", "/nowhere.toml", "wallet", "balance"];
    assert_said(payer.attempt(&nowhere)?, 1, &["/nowhere.toml"])?;
    assert_said(payer.attempt(&["wallet", "blance"])?, 1, &["blance"])?;
    payer.run(&balance)?;
    Ok(())
}

#[test]
fn a_data_folder_is_made_once_and_used_by_one_process() -> Result<()> {
    let (_world, payee, payer, goods) = scene(1_500)?;
    let seed = std::fs::read(payer.path("regtest/seed"))?;
    assert_said(payer.attempt(&["init"])?, 1, &["already", "nothing was changed"])?;
    assert_eq!(std::fs::read(payer.path("regtest/seed"))?, seed);

    let seller = payee.sell(&goods)?;
    let holder = format!("process {}", seller.process.id());
    let folder = payee.path("regtest").display().to_string();
    assert_said(payee.attempt(&["wallet", "balance"])?, 1, &[&holder, &folder])?;
    assert_said(payee.start_selling(&goods, "127.0.0.1:0")?.wait()?, 1, &[&holder, &folder])?;
    assert!(payee.channels()?.is_empty(), "looking is always allowed");
    seller.process.stop()?.success()?;
    payee.balance()?;
    Ok(())
}
