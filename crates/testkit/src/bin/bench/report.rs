//! The results: one line of JSON for programs, a table for people.

use serde_json::{Value, json};

use crate::cpu::Cpu;
use crate::durable::{Durable, IN_FLIGHT};
use crate::transfer::{Memory, Rates};

/// Everything that was measured of the channel.
pub struct Report {
    pub cpu: Cpu,
    pub durable: Durable,
    pub rates: Rates,
    pub memory: Memory,
}

impl Report {
    pub fn to_json(&self) -> Value {
        let Self { cpu, durable, rates, memory } = self;
        json!({
            "bench": "channel",
            "payment_cpu_over_floor": round(cpu.over_floor, 3),
            "payments_per_s_durable_1": round(durable.payments_per_s_1, 0),
            "payments_per_s_durable_64": round(durable.payments_per_s_64, 0),
            "paid_over_unpaid_rate": round(rates.paid_over_unpaid, 3),
            "peak_mib_payer": round(memory.payer_mib, 1),
            "peak_mib_payee": round(memory.payee_mib, 1),
            "payment_with_mac_cpu_over_floor": round(cpu.over_floor_with_mac, 3),
            "floor_sign_us": round(cpu.floor_sign_us, 2),
            "floor_verify_us": round(cpu.floor_verify_us, 2),
            "payer_us": round(cpu.payer_us, 2),
            "payee_us": round(cpu.payee_us, 2),
            "mac_us": round(cpu.mac_us, 2),
            "disk_flush_us": round(durable.disk_flush_us, 0),
            "durable_in_flight_per_channel": IN_FLIGHT,
            "paid_mib_per_s": round(rates.paid_mib_per_s, 0),
            "unpaid_mib_per_s": round(rates.unpaid_mib_per_s, 0),
            "rounds": { "cpu": cpu.rounds, "durable": durable.rounds, "transfer": rates.rounds },
        })
    }

    pub fn to_table(&self) -> String {
        let Self { cpu, durable, rates, memory } = self;
        let rows = [
            ("payment, both sides, over sign + verify", format!("{:.3}", cpu.over_floor), "≤ 1.3"),
            ("  with the request's authentication code", format!("{:.3}", cpu.over_floor_with_mac), ""),
            ("  floor: sign + verify", sum_us(cpu.floor_sign_us, cpu.floor_verify_us), ""),
            ("  payer + payee", sum_us(cpu.payer_us, cpu.payee_us), ""),
            ("stored payments, 1 channel", format!("{:.0} /s", durable.payments_per_s_1), ""),
            ("stored payments, 64 channels", format!("{:.0} /s", durable.payments_per_s_64), ""),
            ("  one write to this disk", format!("{:.0} µs", durable.disk_flush_us), ""),
            ("paid over free download", format!("{:.3}", rates.paid_over_unpaid), "≥ 0.85"),
            ("  paid", format!("{:.0} MiB/s", rates.paid_mib_per_s), ""),
            ("  free", format!("{:.0} MiB/s", rates.unpaid_mib_per_s), ""),
            ("memory of the payer, 1 GiB", format!("{:.1} MiB", memory.payer_mib), "≤ 64"),
            ("memory of the payee, 1 GiB", format!("{:.1} MiB", memory.payee_mib), "≤ 64"),
        ];
        table("one-way channel", rows.map(|(name, value, goal)| (name.to_owned(), value, goal)))
    }
}

/// A table of names, medians and goals.
pub fn table(heading: &str, rows: impl IntoIterator<Item = (String, String, &'static str)>) -> String {
    let heading = (heading.to_owned(), "median".to_owned(), "goal");
    let lines = std::iter::once(heading).chain(rows);
    let lines = lines.map(|(name, value, goal)| format!("{name:<42}{value:>20}  {goal}"));
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn sum_us(first: f64, second: f64) -> String {
    format!("{first:.1} + {second:.1} µs")
}

/// To so many digits after the point.
pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_promised_is_there() {
        // Each value another, so that none stands for another.
        let cpu = Cpu {
            over_floor: 1.2344,
            over_floor_with_mac: 1.25,
            floor_sign_us: 20.0,
            floor_verify_us: 30.0,
            payer_us: 22.5,
            payee_us: 33.5,
            mac_us: 4.5,
            rounds: 151,
        };
        let durable = Durable {
            payments_per_s_1: 1_500.4,
            payments_per_s_64: 9_000.0,
            disk_flush_us: 400.0,
            rounds: 7,
        };
        let rates =
            Rates { paid_over_unpaid: 0.9, paid_mib_per_s: 270.0, unpaid_mib_per_s: 300.0, rounds: 5 };
        let memory = Memory { payer_mib: 31.0, payee_mib: 28.0 };
        let json = Report { cpu, durable, rates, memory }.to_json();
        assert_eq!(json["bench"], "channel");
        for (field, value) in [
            ("payment_cpu_over_floor", 1.234),
            ("payments_per_s_durable_1", 1_500.0),
            ("payments_per_s_durable_64", 9_000.0),
            ("paid_over_unpaid_rate", 0.9),
            ("peak_mib_payer", 31.0),
            ("peak_mib_payee", 28.0),
            // What those stand on.
            ("payment_with_mac_cpu_over_floor", 1.25),
            ("floor_sign_us", 20.0),
            ("floor_verify_us", 30.0),
            ("payer_us", 22.5),
            ("payee_us", 33.5),
            ("mac_us", 4.5),
            ("disk_flush_us", 400.0),
            ("paid_mib_per_s", 270.0),
            ("unpaid_mib_per_s", 300.0),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        assert_eq!(json["durable_in_flight_per_channel"], IN_FLIGHT);
        assert_eq!(json["rounds"], json!({ "cpu": 151, "durable": 7, "transfer": 5 }));
    }
}
