//! A buyer that has the channel's keys and uses them as no program of ours would: each payment is refused and costs nobody
//! anything, and the honest purchase goes on.

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use bitcoin::bip32::ChildNumber;
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::{self, Keypair, Secp256k1};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{LeafVersion, TapLeafHash};
use farthing_http::credential::{Credential, Payload};
use farthing_http::wire;
use farthing_node::home::Home;
use farthing_node::machine::Payer;
use farthing_protocol::keys::{ChannelKeys, KeyId, Seed};
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{Channel, Msat, Params, Payment, commitment};
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::until;
use farthing_testkit::{Goods, Person, Seller, World};

use crate::{CHEAP, CHEAP_PIECE_MSAT, PIECE_MSAT, PREPAID, SLOWLY, scene};

/// The last piece of the file, which nobody has bought, and how long it is.
const LAST: (u64, usize) = (59, 1_024);
const FILE: usize = 60 * 1_024;

/// A purchase was broken off. Its channel stays open.
struct BrokenOff {
    _world: World,
    payee: Person,
    goods: Goods,
    seller: Seller,
    /// A request of the buyer's for a piece.
    request: Message,
    credential: Credential,
    channel: Channel,
    keys: ChannelKeys,
    /// One of the keys, for signatures that no program of ours makes.
    funding: Keypair,
    spent: Msat,
}

/// After a few pieces.
fn broken_off() -> Result<BrokenOff> {
    let (world, payee, payer, goods) = scene(FILE)?;
    let seller = payee.sell(&goods)?;
    let relay = Relay::recording(&seller.address)?;
    let miner = world.miner();
    let mut buying = payer.start_buying(&relay.url(&seller.url), "out", &SLOWLY)?;
    buying.await_pieces(3)?;
    buying.kill()?;
    drop(miner);
    BrokenOff::of(world, payee, &payer, (goods, seller), &relay)
}

/// Before the first payment reached the seller, of a file whose pieces cost less than that.
fn broken_off_before_it_paid() -> Result<BrokenOff> {
    let (world, payee, payer, goods) = scene(FILE)?;
    let goods = Goods { price: CHEAP, ..goods };
    let seller = payee.sell(&goods)?;
    let relay = Relay::instead_of(&seller.address, |request| {
        request.header("authorization").map(|_| Message::refusal(502, "unavailable"))
    })?;
    let miner = world.miner();
    let buying = payer.start_buying(&relay.url(&seller.url), "out", &[])?;
    until("the buyer pays", || Ok((!relay.payments().is_empty()).then_some(())))?;
    until("the funding is deep enough", || Ok((payee.channel()?.state == "open").then_some(())))?;
    buying.kill()?;
    drop(miner);
    BrokenOff::of(world, payee, &payer, (goods, seller), &relay)
}

/// A channel's funding key, by its path in `protocol/src/keys.rs`: [`ChannelKeys`] signs commitments in one way only.
fn funding_key(seed: &Seed, id: KeyId) -> Result<Keypair> {
    const MASK: u64 = (1 << 31) - 1;
    let secp = Secp256k1::new();
    let id = id.to_u64();
    let path = [402, 1, (id >> 31) as u32, (id & MASK) as u32, 0];
    let path = path.map(|index| ChildNumber::Hardened { index });
    Ok(seed.root().derive_priv(&secp, &path)?.to_keypair(&secp))
}

impl BrokenOff {
    fn of(
        world: World,
        payee: Person,
        payer: &Person,
        (goods, seller): (Goods, Seller),
        relay: &Relay,
    ) -> Result<Self> {
        let request = relay.payments().pop().context("a payment")?;
        let credential = Credential::from_header(request.header("authorization").context("a credential")?)?;
        let home = Home::open(&payer.path(""), Network::Regtest)?;
        let stored = home.store()?.channels::<Payer>()?.pop().context("a channel")?;
        let (seed, id) = (home.seed()?, stored.record.key);
        let (keys, funding) = (seed.channel_keys(id), funding_key(&seed, id)?);
        let channel = Channel::new(stored.record.params)?;
        let spent = Msat::new(payee.channel()?.spent_msat);
        Ok(Self { _world: world, payee, goods, seller, request, credential, channel, keys, funding, spent })
    }

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

