//! A mailbox that hands letters out in another order, loses them, or has the same ones for ever: what it does to cheques, with an
//! agent that is honest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use farthing_mailbox::blob;
use farthing_testkit::message::Message;
use farthing_testkit::relay::{Fate, Relay};
use farthing_testkit::wait::until;
use farthing_testkit::world::Miner;
use farthing_testkit::{Ended, Mailbox, Person, Process, World};
use serde_json::Value;

use super::{Visitor, assert_said, open_box, people};
use crate::COINS;
use crate::invited::carrier;

/// A letter as a mailbox hands it out, with its cursor, in bytes.
const RECORD: usize = 8 + blob::LENGTH;

/// A payer and a payee, and an agent that the payer's configuration names. The payee's box is open at a relay, which is the mailbox to everybody.
struct Story {
    payer: Person,
    payee: Person,
    address: String,
    relay: Relay,
    mailbox: Mailbox,
    at_agent: String,
    _agent: Process,
    _miner: Miner,
    world: World,
}

impl Story {
    fn begin(before: impl FnOnce(&str) -> Result<Relay>) -> Result<Self> {
        let (world, operator, payee) = people()?;
        let agent = carrier(&world, "agent", COINS)?;
        let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
        let relay = before(&mailbox.address)?;
        let opened = open_box(&payee, relay.address(), 5)?;
        let address = opened["address"].as_str().context("an address")?.to_owned();
        let mut serving = agent.start(&["agent", "--listen", "127.0.0.1:0"])?;
        let told = serving.await_step("it served", |line| line["url"].is_string())?;
        let at_agent = told["url"].as_str().context("an address")?.to_owned();
        let payer = carrier(&world, "payer", COINS)?.with("FARTHING_CHEQUE__AGENT", &at_agent);
        let miner = world.miner();
        Ok(Self { payer, payee, address, relay, mailbox, at_agent, _agent: serving, _miner: miner, world })
    }

    fn write(&self, amount: &str) -> Result<Value> {
        self.payer.run(&["cheque", "write", "--to", &self.address, "--amount", amount])
    }

    fn cash(&self) -> Result<Ended> {
        let mailbox = format!("http://{}", self.relay.address());
        // A machine that runs many tests is slow to see the funding of the agent's channel.
        self.payee.attempt(&["cheque", "cash", "--mailbox", &mailbox, "--wait", "100"])
    }

    /// A cheque as its payer lists it, once it has come to that.
    fn await_state(&self, written: &Value, state: &str) -> Result<Value> {
        until(&format!("a cheque is {state}"), || {
            let rows = self.payer.run(&["cheque", "list"])?;
            let is_it = |row: &&Value| row["cheque"] == written["cheque"];
            let row = rows.as_array().and_then(|rows| rows.iter().find(is_it)).context("the cheque")?;
            Ok((row["state"] == state).then(|| row.clone()))
        })
    }

    /// What the payee was paid in its only channel, in satoshi.
    fn earned(&self) -> Result<u64> {
        Ok(self.payee.channel()?.spent_msat / 1_000)
    }
}

/// The amounts that were cashed, in satoshi, the smallest first.
fn cashed(rows: &Value) -> Vec<u64> {
    let rows = rows.as_array().into_iter().flatten().filter(|row| row["cashed"] == true);
    let mut amounts: Vec<u64> =
        rows.filter_map(|row| row["paid_msat"].as_u64()).map(|msat| msat / 1_000).collect();
    amounts.sort_unstable();
    amounts
}

/// Whether a mailbox's answer is a page of letters.
fn is_page(request: &Message, answer: &Message) -> bool {
    request.start.starts_with("GET /mailbox/letters/") && answer.status() == 200
}

#[test]
fn letters_that_come_in_another_order_are_cashed_all_the_same() -> Result<()> {
    let is_turned = Arc::new(AtomicBool::new(false));
    let turned = is_turned.clone();
    let story = Story::begin(|mailbox| {
        Relay::before(mailbox, move |request, answer| {
            if is_page(request, answer) && answer.body.len() == 2 * RECORD {
                let (first, second) = answer.body.split_at(RECORD);
                let body = [second, first].concat();
                *answer = answer.clone().with_body(body);
                turned.store(true, Ordering::SeqCst);
            }
            Fate::Deliver
        })
    })?;
    let nobodys = ["cheque", "write", "--to", &story.address, "--amount", "2000sat"];
    assert_said(story.payee.attempt(&nobodys)?, &["which agent?", "--agent", "[cheque]"])?;
    let written = [story.write("2000sat")?, story.write("3000sat")?];
    let rows = story.cash()?.result()?;
    ensure!(is_turned.load(Ordering::SeqCst), "both came in one page: {rows}");
    assert_eq!(cashed(&rows), [2_000, 3_000], "{rows}");
    assert_eq!(story.earned()?, 5_000);
    for cheque in &written {
        let paid = story.await_state(cheque, "paid")?;
        ensure!(paid["receipt"].is_string(), "{paid}");
    }
    let direct = Visitor::new(&story.payee, &story.mailbox.address)?;
    assert_eq!(direct.fetch(0)?, [], "both were deleted");
    Ok(())
}

