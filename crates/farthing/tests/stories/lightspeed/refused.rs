//! Bad input over HTTP: each is refused with its own status, reaches no service, and costs nobody anything.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use bitcoin::hashes::{Hash as _, sha256};
use farthing_http::encoding;
use farthing_http::wire::{self, ChainBody};
use farthing_node::home::Home;
use farthing_node::machine::Payer;
use farthing_node::store::StoredChannel;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::keys::ChannelKeys;
use farthing_protocol::lightspeed::call::{MacKey, Target};
use farthing_protocol::lightspeed::{Call, Rung, Shape, Word, Words, ladder};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, ChannelId, Msat};
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::{Api, Person, Service, World};

use super::{charged, people};

const BODY: &str = "a body";

/// One call of 500 sat was paid, and somebody has kept its request.
struct Overheard {
    _world: World,
    payee: Person,
    payer: Person,
    service: Service,
    api: Api,
    relay: Relay,
    request: Message,
    call: Call,
}

fn overheard() -> Result<Overheard> {
    let (world, payee, payer) = people()?;
    let service = Service::counting()?;
    let api = payee.sell_calls(&service.url(), "500sat/call", &[])?;
    let relay = Relay::recording(&api.address)?;
    let miner = world.miner();
    payer.call(&relay.url(&api.at("/item?q=1")), &["-d", BODY])?;
    drop(miner);
    let paid = relay.requests().into_iter().rfind(|request| request.header("lightspeed").is_some());
    let request = paid.context("a paid call")?;
    let bytes = encoding::decode_bytes(request.header("lightspeed").context("a payment")?)?;
    let (call, _) = Call::from_bytes(&bytes)?;
    Ok(Overheard { _world: world, payee, payer, service, api, relay, request, call })
}

/// What a seller answers to an announcement.
fn announce(seller: &str, channel: ChannelId, body: &ChainBody) -> Result<Message> {
    let request = Message::request("POST", &wire::chains_path(channel), seller)
        .with("content-type", "application/json");
    request.with_body(serde_json::to_vec(body)?).send_to(seller)
}

impl Overheard {
    /// The buyer's channel, and its keys: for a buyer that does what no program of ours would.
    fn insider(&self) -> Result<(StoredChannel<Payer>, ChannelKeys)> {
        let home = Home::open(&self.payer.path(""), Network::Regtest)?;
        let stored = home.store()?.channels::<Payer>()?.pop().context("a channel")?;
        let keys = home.seed()?.channel_keys(stored.record.key);
        Ok((stored, keys))
    }

    /// Another call than the one that was paid, properly signed by the buyer.
    fn signed(&self, alter: impl FnOnce(&mut Call)) -> Result<Message> {
        let (stored, keys) = self.insider()?;
        let key = MacKey::new(&CallKey::agree(&keys, &stored.record.params.payee.session, stored.id));
        let mut call = self.call;
        alter(&mut call);
        let target = Target {
            method: "POST",
            authority: self.request.header("host").context("a host")?,
            uri: self.request.target(),
            body: sha256::Hash::hash(BODY.as_bytes()).to_byte_array(),
        };
        let bytes = call.to_bytes(&key.mac(&call, &target));
        Ok(self.request.clone().with("lightspeed", &encoding::encode_bytes(&bytes)))
    }

    /// It is refused as a call of the payer's, which is free for good.
    fn assert_refused(&self, what: &str, status: u16, problem: &str, request: &Message) -> Result<()> {
        self.assert_answer(what, status, problem, Some("refused"), request)
    }

    /// It is refused, and nothing is said of any call: whoever stands between could have damaged it.
    fn assert_unheard(&self, what: &str, problem: &str, request: &Message) -> Result<()> {
        self.assert_answer(what, 402, problem, None, request)
    }

    fn assert_answer(
        &self,
        what: &str,
        status: u16,
        problem: &str,
        outcome: Option<&str>,
        request: &Message,
    ) -> Result<()> {
        let answer = request.send_to(&self.api.address)?;
        let got = (answer.status(), answer.problem());
        ensure!(
            got == (status, problem.to_owned()),
            "{what}: {got:?} {}",
            String::from_utf8_lossy(&answer.body)
        );
        ensure!(answer.header("lightspeed") == outcome, "{what}: {:?}", answer.header("lightspeed"));
        ensure!(answer.header("payment-receipt").is_none(), "{what}: it has a receipt");
        Ok(())
    }

