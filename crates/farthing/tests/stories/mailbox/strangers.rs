//! What strangers send to an agent, and to a payee's box: by the program, and by hand.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bitcoin::hex::FromHex as _;
use farthing_mailbox::{Blob, Letter};
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::cheque::{Draft, Written};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::{ChannelId, Msat};
use farthing_testkit::message::Message;
use farthing_testkit::world::Miner;
use farthing_testkit::{Mailbox, Person, Process, World};
use serde_json::{Value, json};

use super::{Visitor, open_box, people};
use crate::COINS;
use crate::invited::carrier;

/// An agent, a payer and a payee, who has a box.
struct Story {
    payer: Person,
    payee: Person,
    address: String,
    mailbox: Mailbox,
    at_agent: String,
    _agent: Process,
    _miner: Miner,
    _world: World,
}

impl Story {
    fn begin() -> Result<Self> {
        let (world, operator, _) = people()?;
        let (agent, payer) = (carrier(&world, "agent", COINS)?, carrier(&world, "payer", COINS)?);
        let payee = carrier(&world, "cashier", 0)?;
        let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
        let opened = open_box(&payee, &mailbox.address, 5)?;
        let address = opened["address"].as_str().context("an address")?.to_owned();
        let mut serving = agent.start(&["agent", "--listen", "127.0.0.1:0"])?;
        let told = serving.await_step("it served", |line| line["url"].is_string())?;
        let at_agent = told["url"].as_str().context("an address")?.to_owned();
        let miner = world.miner();
        Ok(Self { payer, payee, address, mailbox, at_agent, _agent: serving, _miner: miner, _world: world })
    }

    fn write(&self, amount: &str) -> Result<Value> {
        let to = ["cheque", "write", "--to", &self.address, "--amount", amount, "--agent", &self.at_agent];
        self.payer.run(&to)
    }

    fn cash(&self) -> Result<Value> {
        let mailbox = format!("http://{}", self.mailbox.address);
        self.payee.attempt(&["cheque", "cash", "--mailbox", &mailbox, "--wait", "100"])?.result()
    }
}

/// Whoever knows its channel could else have it held until it expires, by a cheque of his own.
#[test]
fn nobody_has_a_lock_made_in_somebody_elses_channel() -> Result<()> {
    let story = Story::begin()?;
    story.write("2000sat")?;
    ensure!(story.cash()?[0]["cashed"] == true, "the first is cashed");
    let channel = story.payee.channel()?.channel;
    let written = story.write("2500sat")?;
    let (held, tweak) = (&written["cheque"], AdaptorSecret::from_bytes(&[9; 32]).context("a secret")?);
    let promised = serde_json::from_value::<AdaptorPoint>(held.clone())?;
    let point = promised.tweaked(&tweak.negated()).context("a point")?;
    let agent = story.at_agent.trim_start_matches("http://");
    for towards in [
        json!({ "channel": channel }),
        json!({ "channel": { "id": channel } }),
        json!({ "channel": { "id": channel, "mac": "00".repeat(32) } }),
    ] {
        let body = json!({
            "held": held, "point": point, "tweak": "09".repeat(32), "amountMsat": 2_500_000, "towards": towards
        });
        let body = serde_json::to_vec(&body)?;
        let asked = Message::request("POST", "/.well-known/farthing/cheques/asks", agent)
            .with("content-type", "application/json")
            .with_body(body)
            .send_to(agent)?;
        ensure!((asked.status(), asked.problem()) == (400, "bad-request".to_owned()), "{asked:?}");
    }
    // So it is free for the payee, whose the cheque is.
    let rows = story.cash()?;
    ensure!(rows[0]["cashed"] == true && rows[0]["paid_msat"] == 2_500_000, "{rows}");
    assert_eq!(story.payee.channel()?.spent_msat, 4_500_000);
    Ok(())
}

