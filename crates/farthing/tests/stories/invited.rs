//! A payee is paid while it is offline: payer, agent and payee each crash at every point, and everybody has the same in the end.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::crashes::at_every_point;
use farthing_testkit::people::free_address;
use farthing_testkit::process::Process;
use farthing_testkit::{Mailbox, Person, World};
use serde_json::Value;

const AMOUNT: u64 = 5_000;
/// What the agent wants for it.
const FEE: u64 = 1;
/// How often a command is run again after a crash of its own or of the agent's.
const TRIES: usize = 8;

/// Who crashes.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Payer,
    Agent,
    Payee,
}

struct Story<'a> {
    who: Who,
    point: u64,
    crashed: bool,
    operator: Person,
    agent: Person,
    payer: Person,
    payee: Person,
    mailbox: Mailbox,
    /// Where the agent serves, and its process.
    at_agent: (String, Option<Process>),
    world: &'a World,
}

pub(super) fn carrier(world: &World, name: &str, sat: u64) -> Result<Person> {
    Ok(Person::new(world, name, sat)?.with("FARTHING_AGENT__DELTA", "20"))
}

impl<'a> Story<'a> {
    fn begin(world: &'a World, who: Who, point: u64) -> Result<Self> {
        let operator = Person::new(world, &format!("operator-{point}"), 0)?;
        let agent = carrier(world, &format!("agent-{point}"), 1_000_000)?;
        let payer = carrier(world, &format!("payer-{point}"), 1_000_000)?;
        let payee = carrier(world, &format!("payee-{point}"), 0)?;
        // One coin for a channel that is asked for and not accepted, and one for the next.
        world.give(&agent.address()?, 1_000_000)?;
        let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
        let at_agent = (free_address()?, None);
        let mut story =
            Self { who, point, crashed: false, operator, agent, payer, payee, mailbox, at_agent, world };
        let box_at = story.mail_url();
        story.payee.run(&["cheque", "address", "--mailbox", &box_at, "--prekeys", "1"])?;
        let dying = if who == Who::Agent { story.agent.crashing_at(point) } else { story.agent.clone() };
        story.serve(&dying)?;
        Ok(story)
    }

    fn mail_url(&self) -> String {
        format!("http://{}", self.mailbox.address)
    }

    fn serve(&mut self, agent: &Person) -> Result<()> {
        let mut process = agent.start(&["agent", "--listen", &self.at_agent.0])?;
        // It may die before it serves.
        let _url_or_end = process.await_step("it serves", |line| line["url"].is_string());
        self.at_agent.1 = Some(process);
        Ok(())
    }

    /// Whether the agent has died of its crash point; then it is there again.
    fn agent_is_back(&mut self) -> Result<bool> {
        if self.who != Who::Agent || self.crashed {
            return Ok(false);
        }
        let mut process = self.at_agent.1.take().context("the agent runs")?;
        if !process.has_ended()? {
            self.at_agent.1 = Some(process);
            return Ok(false);
        }
        let ended = process.wait()?;
        ensure!(ended.has_crashed(), "{ended:?}");
        self.crashed = true;
        let agent = self.agent.clone();
        self.serve(&agent)?;
        Ok(true)
    }

    /// Runs somebody's command until it does what it should: it fails only where something crashed.
    fn insist(&mut self, who: Who, arguments: &[&str], is_done: fn(&Value) -> bool) -> Result<Value> {
        let _miner = self.world.miner();
        let person = match who {
            Who::Payer => self.payer.clone(),
            Who::Payee => self.payee.clone(),
            Who::Agent => self.agent.clone(),
        };
        let mut last = None;
        for _ in 0..TRIES {
            let is_dying = who == self.who && !self.crashed;
            let now = if is_dying { person.crashing_at(self.point) } else { person.clone() };
            let ended = now.attempt(arguments)?;
            if ended.has_crashed() {
                ensure!(is_dying, "{ended:?}");
                self.crashed = true;
                continue;
            }
            if ended.status.success() {
                let value = ended.result()?;
                if is_done(&value) {
                    return Ok(value);
                }
                last = Some(value.to_string());
            } else {
                last = Some(format!("{ended:?}"));
            }
            let _again = self.agent_is_back()?;
            // What it waits for may be blocks, and the miner makes none while there is nothing to mine.
            self.world.mine(2)?;
        }
        anyhow::bail!("after {TRIES} tries: {last:?}")
    }

    /// The whole of it. Whether something crashed.
    fn tell(mut self) -> Result<bool> {
        let key = self.payer.run(&["cheque", "payer"])?["payer"].as_str().context("a key")?.to_owned();
        let (agent, mailbox) = (format!("http://{}", self.at_agent.0), self.mail_url());
        let amount = format!("{AMOUNT}sat");
        let authorise = ["cheque", "authorise", "--to-payer", &key, "--amount", &amount, "--agent", &agent];
        let authorise: Vec<&str> = authorise.into_iter().chain(["--mailbox", mailbox.as_str()]).collect();
        let invited = self.insist(Who::Payee, &authorise, |value| value["invitation"].is_string())?;
        let invitation = invited["invitation"].as_str().context("an invitation")?.to_owned();
        // The payee is off, then the payer.
        let pay = ["cheque", "pay", &invitation, "--wait", "10"];
        self.insist(Who::Payer, &pay, |rows| rows[0]["state"] == "paid")?;
        let cash = ["cheque", "cash", "--mailbox", mailbox.as_str()];
        let mut rows = Vec::new();
        for _ in 0..2 {
            // The second finds nothing, or what a crash has left over.
            let found = self.insist(Who::Payee, &cash, Value::is_array)?;
            rows.extend(found.as_array().cloned().unwrap_or_default());
        }
        let _again = self.agent_is_back()?;

        // Whatever happened, it was paid once.
        let spent = |person: &Person, role: &str| -> Result<u64> {
            let rows = person.channels()?;
            Ok(rows.iter().filter(|row| row.role == role).map(|row| row.spent_msat).sum())
        };
        let expected = [
            ("payee", spent(&self.payee, "cheque payee")?, AMOUNT),
            ("agent, of the payer", spent(&self.agent, "cheque payee")?, AMOUNT + FEE),
            ("agent, to the payee", spent(&self.agent, "cheque payer")?, AMOUNT),
            ("payer", spent(&self.payer, "cheque payer")?, AMOUNT + FEE),
        ];
        for (whose, msat, sat) in expected {
            ensure!(msat == sat * 1_000, "{whose}: {msat} msat, and not {sat} sat; {rows:?}");
        }
        if let Some(agent) = self.at_agent.1.take() {
            agent.kill()?;
        }
        self.mailbox.kill()?;
        drop(self.operator);
        Ok(self.crashed)
    }
}

fn everybody_has_the_same_whenever_it_crashes(who: Who, least: u64) -> Result<()> {
    let scene = || World::new(env!("CARGO_BIN_EXE_farthing"));
    let points = at_every_point(scene, |world, point| Story::begin(world, who, point)?.tell())?;
    ensure!(points >= least, "only {points} points crashed");
    Ok(())
}

#[test]
fn a_payer_that_crashes_at_any_point_pays_once() -> Result<()> {
    everybody_has_the_same_whenever_it_crashes(Who::Payer, 8)
}

#[test]
fn an_agent_that_crashes_at_any_point_is_paid_once_and_pays_once() -> Result<()> {
    everybody_has_the_same_whenever_it_crashes(Who::Agent, 8)
}

#[test]
fn a_payee_that_crashes_at_any_point_is_paid_once() -> Result<()> {
    everybody_has_the_same_whenever_it_crashes(Who::Payee, 8)
}
