//! The results: one line of JSON for programs, a table for people.

use std::num::NonZero;

use serde_json::{Value, json};

use super::busy::{self, Cpu};
use super::single::Single;
use super::{DEVICES, PAYMENTS, ROUNDS, Slow, plain};
use crate::report::{round, table};
use crate::stats::{median, percentile};

/// Everything that was measured of LNGate.
pub struct Report {
    /// One side's processor time for a joint signature, by the engine alone.
    pub engine_ms: f64,
    pub local: Single,
    /// Or why there is no slow link here.
    pub slow: anyhow::Result<Slow>,
    pub plain_took: Vec<f64>,
    pub rounds: Vec<(busy::Round, plain::Round)>,
}

/// Medians over the rounds.
struct Rates {
    joint_per_s: f64,
    plain_per_s: f64,
    over_plain: f64,
    cpu: Cpu,
    plain_cpu_ms: f64,
    took_ms: Vec<f64>,
    failed: usize,
}

impl Report {
    /// The payments a second that these processors could make if joint signatures were all there is to a payment.
    fn engine_cap_per_s(&self) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get) as f64;
        processors * 1_000.0 / (2.0 * self.local.joint_signatures * self.engine_ms)
    }

    fn rates(&self) -> Rates {
        let of = |part: fn(&(busy::Round, plain::Round)) -> f64| median(self.rounds.iter().map(part));
        Rates {
            joint_per_s: of(|(joint, _)| joint.payments_per_s),
            plain_per_s: of(|(_, plain)| plain.payments_per_s),
            over_plain: of(|(joint, plain)| joint.payments_per_s / plain.payments_per_s),
            cpu: Cpu {
                device: of(|(joint, _)| joint.cpu.device),
                gateway: of(|(joint, _)| joint.cpu.gateway),
                bridge: of(|(joint, _)| joint.cpu.bridge),
                destination: of(|(joint, _)| joint.cpu.destination),
            },
            plain_cpu_ms: of(|(_, plain)| plain.cpu_ms),
            took_ms: self.rounds.iter().flat_map(|(joint, _)| joint.took_ms.iter().copied()).collect(),
            failed: self.rounds.iter().map(|(joint, plain)| joint.failed + plain.failed).sum(),
        }
    }

    pub fn to_json(&self) -> Value {
        let Self { local, slow, plain_took, .. } = self;
        let rates = self.rates();
        let ms = |value: Option<f64>| value.map(|value| round(value, 1));
        let wifi = slow.as_ref().ok();
        json!({
            "bench": "gateway",
            "p50_ms_local": round(local.p50_ms, 1),
            "p99_ms_local": round(local.p99_ms, 1),
            "p50_ms_wifi": ms(wifi.map(|wifi| wifi.single.p50_ms)),
            "p99_ms_wifi": ms(wifi.map(|wifi| wifi.single.p99_ms)),
            "bytes_per_payment": round(local.link_bytes, 0),
            "device_messages_per_payment": round(local.messages, 1),
            "device_cpu_ms": round(local.cpu_ms, 1),
            "device_peak_mib": round(local.peak_mib, 1),
            "payments_per_s": round(rates.joint_per_s, 1),
            "joint_signatures_per_payment": round(local.joint_signatures, 2),
            "engine_ms_per_signature": round(self.engine_ms, 2),
            "engine_cap_per_s": round(self.engine_cap_per_s(), 1),
            "over_plain_signer": round(rates.over_plain, 3),
            "cpu_ms_per_payment": {
                "device": round(rates.cpu.device, 1),
                "gateway": round(rates.cpu.gateway, 1),
                "bridge": round(rates.cpu.bridge, 1),
                "destination": round(rates.cpu.destination, 1),
                "plain": round(rates.plain_cpu_ms, 1),
            },
            "p50_ms_busy": ms(percentile(&rates.took_ms, 0.5)),
            "p99_ms_busy": ms(percentile(&rates.took_ms, 0.99)),
            "p50_ms_plain": ms(percentile(plain_took, 0.5)),
            "p99_ms_plain": ms(percentile(plain_took, 0.99)),
            "payments_per_s_plain": round(rates.plain_per_s, 1),
            "wifi": match slow {
                Ok(wifi) => json!({
                    "round_trip_ms": round(wifi.quality.round_trip_ms, 1),
                    "mbit_per_s": round(wifi.quality.mbit_per_s, 1),
                    "frame_bytes_per_payment": wifi.single.frame_bytes.map(|bytes| round(bytes, 0)),
                }),
                Err(why) => json!({ "missing": format!("{why:#}") }),
            },
            "failed": local.failed + wifi.map_or(0, |wifi| wifi.single.failed) + rates.failed,
            "devices": DEVICES,
            "payments": {
                "local": local.payments,
                "wifi": wifi.map(|wifi| wifi.single.payments),
                "busy": rates.took_ms.len(),
                "plain": PAYMENTS,
            },
            "rounds": ROUNDS,
        })
    }

    pub fn to_table(&self) -> String {
        let Self { local, slow, plain_took, .. } = self;
        let rates = self.rates();
        let both = |p50: f64, p99: f64| format!("{p50:.0}, {p99:.0} ms");
        let of = |took: &[f64]| {
            both(percentile(took, 0.5).unwrap_or(f64::NAN), percentile(took, 0.99).unwrap_or(f64::NAN))
        };
        let cpu = |ms: f64| format!("{ms:.1} ms");
        let (wifi, measured) = match slow {
            Ok(Slow { quality, single }) => (
                both(single.p50_ms, single.p99_ms),
                format!("{:.1} ms, {:.1} Mbit/s", quality.round_trip_ms, quality.mbit_per_s),
            ),
            Err(why) => ("not measured".to_owned(), format!("{why:#}")),
        };
        let mut rows = vec![
            ("a payment, median and 99th percentile".to_owned(), both(local.p50_ms, local.p99_ms), ""),
            ("  over a link like WiFi".to_owned(), wifi, "≤ 400 ms"),
            ("    round trip and rate of that link".to_owned(), measured, ""),
            (format!("  {DEVICES} devices at once"), of(&rates.took_ms), ""),
            ("  with a plain signer".to_owned(), of(plain_took), ""),
            ("on the device's link".to_owned(), format!("{:.0} bytes", local.link_bytes), ""),
            ("  messages".to_owned(), format!("{:.1}", local.messages), ""),
            ("joint signatures".to_owned(), format!("{:.2}", local.joint_signatures), ""),
            ("  each, for each side, by the engine alone".to_owned(), cpu(self.engine_ms), ""),
            ("the device's processor time".to_owned(), cpu(local.cpu_ms), ""),
            ("the device's memory".to_owned(), format!("{:.1} MiB", local.peak_mib), ""),
            (format!("{DEVICES} devices, one gateway"), format!("{:.1} /s", rates.joint_per_s), "≥ 40"),
            ("  with a plain signer".to_owned(), format!("{:.1} /s", rates.plain_per_s), ""),
            ("  if joint signatures were all".to_owned(), format!("{:.1} /s", self.engine_cap_per_s()), ""),
            ("  joint over plain".to_owned(), format!("{:.3}", rates.over_plain), ""),
        ];
        let parties = [
            ("device", rates.cpu.device),
            ("gateway", rates.cpu.gateway),
            ("  with a plain signer", rates.plain_cpu_ms),
            ("bridge", rates.cpu.bridge),
            ("destination", rates.cpu.destination),
        ];
        rows.extend(parties.map(|(party, ms)| (format!("  processor time: {party}"), cpu(ms), "")));
        table("LNGate", rows)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::gateway::link;

    fn single(p50_ms: f64) -> Single {
        Single {
            p50_ms,
            p99_ms: 2.0 * p50_ms,
            payments: 3,
            failed: 1,
            cpu_ms: 15.0,
            peak_mib: 20.0,
            link_bytes: 650_000.0,
            messages: 30.0,
            joint_signatures: 4.0,
            frame_bytes: None,
        }
    }

    fn report(slow: anyhow::Result<Slow>) -> Report {
        let cpu = Cpu { device: 1.0, gateway: 2.0, bridge: 3.0, destination: 4.0 };
        let joint = |payments_per_s| busy::Round { payments_per_s, took_ms: vec![9.0], failed: 0, cpu };
        let plain = |payments_per_s| plain::Round { payments_per_s, failed: 0, cpu_ms: 5.0 };
        let rounds = vec![(joint(10.0), plain(40.0)), (joint(30.0), plain(60.0)), (joint(20.0), plain(50.0))];
        Report { engine_ms: 2.5, local: single(100.0), slow, plain_took: vec![70.0], rounds }
    }

    #[test]
    fn what_was_not_measured_is_null_and_has_a_reason() {
        let json = report(Err(anyhow!("no namespaces"))).to_json();
        for missing in ["p50_ms_wifi", "p99_ms_wifi"] {
            assert!(json.as_object().unwrap()[missing].is_null(), "{missing}");
        }
        assert_eq!(json["wifi"]["missing"], "no namespaces");
        assert_eq!(json["failed"], 1);
    }

    #[test]
    fn every_field_that_is_promised_is_there() {
        let quality = link::Quality { round_trip_ms: 20.5, mbit_per_s: 18.8 };
        let json = report(Ok(Slow { quality, single: single(300.0) })).to_json();
        assert_eq!(json["bench"], "gateway");
        for (field, value) in [
            ("p50_ms_local", 100.0),
            ("p50_ms_wifi", 300.0),
            ("p99_ms_wifi", 600.0),
            ("bytes_per_payment", 650_000.0),
            ("device_messages_per_payment", 30.0),
            ("device_cpu_ms", 15.0),
            ("device_peak_mib", 20.0),
            ("joint_signatures_per_payment", 4.0),
            // Medians: of each rate, and of the ratio of each round.
            ("payments_per_s", 20.0),
            ("payments_per_s_plain", 50.0),
            ("over_plain_signer", 0.4),
            ("engine_ms_per_signature", 2.5),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        assert_eq!(json["cpu_ms_per_payment"]["gateway"], 2.0);
        assert_eq!(json["failed"], 2);
    }
}
