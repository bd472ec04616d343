//! A letter is posted for postage, by a payer with a channel; the mailbox is killed; the payee comes later.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use farthing_mailbox::{Blob, Letter};
use farthing_protocol::Msat;
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::cheque::{Draft, Written};
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::receipt::Memo;
use farthing_testkit::mail::seconds_from_now;
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, World};

use super::{Visitor, ask, open_box, people};
use crate::COINS;

const PRICE: &str = "500sat/message";
const PRICE_MSAT: u64 = 500_000;

/// Posts a blob by the program, which pays for it. The answer's status.
fn post(payer: &Person, visitor: &Visitor, blob: &Blob, keep: u64) -> Result<u16> {
    let file = payer.path("letter");
    fs::write(&file, blob.as_bytes())?;
    let expiry = seconds_from_now(keep)?;
    let url = format!("http://{}{}?expiry={expiry}", visitor.host(), visitor.letters());
    let file = format!("@{}", file.display());
    Ok(payer.call(&url, &["-d", &file])?.status())
}

/// Takes a prekey by the program, which pays for it.
fn take(payer: &Person, visitor: &Visitor) -> Result<Message> {
    let url = format!("http://{}/mailbox/prekeys/{}", visitor.host(), visitor.owner.address().identity);
    payer.call(&url, &["-X", "POST"])
}

/// A letter with a cheque that is written on that prekey.
fn letter(visitor: &Visitor, prekey: &Message) -> Result<Letter> {
    let prekey: SignedPrekey = serde_json::from_slice(&prekey.body)?;
    let latest = Expiry::at_height(900_000);
    let draft =
        Draft { amount: Msat::new(7_000), memo: Memo::new("one coffee")?, time: 1_790_000_000, latest };
    let identity = visitor.owner.address().identity;
    let written = Written::new(draft, &identity, prekey, [2; 32], &[3; 32])?;
    Ok(Letter::Cheque { cheque: Box::new(written.cheque), agent: "https://agent.example".to_owned() })
}

fn charged(operator: &Person) -> Result<u64> {
    Ok(operator.channels()?.iter().map(|channel| channel.spent_msat).sum())
}

#[test]
fn a_cheque_posted_with_postage_outlives_a_killed_mailbox_and_opens_for_its_payee() -> Result<()> {
    let (world, operator, payee) = people()?;
    let payer = Person::new(&world, "payer", COINS)?;
    let address = free_address()?;
    let mailbox = operator.keep_mail(PRICE, &address)?;
    open_box(&payee, &address, 3)?;
    let visitor = Visitor::new(&payee, &address)?;
    let unpaid = ask(&address, "POST", &format!("{}?expiry=1", visitor.letters()), &[])?;
    ensure!(unpaid.status() == 402 && unpaid.header("www-authenticate").is_some(), "{unpaid:?}");
    ensure!(visitor.take().is_err(), "a prekey costs postage, too");

    let miner = world.miner();
    let letter = letter(&visitor, &take(&payer, &visitor)?)?;
    let blob = letter.seal(visitor.owner.address(), [9; 32])?;
    assert_eq!(post(&payer, &visitor, &blob, 3_600)?, 201);
    assert_eq!(charged(&operator)?, 2 * PRICE_MSAT);
    drop(miner);
    mailbox.kill()?;

    let mailbox = operator.keep_mail(PRICE, &address)?;
    let fetched = visitor.fetch(0)?;
    ensure!(fetched.len() == 1, "{} letters", fetched.len());
    assert_eq!(visitor.owner.open(&fetched[0].blob)?, letter);
    ensure!(payer.owner(&address)?.open(&fetched[0].blob).is_err(), "it opens for its payee alone");
    visitor.delete(&fetched[0])?;
    mailbox.kill()?;
    let mailbox = operator.keep_mail(PRICE, &address)?;
    assert_eq!(visitor.fetch(0)?, []);

    // What was delivered does not come again, and costs nothing to post again.
    assert_eq!(post(&payer, &visitor, &blob, 3_600)?, 409);
    assert_eq!((visitor.fetch(0)?, charged(&operator)?), (vec![], 2 * PRICE_MSAT));
    mailbox.process.stop()?.success()?;
    settle(&world, &operator, &payer, &address)
}

/// The payer closes, and the mailbox has its postage on the chain.
fn settle(world: &World, operator: &Person, payer: &Person, address: &str) -> Result<()> {
    let mailbox = operator.keep_mail(PRICE, address)?;
    let channel = payer.channel()?;
    payer.run(&["channels", "close", &channel.channel])?;
    world.await_spend(&channel.funding)?;
    world.make_final()?;
    until("the mailbox sees the end", || {
        Ok(operator.channels()?.iter().all(|channel| channel.state == "closed").then_some(()))
    })?;
    mailbox.kill()?;
    let ending = operator.channel()?.ending.context("it ended")?;
    ensure!((ending.kind.as_str(), ending.received_sat) == ("closing", 1_000), "{ending:?}");
    Ok(())
}

#[test]
fn what_the_mailbox_refuses_is_not_charged() -> Result<()> {
    let (world, operator, payee) = people()?;
    let operator = operator.with("FARTHING_MAILBOX__MOST_LETTERS", "2");
    let payer = Person::new(&world, "payer", COINS)?;
    let mailbox = operator.keep_mail(PRICE, "127.0.0.1:0")?;
    let address = mailbox.address.clone();
    open_box(&payee, &address, 1)?;
    let visitor = Visitor::new(&payee, &address)?;
    let _miner = world.miner();
    let [first, second, third] = [visitor.letter(1)?, visitor.letter(2)?, visitor.letter(3)?];
    assert_eq!(post(&payer, &visitor, &first, 3_600)?, 201);
    assert_eq!(post(&payer, &visitor, &second, 3_600)?, 201);
    assert_eq!(post(&payer, &visitor, &third, 3_600)?, 507, "the box is full");
    assert_eq!(post(&payer, &visitor, &third, 400 * 86_400)?, 400, "for too long");
    assert_eq!(post(&payer, &visitor, &second, 3_600)?, 409, "again");
    assert_eq!(take(&payer, &visitor)?.status(), 200);
    assert_eq!(take(&payer, &visitor)?.status(), 404, "no prekeys are left");
    let nobody = Visitor::new(&payer, &address)?;
    assert_eq!(take(&payer, &nobody)?.status(), 404, "no such box");
    assert_eq!((charged(&operator)?, payer.channel()?.spent_msat), (3 * PRICE_MSAT, 3 * PRICE_MSAT));
    Ok(())
}

#[test]
fn a_mailbox_that_asks_for_it_is_paid_for_opening_a_box_once() -> Result<()> {
    let (world, operator, _) = people()?;
    let payee = Person::new(&world, "rich-payee", COINS)?;
    let keeping = operator.start(&[
        "mailbox",
        "serve",
        "--price",
        PRICE,
        "--box-price",
        "2000sat",
        "--listen",
        "127.0.0.1:0",
    ])?;
    let mailbox = farthing_testkit::Mailbox::of(keeping)?;
    let poor = Person::new(&world, "poor-payee", 0)?;
    let ended = poor.attempt(&["cheque", "address", "--mailbox", &mailbox.address])?;
    ensure!(!ended.status.success(), "nothing to pay with");
    let _miner = world.miner();
    for _ in 0..2 {
        let opened = open_box(&payee, &mailbox.address, 5)?;
        ensure!(opened["prekeys"] == 5, "{opened}");
    }
    assert_eq!(charged(&operator)?, 2_000_000);
    Ok(())
}
