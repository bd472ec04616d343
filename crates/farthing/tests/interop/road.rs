//! The parties: a bridge and a destination with a channel between them, a gateway at the first, and cars with owners. The gateway's
//! ordinary node has a channel with the bridge.
//!
//! With LND as the destination it has one with that, too, so that payments can go round it, but should not. With Electrum it has none,
//! so that payments go from LND to Electrum.
//!
//! ```text
//!   car ── gateway ═══ bridge (LND) ═════════════════ destination (LND, or Electrum)
//!                        ╚═══ ordinary node ═════ LND only ════╝
//! ```

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use bitcoin::OutPoint;
use farthing_testkit::electrum::{self, Electrum};
use farthing_testkit::lnd::{Lnd, number};
use farthing_testkit::people::free_address;
use farthing_testkit::wait::until;
use farthing_testkit::{Ended, Person, Process, World};
use serde_json::{Value, json};

use crate::TOLL_MSAT;

/// What a car's channel holds, in satoshi.
pub const CAPACITY: u64 = 1_000_000;
/// What the channel between bridge and destination holds, in satoshi.
pub const TRUNK: u64 = 10_000_000;

/// Who is paid.
pub enum Destination {
    Lnd(Lnd),
    Electrum(Electrum),
}

impl Destination {
    /// How other nodes name it: `KEY@HOST:PORT`.
    pub fn uri(&self) -> String {
        match self {
            Self::Lnd(node) => node.uri(),
            Self::Electrum(node) => node.uri(),
        }
    }

    /// Waits until it takes channels.
    fn await_chain(&self, world: &World) -> Result<()> {
        match self {
            Self::Lnd(node) => node.await_chain(world),
            // It says itself what it waits for.
            Self::Electrum(_) => Ok(()),
        }
    }

    fn invoice(&self, msat: u64) -> Result<String> {
        match self {
            Self::Lnd(node) => node.invoice(msat),
            Self::Electrum(node) => node.invoice(msat),
        }
    }

    /// How many of its invoices are paid.
    pub fn paid(&self) -> Result<usize> {
        match self {
            Self::Lnd(node) => node.paid(),
            Self::Electrum(node) => node.paid(),
        }
    }

    fn restart(&mut self, world: &World) -> Result<()> {
        match self {
            Self::Lnd(node) => node.restart(),
            Self::Electrum(node) => node.restart(world),
        }
    }

    /// Electrum, if that is who is paid.
    pub fn electrum(&self) -> Option<&Electrum> {
        match self {
            Self::Lnd(_) => None,
            Self::Electrum(node) => Some(node),
        }
    }

    /// How many of its channels can be used.
    fn usable(&self) -> Result<usize> {
        match self {
            Self::Lnd(node) => {
                let active = node.ask(&["listchannels", "--active_only"])?;
                Ok(active["channels"].as_array().context("a list")?.len())
            }
            Self::Electrum(node) => {
                let usable = |channel: &&Value| channel["state"] == "OPEN" && channel["peer_state"] == "GOOD";
                Ok(node.channels()?.iter().filter(usable).count())
            }
        }
    }
}

/// Everything but cars.
pub struct Road {
    pub world: World,
    pub bridge: Lnd,
    pub destination: Destination,
    /// The channel between the two.
    pub trunk: OutPoint,
    operator: Person,
    listen: String,
    /// Where devices reach the gateway.
    pub address: String,
    gateway: Option<Process>,
}

/// A device, and its owner's machine.
pub struct Car {
    name: &'static str,
    pub device: Person,
    pub owner: Person,
}

