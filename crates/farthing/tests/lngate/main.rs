//! LNGate's stories: the real program in real processes, with stock Lightning nodes on a real chain. A process dies at every place where
//! it can, and in the end everybody has what they should.

mod road;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bitcoin::{OutPoint, Txid};
use farthing_testkit::Person;
use farthing_testkit::accounts::Accounts;
use serde_json::Value;

use crate::road::{CAPACITY, Road};

/// What the owner has at the beginning.
const COINS: u64 = 1_200_000;
/// What each payment is for, in millisatoshi: more than dust.
const AMOUNT: u64 = 1_500_000;

/// The device and its owner.
struct Car {
    device: Person,
    owner: Person,
    /// How many payments went through.
    paid: u64,
    /// What routing cost for each, in millisatoshi: every time the same.
    fee: Option<u64>,
}

impl Car {
    fn new(road: &Road) -> Result<Self> {
        let device = Person::new(&road.world, "device", 0)?;
        let owner = Person::new(&road.world, "owner", COINS)?;
        Ok(Self { device, owner, paid: 0, fee: None })
    }

    /// Enrols and opens a channel, as people do it, with `run` for those of the device's commands that may be repeated.
    fn open(&self, road: &mut Road, run: impl Fn(&[&str]) -> Result<u64>) -> Result<[u64; 2]> {
        let [card, backup, request] = [road.file("card")?, road.file("backup")?, road.file("request")?];
        let [funding, statement] = [road.file("funding")?, road.file("statement")?];
        let capacity = format!("{CAPACITY}sat");
        self.owner.run(&["owner", "card", "car", "--least-bridge-delay", "1008", "-o", &card])?;
        let enrolling = run(&["device", "enroll", &road.address, "--owner", &card, "--backup", &backup])?;
        self.owner.run(&["owner", "adopt", "car", &backup])?;
        self.device.run(&["device", "open", &capacity, "-o", &request])?;
        self.owner.run(&["owner", "fund", "car", &request, "-o", &funding])?;
        let opening = run(&["device", "fund", &funding, "-o", &statement])?;
        self.owner.run(&["owner", "release", "car", &funding, &statement])?;
        road.world.mine(8)?;
        ensure!(road.await_usable()?, "the gateway ended");
        Ok([enrolling, opening])
    }

    /// Runs a command of the device's that may be repeated, with a crash at its first point, then at its second, and so on, until it gets
    /// through. Gives how often it crashed.
    fn insist(&self, arguments: &[&str]) -> Result<u64> {
        for point in 1.. {
            let ended = self.device.crashing_at(point).attempt(arguments)?;
            if !ended.has_crashed() {
                ended.success()?;
                return Ok(point - 1);
            }
        }
        unreachable!("a command passes finitely many points")
    }

    /// Takes note of a payment that must have been made, and compares the device's books.
    fn note(&mut self, paid: &Value) -> Result<()> {
        ensure!(paid["paid"] == true, "{paid}");
        let fee = paid["fee_msat"].as_u64().context("a fee")?;
        ensure!(*self.fee.get_or_insert(fee) == fee, "another fee than {:?}: {fee}", self.fee);
        self.paid += 1;
        let status = self.device.run(&["device", "status"])?;
        let balance = status["channels"][0]["balance_msat"].as_u64().context("a balance")?;
        ensure!(balance == CAPACITY * 1_000 - self.spent(), "{balance} msat after {} payments", self.paid);
        Ok(())
    }

    /// In millisatoshi.
    fn spent(&self) -> u64 {
        self.paid * (AMOUNT + self.fee.unwrap_or_default())
    }

    /// On another machine. A backup with an address that is none leaves nothing there.
    fn restore(&self, road: &Road) -> Result<()> {
        let [backup, broken] = [road.file("backup")?, road.file("broken")?];
        let folder = self.device.path("elsewhere").display().to_string();
        let device = self.device.with("FARTHING_DATA", &folder);
        let mut changed: Value = serde_json::from_slice(&fs::read(&backup)?)?;
        changed["store"] = "nowhere".into();
        fs::write(&broken, changed.to_string())?;
        let refused = device.attempt(&["device", "restore", &broken])?;
        ensure!(!refused.status.success(), "{refused:?}");
        ensure!(device.run(&["device", "restore", &backup])?["restored"] == true, "it is not restored");
        ensure!(!device.attempt(&["device", "restore", &backup])?.status.success(), "it lives there");
        Ok(())
    }

