//! `farthing demo`, small: the program's own story, checked by what it prints last.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

#[test]
fn twenty_thousand_calls_are_closed_with_two_transactions_and_every_act_ends_well() -> Result<()> {
    let calls = 20_000;
    let output = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(["demo", "lightspeed", "--json", "--calls", &calls.to_string()])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().with_context(|| format!("it printed nothing: {errors}"))?;
    let report: Value = serde_json::from_str(last)?;
    ensure!(output.status.success(), "{last}\n{errors}");

    assert_eq!((&report["mode"], &report["ok"]), (&json!("lightspeed"), &json!(true)));
    let ladder = &report["ladder"];
    assert_eq!(ladder["calls"], calls);
    assert_eq!((&ladder["signatures_per_call"], &ladder["extra_round_trips"]), (&json!(0), &json!(0)));
    assert_eq!(ladder["close_transactions"], 2);
    let number = |value: &Value| value.as_u64().context("a number");
    let over_http = number(&ladder["over_http"])?;
    ensure!((2..calls).contains(&over_http), "{over_http} calls over HTTP");
    // Whatever the seller had to leave is within what it agreed to risk, and the fees of its close.
    let earned = calls / 10;
    let exposed = number(&ladder["exposure_calls"])? / 10;
    let payee = number(&ladder["payee_sat"])?;
    ensure!(payee <= earned && payee + exposed + 1_500 >= earned, "the seller has {payee} of {earned} sat");
    let flat = &report["flat"];
    assert_eq!(flat["claimed"], flat["calls"]);
    assert_eq!(number(&flat["claimed"])? + number(&flat["refunded"])?, number(&flat["outputs"])?);
    let well = json!({ "payee_gone": true, "payer_gone": true, "lying_rung": true, "crash": true });
    assert_eq!(report["acts"], well);
    Ok(())
}
