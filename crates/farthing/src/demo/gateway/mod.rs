//! `farthing demo gateway`: a toll road. Three devices pay tolls, a hundred each, through a gateway that they need not trust, and five
//! acts in which somebody fails or cheats.

mod acts;
mod cars;
mod hostile;
mod report;
mod road;

use std::time::Instant;

use bitcoin::Amount;

use crate::demo::gateway::cars::Car;
use crate::demo::gateway::report::Report;
use crate::demo::gateway::road::Road;
use crate::demo::stage::Stage;
use crate::output::Output;

/// What a device may spend from.
const CAPACITY: Amount = Amount::from_sat(1_000_000);
/// What the road takes from each car that passes.
const TOLL_MSAT: u64 = 2_000_000;

/// Plays everything and prints what was counted.
pub async fn run(tolls: u32, json: bool) -> anyhow::Result<()> {
    let report = tokio::task::spawn_blocking(move || play(tolls)).await??;
    Output::new(json).print(&report, || report.table())?;
    anyhow::ensure!(report.is_ok(), "the demo did not end as it should");
    Ok(())
}

fn play(tolls: u32) -> anyhow::Result<Report> {
    let started = Instant::now();
    eprintln!("Starting a private Bitcoin chain, a bridge, the road's own node and the gateway …");
    let stage = Stage::new()?;
    let mut road = Road::build(&stage)?;
    eprintln!("Three cars are enrolled and open channels …");
    let cars = ["car-1", "car-2", "car-3"].map(|name| Car::enrol(&stage, &road, name));
    let [one, two, three] = cars;
    let cars = [one?, two?, three?];
    for car in &cars {
        car.open(&stage)?;
    }
    road.await_usable(&stage, cars.len())?;
    eprintln!("{} cars pay {tolls} tolls of {} sat each …", cars.len(), TOLL_MSAT / 1_000);
    let tolls = cars::drive(&road, &cars, tolls)?;

    let [resume, stolen, revoked, collusion] = [
        acts::device_offline_resume(&road, &cars[1])?,
        acts::stolen_device(&road, &cars[2])?,
        hostile::revoked_state_refused(&mut road, &cars[1])?,
        hostile::collusion_refused(&mut road, &cars[1])?,
    ];
    let earned = road.earned_msat()?;
    let gone = acts::gateway_gone_force_close(&stage, &mut road, &cars[0])?;
    let acts = [resume, stolen, revoked, collusion, gone];
    for act in acts.iter().filter(|act| !act.ok) {
        eprintln!("FAILED: {}: {}", act.name, act.outcome);
    }
    road.stop();
    Ok(Report::new(tolls, earned, acts, started.elapsed()))
}
