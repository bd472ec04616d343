//! `farthing demo cheque`: payer, agent, node, payee and mailbox, each in processes of its own, and the payer never on together
//! with the payee.

mod acts;
mod payee_gone;
mod report;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::Amount;
use farthing_node::cheques::machine::ChequeChannel;
use farthing_node::home::HomeError;
use farthing_protocol::{ChannelId, Msat};
use serde_json::Value;

use crate::demo::cheque::report::Report;
use crate::demo::people::{Person, Service};
use crate::demo::stage::Stage;
use crate::output::Output;

const COINS: Amount = Amount::from_sat(1_000_000);
const DIRECT: &str = "2000sat";
const ROUTED: &str = "3000sat";
const REVERSE: &str = "4000sat";

/// Plays the sales and the acts, and prints what everybody had.
pub async fn run(json: bool) -> anyhow::Result<()> {
    let report = tokio::task::spawn_blocking(play).await??;
    Output::new(json).print(&report, || report.table())?;
    ensure!(report.is_ok(), "the demo did not end as it should");
    Ok(())
}

fn play() -> anyhow::Result<Report> {
    let started = Instant::now();
    eprintln!("Starting a private Bitcoin chain …");
    let stage = Stage::new()?;
    let mut cast = Cast::new(&stage, "sale")?;
    let (direct, one_hop) = cast.sale(&stage, DIRECT, false)?;
    let (routed, hops) = cast.sale(&stage, ROUTED, true)?;
    ensure!(one_hop == 1, "the direct cheque was paid in {one_hop} channels");
    let linkable = cast.is_linkable()?;
    let reverse = cast.reverse(&stage, REVERSE)?;
    let together = cast.together;
    drop(cast);
    let acts = acts::play(&stage)?;
    Ok(Report::new([direct, routed, reverse], hops, linkable, together, acts, started.elapsed()))
}

/// What a sale came to.
pub struct Sale {
    /// What the payee is paid, in satoshi.
    pub paid_sat: u64,
    /// Whether the receipt holds, and says what was paid. The other way round there is none, and the payer's list says that it has
    /// paid.
    pub receipt_ok: bool,
    /// From asking to being paid, the funding of a new channel included.
    pub took: Duration,
}

/// Everybody. The agent, the node and the mailbox serve; the payer and the payee come and go.
pub struct Cast {
    payer: Person,
    payee: Person,
    agent: Person,
    node: Person,
    mailbox: Service,
    at_agent: Service,
    at_node: Service,
    address: String,
    receipt_key: String,
    /// Whether a process of the payer's was on when the payee came, or the other way round.
    together: bool,
}

fn carrier(stage: &Stage, name: &'static str, act: &str, amount: Amount) -> anyhow::Result<Person> {
    Ok(Person::new(stage, name, act, amount)?.with("FARTHING_AGENT__DELTA", "20"))
}

impl Cast {
    /// Everybody is there, and the payee has published an address.
    pub fn new(stage: &Stage, act: &str) -> anyhow::Result<Self> {
        let payer = carrier(stage, "payer", act, COINS)?;
        let agent = carrier(stage, "agent", act, COINS)?;
        let node = carrier(stage, "node", act, COINS)?;
        let payee = carrier(stage, "payee", act, Amount::ZERO)?;
        let keeper = Person::new(stage, "mailbox", act, Amount::ZERO)?;
        let mailbox = keeper.serve(&["mailbox", "serve", "--price", "0", "--listen", "127.0.0.1:0"])?;
        let at_node = node.serve(&["agent", "--listen", "127.0.0.1:0"])?;
        let at_agent = agent.serve(&["agent", "--listen", "127.0.0.1:0", "--towards", &at_node.url])?;
        let published = payee.run(&["cheque", "address", "--mailbox", &mailbox.url])?;
        let text = |key: &str| Ok::<_, anyhow::Error>(published[key].as_str().context("a text")?.to_owned());
        let (address, receipt_key) = (text("address")?, text("receipt_key")?);
        let together = false;
        Ok(Self { payer, payee, agent, node, mailbox, at_agent, at_node, address, receipt_key, together })
    }

    fn as_payer(&mut self, arguments: &[&str]) -> anyhow::Result<Value> {
        let (result, together) = alone(&self.payer, &self.payee, arguments)?;
        self.together |= together;
        result
    }

