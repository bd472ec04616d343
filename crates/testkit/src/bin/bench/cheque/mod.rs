//! Cheques: what it costs to be paid while one is offline.
//!
//! | file | measures |
//! |---|---|
//! | [`cpu`] | what a cashed cheque costs everybody together, directly and over two hops; no disk |
//! | [`agent`] | cheques a second that one agent holds, locks and pays, each step stored |
//! | [`parties`] | is what the others measure with |
//! | [`mailbox`] | letters a second that a mailbox takes and stores, and the disk that one cheque fills there |

mod agent;
mod cpu;
mod mailbox;
mod parties;

use farthing_chain::RegtestNode;
use serde_json::{Value, json};

use self::agent::Agent;
use self::cpu::Cpu;
use self::mailbox::Mailbox;
use crate::farthing::Folder;
use crate::report::{round, table};

/// Everything that was measured of cheques.
pub struct Report {
    cpu: Cpu,
    agent: Agent,
    mailbox: Mailbox,
}

/// Measures everything.
pub fn measure() -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    let node = RegtestNode::start()?;
    eprintln!("what a cashed cheque costs …");
    let cpu = cpu::measure()?;
    eprintln!("cheques that an agent pays …");
    let agent = agent::measure(&node, &folder)?;
    eprintln!("letters that a mailbox takes …");
    let mailbox = mailbox::measure(&folder)?;
    Ok(Report { cpu, agent, mailbox })
}

impl Report {
    pub fn to_json(&self) -> Value {
        let Self { cpu, agent, mailbox } = self;
        json!({
            "bench": "cheque",
            "cpu_ms_per_cheque_direct": round(cpu.direct_ms, 3),
            "cpu_ms_per_cheque_two_hops": round(cpu.routed_ms, 3),
            "floor_sign_and_verify_ms": round(cpu.floor_ms, 4),
            "cpu_direct_over_floor": round(cpu.direct_ms / cpu.floor_ms, 1),
            "cpu_two_hops_over_floor": round(cpu.routed_ms / cpu.floor_ms, 1),
            "cheques_per_s_durable": round(agent.cheques_per_s, 0),
            "mailbox_messages_per_s": round(mailbox.letters_per_s, 0),
            "bytes_stored_per_cheque": round(mailbox.bytes_per_cheque, 0),
            "mailbox_prekeys_per_s": round(mailbox.prekeys_per_s, 0),
            "connections": { "agent": agent::LANES, "mailbox": mailbox::CONNECTIONS },
            "rounds": { "cpu": cpu::ROUNDS, "agent": agent::ROUNDS, "mailbox": mailbox::ROUNDS },
        })
    }

    pub fn to_table(&self) -> String {
        let Self { cpu, agent, mailbox } = self;
        let rows = [
            ("a cashed cheque, all roles, direct".to_owned(), format!("{:.2} ms", cpu.direct_ms), "≤ 1.5 ms"),
            ("  over two hops".to_owned(), format!("{:.2} ms", cpu.routed_ms), "≤ 3 ms"),
            ("  floor: sign + verify, once".to_owned(), format!("{:.4} ms", cpu.floor_ms), ""),
            (
                "cheques an agent cashes, each step stored".to_owned(),
                format!("{:.0} /s", agent.cheques_per_s),
                "≥ 500 /s",
            ),
            ("letters a mailbox takes and stores".to_owned(), format!("{:.0} /s", mailbox.letters_per_s), ""),
            ("  prekeys it gives out".to_owned(), format!("{:.0} /s", mailbox.prekeys_per_s), ""),
            ("  its disk for one cheque".to_owned(), format!("{:.0} bytes", mailbox.bytes_per_cheque), ""),
        ];
        table("Cheques", rows)
    }
}
