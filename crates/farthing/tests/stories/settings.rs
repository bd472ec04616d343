//! Where settings come from, which of them count, and what real bitcoin takes besides.

use anyhow::{Result, ensure};
use farthing_testkit::{Ended, Person};
use serde_json::json;

use crate::scene;

const REAL: [&str; 3] = ["--network", "bitcoin", "--mainnet-unaudited"];

#[test]
fn the_configuration_gives_way_to_the_environment_and_that_to_the_command_line() -> Result<()> {
    let (_world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&goods)?;
    let lifetime = |payer: &Person, options: &[&str]| -> Result<Option<u64>> {
        let options = [&["--dry-run"][..], options].concat();
        Ok(payer.buy(&seller.url, "out", &options)?.result()?["lifetime_blocks"].as_u64())
    };
    assert_eq!(lifetime(&payer, &[])?, Some(1_000), "nobody but the seller sets a bound");
    std::fs::write(payer.path("farthing.toml"), "[buy]\nmost_lifetime = 300\n")?;
    assert_eq!(lifetime(&payer, &[])?, Some(300));
    let elsewhere = payer.path("elsewhere.toml");
    std::fs::write(&elsewhere, "[buy]\nmost_lifetime = 400\n")?;
    let named = ["--config", &elsewhere.display().to_string()];
    assert_eq!(lifetime(&payer, &named)?, Some(400), "the one that is named is read instead");

    let payer = payer.with("FARTHING_BUY__MOST_LIFETIME", "200");
    assert_eq!((lifetime(&payer, &[])?, lifetime(&payer, &named)?), (Some(200), Some(200)));
    assert_eq!(lifetime(&payer, &["--lifetime", "100"])?, Some(100));
    assert_eq!(lifetime(&payer, &["--lifetime", "500"])?, Some(500), "also where it allows more");
    Ok(())
}

#[test]
fn network_and_folder_come_from_the_configuration_the_environment_or_the_command_line() -> Result<()> {
    let (_world, _, person, _) = scene(1)?;
    let init = |person: &Person, options: &[&str]| -> Result<(String, String)> {
        let made = person.run(&[options, &["init"]].concat())?;
        let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
        Ok((text("network"), text("folder")))
    };
    let at = |path: &str| person.path(path).display().to_string();
    let unset = person.without("FARTHING_NETWORK");
    std::fs::write(person.path("farthing.toml"), "network = \"testnet4\"\n")?;
    assert_eq!(init(&unset, &[])?, ("testnet4".to_owned(), at("testnet4")));
    let signet = person.with("FARTHING_NETWORK", "signet");
    assert_eq!(init(&signet, &[])?, ("signet".to_owned(), at("signet")));
    let other = at("other");
    let options = ["--network", "regtest", "--data", &other];
    assert_eq!(init(&signet, &options)?, ("regtest".to_owned(), at("other/regtest")));

    // A configuration that is named may say where the folder is.
    let told = format!("network = \"signet\"\ndata = {:?}\n", at("told"));
    std::fs::write(person.path("told.toml"), told)?;
    let (unset, named) = (unset.without("FARTHING_DATA"), at("told.toml"));
    assert_eq!(init(&unset, &["--config", &named])?, ("signet".to_owned(), at("told/signet")));
    Ok(())
}

fn try_to_init(person: &Person, options: &[&str]) -> Result<Ended> {
    person.attempt(&[options, &["init"]].concat())
}

#[test]
fn real_bitcoin_takes_a_flag_and_warns_each_time() -> Result<()> {
    let (_world, _, person, _) = scene(1)?;
    let person = person.without("FARTHING_NETWORK");
    let warning = "this code is not audited; do not lock more than you can lose";
    let refused = try_to_init(&person, &REAL[..2])?.failure(1)?;
    assert!(refused.contains("not audited") && refused.contains("--mainnet-unaudited"), "{refused}");
    // The configuration cannot say it for good: it is typed each time.
    std::fs::write(person.path("farthing.toml"), "network = \"bitcoin\"\n")?;
    let refused = try_to_init(&person, &[])?.failure(1)?;
    assert!(refused.contains("--mainnet-unaudited"), "{refused}");
    let refused = try_to_init(&person, &["--network=mainnet"])?.failure(1)?;
    assert!(refused.contains("--mainnet-unaudited"), "the same by another name: {refused}");
    let refused = try_to_init(&person, &["--network=testnet", "--mainnet-unaudited"])?.failure(1)?;
    ensure!(refused.contains("testnet"), "{refused}");
    assert!(!person.path("bitcoin").exists() && !person.path("testnet").exists(), "something was made");

    let made = try_to_init(&person, &REAL)?;
    assert!(made.errors.contains(warning), "{made:?}");
    let value = made.result()?;
    assert_eq!(
        (&value["network"], &value["folder"]),
        (&json!("bitcoin"), &json!(person.path("bitcoin").display().to_string()))
    );
    let listed = person.attempt(&[&REAL[2..], &["channels", "list"]].concat())?;
    assert!(listed.errors.contains(warning), "{listed:?}");
    assert_eq!(listed.result()?, json!([]));

    // The flag chooses no network, and warns of none that holds no money.
    let regtest = person.with("FARTHING_NETWORK", "regtest");
    let listed = regtest.attempt(&[&REAL[2..], &["channels", "list"]].concat())?;
    assert!(!listed.errors.contains("not audited"), "{listed:?}");
    listed.success()?;
    Ok(())
}

#[test]
fn a_node_of_another_network_is_not_used() -> Result<()> {
    let (_world, _, person, _) = scene(1)?;
    try_to_init(&person, &REAL)?.success()?;
    for command in [["wallet", "balance"], ["wallet", "address"]] {
        let said = person.attempt(&[&REAL[..], &command].concat())?.failure(4)?;
        ensure!(said.contains("is on regtest, but bitcoin is configured"), "{command:?}: {said}");
    }
    Ok(())
}