    fn as_payee(&mut self, arguments: &[&str]) -> anyhow::Result<Value> {
        let (result, together) = alone(&self.payee, &self.payer, arguments)?;
        self.together |= together;
        result
    }

    /// The payer writes a cheque, and is off when this returns.
    pub fn write(&mut self, amount: &str, options: &[&str]) -> anyhow::Result<Value> {
        let (address, agent) = (self.address.clone(), self.at_agent.url.clone());
        let arguments = ["cheque", "write", "--to", &address, "--amount", amount, "--memo", "a coffee"];
        let all: Vec<&str> = arguments.iter().chain(&["--agent", &agent]).chain(options).copied().collect();
        self.as_payer(&all)
    }

    /// The payee cashes what it finds; one row for each cheque.
    pub fn cash(&mut self, options: &[&str]) -> anyhow::Result<Vec<Value>> {
        let mailbox = self.mailbox.url.clone();
        let arguments = ["cheque", "cash", "--mailbox", &mailbox];
        let all: Vec<&str> = arguments.iter().chain(options).copied().collect();
        let rows = self.as_payee(&all)?;
        rows.as_array().cloned().context("a list of cheques")
    }

    /// The payer's cheque of that name.
    pub fn listed(&mut self, cheque: &str) -> anyhow::Result<Value> {
        let rows = self.as_payer(&["cheque", "list"])?;
        let rows = rows.as_array().context("a list of cheques")?;
        rows.iter().find(|row| row["cheque"] == cheque).cloned().context("the cheque is not listed")
    }

    /// Takes a cheque back.
    pub fn cancel(&mut self, cheque: &str) -> anyhow::Result<Value> {
        self.as_payer(&["cheque", "cancel", cheque])
    }

    /// Who cashes cheques here.
    fn payee(&self) -> &Person {
        &self.payee
    }

    /// Who writes them.
    fn payer(&self) -> &Person {
        &self.payer
    }

    /// Who holds them.
    fn agent(&self) -> &Person {
        &self.agent
    }

    /// Where the mailbox is.
    fn mailbox(&self) -> &str {
        &self.mailbox.url
    }

    /// The agent is gone, without a word.
    pub fn without_agent(self) -> anyhow::Result<(Person, Person, Service)> {
        self.at_agent.kill()?;
        self.at_node.kill()?;
        Ok((self.payer, self.payee, self.mailbox))
    }

    /// A cheque from the payer to the receipt, and in how many channels the agent and the node have paid it.
    fn sale(&mut self, stage: &Stage, amount: &str, through_node: bool) -> anyhow::Result<(Sale, usize)> {
        let _miner = stage.miner();
        let before = self.paid_onward()?;
        let way = if through_node { "through the node" } else { "directly" };
        eprintln!("\nThe payer writes a cheque over {amount}, and switches off …");
        let written = self.write(amount, &[])?;
        let name = written["cheque"].as_str().context("a name")?.to_owned();
        eprintln!("The payee comes, and is paid {way} …");
        let node = self.at_node.url.clone();
        let options: Vec<&str> = if through_node { vec!["--via", &node] } else { Vec::new() };
        let from = Instant::now();
        let rows = self.cash(&options)?;
        let took = from.elapsed();
        let row =
            rows.iter().find(|row| row["cheque"] == name.as_str()).context("the cheque did not come")?;
        ensure!(row["cashed"] == true, "the cheque was not cashed: {row}");
        eprintln!("The payer comes back for its receipt …");
        let deadline = Instant::now() + crate::demo::stage::PATIENCE;
        let receipt = loop {
            let listed = self.listed(&name)?;
            match listed["receipt"].as_str() {
                Some(receipt) => break receipt.to_owned(),
                None => ensure!(Instant::now() < deadline, "there is no receipt: {listed}"),
            }
        };
        // Anybody can check it.
        let checked = self.node.run(&["receipt", "verify", &receipt, "--payee", &self.receipt_key])?;
        let paid_sat = row["paid_msat"].as_u64().context("an amount")? / 1_000;
        let receipt_ok =
            checked["amount_msat"].as_u64() == Some(paid_sat * 1_000) && checked["memo"] == "a coffee";
        let paid = Msat::new(paid_sat * 1_000);
        let onward = self.paid_onward()?.into_iter().filter(|(channel, now)| {
            let earlier = before.get(channel).copied().unwrap_or_default();
            now.saturating_sub(earlier) >= paid
        });
        Ok((Sale { paid_sat, receipt_ok, took }, onward.count()))
    }