    /// Only the first call was served, and the buyer may call on.
    fn assert_unharmed(&self) -> Result<()> {
        ensure!(self.service.requests().len() == 1, "the service was asked {:?}", self.service.requests());
        ensure!(charged(&self.payee, &self.payer)? == 500_000, "something else was charged");
        self.payer.call(&self.relay.url(&self.api.at("/next")), &[])?;
        ensure!(charged(&self.payee, &self.payer)? == 1_000_000, "the next call is not charged once");
        Ok(())
    }
}

#[test]
fn a_payment_that_was_overheard_buys_nothing_else() -> Result<()> {
    let story = overheard()?;
    let request = || story.request.clone();
    let mut elsewhere = request();
    elsewhere.start = elsewhere.start.replace("q=1", "q=2");
    let mut changed = request();
    changed.start = changed.start.replace("POST", "PUT");
    for (what, request) in [
        ("another address", elsewhere),
        ("another method", changed),
        ("another body", request().with_body(b"A body".to_vec())),
        ("another host", request().with("host", "other.example")),
    ] {
        story.assert_unheard(what, "verification-failed", &request)?;
    }
    for _ in 0..3 {
        let again = story.request.send_to(&story.api.address)?;
        assert_eq!((again.status(), again.body), (200, b"/item?q=1 1".to_vec()), "the same gets the same");
    }
    story.assert_unharmed()
}

