//! All devices at once through one gateway, each with one payment after the other, on the same processors as the gateway, the bridge, the
//! destination and the bitcoind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::gateway::devices::{Connected, Device, Paid};
use crate::gateway::road::Road;
use crate::gateway::{TOLL_MSAT, usage};

/// How long everybody pays before anything is counted.
pub const LEAD: Duration = Duration::from_secs(3);
/// How long is counted.
pub const WINDOW: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 20 });

/// What a round came to.
pub struct Round {
    pub payments_per_s: f64,
    /// How long each took, in milliseconds.
    pub took_ms: Vec<f64>,
    pub failed: usize,
    pub cpu: Cpu,
}

/// Processor time for each payment, in milliseconds.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// Of the device that paid.
    pub device: f64,
    pub gateway: f64,
    pub bridge: f64,
    pub destination: f64,
}

/// One round.
pub fn round(road: &Road, devices: &[Device]) -> anyhow::Result<Round> {
    let mut connected =
        devices.iter().map(|device| device.connect(None)).collect::<anyhow::Result<Vec<_>>>()?;
    let ids: Vec<u32> = connected.iter().map(|device| device.process.id()).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let driving: Vec<_> =
            connected.iter_mut().map(|device| scope.spawn(|| drive(road, device, &is_over))).collect();
        thread::sleep(LEAD);
        let (start, before) = (Instant::now(), used(road, &ids)?);
        thread::sleep(WINDOW);
        let (end, after) = (Instant::now(), used(road, &ids)?);
        is_over.store(true, Ordering::Relaxed);
        let (mut took_ms, mut failed) = (Vec::new(), 0);
        for device in driving {
            for (at, paid) in device.join().expect("a device's thread does not panic")? {
                match paid {
                    Paid::After(ms) if at >= start && at < end => took_ms.push(ms),
                    Paid::After(_) => {}
                    Paid::Not => failed += 1,
                }
            }
        }
        let count = took_ms.len() as f64;
        ensure!(count > 0.0, "nothing was paid");
        let each = |of: fn(&Cpu) -> f64| (of(&after) - of(&before)) / count;
        let cpu = Cpu {
            device: each(|cpu| cpu.device),
            gateway: each(|cpu| cpu.gateway),
            bridge: each(|cpu| cpu.bridge),
            destination: each(|cpu| cpu.destination),
        };
        Ok(Round { payments_per_s: count / (end - start).as_secs_f64(), took_ms, failed, cpu })
    })
}

/// Pays until it is over. When each payment ended, and how.
fn drive(road: &Road, device: &mut Connected, is_over: &AtomicBool) -> anyhow::Result<Vec<(Instant, Paid)>> {
    let mut all = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let paid = device.pay(&road.invoice(TOLL_MSAT)?)?;
        all.push((Instant::now(), paid));
    }
    Ok(all)
}

/// Processor time so far.
fn used(road: &Road, devices: &[u32]) -> anyhow::Result<Cpu> {
    let of_devices = devices.iter().map(|id| usage::of_process(*id)).sum::<anyhow::Result<f64>>()?;
    Ok(Cpu {
        device: of_devices,
        gateway: usage::of_process(road.gateway().id())?,
        bridge: usage::of_threads("bridge")?,
        destination: usage::of_threads("destination")?,
    })
}