    /// The other way round: the payee invites the payer and goes; the payer pays and goes; the payee collects.
    fn reverse(&mut self, stage: &Stage, amount: &str) -> anyhow::Result<Sale> {
        let _miner = stage.miner();
        let key = self.as_payer(&["cheque", "payer"])?["payer"].as_str().context("a key")?.to_owned();
        eprintln!("\nThe payee invites the payer to pay {amount}, and switches off …");
        let (agent, mailbox) = (self.at_agent.url.clone(), self.mailbox.url.clone());
        let arguments = ["cheque", "authorise", "--to-payer", &key, "--amount", amount, "--memo", "a coffee"];
        let where_to = ["--agent", &agent, "--mailbox", &mailbox];
        let all: Vec<&str> = arguments.iter().chain(&where_to).copied().collect();
        let invited = self.as_payee(&all)?;
        let invitation = invited["invitation"].as_str().context("an invitation")?.to_owned();
        eprintln!("The payer buys the agent's signature for it, and switches off …");
        let from = Instant::now();
        let paid = self.as_payer(&["cheque", "pay", &invitation])?;
        let took = from.elapsed();
        let is_paid = paid[0]["state"] == "paid";
        ensure!(is_paid, "the payer has not paid: {paid}");
        eprintln!("The payee comes back, and finds what it was paid …");
        let rows = self.cash(&[])?;
        let paid_msat: u64 = rows.iter().filter_map(|row| row["paid_msat"].as_u64()).sum();
        Ok(Sale { paid_sat: paid_msat / 1_000, receipt_ok: is_paid, took })
    }

    /// Whether the agent or the node has stored anything of both ends: whatever names the payer's channel or the cheque on one
    /// side, and the payee's channel or the payee on the other. Read from what each has in its database.
    fn is_linkable(&self) -> anyhow::Result<bool> {
        let cheques = self.payer.run(&["cheque", "list", "--offline"])?;
        let routed = cheques.as_array().and_then(|rows| rows.last()).context("a cheque")?;
        let channel = |person: &Person, at: &Service| -> anyhow::Result<String> {
            let channels = person.run(&["channels", "list"])?;
            let rows = channels.as_array().context("a list of channels")?;
            let row = rows.iter().find(|row| row["peer"] == at.url.as_str()).context("the channel")?;
            Ok(row["channel"].as_str().context("a name")?.to_owned())
        };
        let of_payer =
            [routed["cheque"].as_str().context("a name")?.to_owned(), channel(&self.payer, &self.at_agent)?];
        let of_payee = [channel(&self.payee, &self.at_node)?, self.receipt_key.clone(), self.address.clone()];
        let knows = |person: &Person, names: &[String]| -> anyhow::Result<bool> {
            let store = person.home()?.store()?;
            report::names_any(&store, names)
        };
        let agent = knows(&self.agent, &of_payer)? && knows(&self.agent, &of_payee)?;
        let node = knows(&self.node, &of_payer)? && knows(&self.node, &of_payee)?;
        // Else the search would find nothing anywhere.
        ensure!(knows(&self.agent, &of_payer)? && knows(&self.node, &of_payee)?, "each knows its own side");
        Ok(agent || node)
    }

    /// What the agent and the node have paid in each of their channels, by their own books.
    fn paid_onward(&self) -> anyhow::Result<HashMap<ChannelId, Msat>> {
        let mut paid = HashMap::new();
        for person in [&self.agent, &self.node] {
            for channel in person.home()?.store()?.channels::<ChequeChannel>()? {
                if let Some(drawer) = channel.state.drawer() {
                    paid.insert(channel.id, drawer.drawn().ledger().spent);
                }
            }
        }
        Ok(paid)
    }
}

/// Runs somebody's command while this process holds the lock of the other's folder, which every process of the other's that carries
/// cheques would hold. With the result, whether one did.
fn alone(
    person: &Person,
    other: &Person,
    arguments: &[&str],
) -> anyhow::Result<(anyhow::Result<Value>, bool)> {
    let lock = match other.home()?.lock() {
        Ok(lock) => Some(lock),
        Err(HomeError::Locked { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok((person.run(arguments), lock.is_none()))
}
