//! Pay per call: what the words cost a seller.
//!
//! | file | measures |
//! |---|---|
//! | [`accept`] | calls that one core accepts, from raw bytes |
//! | [`gate`] | a service with and without a gate: requests a second, latency |
//! | [`idle`] | memory of sessions that only wait |
//! | [`peers`] | what other protocols' crates accept on one core |
//!
//! | file | prepares |
//! |---|---|
//! | [`caller`] | payers of calls |
//! | [`session`] | their sessions, without a chain |
//! | [`service`] | the service that is sold, its sellers on a chain |
//! | [`load`] | the requests, and who sends them |

mod accept;
mod caller;
mod gate;
pub mod idle;
mod load;
mod peers;
mod report;
mod service;
mod session;

use anyhow::bail;
use farthing_chain::RegtestNode;
use serde_json::{Value, json};

use self::report::Report;
use crate::farthing::Folder;

/// Measures everything.
pub fn measure() -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    let node = RegtestNode::start()?;
    eprintln!("calls that are accepted …");
    let mut accept = accept::Accept::new(folder.path())?;
    accept.rounds()?;
    eprintln!("what other protocols accept …");
    let peers = peers::measure()?;
    accept.rounds()?;
    let accept = accept.rates();
    eprintln!("a service with and without a gate …");
    let gate = gate::measure(&node, &folder)?;
    eprintln!("sessions that only wait …");
    let idle = idle::measure(folder.path())?;
    Ok(Report { accept, gate, idle, peers })
}

/// One part alone, for a look at it with a profiler.
pub fn stage(name: &str) -> anyhow::Result<Value> {
    let folder = Folder::new()?;
    Ok(match name {
        "accept" => {
            let mut accept = accept::Accept::new(folder.path())?;
            accept.rounds()?;
            let rates = accept.rates();
            json!({ "accept_per_s_core": rates.accepted, "while_many_run": rates.accepted_while_many_run })
        }
        "open" | "call" | "batch" => {
            let (per_s, cpu_us) = gate::alone(&RegtestNode::start()?, &folder, name)?;
            json!({ "per_s": per_s, "cpu_us_per_request": cpu_us })
        }
        "idle" => {
            let idle = idle::measure(folder.path())?;
            json!({ "bytes_per_idle_session": idle.session, "bytes_per_idle_tab": idle.tab })
        }
        _other => bail!("there is no stage {name}"),
    })
}