impl Road {
    /// With LND as the bridge, and as the destination unless there is an Electrum.
    pub fn build(lnd: PathBuf, electrum: Option<&electrum::Programs>) -> Result<Self> {
        let program = env!("CARGO_BIN_EXE_farthing");
        let world = if electrum.is_some() { World::indexed(program)? } else { World::new(program)? };
        world.mine(1)?;
        let bridge = Lnd::start(&world, lnd.clone(), "bridge")?;
        let destination = match electrum {
            None => Destination::Lnd(Lnd::start(&world, lnd, "destination")?),
            Some(programs) => Destination::Electrum(Electrum::start(&world, programs, "destination")?),
        };
        bridge.fund(&world, 3 * TRUNK)?;
        let is_private = destination.electrum().is_some();
        let options: &[&str] = if is_private { &["--private"] } else { &[] };
        destination.await_chain(&world)?;
        let trunk = bridge.open_channel(&world, &destination.uri(), TRUNK, options)?;
        let operator = Person::new(&world, "operator", 2 * TRUNK)?
            .with("FARTHING_GATEWAY__BRIDGE", &bridge.uri())
            .with("FARTHING_GATEWAY__ORDINARY_LISTEN", &free_address()?)
            .with("FARTHING_GATEWAY__COMMITMENT_FEE_RATE", "4")
            // LND wants 25 sat/vB where its bitcoind estimates nothing.
            .with("FARTHING_GATEWAY__CLOSING_MARGIN", "5000");
        let (listen, address) = (free_address()?, String::new());
        let mut road = Self { world, bridge, destination, trunk, operator, listen, address, gateway: None };
        let ordinary = road.start_gateway()?;
        if !is_private {
            road.destination.await_chain(&road.world)?;
            let destination = road.destination.uri();
            road.operator.run(&["gateway", "open-channel", &destination, &format!("{TRUNK}sat")])?;
        }
        let key = ordinary.split_once('@').context("KEY@HOST:PORT")?.0;
        road.bridge.await_chain(&road.world)?;
        let opening = ["openchannel", "--node_key", key, "--local_amt", &TRUNK.to_string()];
        // The ordinary node connects by itself, and sees the newest block when it does.
        until("the bridge opens a channel to the ordinary node", || Ok(road.bridge.ask(&opening).ok()))?;
        road.world.make_final()?;
        let (open, known) = if is_private { (1, 1) } else { (2, 3) };
        until("the ordinary node's channels are open, and known", || {
            let status = road.operator.run(&["gateway", "status"])?;
            let (usable, seen) = (&status["ordinary"]["usable"], &status["known_channels"]);
            Ok((usable.as_u64() == Some(open) && seen.as_u64() >= Some(known)).then_some(()))
        })?;
        Ok(road)
    }

    /// Starts the gateway. Gives its ordinary node.
    fn start_gateway(&mut self) -> Result<String> {
        let mut gateway = self.operator.start(&["gateway", "run", "--listen", &self.listen])?;
        let said = gateway.await_step("it listened", |line| line["address"].is_string())?;
        self.address = said["address"].as_str().context("an address")?.to_owned();
        self.gateway = Some(gateway);
        Ok(said["ordinary"].as_str().context("an ordinary node")?.to_owned())
    }

    /// Waits until the service fee has brought that. Who pays hears of its payment before who forwards it.
    pub fn await_earned(&self, msat: u64) -> Result<()> {
        let mut seen = Value::Null;
        let waited = until("the service fee is earned", || {
            seen = self.operator.run(&["gateway", "status"])?["ordinary"]["earned_msat"].clone();
            Ok((seen == msat).then_some(()))
        });
        waited.with_context(|| format!("{seen} instead of {msat} msat"))
    }

    /// Waits until the destination says that it was paid so often.
    pub fn await_paid(&self, payments: usize) -> Result<()> {
        until("the destination has been paid", || Ok((self.destination.paid()? == payments).then_some(())))
    }

    pub fn restart_bridge(&mut self) -> Result<()> {
        self.bridge.restart()?;
        self.reconnect()
    }

    pub fn restart_destination(&mut self) -> Result<()> {
        self.destination.restart(&self.world)?;
        self.reconnect()
    }

    fn reconnect(&self) -> Result<()> {
        self.bridge.connect(&self.destination.uri())
    }

    pub fn restart_gateway(&mut self) -> Result<()> {
        self.gateway_is_gone()?;
        self.start_gateway()?;
        until("the gateway knows the way", || {
            let known = self.operator.run(&["gateway", "status"])?["known_channels"].as_u64();
            let least = if self.destination.electrum().is_some() { 1 } else { 3 };
            Ok(known.filter(|known| *known >= least).map(drop))
        })
    }

    pub fn gateway_is_gone(&mut self) -> Result<()> {
        self.gateway.take().context("it runs")?.kill()
    }

    /// Waits until that many channels of cars can be used, the one between bridge and destination, and the ordinary node's.
    pub fn await_usable(&self, cars: usize) -> Result<()> {
        let others = if self.destination.electrum().is_some() { 1 } else { 2 };
        self.world.mine(1)?;
        let mut seen = Value::Null;
        let waited = until("all channels can be used", || {
            let channels = self.operator.run(&["gateway", "channels"])?;
            let usable =
                channels.as_array().context("a list")?.iter().filter(|row| row["usable"] == true).count();
            let status = self.operator.run(&["gateway", "status"])?;
            let reached = self.destination.usable()?;
            seen = json!({ "cars": channels, "ordinary": status, "destination": reached });
            let are_there = reached == others && status["ordinary"]["usable"] == others;
            Ok((usable >= cars && are_there && self.is_found()?).then_some(()))
        });
        waited.with_context(|| seen.to_string())?;
        self.bridge.await_chain(&self.world)
    }

