//! `farthing receipt`.

use std::io::stdin;

use anyhow::{Context as _, ensure};
use farthing_protocol::cheque::receipt::{Receipt, Terms};
use jiff::Timestamp;
use secp256k1::XOnlyPublicKey;
use serde_json::json;

use crate::cli::ReceiptCommand;
use crate::config::Context;
use crate::output::facts;

/// Runs a receipt command.
pub fn run(context: &Context, command: ReceiptCommand) -> anyhow::Result<()> {
    match command {
        ReceiptCommand::Verify { receipt, payee } => verify(context, receipt, payee),
    }
}

/// Fails for a receipt that its payee did not sign.
fn verify(context: &Context, text: String, payee: Option<XOnlyPublicKey>) -> anyhow::Result<()> {
    let text = if text == "-" {
        let mut line = String::new();
        stdin().read_line(&mut line)?;
        line
    } else {
        text
    };
    let receipt: Receipt = text.trim().parse()?;
    receipt.verify().context("this receipt proves nothing: it is forged, or was changed")?;
    let Terms { payee: signer, amount, memo, time, salt: _ } = receipt.terms;
    if let Some(expected) = payee {
        ensure!(signer == expected, "this receipt is signed by {signer}, and not by {expected}");
    }
    let when = i64::try_from(time).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let when = when.map_or_else(|| format!("{time} seconds after 1970"), |time| time.to_string());
    let value = json!({
        "valid": true,
        "payee": signer,
        "amount_msat": amount.get(),
        "memo": memo.as_str(),
        "time": time,
    });
    context.output.print(&value, || {
        facts([
            ("paid to the owner of", signer.to_string()),
            ("amount", amount.to_string()),
            // Quoted, so that no character of it passes for something else on the screen.
            ("for", format!("{:?}", memo.as_str())),
            ("written, as the payer says", when),
            ("signed", "by that owner; whose key it is, the payee can tell you".to_owned()),
        ])
    })
}
