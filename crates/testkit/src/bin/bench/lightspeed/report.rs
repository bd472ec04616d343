//! The results: one line of JSON for programs, a table for people.

use serde_json::{Value, json};

use super::accept::{self, Rates as AcceptRates};
use super::gate::{self, Measured, Rates};
use super::idle::{self, Idle};
use super::peers::Peers;
use crate::report::{round, table};

/// Everything that was measured of Lightspeed.
pub struct Report {
    pub accept: AcceptRates,
    pub gate: Measured,
    pub idle: Idle,
    pub peers: Peers,
}

impl Report {
    pub fn to_json(&self) -> Value {
        let Self { accept, gate, idle, peers } = self;
        let rates = |rates: &Rates| {
            json!({
                "ungated_per_s": round(rates.open, 0),
                "call_per_s": round(rates.call, 0),
                "batch_per_s": round(rates.batch, 0),
                "ungated_cpu_us": round(rates.open_cpu_us, 1),
                "call_cpu_us": round(rates.call_cpu_us, 1),
                "batch_cpu_us": round(rates.batch_cpu_us, 1),
                "call_over_ungated": round(rates.call_over_open, 3),
                "batch_over_ungated": round(rates.batch_over_open, 3),
            })
        };
        json!({
            "bench": "lightspeed",
            "accept_per_s_core": round(accept.accepted, 0),
            "gated_over_ungated_call": round(gate.busy.call_over_open, 3),
            "gated_over_ungated_batch": round(gate.busy.batch_over_open, 3),
            "added_p50_us": round(gate.p50.call, 0),
            "added_p99_us": round(gate.p99.call, 0),
            "bytes_per_idle_session": round(idle.session, 0),
            "peers": peers.to_json(),
            "added_p50_us_batch": round(gate.p50.batch, 0),
            "added_p99_us_batch": round(gate.p99.batch, 0),
            "ungated_p50_us": round(gate.p50.open, 0),
            "ungated_p99_us": round(gate.p99.open, 0),
            "busy": rates(&gate.busy),
            "busy_few_payers": rates(&gate.busy_few_payers),
            "empty": rates(&gate.empty),
            "bytes_per_idle_tab": round(idle.tab, 0),
            "hashes_per_s_core": round(accept.hashes, 0),
            "accept_per_s_core_while_many_run": round(accept.accepted_while_many_run, 0),
            "sessions": { "accept": accept::SESSIONS, "idle": idle::SESSIONS, "running_at_once": accept::RUNNING },
            "connections": { "throughput": gate::CONNECTIONS, "latency": gate::FEW },
            "payers": { "busy": gate::CONNECTIONS, "busy_few_payers": gate::PAYERS, "empty": gate::CONNECTIONS },
            "latency_requests_per_s": gate::FEW_PER_S,
            "rounds": { "accept": accept.rounds, "gate": gate::ROUNDS },
        })
    }

