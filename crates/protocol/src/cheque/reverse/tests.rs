//! A payee that is offline, an agent that may cheat, and a payer that may lie.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use bitcoin::{Amount, FeeRate, Network, Transaction};
use proptest::prelude::*;
use secp256k1::XOnlyPublicKey;

use super::authorisation::{Authorisation, BadAuthorisation, BadBytes, Release, Until};
use super::purchase::{self, Conditions, Delivery, Offer, Purchase};
use super::sale::{self, Sale, Status};
use crate::amount::Msat;
use crate::channel::{Channel, Expiry};
use crate::cheque::drawn::{self, Drawn, Kind, Outcome};
use crate::cheque::held::{self, Held, Wish};
use crate::cheque::point::{AdaptorSecret, joint_secret};
use crate::cheque::promises::{BadUpdate, MOST_SETTLED, Promise, Terms, Update};
use crate::cheque::receipt::Memo;
use crate::commitment;
use crate::keys::{ChequeKeys, Seed};
use crate::sighting::{Funding, Sighting};
use crate::testing;
use crate::transition::Transition;

const DELTA: u32 = 144;
const MARGIN: u32 = 36;
const HEIGHT: u32 = testing::EXPIRY - 3_000;
/// Of the payer's channel.
const EXPIRY: u32 = testing::EXPIRY - 1_000;
const UNTIL: u32 = testing::EXPIRY - 500;
const AMOUNT: u64 = 2_000;
const FEE: u64 = 5;

fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
}

fn identity(byte: u8) -> ChequeKeys {
    Seed::new([byte; 64], Network::Regtest).cheque_keys()
}

fn payer() -> ChequeKeys {
    identity(11)
}

fn payee() -> ChequeKeys {
    identity(12)
}

/// From the agent to the payee.
fn towards() -> Channel {
    testing::channel()
}

/// From the payer to the agent.
fn behind() -> Channel {
    testing::channel_with(|params| {
        params.funding.vout = 1;
        params.expiry = Expiry::at_height(EXPIRY);
    })
}

fn done<S, E>(transition: Transition<S, E>) -> (S, Vec<E>) {
    transition.commit(|_| Ok::<_, Infallible>(())).unwrap()
}

fn wish(payer: XOnlyPublicKey) -> Wish {
    Wish {
        payer,
        amount: sat(AMOUNT),
        until: Until::height(UNTIL),
        memo: Memo::new("a coffee").unwrap(),
        is_deep: true,
        height: HEIGHT,
        margin: MARGIN,
    }
}

fn conditions() -> Conditions {
    Conditions {
        payer: payer().identity(),
        payee: payee().identity(),
        most: sat(AMOUNT + FEE),
        expiry: Expiry::at_height(EXPIRY),
        delta: DELTA,
        margin: MARGIN,
        is_deep: true,
        height: HEIGHT,
    }
}

/// Everybody's state. The agent has the same keys in both channels, and so has whoever is on the other side.
struct World {
    /// The payee's.
    payee: Held,
    /// The agent's, towards the payee.
    lock: Drawn,
    /// The agent's, of the payer.
    agent: Held,
    /// The payer's.
    payer: Drawn,
}

impl World {
    fn new() -> Self {
        let fresh = |kind| Drawn::new(kind, None, Msat::ZERO);
        let held = || Held::new(None, Msat::ZERO);
        Self { payee: held(), lock: fresh(Kind::Lock), agent: held(), payer: fresh(Kind::Purchase) }
    }

    fn payee(&mut self, input: held::Input) -> Result<Vec<held::Effect>, held::Reject> {
        let (next, effects) = done(self.payee.handle(&towards(), input)?);
        self.payee = next;
        Ok(effects)
    }

    fn agent(&mut self, input: held::Input) -> Result<Vec<held::Effect>, held::Reject> {
        let (next, effects) = done(self.agent.handle(&behind(), input)?);
        self.agent = next;
        Ok(effects)
    }

    fn lock(&mut self, input: drawn::Input) -> Result<Vec<drawn::Effect>, drawn::Reject> {
        let (next, effects) = done(self.lock.handle(&towards(), &testing::payer_keys(), input)?);
        self.lock = next;
        Ok(effects)
    }

    fn payer(&mut self, input: drawn::Input) -> Result<Vec<drawn::Effect>, drawn::Reject> {
        let (next, effects) = done(self.payer.handle(&behind(), &testing::payer_keys(), input)?);
        self.payer = next;
        Ok(effects)
    }

    fn authorise(&mut self, payer: XOnlyPublicKey) -> Authorisation {
        let effects = self.payee(held::Input::Authorise(wish(payer))).unwrap();
        let [held::Effect::Authorise(terms)] = effects.as_slice() else { panic!("{effects:?}") };
        Authorisation::sign(terms.clone(), &payee(), &testing::payee_keys())
    }

    /// The agent's sale, and what it answers.
    fn offer(&mut self, authorisation: &Authorisation, own: &AdaptorSecret) -> (Sale, Offer) {
        let conditions = sale::Conditions {
            base: self.lock.ledger().paid(),
            newest: authorisation.terms.serial - 1,
            fee: sat(FEE),
            height: HEIGHT,
        };
        let offered = Sale::offer(&towards(), authorisation.clone(), &conditions, own.clone());
        let (sale, effects) = done(offered.unwrap());
        assert_eq!(effects, sale.resume(), "until it is over, the same promise");
        let update = sent(&self.lock(drawn::Input::Promise(sale.promise())).unwrap());
        let offer = Offer { params: towards().params().clone(), update, price: sale.price() };
        (sale, offer)
    }

