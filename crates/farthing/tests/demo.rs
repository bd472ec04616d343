//! `farthing demo`, small: the program's own story, checked by what it prints last.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::terminal::watched;
use serde_json::{Value, json};

/// Runs a demo, and reads the JSON of its last line.
fn report(arguments: &[&str]) -> Result<Value> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_farthing")).arg("demo").args(arguments).arg("--json").output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let end = || errors.trim_end().lines().last().unwrap_or_default();
    let last = text.lines().last().with_context(|| format!("it ended with: {}\n\n{errors}", end()))?;
    ensure!(output.status.success(), "{last}\n{errors}");
    Ok(serde_json::from_str(last)?)
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

fn decimal(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

#[test]
fn a_file_is_sold_and_every_act_ends_well() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("goods");
    std::fs::write(&file, vec![7; 7_500_000])?;
    let report = report(&["channel", "--file", file.to_str().context("a name in text")?])?;

    assert_eq!(
        (&report["mode"], &report["ok"], &report["sha_ok"]),
        (&json!("channel"), &json!(true), &json!(true))
    );
    assert_eq!((&report["bytes"], &report["signatures_per_payment"]), (&json!(7_500_000), &json!(1)));
    assert_eq!(report["pieces"], report["payments"]);
    // What is prepaid covers the first pieces, 5.6 MB, with one signature.
    let (signatures, payments) = (number(&report["signatures"])?, number(&report["payments"])?);
    ensure!((2..payments).contains(&signatures), "{signatures} signatures for {payments} payments");
    assert!(number(&report["pieces"])? > 10);
    let moved = |side: &str, from: &str, to: &str| -> Result<u64> {
        let (from, to) = (number(&report[side][from])?, number(&report[side][to])?);
        to.checked_sub(from).context("it went the other way")
    };
    let (paid, earned) =
        (moved("payer", "after_sat", "before_sat")?, moved("payee", "before_sat", "after_sat")?);
    assert_eq!(paid, earned + number(&report["fees_sat"])?);
    assert_eq!(report["acts"], json!({ "refund": true, "unilateral_close": true, "resume": true }));
    let transactions = report["transactions"].as_array().context("transactions")?;
    let kinds: Vec<&str> =
        transactions.iter().filter_map(|transaction| transaction["kind"].as_str()).collect();
    for kind in ["funding", "closing", "refund", "commitment"] {
        ensure!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    for transaction in transactions {
        ensure!(transaction["txid"].as_str().is_some_and(|txid| txid.len() == 64), "{transaction}");
        ensure!(number(&transaction["fee_sat"])? >= number(&transaction["vsize"])?, "{transaction}");
    }
    assert!(decimal(&report["seconds"])? > 0.0);
    Ok(())
}

#[test]
fn who_looks_sees_the_download_and_tables_of_what_everybody_has() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("goods");
    std::fs::write(&file, vec![7; 1_000_000])?;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_farthing"));
    demo.args(["demo", "channel", "--file"]).arg(&file);
    let (status, shown) = watched(demo)?;
    ensure!(status.success(), "{shown}");
    let bar = ["976.56 KiB/976.56 KiB", "/s", "piece 16/16  paid"];
    let tables = ["on chain", "difference", "transaction", "fee", "outcome", "FAILED"];
    let rows =
        ["buyer", "seller", "funding", "closing", "refund", "commitment", "seller vanishes, buyer refunds"];
    let missing: Vec<_> = [&bar[..], &tables[..5], &rows[..]]
        .concat()
        .into_iter()
        .filter(|text| !shown.contains(text))
        .collect();
    ensure!(missing.is_empty() && !shown.contains(tables[5]), "{missing:?} cannot be seen:\n{shown}");
    Ok(())
}

#[test]
fn a_file_too_small_to_be_stopped_in_its_middle_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("goods");
    std::fs::write(&file, vec![7; 100_000])?;
    let refused = report(&["channel", "--file", file.to_str().context("a name in text")?]);
    let said = refused.err().context("it was taken")?.to_string();
    ensure!(said.contains("choose a file of at least 512"), "{said}");
    Ok(())
}