#[test]
fn what_is_no_payment_is_refused() -> Result<()> {
    let story = overheard()?;
    let with = |header: &str| story.request.clone().with("lightspeed", header);
    for (what, header) in [
        ("garbage", "!!!".to_owned()),
        ("nothing", String::new()),
        ("too short", encoding::encode_bytes(&[1; 100])),
        ("too long", "A".repeat(10_000)),
    ] {
        story.assert_unheard(what, "malformed-credential", &with(&header))?;
    }
    // The server may hang up before it has all of it, but it does not leave the connection open.
    match with(&"A".repeat(1 << 20)).send_to(&story.api.address) {
        Ok(answer) => assert_eq!(answer.status(), 431, "{answer:?}"),
        Err(error) => {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let is_closed = matches!(kind, None | Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            ensure!(is_closed, "neither an answer nor a closed connection: {error:#}");
        }
    }
    let stranger = story.signed(|call| call.channel = ChannelId::from_bytes([7; 32]))?;
    story.assert_answer("another channel", 402, "channel-not-open", Some("closed"), &stranger)?;
    story.assert_unharmed()
}

#[test]
fn a_buyer_that_lies_gets_nothing() -> Result<()> {
    let story = overheard()?;
    let other = Word::from_bytes([9; 32]);
    for (counter, (what, status, problem, alter)) in (100..).zip([
        (
            "a higher index without its word",
            402,
            "verification-failed",
            (|call, _| call.index += 1) as fn(&mut Call, Word),
        ),
        ("a wrong word", 402, "verification-failed", |call, other| (call.index, call.word) = (3, other)),
        ("an index beyond the chain", 402, "verification-failed", |call, _| call.index = u32::MAX),
        ("an unknown chain", 402, "verification-failed", |call, _| call.chain = 7),
        ("less than the price", 402, "payment-insufficient", |call, _| call.cost = Msat::new(499_999)),
        ("more than is paid", 402, "payment-insufficient", |call, _| call.cost = Msat::new(900_000)),
        ("an epoch to come", 409, "call-void", |call, _| call.number.epoch += 5),
        ("an epoch before the first", 409, "call-void", |call, _| call.number.epoch = 0),
    ]) {
        let request = story.signed(|call| {
            call.number.counter = counter;
            alter(call, other);
        })?;
        story.assert_refused(what, status, problem, &request)?;
    }
    story.assert_unharmed()
}

/// Nobody has a seller hash for longer than 3 ms by one request. The chain is longer than that, and so it is announced here.
#[test]
fn a_word_that_is_too_far_ahead_is_not_looked_at() -> Result<()> {
    let story = overheard()?;
    let (stored, keys) = story.insider()?;
    let channel = Channel::new(stored.record.params.clone())?;
    let key = CallKey::agree(&keys, &channel.params().payee.session, channel.id());
    let purse = stored.state.purse().context("it pays for calls")?;
    let (present, _) = *purse.chains().last().context("a chain")?;
    let last = Words::draw(&keys, channel.id(), &present.shape, present.number).word(present.shape.words);
    let (next, base) = purse.next_chain()?;
    let shape = Shape { unit: Msat::new(1), words: 70_000, rungs: 10, delay: Delay::blocks(36) };
    let mut words = Words::draw(&keys, channel.id(), &shape, next);
    let rungs = ladder::sign(&channel, &keys, &words, base)?;
    let body = ChainBody::new(*words.terms(), &rungs, &purse.plain());
    let body = body.signed(&key, channel.id(), &story.api.address);
    ensure!(announce(&story.api.address, channel.id(), &body)?.status() == 200);
    drop(stored);
    for (counter, index, said) in [(100, 70_000, "ahead of word 0"), (101, 65_536, "")] {
        let word = words.word(index).context("on the chain")?;
        let request = story.signed(|call| {
            call.number.counter = counter;
            (call.chain, call.index, call.word, call.last) = (next, index, word, last);
        })?;
        let answer = request.send_to(&story.api.address)?;
        let detail = String::from_utf8_lossy(&answer.body).into_owned();
        let expected = if said.is_empty() { 200 } else { 402 };
        ensure!(
            answer.status() == expected && detail.contains(said),
            "{index}: {} {detail}",
            answer.status()
        );
    }
    ensure!(story.service.requests().len() == 2, "the service was asked {:?}", story.service.requests());
    Ok(())
}

/// A seller keeps one chain that waits for the present one to end, and no more, whoever announces them.
#[test]
fn chains_that_are_announced_and_never_used_take_one_place() -> Result<()> {
    let story = overheard()?;
    let (stored, keys) = story.insider()?;
    let channel = Channel::new(stored.record.params.clone())?;
    let key = CallKey::agree(&keys, &channel.params().payee.session, channel.id());
    let purse = stored.state.purse().context("it pays for calls")?;
    let (next, base) = purse.next_chain()?;
    let shape = Shape { unit: Msat::new(1_000), words: 10, rungs: 10, delay: Delay::blocks(36) };
    for number in next..next + 6 {
        let words = Words::draw(&keys, channel.id(), &shape, number);
        let rungs = ladder::sign(&channel, &keys, &words, base)?;
        let body = ChainBody::new(*words.terms(), &rungs, &purse.plain());
        let answer =
            announce(&story.api.address, channel.id(), &body.signed(&key, channel.id(), &story.api.address))?;
        let expected = if number == next { 200 } else { 503 };
        ensure!(answer.status() == expected, "{number}: {}", String::from_utf8_lossy(&answer.body));
    }
    drop(stored);
    story.assert_unharmed()
}

/// Several chains under one number, all signed, at the same time and afterwards: one is taken, and the rungs that the seller
/// has are that chain's.
#[test]
fn of_chains_under_one_number_the_seller_keeps_the_rungs_of_the_one_it_took() -> Result<()> {
    let story = overheard()?;
    let (stored, keys) = story.insider()?;
    let channel = Channel::new(stored.record.params.clone())?;
    let key = CallKey::agree(&keys, &channel.params().payee.session, channel.id());
    let purse = stored.state.purse().context("it pays for calls")?;
    let (next, base) = purse.next_chain()?;
    let seller = story.api.address.as_str();
    let announced = |words: u32| -> Result<u16> {
        let shape = Shape { unit: Msat::new(1_000), words, rungs: 10, delay: Delay::blocks(36) };
        let words = Words::draw(&keys, channel.id(), &shape, next);
        let body =
            ChainBody::new(*words.terms(), &ladder::sign(&channel, &keys, &words, base)?, &purse.plain());
        Ok(announce(seller, channel.id(), &body.signed(&key, channel.id(), seller))?.status())
    };
    let sizes = [10, 20, 30, 40, 50, 60];
    let at_once: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = sizes.iter().map(|words| scope.spawn(move || announced(*words))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect::<Result<_>>()
    })?;
    let one_by_one: Vec<u16> = sizes.iter().map(|words| announced(*words)).collect::<Result<_>>()?;
    for answers in [&at_once, &one_by_one] {
        let taken = answers.iter().filter(|status| **status == 200).count();
        ensure!(taken == 1, "each answers {at_once:?}, then {one_by_one:?}");
    }
    ensure!(at_once == one_by_one, "what was taken is taken");
    let taken = sizes[at_once.iter().position(|status| *status == 200).context("one was taken")?];
    let kept =
        Home::open(&story.payee.path(""), Network::Regtest)?.store()?.ladders(channel.id(), next.into())?;
    let kept: Vec<u32> = kept.iter().map(|ladder| ladder.terms().shape.words).collect();
    ensure!(kept == [taken], "{taken} words were taken, and the rungs are for {kept:?}");
    drop(stored);
    story.assert_unharmed()
}