    /// The payer checks, stores and promises; the agent has the promise.
    fn promise(&mut self, authorisation: Authorisation, offer: Offer) -> Purchase {
        let promised = purchase::Input::Promise(Box::new(offer), conditions());
        let (purchase, effects) = done(Purchase::new(authorisation).handle(&payer(), promised).unwrap());
        let [purchase::Effect::Promise(promise)] = effects.as_slice() else { panic!("{effects:?}") };
        let update = sent(&self.payer(drawn::Input::Promise(*promise)).unwrap());
        self.agent(held::Input::Take { update, cost: Msat::ZERO }).unwrap();
        purchase
    }

    /// The agent completes what the payer has promised.
    fn cash(&mut self, sale: &Sale) -> Result<Vec<held::Effect>, held::Reject> {
        let own = sale.secret().expect("it is offered").clone();
        let (least, is_deep, height, margin) = (sale.price(), true, HEIGHT, MARGIN);
        self.agent(held::Input::Cash { secret: own, least, is_deep, height, margin })
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<Vec<held::Effect>, held::Reject> {
        let (delivery, is_deep, height, margin) = (Box::new(delivery), true, UNTIL, MARGIN);
        self.payee(held::Input::Collect { delivery, is_deep, height, margin })
    }

    /// What is offered and promised under that secret, and what the payee is mailed at the end.
    fn bought(&mut self, own: &AdaptorSecret) -> (Sale, Purchase, Delivery) {
        let authorisation = self.authorise(payer().identity());
        let (sale, offer) = self.offer(&authorisation, own);
        let purchase = self.promise(authorisation, offer);
        let (purchase, effects) =
            done(purchase.handle(&payer(), purchase::Input::Paid(own.clone())).unwrap());
        let [purchase::Effect::Deliver(delivery)] = effects.as_slice() else { panic!("{effects:?}") };
        (sale, purchase, delivery.clone())
    }

    /// The payee sells the agent these secrets, one after the other and for a satoshi each. Gives what it has then, in satoshi.
    fn have_sold(&mut self, secrets: &BTreeSet<u8>) -> u64 {
        let mut base = 0;
        for (number, byte) in (1..).step_by(2).zip(secrets) {
            base = base.max(600);
            let promised = update(number, base, &[(*byte, 1)]);
            self.payee(held::Input::Take { update: promised, cost: Msat::ZERO }).unwrap();
            let (secret, least, is_deep) = (secret(*byte), sat(1), true);
            self.payee(held::Input::Cash {
                secret: secret.clone(),
                least,
                is_deep,
                height: HEIGHT,
                margin: MARGIN,
            })
            .unwrap();
            base += 1;
            let (channel, keys) = (towards(), testing::payer_keys());
            let plain = Some(commitment::sign(&channel, &keys, sat(base)));
            let settled = vec![secret.point()];
            let terms = Terms { number: number + 1, base: plain, promises: Vec::new(), settled };
            let update = Box::new(terms.sign(&channel, &keys));
            self.payee(held::Input::Take { update, cost: Msat::ZERO }).unwrap();
        }
        base
    }

    fn paid(&self) -> [Msat; 4] {
        let [payee, agent] = [&self.payee, &self.agent].map(|held| held.ledger().paid());
        [payee, self.lock.ledger().paid(), agent, self.payer.ledger().paid()]
    }
}

fn sent(effects: &[drawn::Effect]) -> Box<Update> {
    let sent = effects.iter().find_map(|effect| match effect {
        drawn::Effect::Send(update) => Some(update.clone()),
        drawn::Effect::Report(_) => None,
    });
    sent.expect("an update")
}

/// An update of the agent's own making, towards the payee.
fn update(number: u64, base: u64, promises: &[(u8, u64)]) -> Box<Update> {
    let (channel, keys) = (towards(), testing::payer_keys());
    let base = (base > 0).then(|| commitment::sign(&channel, &keys, sat(base)));
    let promise = |(byte, amount): &(u8, u64)| Promise { amount: sat(*amount), point: secret(*byte).point() };
    let promises = promises.iter().map(promise).collect();
    Box::new(Terms { number, base, promises, settled: Vec::new() }.sign(&channel, &keys))
}

fn spent(by: Transaction) -> drawn::Input {
    let funding = Funding::Spent { by: Arc::new(by), confirmations: 0 };
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    let sighting = Box::new(Sighting { height: EXPIRY - 1, fee_rate, funding, locked: Vec::new() });
    drawn::Input::Sighted { sighting, finality: 6 }
}

#[test]
fn a_payee_that_is_offline_is_paid_what_its_payer_bought() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    // The payee is off. Nothing has moved when the agent offers, and nothing when the payer promises.
    let (sale, offer) = world.offer(&authorisation, &secret(7));
    let purchase = world.promise(authorisation.clone(), offer);
    assert_eq!(world.paid(), [Msat::ZERO; 4]);
    assert_eq!(purchase.proof(), None);

