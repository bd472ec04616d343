//! What a user would pick instead: the per-call checks of other protocols, each through its own crate. Their program is
//! another workspace, `bench/peers`, which the xtask builds.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Names the program.
const PROGRAM: &str = "FARTHING_BENCH_PEERS";

/// Calls a second on one core, and what was called.
pub struct Peers {
    pub rates: [(&'static str, f64); 3],
    /// What the program says of itself: what was called, of which version.
    said: Value,
}

/// Runs the program to its end.
pub fn measure() -> anyhow::Result<Peers> {
    let program = std::env::var_os(PROGRAM).with_context(|| {
        format!("{PROGRAM} does not name the peers' program: use `cargo xtask bench lightspeed`")
    })?;
    let output = Command::new(program).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "the peers' program ended with {}", output.status);
    Peers::read(serde_json::from_slice(&output.stdout)?)
}

impl Peers {
    /// Reads what the program has said.
    pub fn read(said: Value) -> anyhow::Result<Self> {
        let rate =
            |key: &str| said[key].as_f64().with_context(|| format!("the peers' program states no {key}"));
        let rates =
            [("spilman", rate("spilman_per_s")?), ("mpp", rate("mpp_per_s")?), ("l402", rate("l402_per_s")?)];
        Ok(Self { rates, said })
    }

    /// What was called.
    pub fn what(&self, peer: &str) -> &str {
        self.said["what"][peer].as_str().unwrap_or_default()
    }

    /// The fields of the report.
    pub fn to_json(&self) -> Value {
        let mut fields: serde_json::Map<String, Value> = self
            .rates
            .iter()
            .map(|(peer, rate)| (format!("{peer}_per_s"), Value::from(rate.round())))
            .collect();
        for key in ["versions", "what"] {
            fields.insert(key.to_owned(), self.said[key].clone());
        }
        Value::Object(fields)
    }
}
