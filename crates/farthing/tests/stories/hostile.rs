//! A buyer that has the channel's keys and uses them as no program of ours would: each payment is refused and costs nobody
//! anything, and the honest purchase goes on.

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use farthing_http::credential::{Credential, Payload};
use farthing_http::wire;
use farthing_node::home::Home;
use farthing_node::machine::Payer;
use farthing_protocol::keys::ChannelKeys;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{Channel, Msat, Params, Payment, commitment};
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::{Goods, Person, Seller, World};

use crate::{PIECE_MSAT, SLOWLY, scene};

/// The last piece of the file, which nobody has bought, and how long it is.
const LAST: (u64, usize) = (59, 1_024);
const FILE: usize = 60 * 1_024;

/// A purchase was broken off after a few pieces. Its channel stays open.
struct BrokenOff {
    _world: World,
    payee: Person,
    payer: Person,
    goods: Goods,
    seller: Seller,
    /// A request of the buyer's for a piece.
    request: Message,
    credential: Credential,
    channel: Channel,
    keys: ChannelKeys,
    spent: Msat,
}

fn broken_off() -> Result<BrokenOff> {
    let (world, payee, payer, goods) = scene(FILE)?;
    let seller = payee.sell(&goods)?;
    let relay = Relay::recording(&seller.address)?;
    let miner = world.miner();
    let mut buying = payer.start_buying(&relay.url(&seller.url), "out", &SLOWLY)?;
    buying.await_pieces(3)?;
    buying.kill()?;
    drop(miner);
    let request = relay.payments().pop().context("a payment")?;
    let credential = Credential::from_header(request.header("authorization").context("a credential")?)?;
    let home = Home::open(&payer.path(""), Network::Regtest)?;
    let stored = home.store()?.channels::<Payer>()?.pop().context("a channel")?;
    let keys = home.seed()?.channel_keys(stored.record.key);
    let channel = Channel::new(stored.record.params)?;
    let spent = Msat::new(payee.channel()?.spent_msat);
    Ok(BrokenOff { _world: world, payee, payer, goods, seller, request, credential, channel, keys, spent })
}

impl BrokenOff {
    /// A request for the last piece, paid by that signature, with the right MAC.
    fn request(&self, payment: Payment, cost: Msat) -> Result<Message> {
        let root = blake3::hash(&std::fs::read(&self.goods.file)?);
        let id = self.channel.id();
        let call = Call {
            channel: id,
            item: wire::piece_item(root.as_bytes(), LAST.1 as u64, LAST.0),
            cost,
            total: payment.total,
            method: "GET",
            authority: self.request.header("host").context("a host")?,
            target: self.request.target(),
            challenge: &self.credential.challenge.id,
        };
        let key = CallKey::agree(&self.keys, &self.channel.params().payee.session, id);
        let Payment { total, signature } = payment;
        let payload = Payload { channel: id, total, cost, signature, mac: key.mac(&call) };
        let credential = Credential { challenge: self.credential.challenge.clone(), payload };
        let first = LAST.0 * LAST.1 as u64;
        let range = format!("bytes={first}-{}", first + LAST.1 as u64 - 1);
        Ok(self.request.clone().with("range", &range).with("authorization", &credential.to_header()))
    }

    fn sign(&self, total: u64) -> Payment {
        commitment::sign(&self.channel, &self.keys, Msat::new(total))
    }

    fn assert_refused(&self, what: &str, problem: &str, payment: Payment, cost: u64) -> Result<()> {
        let answer = self.request(payment, Msat::new(cost))?.send_to(&self.seller.address)?;
        let got = (answer.status(), answer.problem());
        ensure!(
            got == (402, problem.to_owned()),
            "{what}: {got:?} {}",
            String::from_utf8_lossy(&answer.body)
        );
        let spent = Msat::new(self.payee.channel()?.spent_msat);
        ensure!(spent == self.spent, "{what}: {spent} is charged instead of {}", self.spent);
        Ok(())
    }
}

#[test]
fn what_a_buyer_signs_beyond_the_rules_buys_nothing() -> Result<()> {
    let story = broken_off()?;
    let (spent, piece) = (story.spent.get(), PIECE_MSAT);
    let capacity = story.channel.max_total().get();
    let insufficient = "payment-insufficient";
    let wrong = "verification-failed";
    story.assert_refused("a falling total", insufficient, story.sign(spent - 1), piece)?;
    story.assert_refused("the same total", insufficient, story.sign(spent), piece)?;
    story.assert_refused(
        "a total that rises too little",
        insufficient,
        story.sign(spent + piece - 1),
        piece,
    )?;
    story.assert_refused("a piece below its price", insufficient, story.sign(spent + piece), piece - 1)?;
    story.assert_refused("more than the channel holds", wrong, story.sign(capacity + 1), piece)?;
    story.assert_refused("as much as there can be", wrong, story.sign(u64::MAX), piece)?;
    // Less than a satoshi is in no commitment: the two must be further apart.
    let other = Payment { total: Msat::new(spent + piece), ..story.sign(spent + piece - 1_000) };
    story.assert_refused("a signature for another total", wrong, other, piece)?;
    let params = story.channel.params().clone();
    let foreign = Channel::new(Params { capacity: params.capacity * 2, ..params })?;
    let foreign = commitment::sign(&foreign, &story.keys, Msat::new(spent + piece));
    story.assert_refused("a signature for another channel", wrong, foreign, piece)?;

    // It does sell, when it is paid.
    let answer =
        story.request(story.sign(spent + piece), Msat::new(piece))?.send_to(&story.seller.address)?;
    let file = std::fs::read(&story.goods.file)?;
    ensure!((answer.status(), &answer.body[..]) == (206, &file[FILE - LAST.1..]), "{}", answer.start);
    assert_eq!(story.payee.channel()?.spent_msat, spent + piece);
    drop(story.payer);
    Ok(())
}
