//! Mail for payees that are offline: a mailbox, who posts, and who fetches.

mod address;
mod careless;
mod crashes;
mod killed;
mod postage;
mod receipts;
mod refused;
mod routed;
mod strangers;

use anyhow::{Context as _, Result};
use farthing_http::mailbox::{Client, Fetched, Owner};
use farthing_mailbox::Blob;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_testkit::mail::{free_client, seconds_from_now};
use farthing_testkit::message::Message;
use farthing_testkit::{Ended, Person, World};
use tokio::runtime::Runtime;

/// A world with somebody who keeps mail, and a payee.
fn people() -> Result<(World, Person, Person)> {
    let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
    let operator = Person::new(&world, "operator", 0)?;
    let payee = Person::new(&world, "payee", 0)?;
    Ok((world, operator, payee))
}

/// A payee opens its box by the program, and has so many prekeys there.
fn open_box(payee: &Person, mailbox: &str, prekeys: u32) -> Result<serde_json::Value> {
    payee.run(&[
        "cheque",
        "address",
        "--mailbox",
        &format!("http://{mailbox}"),
        "--prekeys",
        &prekeys.to_string(),
    ])
}

/// Somebody at a mailbox, by the library's client, which pays nothing.
struct Visitor {
    runtime: Runtime,
    client: Client,
    owner: Owner,
}

impl Visitor {
    /// A person, as the owner of a box at that mailbox.
    fn new(person: &Person, mailbox: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, client: free_client()?, owner: person.owner(mailbox)? })
    }

    fn letter(&self, content: u32) -> Result<Blob> {
        let mut entropy = [7; 32];
        entropy[..4].copy_from_slice(&content.to_be_bytes());
        Ok(Blob::seal(self.owner.address(), &content.to_be_bytes(), entropy)?)
    }

    fn post(&self, letter: &Blob, keep: u64) -> Result<()> {
        let expiry = seconds_from_now(keep)?;
        Ok(self.runtime.block_on(self.client.post(self.owner.address(), letter, expiry))?)
    }

    fn take(&self) -> Result<SignedPrekey> {
        Ok(self.runtime.block_on(self.client.take_prekey(self.owner.address()))?)
    }

    fn fetch(&self, after: u64) -> Result<Vec<Fetched>> {
        Ok(self.runtime.block_on(self.client.fetch(&self.owner, after))?)
    }

    /// All letters, page by page.
    fn fetch_all(&self) -> Result<Vec<Fetched>> {
        let mut all: Vec<Fetched> = Vec::new();
        loop {
            let page = self.fetch(all.last().map_or(0, |last| last.cursor))?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    fn delete(&self, letter: &Fetched) -> Result<()> {
        Ok(self.runtime.block_on(self.client.delete(&self.owner, letter.id()))?)
    }

    fn host(&self) -> &str {
        self.owner.address().host.as_str()
    }

    /// Where anybody posts to this owner.
    fn letters(&self) -> String {
        format!("/mailbox/letters/{}", self.owner.address().identity)
    }
}

/// What the mailbox answers to a request without a payment.
fn ask(mailbox: &str, method: &str, target: &str, body: &[u8]) -> Result<Message> {
    Message::request(method, target, mailbox).with_body(body.to_vec()).send_to(mailbox)
}

/// It failed, and said all of this.
fn assert_said(ended: Ended, words: &[&str]) -> Result<()> {
    let said = ended.failure(1)?;
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    missing.is_empty().then_some(()).with_context(|| format!("{missing:?} is not in: {said}"))
}