    // The agent completes, and only now its secret leaves.
    let effects = world.cash(&sale).unwrap();
    let (sale, settles) = done(sale.handle(sale::Input::Collect(behind().id())).unwrap());
    assert_eq!(effects, [held::Effect::HandOver(secret(7))]);
    assert_eq!(settles, [sale::Effect::Settle(secret(7))]);
    assert_eq!((sale.status(), sale.secret()), (Status::Collected(behind().id()), None));
    assert_eq!(world.agent.ledger().paid(), sat(AMOUNT + FEE));
    let effects = world.payer(drawn::Input::Secret(secret(7))).unwrap();
    assert_eq!(effects.last(), Some(&drawn::Effect::Report(Outcome::Paid(secret(7)))));
    let (purchase, effects) = done(purchase.handle(&payer(), purchase::Input::Paid(secret(7))).unwrap());
    assert_eq!(effects, purchase.resume(&payer()), "until the mailbox has it");
    let [purchase::Effect::Deliver(delivery)] = effects.as_slice() else { panic!("{effects:?}") };
    let (purchase, _) = done(purchase.handle(&payer(), purchase::Input::Delivered).unwrap());
    assert_eq!(purchase.resume(&payer()), []);

    // The payee comes back, the payer is off.
    let effects = world.deliver(delivery.clone()).unwrap();
    assert!(effects.contains(&held::Effect::HandOver(secret(7))), "{effects:?}");
    assert_eq!((world.payee.ledger().paid(), world.payee.ledger().spent), (sat(AMOUNT), sat(AMOUNT)));
    assert_eq!((world.payee.authorised(), world.payee.may_close()), (None, Ok(())));
    let claim = commitment::complete(
        &towards(),
        &testing::payee_keys(),
        &world.payee.ledger().newest.expect("a payment"),
    );
    testing::assert_spends_funding(&towards(), &claim);
    assert_eq!(Channel::paid_to(&claim, &towards().params().payee), Amount::from_sat(AMOUNT));
    // And the payer can show anybody what the payee can claim.
    let (params, payment) = purchase.proof().unwrap();
    assert_eq!(authorisation.check(&Channel::new(params).unwrap()), Ok(()));
    assert_eq!((payment.total, commitment::verify(&towards(), &payment)), (sat(AMOUNT), Ok(())));

    // Mail that comes twice changes nothing, and the agent pays plainly what it owes.
    world.deliver(delivery.clone()).unwrap();
    let update = sent(&world.lock(drawn::Input::Secret(secret(7))).unwrap());
    world.payee(held::Input::Take { update, cost: Msat::ZERO }).unwrap();
    world.deliver(delivery.clone()).unwrap();
    assert!(world.payee.is_empty());
    assert_eq!(world.paid(), [sat(AMOUNT), sat(AMOUNT), sat(AMOUNT + FEE), sat(AMOUNT + FEE)]);
    assert_eq!(world.payee.ledger().spent, sat(AMOUNT), "and nothing is earned twice");
}

#[test]
fn an_agent_that_completes_silently_pays_with_its_secret_on_the_chain() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (sale, offer) = world.offer(&authorisation, &secret(7));
    let purchase = world.promise(authorisation, offer);
    // It answers nothing. At the last moment it publishes.
    world.cash(&sale).unwrap();
    let payment = world.agent.ledger().newest.unwrap();
    let commitment = commitment::complete(&behind(), &testing::payee_keys(), &payment);
    testing::assert_spends_funding(&behind(), &commitment);
    let effects = world.payer(spent(commitment)).unwrap();
    assert_eq!(effects, [drawn::Effect::Report(Outcome::Paid(secret(7)))]);
    let (_, effects) = done(purchase.handle(&payer(), purchase::Input::Paid(secret(7))).unwrap());
    let [purchase::Effect::Deliver(delivery)] = effects.as_slice() else { panic!("{effects:?}") };
    world.deliver(delivery.clone()).unwrap();
    assert_eq!(world.payee.ledger().paid(), sat(AMOUNT));
}

/// The agent may sell under a point whose secret the payee has sold it before: the payer cannot see that.
#[test]
fn an_increment_under_a_point_that_was_sold_before_is_collected_all_the_same() {
    let mut world = World::new();
    let (_, _, first) = world.bought(&secret(7));
    world.deliver(first.clone()).unwrap();
    let plain = sent(&world.lock(drawn::Input::Secret(secret(7))).unwrap());
    world.payee(held::Input::Take { update: plain, cost: Msat::ZERO }).unwrap();
    assert!(world.payee.has_bought(&secret(7).point()));

    let authorisation = world.authorise(payer().identity());
    let update = update(9, AMOUNT, &[(7, AMOUNT)]);
    let offer = Offer { params: towards().params().clone(), update: update.clone(), price: sat(AMOUNT) };
    let promised = purchase::Input::Promise(Box::new(offer), conditions());
    assert!(Purchase::new(authorisation.clone()).handle(&payer(), promised).is_ok(), "the payer pays for it");
    // The mail of before is of the other.
    assert_eq!(world.deliver(first), Ok(vec![]));
    let delivery = Delivery { serial: authorisation.terms.serial, update, secret: secret(7) };
    world.deliver(delivery.clone()).unwrap();
    assert_eq!((world.payee.ledger().paid(), world.payee.ledger().spent), (sat(2 * AMOUNT), sat(2 * AMOUNT)));
    assert_eq!(world.payee.authorised(), None);
    world.deliver(delivery).unwrap();
    assert_eq!(world.payee.ledger().spent, sat(2 * AMOUNT), "once");
}