/// Whoever knows a channel's name and saw its rungs can announce nothing for its payer.
#[test]
fn a_chain_that_somebody_else_announces_is_refused_and_takes_no_number_away() -> Result<()> {
    let story = overheard()?;
    let (stored, keys) = story.insider()?;
    let channel = Channel::new(stored.record.params.clone())?;
    let purse = stored.state.purse().context("it pays for calls")?;
    let (next, base) = purse.next_chain()?;
    let shape = Shape { unit: Msat::new(1_000), words: 10, rungs: 10, delay: Delay::blocks(36) };
    let words = Words::draw(&keys, channel.id(), &shape, next);
    let rungs = ladder::sign(&channel, &keys, &words, base)?;
    let key = CallKey::agree(&keys, &channel.params().payee.session, channel.id());
    let announce = |body: &ChainBody| announce(&story.api.address, channel.id(), body);
    let unsigned = ChainBody::new(*words.terms(), &rungs, &purse.plain());
    let own = unsigned.clone().signed(&key, channel.id(), &story.api.address);
    let mut last = own.clone();
    last.terms.number = u32::MAX;
    let mut other_anchor = own.clone();
    other_anchor.terms.anchor = Word::from_bytes([7; 32]);
    for body in [&unsigned, &last, &other_anchor] {
        ensure!(announce(body)?.status() == 400, "{body:?}");
    }
    ensure!(announce(&own)?.status() == 200, "the payer's own is taken after that");
    drop(stored);
    story.assert_unharmed()
}

/// The payer announces them itself, so their MAC is right. What was refused may not come again: each has a number of its own.
#[test]
fn rungs_whose_signatures_do_not_verify_are_refused() -> Result<()> {
    let story = overheard()?;
    let (stored, keys) = story.insider()?;
    let channel = Channel::new(stored.record.params.clone())?;
    let key = CallKey::agree(&keys, &channel.params().payee.session, channel.id());
    let purse = stored.state.purse().context("it pays for calls")?;
    let (next, base) = purse.next_chain()?;
    let shape = Shape { unit: Msat::new(1_000), words: 10, rungs: 10, delay: Delay::blocks(36) };
    let less = base.checked_sub(Msat::new(1_000)).context("it pays something")?;
    let right = base;
    for (number, (what, base, alter)) in (next..).zip([
        ("one with another's lock", right, (|rungs| rungs[9].lock = rungs[8].lock) as fn(&mut Vec<Rung>)),
        ("one with another's signature", right, |rungs| rungs[9].signature = rungs[8].signature),
        ("two in the wrong order", right, |rungs| rungs.swap(3, 4)),
        ("one is missing", right, |rungs| rungs.truncate(9)),
        ("one too many", right, |rungs| rungs.push(rungs[9])),
        ("none", right, Vec::clear),
        ("each for a satoshi less", less, |_| ()),
        ("as they should be", right, |_| ()),
    ]) {
        let words = Words::draw(&keys, channel.id(), &shape, number);
        let mut rungs = ladder::sign(&channel, &keys, &words, base)?;
        alter(&mut rungs);
        let body = ChainBody::new(*words.terms(), &rungs, &purse.plain());
        let answer =
            announce(&story.api.address, channel.id(), &body.signed(&key, channel.id(), &story.api.address))?;
        let expected = if what == "as they should be" { 200 } else { 400 };
        ensure!(answer.status() == expected, "{what}: {}", String::from_utf8_lossy(&answer.body));
    }
    drop(stored);
    story.assert_unharmed()
}
