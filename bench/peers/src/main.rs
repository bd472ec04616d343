//! Measures how many payments a second the code of other pay-per-call protocols accepts on one core, each from the bytes
//! of a request's header to "accepted":
//!
//! ```sh
//! cargo run --release --locked
//! ```
//!
//! The rates are one line of JSON on stdout; the spread of the rounds is on stderr. Everything runs on one thread, state is
//! kept in memory and nothing is sent to a network. Whether a check refuses what it must is asserted before it is measured.

mod l402;
mod measure;
mod spilman;
mod versions;
mod voucher;

use anyhow::Result;
use serde_json::json;

use crate::l402::L402;
use crate::measure::Check;
use crate::spilman::Spilman;
use crate::voucher::Vouchers;

fn main() -> Result<()> {
    let spilman = Spilman::open()?;
    spilman.assert_refusals()?;
    let vouchers = Vouchers::open()?;
    vouchers.assert_refusals()?;
    let l402 = L402::mint()?;
    l402.assert_refusals()?;

    let mut checks = [
        Check::new("spilman", || spilman.accept()),
        Check::new("mpp", || vouchers.accept()),
        Check::new("l402", || l402.accept()),
        // Not reported on stdout: the least that could be measured, no server accepts a payment by this alone.
        Check::new("spilman, only the signature over a known channel's new balance", || spilman.verify()),
        Check::new("mpp, only the signature of a voucher", || vouchers.verify()),
    ];
    measure::interleaved(&mut checks)?;
    for check in &checks {
        eprintln!("{check}");
    }

    let [spilman, mpp, l402, ..] = checks.each_ref().map(|check| check.median().round() as u64);
    let report = json!({
        "spilman_per_s": spilman,
        "mpp_per_s": mpp,
        "l402_per_s": l402,
        "versions": {
            "cdk-spilman": versions::locked("cdk-spilman")?,
            "mpp": versions::locked("mpp")?,
            "macaroon": versions::locked("macaroon")?,
        },
        "what": { "spilman": spilman::WHAT, "mpp": voucher::WHAT, "l402": l402::WHAT },
    });
    println!("{report}");
    Ok(())
}