/// The payee would refuse it as a first payment that is too small, after the payer had paid for it.
#[test]
fn an_offer_above_a_payment_of_nothing_is_refused() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (channel, keys) = (towards(), testing::payer_keys());
    let nothing = commitment::sign(&channel, &keys, Msat::ZERO);
    let promises = vec![Promise { amount: sat(AMOUNT), point: secret(7).point() }];
    let terms = Terms { number: 1, base: Some(nothing), promises, settled: Vec::new() };
    let update = Box::new(terms.sign(&channel, &keys));
    let offer = Offer { params: channel.params().clone(), update, price: sat(AMOUNT) };
    let promised = purchase::Input::Promise(Box::new(offer), conditions());
    let refused = Purchase::new(authorisation).handle(&payer(), promised).unwrap_err();
    assert_eq!(refused, purchase::Reject::BadUpdate(BadUpdate::EmptyBase));
}

/// What is settled goes with the mail, which has an end.
#[test]
fn an_offer_that_would_not_fit_into_a_letter_is_refused() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (channel, keys) = (towards(), testing::payer_keys());
    let offer = |junk: usize| {
        let settled = vec![secret(9).point(); junk];
        let promises = vec![Promise { amount: sat(AMOUNT), point: secret(7).point() }];
        let update = Box::new(Terms { number: 1, base: None, promises, settled }.sign(&channel, &keys));
        Offer { params: channel.params().clone(), update, price: sat(AMOUNT) }
    };
    let promised = |junk| {
        let input = purchase::Input::Promise(Box::new(offer(junk)), conditions());
        Purchase::new(authorisation.clone()).handle(&payer(), input)
    };
    let refused = promised(MOST_SETTLED + 1).unwrap_err();
    assert_eq!(refused, purchase::Reject::BadUpdate(BadUpdate::TooManySettled(MOST_SETTLED + 1)));
    assert!(promised(MOST_SETTLED).is_ok());
}

#[test]
fn an_agent_that_was_paid_pays_plainly_without_any_mail() {
    let mut world = World::new();
    let (_, _, delivery) = world.bought(&secret(7));
    let update = sent(&world.lock(drawn::Input::Secret(secret(7))).unwrap());
    assert_eq!(world.payee(held::Input::Take { update, cost: Msat::ZERO }), Ok(vec![held::Effect::Taken(2)]));
    assert_eq!((world.payee.ledger().paid(), world.payee.ledger().spent), (sat(AMOUNT), sat(AMOUNT)));
    assert_eq!(world.payee.authorised(), None, "it has ended");
    // The mail that comes late is of the same increment.
    assert_eq!(world.deliver(delivery), Ok(vec![]));
    assert_eq!(world.payee.ledger().spent, sat(AMOUNT));
}

#[test]
fn an_agent_cannot_sell_an_increment_twice() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (_, offer) = world.offer(&authorisation, &secret(7));
    // Nobody else buys it, and the payer no second time.
    let other = identity(13);
    let conditions = Conditions { payer: other.identity(), ..conditions() };
    let promised = purchase::Input::Promise(Box::new(offer.clone()), conditions);
    let refused = Purchase::new(authorisation.clone()).handle(&other, promised).unwrap_err();
    assert_eq!(refused, purchase::Reject::OtherPayer);
    let purchase = world.promise(authorisation.clone(), offer.clone());
    let again = purchase::Input::Promise(Box::new(offer), self::conditions());
    assert_eq!(purchase.handle(&payer(), again).unwrap_err(), purchase::Reject::Used);

    // Whatever else it brings to the payee is refused: the increment under another point, less, or for something else.
    let refused = Err(held::Reject::Authorised(UNTIL));
    for update in [
        update(9, 0, &[(8, AMOUNT)]),
        update(9, 0, &[(7, AMOUNT)]),
        update(9, 0, &[(7, AMOUNT), (8, AMOUNT)]),
        update(9, AMOUNT - 1, &[]),
        update(9, AMOUNT, &[(8, 1_000)]),
    ] {
        assert_eq!(world.payee(held::Input::Take { update, cost: Msat::ZERO }), refused);
    }
    assert_eq!(world.payee(held::Input::Authorise(wish(other.identity()))), Err(held::Reject::NotFree));
    assert_eq!(world.payee.may_close(), Err(held::Reject::Authorised(UNTIL)));

    // So what the payer bought still fits.
    let (_, effects) = done(purchase.handle(&payer(), purchase::Input::Paid(secret(7))).unwrap());
    let [purchase::Effect::Deliver(delivery)] = effects.as_slice() else { panic!("{effects:?}") };
    world.deliver(delivery.clone()).unwrap();
    assert_eq!(world.payee.ledger().paid(), sat(AMOUNT));

    // The authorisation is good for nothing any more, at the agent's either.
    world.lock(drawn::Input::Secret(secret(7))).unwrap();
    let conditions = sale::Conditions { base: world.paid()[1], newest: 0, fee: sat(FEE), height: HEIGHT };
    let refused = Sale::offer(&towards(), authorisation, &conditions, secret(9)).unwrap_err();
    assert_eq!(refused, sale::Reject::OtherBase { base: sat(AMOUNT), got: Msat::ZERO });
}