    /// Without the gateway: the owner gets to the satoshi what was not paid, less what its three transactions cost.
    fn end(&self, road: &Road) -> Result<()> {
        let claims = road.file("claims")?;
        let closed = self.device.run(&["device", "force-close", "-o", &claims])?;
        road.world.mine(1 + u32::try_from(closed["delay_blocks"].as_u64().context("a delay")?)?)?;
        let swept = self.owner.run(&["owner", "sweep", "car", &claims])?;
        road.world.make_final()?;
        let accounts = Accounts::read(&road.world)?;
        let txid = |value: &Value| -> Result<Txid> { Ok(serde_json::from_value(value.clone())?) };
        let status = self.device.run(&["device", "status"])?;
        let funding: OutPoint = serde_json::from_value(status["channels"][0]["funding"].clone())?;
        let transactions = [funding.txid, txid(&closed["commitment"])?, txid(&swept["txid"])?];
        let fees: u64 = transactions.into_iter().map(|txid| accounts.fee(txid)).sum::<Result<u64>>()?;
        // The bridge's part is rounded down to a satoshi as well; what is left of it is in the commitment's fee.
        let expected = COINS - self.spent() / 1_000 - fees;
        let balance = self.owner.balance()?;
        ensure!(balance == expected, "the owner has {balance} sat instead of {expected}, fees {fees}");
        Ok(())
    }
}

/// Power is cut at every crash point of the device: while it is enrolled, opens, pays and closes alone. Each payment is made once.
#[test]
fn a_device_that_crashes_at_every_point() -> Result<()> {
    let mut road = Road::new()?;
    road.start_gateway(None)?;
    let mut car = Car::new(&road)?;
    let [enrolling, opening] = car.open(&mut road, |arguments| car.insist(arguments))?;
    let mut paying = 0;
    loop {
        let invoice = road.invoice(AMOUNT)?;
        let ended = car.device.crashing_at(paying + 1).attempt(&["device", "pay", &invoice])?;
        if !ended.has_crashed() {
            car.note(&ended.result()?)?;
            break;
        }
        paying += 1;
        // A person who reads what the program says runs the same again.
        let paid = car.device.run(&["device", "pay", &invoice])?;
        car.note(&paid)?;
    }
    road.kill_gateway()?;
    let closing = car.insist(&["device", "force-close", "-o", &road.file("claims")?])?;
    eprintln!("crashes: enrolling {enrolling}, opening {opening}, paying {paying}, closing {closing}");
    ensure!(enrolling >= 2 && opening >= 4 && paying >= 14 && closing >= 2, "too few points crashed");
    car.restore(&road)?;
    car.end(&road)
}

/// The gateway's process dies at every place where it can, from its start to the end of a payment, between the writes of its own and those of
/// its Lightning node. It is started again, and each payment is made once.
#[test]
fn a_gateway_that_crashes_at_every_point() -> Result<()> {
    let mut road = Road::new()?;
    road.start_gateway(None)?;
    let mut car = Car::new(&road)?;
    car.open(&mut road, |arguments| car.device.run(arguments).map(|_| 0))?;
    road.kill_gateway()?;
    let mut crashes = 0;
    loop {
        let invoice = road.invoice(AMOUNT)?;
        let is_there = road.start_gateway(Some(crashes + 1))? && road.await_usable()?;
        let first = if is_there { Some(car.device.attempt(&["device", "pay", &invoice])?) } else { None };
        let is_paid = first.as_ref().is_some_and(|first| first.status.success());
        if is_paid && !road.has_crashed()? {
            car.note(&first.context("it is paid")?.result()?)?;
            break;
        }
        if !is_paid {
            road.await_crash()?;
        }
        crashes += 1;
        road.start_gateway(None)?;
        ensure!(road.await_usable()?, "the gateway ended");
        let paid = car.device.run(&["device", "pay", &invoice])?;
        car.note(&paid)?;
        road.kill_gateway()?;
    }
    eprintln!("crashes of the gateway: {crashes}");
    ensure!(crashes >= 30, "only {crashes} points crashed");
    road.kill_gateway()?;
    car.end(&road)
}