/// An agent that begins to answer whatever it is asked, and sends one byte after the other for as long as somebody waits.
fn endless_agent() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer = move |mut stream: TcpStream| -> std::io::Result<()> {
        let _what_it_is_asked = stream.read(&mut [0; 4_096])?;
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\n")?;
        stream.write_all(b"content-length: 60000\r\n\r\n")?;
        loop {
            stream.write_all(b" ")?;
            stream.flush()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(url)
}

/// A prekey each is all that such letters cost.
#[test]
fn letters_that_name_silent_agents_keep_no_other_cheque_waiting() -> Result<()> {
    let story = Story::begin()?;
    let visitor = Visitor::new(&story.payee, &story.mailbox.address)?;
    let address = visitor.owner.address();
    for (byte, agent) in [(1, endless_agent()?), (2, endless_agent()?), (3, endless_agent()?)] {
        let latest = Expiry::at_height(900);
        let draft = Draft { amount: Msat::new(2_000_000), memo: Memo::new("nothing")?, time: 0, latest };
        let written = Written::new(draft, &address.identity, visitor.take()?, [byte; 32], &[byte; 32])?;
        let letter = Letter::Cheque { cheque: Box::new(written.cheque), agent };
        visitor.post(&letter.seal(address, [byte; 32])?, 3_600)?;
    }
    story.write("2500sat")?;
    let mailbox = format!("http://{}", story.mailbox.address);
    let impatient = story.payee.with("FARTHING_BUY__PATIENCE_SECONDS", "8");
    let rows = impatient.attempt(&["cheque", "cash", "--mailbox", &mailbox, "--wait", "100"])?.result()?;
    let rows = rows.as_array().context("rows")?;
    let cashed: Vec<&Value> = rows.iter().filter(|row| row["cashed"] == true).collect();
    ensure!(rows.len() == 4 && cashed.len() == 1 && cashed[0]["paid_msat"] == 2_500_000, "{rows:?}");
    Ok(())
}

/// Whatever is wrong with it: somebody may have paid for it.
#[test]
fn a_letter_about_an_open_invitation_stays_in_the_box() -> Result<()> {
    let story = Story::begin()?;
    let key = story.payer.run(&["cheque", "payer"])?["payer"].as_str().context("a key")?.to_owned();
    let mailbox = format!("http://{}", story.mailbox.address);
    let invite =
        ["cheque", "authorise", "--to-payer", &key, "--amount", "5000sat", "--agent", &story.at_agent];
    let invited = story.payee.run(&[&invite[..], &["--mailbox", &mailbox]].concat())?;
    let channel = <[u8; 32]>::from_hex(invited["channel"].as_str().context("a channel")?)?;
    let channel = ChannelId::from_bytes(channel);
    let visitor = Visitor::new(&story.payee, &story.mailbox.address)?;
    for (serial, stays) in [(1_u64, 1), (7, 1)] {
        let delivery = json!({
            "serial": serial,
            "update": {
                "signed": { "terms": { "number": 9, "base": null, "promises": [], "settled": [] }, "signatures": [] },
                "statement": "07".repeat(64),
            },
            "secret": "07".repeat(32),
        });
        let delivery = Box::new(serde_json::from_value(delivery)?);
        let letter = Letter::Payment { channel, delivery };
        let blob: Blob = letter.seal(visitor.owner.address(), [u8::try_from(serial)?; 32])?;
        visitor.post(&blob, 3_600)?;
        let rows = story.cash()?;
        ensure!(rows[0]["cashed"] == false && rows[0]["why"].is_string(), "{rows}");
        assert_eq!(visitor.fetch(0)?.len(), stays, "{serial}");
    }
    // The right one is taken all the same.
    let invitation = invited["invitation"].as_str().context("an invitation")?;
    story.payer.run(&["cheque", "pay", invitation])?;
    let rows = story.cash()?;
    let paid = rows.as_array().into_iter().flatten().filter_map(|row| row["paid_msat"].as_u64());
    assert_eq!(paid.sum::<u64>(), 5_000_000, "{rows}");
    Ok(())
}