#[test]
fn an_agent_that_does_nothing_costs_time_only() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (sale, offer) = world.offer(&authorisation, &secret(7));
    let purchase = world.promise(authorisation, offer);
    // The payer cannot give the authorisation back, since the agent could take the price; nor can it take the price back.
    assert_eq!(purchase.handle(&payer(), purchase::Input::Release).unwrap_err(), purchase::Reject::Used);
    let withdrawn = world.payer(drawn::Input::Withdraw(secret(7).point()));
    assert_eq!(withdrawn, Err(drawn::Reject::Bought));

    // Its channel expires, and a refund is deep.
    let refund = crate::refund::complete(&behind(), &testing::payer_keys(), FeeRate::BROADCAST_MIN).unwrap();
    let funding = Funding::Spent { by: Arc::new(refund), confirmations: 6 };
    let fee_rate = FeeRate::BROADCAST_MIN;
    let sighting = Box::new(Sighting { height: EXPIRY + 6, fee_rate, funding, locked: Vec::new() });
    let effects = world.payer(drawn::Input::Sighted { sighting, finality: 6 }).unwrap();
    assert_eq!(effects, [drawn::Effect::Report(Outcome::Ended(secret(7).point()))]);
    let (purchase, _) = done(purchase.handle(&payer(), purchase::Input::Ended(secret(7).point())).unwrap());
    assert_eq!(*purchase.state(), purchase::State::Ended);
    assert_eq!(world.payer.ledger().paid(), Msat::ZERO);

    // The payee is bound until the authorisation ends, then as free as before; and so is the agent.
    world.payee(held::Input::Height(UNTIL)).unwrap();
    assert!(world.payee.authorised().is_some());
    world.payee(held::Input::Height(UNTIL + 1)).unwrap();
    assert_eq!(world.payee.authorised(), None);
    let (sale, effects) = done(sale.handle(sale::Input::Height(UNTIL + 1)).unwrap());
    assert_eq!(effects, [sale::Effect::Withdraw(secret(7).point())]);
    assert_eq!(sale.secret(), None, "and it is never collected");
    assert_eq!(sale.handle(sale::Input::Collect(behind().id())).unwrap_err(), sale::Reject::NotOffered);
    world.lock(drawn::Input::Dead(secret(7).point())).unwrap();
    assert!(!world.lock.is_open());
    let again = world.lock(drawn::Input::Promise(sale.promise()));
    assert_eq!(again, Err(drawn::Reject::PointUsed));
    let update = sent(
        &world.lock(drawn::Input::Promise(Promise { amount: sat(900), point: secret(8).point() })).unwrap(),
    );
    world.payee(held::Input::Take { update, cost: Msat::ZERO }).unwrap();
}

#[test]
fn a_payer_that_lies_gets_nothing() {
    for (point, price) in [(8, AMOUNT + FEE), (7, AMOUNT + FEE - 1), (7, 700)] {
        let mut world = World::new();
        let authorisation = world.authorise(payer().identity());
        let (sale, _) = world.offer(&authorisation, &secret(7));
        let promise = Promise { amount: sat(price), point: secret(point).point() };
        let update = sent(&world.payer(drawn::Input::Promise(promise)).unwrap());
        world.agent(held::Input::Take { update, cost: Msat::ZERO }).unwrap();
        let refused = world.cash(&sale).unwrap_err();
        match point {
            7 => assert_eq!(refused, held::Reject::TooLittle { least: sat(AMOUNT + FEE), got: sat(price) }),
            _other => assert_eq!(refused, held::Reject::Unknown),
        }
        assert_eq!(world.agent.resume(), [], "no secret leaves");
        // And no made-up mail moves the payee.
        let offered = sent(&world.lock.resume(&towards(), &testing::payer_keys()));
        for guess in [secret(8), secret(9)] {
            let forged = Delivery { serial: 1, update: offered.clone(), secret: guess };
            assert_eq!(world.deliver(forged), Err(held::Reject::NotAuthorised));
        }
        assert_eq!(world.payee.ledger().paid(), Msat::ZERO);
    }
}

#[test]
fn a_sale_is_collected_once() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (sale, _) = world.offer(&authorisation, &secret(7));
    let (sale, _) = done(sale.handle(sale::Input::Collect(behind().id())).unwrap());
    // Whoever else has promised something under the point keeps it.
    assert_eq!(sale.secret(), None);
    assert_eq!(sale.handle(sale::Input::Collect(towards().id())).unwrap_err(), sale::Reject::NotOffered);
    let (same, effects) = done(sale.handle(sale::Input::Collect(behind().id())).unwrap());
    assert_eq!((same, effects), (sale.clone(), vec![sale::Effect::Settle(secret(7))]));
    assert_eq!(sale.resume(), [sale::Effect::Settle(secret(7))], "a restart pays the payee");
    let (late, effects) = done(sale.handle(sale::Input::Height(UNTIL + 1)).unwrap());
    assert_eq!((late, effects), (sale, vec![]), "it is owed for ever");
}