    /// Whether the destination's invoices say how it is reached: Electrum invents what its peers have not told it yet.
    fn is_found(&self) -> Result<bool> {
        let Some(electrum) = self.destination.electrum() else { return Ok(true) };
        let read = self.bridge.ask(&["decodepayreq", &electrum.invoice(TOLL_MSAT)?])?;
        let routes = read["route_hints"].as_array().context("a list")?;
        let mut hops = routes.iter().filter_map(|route| route["hop_hints"].as_array()).flatten();
        Ok(hops.all(|hop| number(&hop["cltv_expiry_delta"]) > 1))
    }

    /// Lets all cars pay that often, each one after the other and all cars at once.
    pub fn drive(&self, cars: &[Car], payments: usize) -> Result<()> {
        let mut running = Vec::new();
        for car in cars {
            let invoices: Vec<String> =
                (0..payments).map(|_| self.destination.invoice(TOLL_MSAT)).collect::<Result<_>>()?;
            running.push(car.device.feed(&["device", "pay", "-"], &invoices)?);
        }
        for mut device in running {
            for _ in 0..payments {
                let paid = device.step()?.context("an answer to each invoice")?;
                ensure!(paid["paid"] == true, "not paid: {paid}");
            }
            device.wait()?.success()?;
        }
        Ok(())
    }

    /// The bridge begins to close a channel.
    pub fn bridge_closes(&self, funding: OutPoint, force: bool) -> Result<Process> {
        let OutPoint { txid, vout } = funding;
        let (txid, vout) = (txid.to_string(), vout.to_string());
        let mut arguments = vec!["closechannel", "--funding_txid", &txid, "--output_index", &vout];
        if force {
            arguments.push("--force");
        }
        self.bridge.begin_to(&arguments)
    }

    pub fn await_spent(&self, car: &Car) -> Result<()> {
        self.world.await_spend(&car.funding()?).map(drop)
    }
}

impl Car {
    /// The owner makes a card, the device enrols, the owner keeps its backup.
    pub fn enrol(road: &Road, name: &'static str) -> Result<Self> {
        let owner = Person::new(&road.world, &format!("owner-{name}"), CAPACITY + 100_000)?;
        let device = Person::new(&road.world, &format!("device-{name}"), 0)?;
        let car = Self { name, device, owner };
        let [card, backup] = ["card", "backup"].map(|name| car.file(name));
        let limits = ["--per-payment", "5000sat", "--per-hour", "400000sat", "--least-bridge-delay", "1008"];
        car.owner.run(&[&["owner", "card", name, "-o", &card][..], &limits].concat())?;
        car.device.run(&["device", "enroll", &road.address, "--owner", &card, "--backup", &backup])?;
        car.owner.run(&["owner", "adopt", name, &backup])?;
        Ok(car)
    }

    /// Asks for a channel, perhaps in vain.
    pub fn wish(&self) -> Result<Ended> {
        self.device.attempt(&["device", "open", &format!("{CAPACITY}sat"), "-o", &self.file("request")])
    }

    /// Opens a channel, whose funding is not in the chain yet.
    pub fn open(&self) -> Result<()> {
        let [request, funding, statement] = ["request", "funding", "statement"].map(|name| self.file(name));
        self.wish()?.success()?;
        self.owner.run(&["owner", "fund", self.name, &request, "-o", &funding])?;
        self.device.run(&["device", "fund", &funding, "-o", &statement])?;
        self.owner.run(&["owner", "release", self.name, &funding, &statement])?;
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.owner.path(name).display().to_string()
    }

    pub fn funding(&self) -> Result<OutPoint> {
        let funding: Value = serde_json::from_slice(&std::fs::read(self.file("funding"))?)?;
        Ok(serde_json::from_value(funding["outpoint"].clone())?)
    }

    /// Closes without the gateway, or finds how the channel was closed, and brings what is left to the owner's wallet. Gives what
    /// arrived, and how many blocks it took.
    pub fn claims_what_is_left(&self, road: &Road) -> Result<(u64, u32)> {
        let before = self.owner.balance()?;
        let claims = self.file("claims");
        let closed = self.device.run(&["device", "force-close", "-o", &claims])?;
        let delay = u32::try_from(closed["delay_blocks"].as_u64().context("a delay")?)?;
        road.world.mine(delay.max(1))?;
        let swept = self.owner.run(&["owner", "sweep", self.name, &claims])?;
        road.world.make_final()?;
        let arrived = self.owner.balance()? - before;
        ensure!(swept["value_sat"] == arrived, "{swept}, but {arrived} arrived");
        Ok((arrived, delay))
    }
}
