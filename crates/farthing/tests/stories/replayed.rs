//! A credential works for its own request only, and that request is charged once.

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use farthing_http::challenge::Challenge;
use farthing_http::credential::Credential;
use farthing_node::home::Home;
use farthing_protocol::Msat;
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::{Goods, Person, Seller, World};
use jiff::{SignedDuration, Timestamp};

use crate::scene;

/// What a header may take, in bytes, where others' servers and proxies are in between.
const MOST_CHALLENGE: usize = 2_048;

/// A file was bought, and somebody on the wire has kept the request for its last piece.
struct Overheard {
    _world: World,
    payee: Person,
    goods: Goods,
    seller: Seller,
    request: Message,
    credential: Credential,
    spent: u64,
}

fn overheard() -> Result<Overheard> {
    let (world, payee, payer, goods) = scene(3_000)?;
    let seller = payee.sell(&goods)?;
    let relay = Relay::recording(&seller.address)?;
    let miner = world.miner();
    payer.buy(&relay.url(&seller.url), "out", &["--keep-open"])?.result()?;
    drop(miner);
    let request = relay.payments().pop().context("a payment")?;
    let credential = Credential::from_header(request.header("authorization").context("a credential")?)?;
    let spent = payee.channel()?.spent_msat;
    ensure!(spent == seller.cost_msat, "{spent} was charged");
    Ok(Overheard { _world: world, payee, goods, seller, request, credential, spent })
}

impl Overheard {
    /// The request with a credential that was changed.
    fn altered(&self, alter: impl FnOnce(&mut Credential)) -> Message {
        let mut credential = self.credential.clone();
        alter(&mut credential);
        self.request.clone().with("authorization", &credential.to_header())
    }

    /// The seller refuses, charges nothing, and offers fresh terms.
    fn assert_refused(&self, what: &str, problem: &str, request: &Message) -> Result<()> {
        let answer = request.send_to(&self.seller.address)?;
        ensure!(
            answer.status() == 402 && answer.problem() == problem,
            "{what}: {} {}",
            answer.start,
            answer.problem()
        );
        ensure!(answer.header("cache-control") == Some("no-store"), "{what}: the answer may be stored");
        let offered = answer.header("www-authenticate").context("a challenge")?;
        ensure!(offered.len() < MOST_CHALLENGE, "{what}: a challenge of {} bytes", offered.len());
        let fresh = Challenge::from_header(offered)?;
        ensure!(fresh.id != self.credential.challenge.id, "{what}: the challenge is the old one");
        let spent = self.payee.channel()?.spent_msat;
        ensure!(spent == self.spent, "{what}: {spent} is charged instead of {}", self.spent);
        Ok(())
    }
}

#[test]
fn the_same_payment_again_brings_the_same_piece_and_costs_nothing() -> Result<()> {
    let story = overheard()?;
    let range =
        story.request.header("range").and_then(|range| range.strip_prefix("bytes=")).context("a range")?;
    let (first, last) = range.split_once('-').context("a range")?;
    let (first, last): (usize, usize) = (first.parse()?, last.parse()?);
    let piece = std::fs::read(&story.goods.file)?[first..=last].to_vec();
    for _ in 0..3 {
        let answer = story.request.send_to(&story.seller.address)?;
        assert_eq!((answer.status(), &answer.body), (206, &piece));
        assert!(answer.header("payment-receipt").is_some());
    }
    assert_eq!(story.payee.channel()?.spent_msat, story.spent);
    Ok(())
}

#[test]
fn a_payment_buys_nothing_else_than_what_it_was_made_for() -> Result<()> {
    let story = overheard()?;
    let request = || story.request.clone();
    story.assert_refused("another range", "verification-failed", &request().with("range", "bytes=0-1023"))?;
    story.assert_refused("another host", "invalid-challenge", &request().with("host", "other.example"))?;
    let mut elsewhere = request();
    elsewhere.start = elsewhere.start.replace("/file", "/%66ile");
    story.assert_refused("another path", "verification-failed", &elsewhere)?;
    let more = |amount: Msat| Msat::new(amount.get() + 1);
    for (what, alter) in [
        ("another cost", (|c| c.payload.cost = Msat::ZERO) as fn(&mut Credential)),
        ("another total", |c| c.payload.total = Msat::new(c.payload.total.get() - 1)),
        ("another mac", |c| c.payload.mac[31] ^= 1),
    ] {
        story.assert_refused(what, "verification-failed", &story.altered(alter))?;
    }
    story.assert_refused(
        "a larger total",
        "verification-failed",
        &story.altered(|c| c.payload.total = more(c.payload.total)),
    )?;
    story.assert_refused(
        "no channel",
        "verification-failed",
        &story.altered(|c| c.payload.channel = farthing_protocol::ChannelId::from_bytes([7; 32])),
    )?;
    story.assert_refused(
        "garbage",
        "malformed-credential",
        &request().with("authorization", "Payment !!!"),
    )?;
    story.assert_refused(
        "another scheme",
        "malformed-credential",
        &request().with("authorization", "Bearer e30"),
    )?;
    let mut nothing = request();
    nothing.headers.retain(|(name, _)| name != "authorization");
    story.assert_refused("no payment", "payment-required", &nothing)
}

#[test]
fn terms_that_are_not_the_sellers_own_or_not_of_today_are_refused() -> Result<()> {
    let story = overheard()?;
    let own = story.credential.challenge.clone();
    let later = story.altered(|c| c.challenge.expires = "2099-01-01T00:00:00Z".to_owned());
    story.assert_refused("a later expiry", "invalid-challenge", &later)?;
    let cheaper = story.altered(|c| c.challenge.request.replace_range(20..21, "A"));
    story.assert_refused("other terms", "invalid-challenge", &cheaper)?;
    let foreign = Challenge::issue(&[7; 32], &own.realm, &own.request()?, Timestamp::now());
    story.assert_refused(
        "a foreign challenge",
        "invalid-challenge",
        &story.altered(|c| c.challenge = foreign),
    )?;
    let secret = Home::open(&story.payee.path(""), Network::Regtest)?.seed()?.challenge_secret();
    let earlier = Timestamp::now() - SignedDuration::from_mins(16);
    let expired = Challenge::issue(&secret, &own.realm, &own.request()?, earlier);
    story.assert_refused(
        "an expired challenge",
        "invalid-challenge",
        &story.altered(|c| c.challenge = expired),
    )
}