#[test]
fn an_authorisation_is_given_back_unused_and_replays_do_nothing() {
    let mut world = World::new();
    let first = world.authorise(payer().identity());
    let (old, _) = world.offer(&first, &secret(7));
    let not_his = Purchase::new(first.clone()).handle(&identity(13), purchase::Input::Release).unwrap_err();
    assert_eq!(not_his, purchase::Reject::OtherPayer);
    let (released, effects) =
        done(Purchase::new(first.clone()).handle(&payer(), purchase::Input::Release).unwrap());
    let [purchase::Effect::Release(release)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(released.resume(&payer()), effects);
    // Once it was given back, nothing is promised under it.
    let (_, offer) = world.offer(&first, &secret(7));
    let promised = purchase::Input::Promise(Box::new(offer), conditions());
    assert_eq!(released.handle(&payer(), promised).unwrap_err(), purchase::Reject::Released);
    // Nobody else can give it back.
    let forged = Release::sign(&first, &identity(13));
    world.payee(held::Input::Release(forged)).unwrap();
    assert!(world.payee.authorised().is_some());
    world.payee(held::Input::Release(*release)).unwrap();
    assert_eq!(world.payee.authorised(), None);

    // The next is another: it replaces the sale at the agent's, and the release is not of it.
    let second = world.authorise(identity(13).identity());
    assert_eq!((first.terms.serial, second.terms.serial), (1, 2));
    world.payee(held::Input::Release(*release)).unwrap();
    assert!(world.payee.authorised().is_some());
    let (dropped, effects) = done(old.handle(sale::Input::Replaced(Box::new(second.clone()))).unwrap());
    assert_eq!(effects, [sale::Effect::Withdraw(secret(7).point())]);
    assert_eq!(dropped.status(), Status::Dropped);
    world.lock(drawn::Input::Dead(secret(7).point())).unwrap();
    let (newer, _) = world.offer(&second, &secret(8));
    assert_eq!(
        newer.handle(sale::Input::Replaced(Box::new(first.clone()))).unwrap_err(),
        sale::Reject::Old { newest: 2, got: 1 }
    );
    let conditions = sale::Conditions { base: Msat::ZERO, newest: 2, fee: sat(FEE), height: HEIGHT };
    let refused = Sale::offer(&towards(), first, &conditions, secret(9)).unwrap_err();
    assert_eq!(refused, sale::Reject::Old { newest: 2, got: 1 });
}

/// What was offered under it is with the payee by now, and the agent does not know yet that it is over.
#[test]
fn an_authorisation_that_was_given_back_after_an_offer_makes_room_for_the_next() {
    let mut world = World::new();
    let first = world.authorise(payer().identity());
    let (_, offer) = world.offer(&first, &secret(7));
    world.payee(held::Input::Release(Release::sign(&first, &payer()))).unwrap();
    let update = offer.update.clone();
    world.payee(held::Input::Take { update, cost: Msat::ZERO }).unwrap();

    let second = world.authorise(payer().identity());
    assert_eq!((second.terms.serial, second.terms.base), (2, Msat::ZERO));
    // Nothing is bought or sold under what is left there: the payer adds to the total that it was told.
    let refused = Err(held::Reject::Authorised(UNTIL));
    let (least, is_deep, height, margin) = (sat(1), true, HEIGHT, MARGIN);
    let cash = |byte| held::Input::Cash { secret: secret(byte), least, is_deep, height, margin };
    assert_eq!(world.payee(cash(7)), refused);
    let tweak = secret(200);
    let onward = held::Onward {
        held: secret(7).point(),
        channel: behind().id(),
        point: secret(7).point().tweaked(&tweak.negated()).unwrap(),
        tweak,
        amount: sat(1),
    };
    let lock = held::Conditions {
        expiry: Expiry::at_height(EXPIRY),
        paid: sat(AMOUNT),
        least,
        delta: DELTA,
        fee: Msat::ZERO,
        is_deep,
        height,
    };
    assert_eq!(world.payee(held::Input::Lock(onward, lock)), refused);
    // Nor is what somebody has paid for it all the same.
    let late = Delivery { serial: 1, update: offer.update, secret: secret(7) };
    assert_eq!(world.deliver(late), Err(held::Reject::NotAuthorised));

    world.lock(drawn::Input::Dead(secret(7).point())).unwrap();
    let (_, offer) = world.offer(&second, &secret(8));
    let update = offer.update.clone();
    world.promise(second, offer);
    world.deliver(Delivery { serial: 2, update, secret: secret(8) }).unwrap();
    assert_eq!((world.payee.ledger().paid(), world.payee.authorised()), (sat(AMOUNT), None));

    // Where a secret is known or owed, nobody is authorised.
    let refused = world.payee(held::Input::Authorise(wish(payer().identity())));
    assert_eq!(refused, Err(held::Reject::NotFree));
}

#[test]
fn every_expiry_is_checked_by_name() {
    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (_, offer) = world.offer(&authorisation, &secret(7));
    let refusal = |change: fn(&mut Conditions)| {
        let mut conditions = conditions();
        change(&mut conditions);
        let promised = purchase::Input::Promise(Box::new(offer.clone()), conditions);
        Purchase::new(authorisation.clone()).handle(&payer(), promised).unwrap_err()
    };
    assert_eq!(
        refusal(|with| with.expiry = Expiry::at_height(UNTIL - DELTA + 1)),
        purchase::Reject::EndsTooLate { expiry: UNTIL - DELTA + 1, delta: DELTA, until: UNTIL }
    );
    assert_eq!(
        refusal(|with| with.margin = testing::EXPIRY - UNTIL),
        purchase::Reject::PayeeTooLate { until: UNTIL, expiry: testing::EXPIRY }
    );
    assert_eq!(
        refusal(|with| with.height = EXPIRY),
        purchase::Reject::TooNear { expiry: EXPIRY, height: EXPIRY }
    );
    assert_eq!(refusal(|with| with.is_deep = false), purchase::Reject::NotDeep);
    assert_eq!(
        refusal(|with| with.most = sat(AMOUNT)),
        purchase::Reject::TooDear { price: sat(AMOUNT + FEE), most: sat(AMOUNT) }
    );
    let last = Conditions { expiry: Expiry::at_height(UNTIL - DELTA), ..conditions() };
    let promised = purchase::Input::Promise(Box::new(offer.clone()), last);
    assert!(
        Purchase::new(authorisation.clone()).handle(&payer(), promised).is_ok(),
        "and no block too early"
    );

    // The payee authorises nothing that it could not claim, the agent nothing that has ended.
    let mut other = World::new();
    let mut wishes = wish(payer().identity());
    wishes.until = Until::height(testing::EXPIRY - MARGIN);
    let refused = other.payee(held::Input::Authorise(wishes.clone())).unwrap_err();
    let until = testing::EXPIRY - MARGIN;
    assert_eq!(refused, held::Reject::TooLong { until, expiry: testing::EXPIRY, margin: MARGIN });
    wishes.until = Until::height(HEIGHT - 1);
    let refused = other.payee(held::Input::Authorise(wishes.clone())).unwrap_err();
    assert_eq!(refused, held::Reject::TooNear { expiry: HEIGHT - 1, height: HEIGHT });
    wishes = Wish { amount: sat(599), ..wish(payer().identity()) };
    let refused = other.payee(held::Input::Authorise(wishes)).unwrap_err();
    assert_eq!(refused, held::Reject::Dust { least: sat(600), got: sat(599) });
    let not_deep = Wish { is_deep: false, ..wish(payer().identity()) };
    assert_eq!(other.payee(held::Input::Authorise(not_deep)), Err(held::Reject::NotDeep));
    let conditions = sale::Conditions { base: Msat::ZERO, newest: 0, fee: sat(FEE), height: UNTIL + 1 };
    let refused = Sale::offer(&towards(), authorisation, &conditions, secret(9)).unwrap_err();
    assert_eq!(refused, sale::Reject::Over { until: UNTIL, height: UNTIL + 1 });
}

#[test]
fn an_offer_of_anything_else_is_refused_by_name() {
    use purchase::Reject;

    let mut world = World::new();
    let authorisation = world.authorise(payer().identity());
    let (_, good) = world.offer(&authorisation, &secret(7));
    let refusal = |authorisation: &Authorisation, offer: Offer| {
        let promised = purchase::Input::Promise(Box::new(offer), conditions());
        Purchase::new(authorisation.clone()).handle(&payer(), promised).unwrap_err()
    };
    for (update, expected) in [
        (update(0, 0, &[(7, AMOUNT)]), Reject::Stale { newest: 0, got: 0 }),
        (update(1, 0, &[(7, AMOUNT - 1)]), Reject::OtherIncrement),
        (update(1, 0, &[(7, AMOUNT + 1)]), Reject::OtherIncrement),
        (update(1, 700, &[(7, AMOUNT)]), Reject::OtherIncrement),
        (update(1, 0, &[(7, AMOUNT), (8, AMOUNT)]), Reject::OtherIncrement),
        (update(1, AMOUNT, &[]), Reject::OtherIncrement),
    ] {
        assert_eq!(refusal(&authorisation, Offer { update, ..good.clone() }), expected);
    }
    // A signature that the secret would not open.
    let mut lie = good.clone();
    lie.update.signed.terms.promises[0].point = secret(8).point();
    assert!(matches!(refusal(&authorisation, lie), Reject::BadUpdate(_)));
    // A channel that nobody authorised anything for.
    let elsewhere = Offer { params: behind().params().clone(), ..good.clone() };
    let expected = BadAuthorisation::OtherChannel(towards().id());
    assert_eq!(refusal(&authorisation, elsewhere), expected.into());
    // Authorisations of others: by another identity, or by whoever is not the channel's payee.
    let terms = authorisation.terms.clone();
    let strange = Authorisation::sign(terms.clone(), &identity(13), &testing::payee_keys());
    assert_eq!(refusal(&strange, good.clone()), Reject::OtherPayee);
    let strange = Authorisation::sign(terms, &payee(), &testing::payer_keys());
    assert_eq!(refusal(&strange, good.clone()), BadAuthorisation::NotTheChannel.into());
    let mut changed = authorisation.clone();
    changed.terms.until = Until::height(UNTIL + 1);
    assert_eq!(refusal(&changed, good), BadAuthorisation::NotThePayee.into());
}

/// Why a purchase has a channel for itself: two promises that are paid at once give one number away, which is neither's.
#[test]
fn of_two_promises_that_are_paid_at_once_nobody_learns_the_one_that_was_bought() {
    let (channel, keys) = (behind(), testing::payer_keys());
    let mut drawn = Drawn::new(Kind::Cheques, None, Msat::ZERO);
    let mut held = Held::new(None, Msat::ZERO);
    for byte in [6, 7] {
        let promise = Promise { amount: sat(AMOUNT), point: secret(byte).point() };
        let (next, effects) = done(drawn.handle(&channel, &keys, drawn::Input::Promise(promise)).unwrap());
        drawn = next;
        let take = held::Input::Take { update: sent(&effects), cost: Msat::ZERO };
        held = done(held.handle(&channel, take).unwrap()).0;
    }
    for byte in [6, 7] {
        let (secret, least) = (secret(byte), sat(AMOUNT));
        let cash = held::Input::Cash { secret, least, is_deep: true, height: HEIGHT, margin: MARGIN };
        held = done(held.handle(&channel, cash).unwrap()).0;
    }
    let payment = held.ledger().newest.unwrap();
    let commitment = commitment::complete(&channel, &testing::payee_keys(), &payment);
    let (_, effects) = done(drawn.handle(&channel, &keys, spent(commitment)).unwrap());
    let [drawn::Effect::Report(Outcome::PaidJointly(points, joint))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(*points, [secret(6).point(), secret(7).point()]);
    assert_eq!(*joint, joint_secret(&[&secret(6), &secret(7)]));
    assert!(*joint != secret(6) && *joint != secret(7), "the agent is paid, and the payee is not");

    // So a channel of purchases takes one.
    let mut world = World::new();
    let promise = |byte| drawn::Input::Promise(Promise { amount: sat(AMOUNT), point: secret(byte).point() });
    world.payer(promise(6)).unwrap();
    assert_eq!(world.payer(promise(7)), Err(drawn::Reject::LockOpen));
}

#[test]
fn an_authorisation_survives_the_way_through_its_bytes() {
    let authorisation = World::new().authorise(payer().identity());
    let bytes = authorisation.to_bytes();
    assert_eq!(Authorisation::from_bytes(&bytes), Ok(authorisation));
    for length in 0..bytes.len() - "a coffee".len() {
        assert_eq!(Authorisation::from_bytes(&bytes[..length]), Err(BadBytes::Length), "{length}");
    }
    let mut no_key = bytes.clone();
    no_key[64..96].fill(0xff);
    assert_eq!(Authorisation::from_bytes(&no_key), Err(BadBytes::Key));
    assert_eq!(Authorisation::from_bytes(&[&bytes[..], &[0xff]].concat()), Err(BadBytes::Utf8));
    assert!(matches!(
        Authorisation::from_bytes(&[&bytes[..], &[b'm'; 256]].concat()),
        Err(BadBytes::Memo(_))
    ));
}

/// What an agent may try on a payee while the payer's mail is on its way.
#[derive(Clone, Debug)]
enum Try {
    /// An update: number, base, one promise or none.
    Update(u64, u64, Option<(u8, u64)>),
    /// Mail of its own making, for an authorisation, under a point that it knows the secret of.
    Mail(u64, u64, u8, u64),
    /// The payee cashes, with a secret that it knows.
    Cash(u8),
    /// A release that the payer did not sign.
    Release,
    /// Time goes by, as far as the authorisation.
    Height(u32),
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let amount = || prop_oneof![Just(AMOUNT), 1..=5_000_u64];
    let promise = || prop::option::of((6..=9_u8, amount()));
    let one = prop_oneof![
        (0..12_u64, prop_oneof![Just(0), Just(AMOUNT), 600..5_000_u64], promise())
            .prop_map(|(number, base, promise)| Try::Update(number, base, promise)),
        (0..3_u64, 0..12_u64, 6..=9_u8, amount())
            .prop_map(|(serial, number, byte, amount)| Try::Mail(serial, number, byte, amount)),
        (6..=9_u8).prop_map(Try::Cash),
        Just(Try::Release),
        (HEIGHT..=UNTIL).prop_map(Try::Height),
    ];
    prop::collection::vec(one, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the agent does with the payee meanwhile, a payer that has paid has not paid for nothing: with its mail the payee
    /// can claim the increment, above what it had. And the claim never falls.
    #[test]
    fn whoever_pays_does_not_pay_for_nothing(
        tries in tries(),
        sold in prop::collection::btree_set(6..=9_u8, 0..4),
        open in prop::option::of((6..=9_u8, 1..=5_000_u64)),
        is_given_up: bool,
    ) {
        let mut world = World::new();
        let before = world.have_sold(&sold);
        if is_given_up {
            let _sold_or_given_up = world.payee(held::Input::GiveUp(secret(7).point()));
        }
        // Left from an authorisation that was given back.
        let left = update(100, before, &open.into_iter().collect::<Vec<_>>());
        let _sold_or_given_up = world.payee(held::Input::Take { update: left, cost: Msat::ZERO });
        let authorisation = world.authorise(payer().identity());
        let newest = authorisation.terms.number;
        let offered = update(newest + 1, before, &[(7, AMOUNT)]);
        let offer = Offer { params: towards().params().clone(), update: offered.clone(), price: sat(AMOUNT) };
        let promised = purchase::Input::Promise(Box::new(offer), conditions());
        prop_assert!(Purchase::new(authorisation).handle(&payer(), promised).is_ok(), "the payer pays");
        let delivery = Delivery { serial: 1, update: offered, secret: secret(7) };
        let mut claim = world.payee.ledger().paid();
        for attempt in tries {
            let _refused_or_not = match attempt {
                Try::Update(number, base, promise) => {
                    let promises: Vec<(u8, u64)> = promise.into_iter().collect();
                    let update = update(newest + number, before + base, &promises);
                    world.payee(held::Input::Take { update, cost: Msat::ZERO })
                }
                Try::Mail(serial, number, byte, amount) => {
                    let update = update(newest + number, before, &[(byte, amount)]);
                    world.deliver(Delivery { serial, update, secret: secret(byte) })
                }
                Try::Cash(byte) => {
                    let (secret, least, is_deep) = (secret(byte), sat(1), true);
                    world.payee(held::Input::Cash { secret, least, is_deep, height: HEIGHT, margin: MARGIN })
                }
                Try::Release => {
                    let terms = world.payee.authorised().cloned();
                    match terms {
                        Some(terms) => {
                            let signed = Authorisation::sign(terms, &payee(), &testing::payee_keys());
                            let release = Release::sign(&signed, &identity(13));
                            world.payee(held::Input::Release(release))
                        }
                        None => Ok(Vec::new()),
                    }
                }
                Try::Height(height) => world.payee(held::Input::Height(height)),
            };
            let now = world.payee.ledger().paid();
            prop_assert!(now >= claim, "the claim never falls");
            claim = now;
        }
        let _already_there = world.deliver(delivery);
        let payment = world.payee.ledger().newest.expect("the increment");
        prop_assert!(payment.total >= sat(before + AMOUNT));
        prop_assert_eq!(commitment::verify(&towards(), &payment), Ok(()));
        prop_assert_eq!(world.payee.authorised(), None, "and its authorisation is used");
    }
}
