//! LNGate: how long a device waits for a payment, and what that costs everybody.
//!
//! Devices, the gateway and the bitcoind are processes of their own, as their users run them; bridge and destination are stock LDK nodes in
//! this process. Each payment is one toll, out of the device's channel, through the bridge, to the destination.
//!
//! | file | measures |
//! |---|---|
//! | [`single`] | one device that stays connected: latency, bytes, messages, processor time, memory; here and over a slow link |
//! | [`busy`] | all devices at once: payments a second, processor time of each party |
//! | [`plain`] | the same without joint signatures |
//! | [`link`] | the slow link, and how slow it is |
//! | [`engine`] | one joint signature and nothing else: what no gateway is faster than |

pub mod link;

mod busy;
mod devices;
mod engine;
mod plain;
mod report;
mod road;
mod single;
mod usage;

pub use report::Report;

use anyhow::{Context as _, anyhow};
use farthing_chain::RegtestNode;

use self::devices::Owner;
use self::link::{Link, Quality};
use self::plain::Plain;
use self::road::Road;
use self::single::Single;
use crate::farthing::Folder;

/// What is paid: more than an output needs, so that its HTLC has one.
const TOLL_MSAT: u64 = 2_000_000;
/// A build for debugging only shows that everything runs.
const DEVICES: usize = if cfg!(debug_assertions) { 4 } else { 50 };
const PAYMENTS: usize = if cfg!(debug_assertions) { 5 } else { 200 };
const PAYMENTS_SLOW: usize = if cfg!(debug_assertions) { 5 } else { 100 };
/// Of all devices at once, and of the plain node, in turns.
const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 3 };

/// Over the slow link.
pub struct Slow {
    quality: Quality,
    single: Single,
}

/// Measures everything.
pub fn measure() -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    eprintln!("the engine alone …");
    let engine_ms = engine::signature_ms()?;
    eprintln!("  {engine_ms:.2} ms a signature, for each side");
    let regtest = RegtestNode::start()?;
    let link = Link::make();
    if let Err(error) = &link {
        eprintln!("no link like WiFi: {error:#}");
    }
    let listen = link.as_ref().map_or("127.0.0.1", |link| &link.address);
    let road = Road::build(&regtest, folder.path(), &format!("{listen}:0"))?;
    eprintln!("{DEVICES} devices are enrolled and open channels …");
    let owner = Owner::new(&regtest, folder.path(), DEVICES)?;
    let equip = |number| owner.equip(&regtest, &road, &format!("device-{number}"));
    let devices = (0..DEVICES).map(equip).collect::<anyhow::Result<Vec<_>>>()?;
    regtest.mine(8)?;
    road.await_usable(DEVICES)?;

    eprintln!("one device …");
    let local = single::measure(&road, &devices[0], None, PAYMENTS)?;
    eprintln!("  {:.0} ms in the median", local.p50_ms);
    let slow = match link.as_ref() {
        Ok(link) => {
            eprintln!("one device over a link like WiFi …");
            let quality = link.quality().context("the link like WiFi")?;
            let single = single::measure(&road, &devices[1], Some(link), PAYMENTS_SLOW)?;
            eprintln!("  {:.0} ms in the median", single.p50_ms);
            Ok(Slow { quality, single })
        }
        Err(error) => Err(anyhow!("{error:#}")),
    };
    eprintln!("as many channels of a plain node …");
    let mut plain = Plain::new(&regtest, &road, folder.path(), DEVICES)?;
    let plain_took = plain.sequential(&road, PAYMENTS)?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for number in 1..=ROUNDS {
        eprintln!("all devices at once, and the plain node: round {number} of {ROUNDS} …");
        rounds.push((busy::round(&road, &devices)?, plain.busy(&road)?));
    }
    plain.stop();
    road.stop();
    Ok(Report { engine_ms, local, slow, plain_took, rounds })
}