#[test]
fn twenty_thousand_calls_are_closed_with_two_transactions_and_every_act_ends_well() -> Result<()> {
    let calls = 20_000;
    let report = report(&["lightspeed", "--calls", &calls.to_string()])?;

    assert_eq!((&report["mode"], &report["ok"]), (&json!("lightspeed"), &json!(true)));
    let ladder = &report["ladder"];
    assert_eq!(ladder["calls"], calls);
    assert_eq!((&ladder["signatures_per_call"], &ladder["extra_round_trips"]), (&json!(0), &json!(0)));
    assert_eq!(ladder["close_transactions"], 2);
    assert_eq!(ladder["close_vsize"], 204 + 154, "a rung with both outputs, and its claim");
    let over_http = number(&ladder["over_http"])?;
    ensure!((2..calls).contains(&over_http), "{over_http} calls over HTTP");
    // Whatever the seller had to leave is within what it agreed to risk, and the fees of its close.
    let earned = calls / 10;
    let exposed = number(&ladder["exposure_calls"])? / 10;
    let payee = number(&ladder["payee_sat"])?;
    ensure!(payee <= earned && payee + exposed + 1_500 >= earned, "the seller has {payee} of {earned} sat");
    let flat = &report["flat"];
    assert_eq!(flat["claimed"], flat["calls"]);
    let (claimed, outputs) = (number(&flat["claimed"])?, number(&flat["outputs"])?);
    ensure!(0 < claimed && claimed < outputs, "{claimed} of {outputs} outputs are claimed");
    assert_eq!(claimed + number(&flat["refunded"])?, outputs);
    assert!(decimal(&report["seconds"])? > 0.0);
    let well = json!({ "payee_gone": true, "payer_gone": true, "lying_rung": true, "crash": true });
    assert_eq!(report["acts"], well);
    Ok(())
}

#[test]
fn cheques_are_cashed_while_their_payer_is_off_and_every_act_ends_well() -> Result<()> {
    let report = report(&["cheque"])?;
    assert_eq!((&report["mode"], &report["ok"]), (&json!("cheque"), &json!(true)));
    assert_eq!(report["online_together"], false);
    for (way, paid) in [("direct", 2_000), ("routed", 3_000)] {
        assert_eq!(
            (&report[way]["paid_sat"], &report[way]["receipt_ok"]),
            (&json!(paid), &json!(true)),
            "{way}"
        );
    }
    assert_eq!((&report["routed"]["hops"], &report["routed"]["linkable"]), (&json!(2), &json!(false)));
    assert_eq!(report["reverse"]["paid_sat"], 4_000);
    for act in ["agent_gone", "payee_gone", "overwritten", "bounced", "expired"] {
        assert_eq!(report["acts"][act], true, "{act}");
    }
    Ok(())
}

#[test]
fn cars_pay_tolls_through_a_gateway_and_every_act_ends_well() -> Result<()> {
    let report = report(&["gateway", "--tolls", "5"])?;
    assert_eq!((&report["mode"], &report["ok"]), (&json!("gateway"), &json!(true)));
    assert_eq!((&report["payments"], &report["failed"]), (&json!(15), &json!(0)));
    // Five per cent of what they paid, in the acts as well.
    ensure!(number(&report["fee_sat"])? >= 15 * 2_000 / 20, "{report}");
    let (half, nearly_all) = (decimal(&report["p50_ms"])?, decimal(&report["p99_ms"])?);
    ensure!(0.0 < half && half <= nearly_all, "{report}");
    ensure!(number(&report["bytes_per_payment"])? > 0, "{report}");
    let acts = [
        "gateway_gone_force_close",
        "revoked_state_refused",
        "collusion_refused",
        "device_offline_resume",
        "stolen_device",
    ];
    for act in acts {
        assert_eq!(report["acts"][act], true, "{act}");
    }
    Ok(())
}

/// A copy of the program elsewhere finds no bitcoind beside or above it, and this test sees to it that none is on the path.
#[test]
fn without_a_bitcoind_every_demo_says_what_to_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path().canonicalize()?;
    let found = here.ancestors().map(|folder| folder.join("tools/bitcoind")).find(|tool| tool.exists());
    ensure!(found.is_none(), "{found:?} would be found: set TMPDIR to a folder outside of this repository");
    let program = here.join("farthing");
    // By another process: a program that this one has open for writing while it forks cannot be run (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_farthing")).arg(&program).status()?;
    ensure!(copied.success(), "the program is not copied: {copied}");
    for play in ["channel", "lightspeed", "cheque", "gateway"] {
        let mut demo = Command::new(&program);
        demo.args(["demo", play, "--json"]).current_dir(&here).env("PATH", "").env_remove("BITCOIND_EXE");
        let ended = demo.output()?;
        let said = String::from_utf8(ended.stderr)?;
        ensure!(
            ended.status.code() == Some(1) && ended.stdout.is_empty(),
            "{play}: {}, {said}",
            ended.status
        );
        for words in ["no bitcoind found", "run `cargo xtask setup`"] {
            ensure!(said.contains(words), "{play}: no {words:?} in: {said}");
        }
    }
    Ok(())
}