    pub fn to_table(&self) -> String {
        let Self { accept, gate, idle, peers } = self;
        let per_s = |rate: f64| format!("{rate:.0} /s");
        let us = |time: f64| format!("{time:.0} µs");
        let mut rows = vec![
            ("accepted calls, one core".to_owned(), per_s(accept.accepted), "≥ 2000000"),
            (
                format!("  while {} of a session run", accept::RUNNING),
                per_s(accept.accepted_while_many_run),
                "",
            ),
            ("  floor: hashing a word".to_owned(), per_s(accept.hashes), ""),
        ];
        for (peer, rate) in peers.rates {
            rows.push((format!("  instead: {peer}"), per_s(rate), ""));
        }
        let services = [
            (format!("50 µs of work, {} payers", gate::CONNECTIONS), &gate.busy, ["≥ 0.90", "≥ 0.95"]),
            (format!("50 µs of work, {} payers", gate::PAYERS), &gate.busy_few_payers, ["", ""]),
            (format!("no work, {} payers", gate::CONNECTIONS), &gate.empty, ["", ""]),
        ];
        for (name, rates, [call, batch]) in services {
            rows.push((name, per_s(rates.open), ""));
            rows.push(("  gated, each call stored".to_owned(), per_s(rates.call), ""));
            rows.push(("  gated, stored every 50 ms".to_owned(), per_s(rates.batch), ""));
            rows.push((
                "  gated over ungated, call".to_owned(),
                format!("{:.3}", rates.call_over_open),
                call,
            ));
            rows.push((
                "  gated over ungated, batch".to_owned(),
                format!("{:.3}", rates.batch_over_open),
                batch,
            ));
        }
        for (name, latencies) in [("median", &gate.p50), ("99th percentile", &gate.p99)] {
            rows.push((format!("an answer takes, {name}"), us(latencies.open), ""));
            rows.push(("  more when each call is stored".to_owned(), us(latencies.call), ""));
            rows.push(("  more when stored every 50 ms".to_owned(), us(latencies.batch), ""));
        }
        rows.push(("memory of an idle session".to_owned(), format!("{:.0} bytes", idle.session), "≤ 4096"));
        rows.push(("  the tab's part".to_owned(), format!("{:.0} bytes", idle.tab), ""));
        let mut lines = vec![table("Lightspeed", rows), String::new()];
        lines.extend(peers.rates.iter().map(|(peer, _)| format!("{peer}: {}", peers.what(peer))));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value another, so that none stands for another.
    fn rates(open: f64) -> Rates {
        Rates {
            open,
            call: open + 1.0,
            batch: open + 2.0,
            open_cpu_us: open + 3.0,
            call_cpu_us: open + 4.0,
            batch_cpu_us: open + 5.0,
            call_over_open: open + 6.0,
            batch_over_open: open + 7.0,
        }
    }

    fn report(said: Value) -> anyhow::Result<Report> {
        let accept = AcceptRates {
            accepted: 2_500_000.4,
            accepted_while_many_run: 2_400_000.0,
            hashes: 2e7,
            rounds: 22,
        };
        let gate = Measured {
            busy: rates(100.0),
            busy_few_payers: rates(200.0),
            empty: rates(300.0),
            p50: gate::Latencies { open: 90.0, call: 40.0, batch: 15.0 },
            p99: gate::Latencies { open: 400.0, call: 80.0, batch: 35.0 },
        };
        let idle = Idle { session: 3_000.0, tab: 900.0 };
        Ok(Report { accept, gate, idle, peers: Peers::read(said)? })
    }

    #[test]
    fn every_field_that_is_promised_is_there() {
        let said = json!({
            "spilman_per_s": 9_000.4,
            "mpp_per_s": 8_000.0,
            "l402_per_s": 7_000.0,
            "versions": { "mpp": "0.5" },
            "what": { "l402": "a macaroon" },
        });
        let json = report(said).unwrap().to_json();
        assert_eq!(json["bench"], "lightspeed");
        for (field, value) in [
            ("accept_per_s_core", 2_500_000.0),
            ("gated_over_ungated_call", 106.0),
            ("gated_over_ungated_batch", 107.0),
            ("added_p50_us", 40.0),
            ("added_p99_us", 80.0),
            ("bytes_per_idle_session", 3_000.0),
            // What those stand on.
            ("added_p50_us_batch", 15.0),
            ("added_p99_us_batch", 35.0),
            ("ungated_p50_us", 90.0),
            ("ungated_p99_us", 400.0),
            ("bytes_per_idle_tab", 900.0),
            ("hashes_per_s_core", 2e7),
            ("accept_per_s_core_while_many_run", 2_400_000.0),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        for (field, value) in [("spilman_per_s", 9_000.0), ("mpp_per_s", 8_000.0), ("l402_per_s", 7_000.0)] {
            assert_eq!(json["peers"][field], value, "{field}");
        }
        assert_eq!(json["peers"]["versions"]["mpp"], "0.5");
        assert_eq!(json["peers"]["what"]["l402"], "a macaroon");
        for (service, open) in [("busy", 100.0), ("busy_few_payers", 200.0), ("empty", 300.0)] {
            for (field, more) in [
                ("ungated_per_s", 0.0),
                ("call_per_s", 1.0),
                ("batch_per_s", 2.0),
                ("ungated_cpu_us", 3.0),
                ("call_cpu_us", 4.0),
                ("batch_cpu_us", 5.0),
                ("call_over_ungated", 6.0),
                ("batch_over_ungated", 7.0),
            ] {
                assert_eq!(json[service][field], open + more, "{service}: {field}");
            }
        }
        assert_eq!(json["rounds"], json!({ "accept": 22, "gate": gate::ROUNDS }));
    }

    #[test]
    fn a_peer_that_was_not_measured_is_named() {
        let missing = report(json!({ "spilman_per_s": 9_000.0, "l402_per_s": 7_000.0 })).err().unwrap();
        assert_eq!(missing.to_string(), "the peers' program states no mpp_per_s");
    }
}
