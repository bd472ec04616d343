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

use farthing_chain::RegtestNode;

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