#[test]
fn a_cheque_that_the_mailbox_loses_is_taken_back_and_its_money_is_used_again() -> Result<()> {
    let has_lost = AtomicBool::new(false);
    let story = Story::begin(|mailbox| {
        Relay::instead_of(mailbox, move |request| {
            let is_letter = request.start.starts_with("POST /mailbox/letters/");
            let is_lost = is_letter && !has_lost.swap(true, Ordering::SeqCst);
            is_lost.then(|| Message::answer(201, b""))
        })
    })?;
    let lost = story.write("15000sat")?;
    assert_eq!(story.cash()?.result()?, Value::Array(Vec::new()), "nothing came");
    let pending = story.await_state(&lost, "pending")?;
    ensure!(pending["mailed"] == true, "the payer has the mailbox's word: {pending}");
    let name = lost["cheque"].as_str().context("a name")?;
    let cancelled = story.payer.run(&["cheque", "cancel", name])?;
    ensure!(cancelled["cancelled"] == true, "{cancelled}");
    story.await_state(&lost, "cancelled")?;

    // The channel holds 20,000 sat more than the first, so it could not promise both.
    let second = story.write("25000sat")?;
    assert_eq!(second["channel"], lost["channel"]);
    let rows = story.cash()?.result()?;
    assert_eq!(cashed(&rows), [25_000], "{rows}");
    story.await_state(&second, "paid")?;
    // What was paid reaches the promise that was lost: by now not even the agent could have it cashed.
    story.await_state(&lost, "ended")?;
    assert_eq!(Some(story.payer.channel()?.spent_msat), second["promised_msat"].as_u64());
    assert_eq!(story.earned()?, 25_000);
    Ok(())
}

/// It does not forget what was deleted, and never says that it has no more.
#[test]
fn a_mailbox_that_repeats_a_letter_for_ever_ends_the_run_and_no_cheque_is_cashed_twice() -> Result<()> {
    const AGAIN: &str = "the mailbox hands out the same letters again and again";
    let page = Mutex::new(Vec::new());
    let story = Story::begin(|mailbox| {
        Relay::before(mailbox, move |request, answer| {
            if is_page(request, answer) {
                let mut page = page.lock().expect("no holder of this lock panics");
                if page.is_empty() {
                    page.clone_from(&answer.body);
                } else {
                    *answer = answer.clone().with_body(page.clone());
                }
            }
            Fate::Deliver
        })
    })?;
    let written = story.write("2000sat")?;
    let ended = story.cash()?;
    let rows = ended.output.last().cloned().unwrap_or_default();
    assert_said(ended, &[AGAIN, "run `farthing cheque cash` again"])?;
    assert_eq!(cashed(&rows), [2_000], "what was fetched is cashed all the same: {rows}");
    assert_said(story.cash()?, &[AGAIN])?;
    story.await_state(&written, "paid")?;
    assert_eq!(story.earned()?, 2_000);
    let direct = Visitor::new(&story.payee, &story.mailbox.address)?;
    assert_eq!(direct.fetch(0)?, [], "it was deleted");
    Ok(())
}

/// Whoever could have two receipts on one prekey would have the payee's receipt key.
#[test]
fn a_prekey_that_is_given_out_twice_is_used_once_also_by_an_old_copy_of_the_folder() -> Result<()> {
    let prekey = Mutex::new(Vec::new());
    let story = Story::begin(|mailbox| {
        Relay::before(mailbox, move |request, answer| {
            if request.start.starts_with("POST /mailbox/prekeys/") && answer.status() == 200 {
                let mut prekey = prekey.lock().expect("no holder of this lock panics");
                if prekey.is_empty() {
                    prekey.clone_from(&answer.body);
                }
                *answer = answer.clone().with_body(prekey.clone());
            }
            Fate::Deliver
        })
    })?;
    let another = |name: &str| -> Result<Person> {
        let payer = carrier(&story.world, name, COINS)?;
        Ok(payer.with("FARTHING_CHEQUE__AGENT", &story.at_agent))
    };
    let (book, copy) = (story.payee.path("regtest/prekeys.sqlite"), story.payee.path("copy"));
    std::fs::copy(&book, &copy)?;
    story.write("2000sat")?;
    assert_eq!(cashed(&story.cash()?.result()?), [2_000]);

    let write = |payer: &Person| -> Result<Value> {
        payer.run(&["cheque", "write", "--to", &story.address, "--amount", "3000sat"])
    };
    write(&another("second payer")?)?;
    let rows = story.cash()?.result()?;
    ensure!(
        cashed(&rows).is_empty() && rows[0]["why"].is_string(),
        "the folder knows that it is used: {rows}"
    );

    std::fs::copy(&copy, &book)?;
    write(&another("third payer")?)?;
    let ended = story.cash()?;
    ensure!(ended.errors.contains("the folder is an old copy"), "{}", ended.errors);
    let rows = ended.result()?;
    ensure!(cashed(&rows).is_empty() && rows[0]["why"].is_string(), "the copy has forgotten that: {rows}");
    assert_eq!(story.earned()?, 2_000);
    Ok(())
}
