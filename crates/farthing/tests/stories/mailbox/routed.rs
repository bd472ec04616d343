//! A cheque through two nodes, by the program: payer, agent, two nodes, payee and mailbox, each a process of its own.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::wait::until;
use farthing_testkit::world::Miner;
use farthing_testkit::{Mailbox, Person, Process, World};
use serde_json::Value;

use super::{Visitor, assert_said, open_box, people};
use crate::COINS;
use crate::invited::carrier;

/// Somebody who carries cheques, and where.
struct Carrier {
    url: String,
    _serving: Process,
}

impl Carrier {
    fn begin(person: &Person, towards: Option<&Self>) -> Result<Self> {
        let mut arguments = vec!["agent", "--listen", "127.0.0.1:0"];
        arguments.extend(towards.iter().flat_map(|next| ["--towards", next.url.as_str()]));
        let mut serving = person.start(&arguments)?;
        let told = serving.await_step("it served", |line| line["url"].is_string())?;
        let url = told["url"].as_str().context("an address")?.to_owned();
        Ok(Self { url, _serving: serving })
    }
}

const PREKEYS: u32 = 5;

struct Story {
    payer: Person,
    payee: Person,
    address: String,
    mailbox: Mailbox,
    _miner: Miner,
    world: World,
}

impl Story {
    fn begin() -> Result<Self> {
        let (world, operator, _) = people()?;
        let payee = carrier(&world, "cashier", 0)?;
        let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
        let opened = open_box(&payee, &mailbox.address, PREKEYS)?;
        let address = opened["address"].as_str().context("an address")?.to_owned();
        let payer = carrier(&world, "payer", COINS)?;
        let miner = world.miner();
        Ok(Self { payer, payee, address, mailbox, _miner: miner, world })
    }

    fn write(&self, agent: &Carrier, options: &[&str]) -> Result<farthing_testkit::Ended> {
        let cheque = ["cheque", "write", "--to", &self.address, "--amount", "2000sat", "--agent", &agent.url];
        self.payer.attempt(&[&cheque[..], options].concat())
    }
}

#[test]
fn a_cheque_goes_through_two_nodes_and_each_has_its_fee() -> Result<()> {
    let story = Story::begin()?;
    let person = |name: &str| carrier(&story.world, name, COINS);
    let second = Carrier::begin(&person("second")?, None)?;
    let first = Carrier::begin(&person("first")?, Some(&second))?;
    let agent = Carrier::begin(&person("agent")?, Some(&first))?;
    let written = story.write(&agent, &["--hops", "3"])?.result()?;
    ensure!(written["promised_msat"] == 2_003_000, "{written}");

    let mailbox = format!("http://{}", story.mailbox.address);
    let via = ["cheque", "cash", "--mailbox", &mailbox, "--via", &first.url, "--via", &second.url];
    // Until everybody on the way has a channel that is deep.
    let row = until("the cheque is cashed through both", || {
        let ended = story.payee.attempt(&[&via[..], &["--wait", "20"]].concat())?;
        let rows = ended.output.last().cloned().unwrap_or_default();
        let row = rows.get(0).cloned().with_context(|| format!("the cheque: {ended:?}"))?;
        Ok((row["cashed"] == true).then_some(row))
    })?;
    assert_eq!(row["paid_msat"], 2_000_000);
    let channels = story.payee.run(&["channels", "list"])?;
    assert_eq!(channels[0]["peer"], second.url.as_str(), "the last one pays");
    let listed = until("there is a receipt", || {
        let rows = story.payer.run(&["cheque", "list"])?;
        Ok(rows.get(0).filter(|row| row["receipt"].is_string()).cloned())
    })?;
    assert_eq!(listed["state"], "paid");
    Ok(())
}

/// Nothing is promised, and the payee's prekeys are all there.
#[test]
fn an_agent_that_wants_more_than_the_writer_allows_gets_no_promise() -> Result<()> {
    let story = Story::begin()?;
    let dear = carrier(&story.world, "agent", COINS)?.with("FARTHING_AGENT__FEE_MSAT", "60000");
    let agent = Carrier::begin(&dear, None)?;
    let said = story.write(&agent, &[])?;
    assert_said(said, &["60 sat", "--max-fee", "nothing was promised"])?;
    assert_eq!(story.payer.run(&["cheque", "list"])?, Value::Array(Vec::new()));
    assert_eq!(story.payer.run(&["channels", "list"])?, Value::Array(Vec::new()));
    let visitor = Visitor::new(&story.payee, &story.mailbox.address)?;
    for _ in 0..PREKEYS {
        visitor.take().context("none was used up")?;
    }
    open_box(&story.payee, &story.mailbox.address, PREKEYS)?;

    let written = story.write(&agent, &["--max-fee", "120sat"])?.result()?;
    assert_eq!(written["promised_msat"], 2_120_000);
    Ok(())
}