    /// The same signature, but on the digest of that sighash type (BIP341).
    fn sign_as(&self, kind: TapSighashType, total: u64) -> Result<Payment> {
        let total = Msat::new(total);
        let commitment = commitment::build(&self.channel, total);
        let leaf = TapLeafHash::from_script(self.channel.funding().commitment_leaf(), LeafVersion::TapScript);
        let locked = [self.channel.funding_txout()];
        let digest = SighashCache::new(&commitment).taproot_script_spend_signature_hash(
            0,
            &Prevouts::All(&locked),
            leaf,
            kind,
        )?;
        let digest = secp256k1::Message::from_digest(digest.to_byte_array());
        let signature = Secp256k1::new().sign_schnorr_no_aux_rand(&digest, &self.funding);
        Ok(Payment { total, signature })
    }

    /// It buys nothing. What the seller says to it.
    fn assert_refused(&self, what: &str, problem: &str, payment: Payment, cost: u64) -> Result<String> {
        let answer = self.request(payment, Msat::new(cost))?.send_to(&self.seller.address)?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        let got = (answer.status(), answer.problem());
        ensure!(got == (402, problem.to_owned()), "{what}: {got:?} {said}");
        let spent = Msat::new(self.payee.channel()?.spent_msat);
        ensure!(spent == self.spent, "{what}: {spent} is charged instead of {}", self.spent);
        Ok(said)
    }

    /// It does sell, when it is paid.
    fn assert_served(&self, payment: Payment, cost: u64) -> Result<()> {
        let answer = self.request(payment, Msat::new(cost))?.send_to(&self.seller.address)?;
        let file = std::fs::read(&self.goods.file)?;
        ensure!((answer.status(), &answer.body[..]) == (206, &file[FILE - LAST.1..]), "{}", answer.start);
        let charged = self.payee.channel()?.spent_msat - self.spent.get();
        ensure!(charged == cost, "{charged} is charged instead of {cost}");
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

    story.assert_served(story.sign(spent + piece), piece)
}

/// The payee publishes signatures of the default type, so one of another type would be worth nothing to it.
#[test]
fn a_signature_of_another_sighash_type_buys_nothing() -> Result<()> {
    let story = broken_off()?;
    let total = story.payee.channel()?.paid_msat + PIECE_MSAT;
    for kind in [
        TapSighashType::All,
        TapSighashType::None,
        TapSighashType::Single,
        TapSighashType::AllPlusAnyoneCanPay,
    ] {
        let payment = story.sign_as(kind, total)?;
        story.assert_refused(&kind.to_string(), "verification-failed", payment, PIECE_MSAT)?;
    }
    // The type was all that was wrong with them.
    let payment = story.sign_as(TapSighashType::Default, total)?;
    ensure!(payment == story.sign(total), "the key or the digest is another");
    story.assert_served(payment, PIECE_MSAT)
}

/// It would pay for the piece, but it could not be claimed on the chain.
#[test]
fn a_first_payment_below_what_is_to_be_prepaid_buys_nothing() -> Result<()> {
    let story = broken_off_before_it_paid()?;
    let least = PREPAID * 1_000;
    for total in [CHEAP_PIECE_MSAT, least - 1] {
        let short = story.sign(total);
        let said =
            story.assert_refused("a short payment", "payment-insufficient", short, CHEAP_PIECE_MSAT)?;
        ensure!(said.contains("the first payment is") && said.contains("must be at least 552 sat"), "{said}");
    }
    story.assert_served(story.sign(least), CHEAP_PIECE_MSAT)
}
