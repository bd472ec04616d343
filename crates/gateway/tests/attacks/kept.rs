//! The owner closes from its own store, on another machine: the device is destroyed, and the gateway is gone or hostile. And what the device
//! does while its store is away, closes, or crashes.

use bitcoin::{Amount, Network};
use farthing_node::device::alone::{Closer, Ended};
use farthing_node::device::{Backup, ConnectionError, Said};
use farthing_node::link::{GatewayAddress, Link, LinkError, PublicKey, StaticKey};
use farthing_node::owner::close::Closing;
use farthing_node::owner::{Known, NotAcknowledged, OwnerStoreHome, serve};
use farthing_protocol::device::bolt3::{CommitmentNumber, Preimage};
use farthing_protocol::device::kept::{FromStore, ToStore};
use farthing_protocol::device::{Enrolment, Invoice, State};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::bridge;
use crate::car::{Car, commitment_fee, fee_of};
use crate::world::*;

/// What a second stage pays: 663 weight units at the commitment's rate.
const TIMEOUT_FEE: Amount = Amount::from_sat(663);

/// The owner's machine.
struct Keeper {
    home: OwnerStoreHome,
    _folder: TempDir,
    address: GatewayAddress,
    free: Option<TcpListener>,
    serving: Option<JoinHandle<()>>,
}

impl Keeper {
    /// It has an address, and does not serve yet.
    async fn new() -> Self {
        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let home = OwnerStoreHome::make(folder.path(), Network::Regtest).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let address = GatewayAddress { key: home.key().unwrap().public(), host };
        Self { home, _folder: folder, address, free: Some(listener), serving: None }
    }

    /// A device that waits for it; and it serves that one.
    async fn with_a_car() -> (Self, Car) {
        let mut keeper = Self::new().await;
        let mut car = Car::waiting_for(&keeper.address);
        keeper.start(&mut car).await;
        (keeper, car)
    }

    async fn listener(&mut self) -> TcpListener {
        match self.free.take() {
            Some(listener) => listener,
            None => TcpListener::bind(&self.address.host).await.unwrap(),
        }
    }

    /// Serves the car from what is on the disk.
    async fn start(&mut self, car: &mut Car) {
        let (listener, own) = (self.listener().await, link_key(car));
        let enrolment = car.enrolled.enrolment.clone();
        let known = move |peer: &PublicKey| {
            let known = Known { name: "car".into(), enrolment: enrolment.clone() };
            (*peer == own).then_some(known)
        };
        let (key, store) = (self.home.key().unwrap(), self.home.store().unwrap());
        self.serving = Some(tokio::spawn(serve(listener, key, store, known)));
    }

    /// It cannot be reached any more, and every connection to it is cut.
    async fn stop(&mut self) {
        let serving = self.serving.take().expect("it serves");
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
    }

    /// *Closing* is stored: the first half of `farthing owner force-close`.
    fn store_closing(&self) {
        assert_eq!(self.home.store().unwrap().close("car").unwrap().len(), 1);
    }

    /// `farthing owner force-close`, with the backup and a bitcoind.
    fn close(&self, world: &World, backup: &Backup, enrolment: &Enrolment) -> Ended {
        let (secret, enrolled) = backup.restored().unwrap();
        let policy = enrolled.policy.verify(&enrolment.owner).unwrap();
        let mut to_close = self.home.store().unwrap().close("car").unwrap();
        assert_eq!(to_close.len(), 1, "there is one channel");
        let mut closing = Closing::new(to_close.remove(0), &secret, enrolment.clone(), policy).unwrap();
        closing.close(&world.chain).unwrap()
    }
}

fn link_key(car: &mut Car) -> PublicKey {
    StaticKey::new(*car.device().secret().link()).public()
}

/// The holder's state that the device would have kept now.
fn number(car: &mut Car) -> CommitmentNumber {
    let device = car.device();
    let (channel, _) = device.paying().unwrap();
    device.to_keep(channel).unwrap().number()
}

/// Answers the gateway until the connection ends, and gives why.
async fn end_of(car: &mut Car) -> NotAcknowledged {
    loop {
        match car.hear().await {
            Ok(_) => {}
            Err(ConnectionError::OwnerStore(why)) => return why,
            Err(other) => panic!("{other}"),
        }
    }
}

/// The device is destroyed after two payments, and its gateway never comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_is_destroyed_and_the_owner_closes() {
    let world = World::start().await;
    let (keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.pay(&world.destination.invoice(10_000_000)).await;
    let balance = car.balance().floor();
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    world.gateway.stop();
    // Nothing of it is left but what the owner has.
    let car = car.lose();

    let ended = keeper.close(&world, &backup, &enrolment);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Device, 1));
    assert!(ended.sent[0].1.is_ok(), "{ended:?}");
    world.mine(1);
    // Again it finds what it did.
    assert_eq!(keeper.close(&world, &backup, &enrolment).claims, ended.claims);
    world.mine(u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
}

/// The same in the middle of a payment that nobody claims: it comes back when it has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_is_destroyed_in_the_middle_of_a_payment() {
    let mut world = World::start().await;
    let (keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(&mut world, &Preimage([2; 32]), 30_000_000).await;
    let besides = car.balance().floor();
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    world.gateway.stop();
    let car = car.lose();

    let ended = keeper.close(&world, &backup, &enrolment);
    let [(commitment, sent), (timeout, _)] = &ended.sent[..] else { panic!("{ended:?}") };
    assert!(sent.is_ok(), "{ended:?}");
    let htlc = commitment.output[timeout.input[0].previous_output.vout as usize].value;
    let [expiry] = ended.waits_until().collect::<Vec<_>>()[..] else { panic!("one payment waits") };
    world.mine(1);
    world.mine(expiry - world.chain.tip().unwrap().height);
    let ended = keeper.close(&world, &backup, &enrolment);
    assert!(ended.sent.iter().all(|(_, sent)| sent.is_ok()), "{ended:?}");
    world.mine(1 + u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), besides + htlc - commitment_fee(1) - TIMEOUT_FEE - fee);
}

/// The device is destroyed with a payment under way, and it is the bridge that closes. The owner takes the payment back out of the bridge's
/// commitment, which the store has known since before it was signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_is_destroyed_and_the_bridge_closes() {
    let mut world = World::start().await;
    let (keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.lock_in(&mut world, &Preimage([2; 32]), 30_000_000).await;
    let besides = car.balance().floor();
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    world.gateway.stop();
    let car = car.lose();
    let published = bridge::newest(&world).await;
    world.chain.broadcast(&published).unwrap();
    world.mine(1);

    let ended = keeper.close(&world, &backup, &enrolment);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Bridge, 1));
    let expiry = ended.waits_until().next().expect("the HTLC has not expired");
    let taken_back = ended.sent[0].0.clone();
    let htlc = published.output[taken_back.input[0].previous_output.vout as usize].value;
    world.mine(expiry - world.chain.tip().unwrap().height);
    let ended = keeper.close(&world, &backup, &enrolment);
    assert_eq!(ended.waits_until().count() + ended.not_sent().count(), 0, "{ended:?}");
    world.mine(1);
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), besides + htlc - commitment_fee(1) - fee_of(&taken_back, htlc) - fee);
}

/// The device is destroyed, and the bridge publishes a state that it had revoked, with a payment that had failed. The owner takes all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_is_destroyed_and_the_bridge_cheats() {
    let mut world = World::start().await;
    let (keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let failed = Preimage([2; 32]);
    car.lock_in(&mut world, &failed, 50_000_000).await;
    let revoked = bridge::newest(&world).await;
    world.destination.node.give_back(&failed.hash());
    car.settle().await;
    car.pay(&world.destination.invoice(30_000_000)).await;
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    world.gateway.stop();
    let car = car.lose();

    assert_eq!(revoked.output.len(), 3);
    world.regtest.mine_with(std::slice::from_ref(&revoked)).unwrap();
    world.mine(500);
    let ended = keeper.close(&world, &backup, &enrolment);
    assert_eq!((ended.by, ended.closing), (Closer::Cheat, revoked.compute_txid()));
    assert_eq!(ended.not_sent().count(), 0, "{ended:?}");
    let [(penalty, _)] = &ended.sent[..] else { panic!("{ended:?}") };
    assert_eq!(penalty.input.len(), 2, "the bridge's balance, and the payment that had failed");
    world.mine(1);
    let swept = car.sweep(&world, &ended.claims);
    let taken: Amount = revoked.output.iter().map(|output| output.value).sum();
    let fee = fee_of(penalty, taken - ended.claimed());
    assert_eq!(world.cold(), taken - fee - swept, "all of the channel");
}

/// The owner begins to close when the device has the next state complete, and has not revoked the one that the store holds. The device gets
/// no acknowledgement and reveals nothing: what the owner publishes stays good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_closes_acknowledges_nothing_and_the_device_reveals_nothing() {
    let world = World::start().await;
    let (keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let (balance, held) = (car.balance().floor(), number(&mut car));
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    car.begin_to_pay(&world.destination.invoice(30_000_000)).await;
    car.answer_until("the next state is complete", |car| number(car) > held).await;
    keeper.store_closing();

    let why = end_of(&mut car).await;
    assert!(matches!(why, NotAcknowledged::Closing), "{why}");
    assert!(matches!(car.state(), State::Closing(_)), "the device has stored it as well");
    // Power is cut, and the gateway asks again. A device that closes waits for nobody and reveals nothing.
    car.power_cut();
    car.connect(&world.gateway).await;
    assert!(matches!(car.state(), State::Closing(_)));
    let is_refusal = |said: &Said| matches!(said, Said::Refused { rule, .. } if rule == "channel-stage");
    while !car.hear().await.unwrap().iter().any(is_refusal) {}
    car.hang_up();
    world.gateway.stop();

    let ended = keeper.close(&world, &backup, &enrolment);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Device, 1), "the state before the payment");
    assert!(ended.sent[0].1.is_ok(), "{ended:?}");
    world.mine(1);
    // Gateway and bridge have no secret to punish it with: they have all of the delay.
    world.mine(u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
}

/// The store goes away in the middle of a payment. The device answers no further and connects no more; when the store is back, the same payment is
/// made, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_owners_store_a_device_reveals_nothing_and_loses_nothing() {
    let world = World::start().await;
    let (mut keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let (before, held) = (bridge::newest(&world).await, number(&mut car));
    let funding = before.input[0].previous_output;
    let text = world.destination.invoice(30_000_000);
    let signed = world.gateway.tally().joint_signatures;

    // Before the bridge's commitment is signed.
    keeper.stop().await;
    car.begin_to_pay(&text).await;
    let why = end_of(&mut car).await;
    assert!(matches!(why, NotAcknowledged::Link(_)), "{why}");
    assert!(why.to_string().starts_with("owner-store: "), "{why}");
    car.power_cut();
    let (ours, _theirs) = car.links().await;
    let refused = car.try_to_greet(ours).await;
    assert!(matches!(refused, Err(ConnectionError::OwnerStore(_))), "{refused:?}");
    let bridges = bridge::stored(&world, &funding).await;
    assert_eq!(bridges.compute_txid(), before.compute_txid(), "nothing was signed");
    assert_eq!(world.gateway.tally().joint_signatures, signed, "and nothing is on its way");

    // Before the secret of the holder's state leaves.
    keeper.start(&mut car).await;
    car.connect(&world.gateway).await;
    car.usable(&world).await;
    car.begin_to_pay(&text).await;
    car.answer_until("the next state is complete", |car| number(car) > held).await;
    keeper.stop().await;
    let why = end_of(&mut car).await;
    assert!(matches!(why, NotAcknowledged::Link(_)), "{why}");
    car.power_cut();

    keeper.start(&mut car).await;
    car.connect(&world.gateway).await;
    let order = car.begin_to_pay(&text).await;
    car.finish_paying(order, &text).await;
    car.finish_together(&world).await;
}

/// The store's machine crashes after it has erased the state before, and before it says so; at each acknowledgement of a payment in turn. The state comes
/// again, and the payment is made, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_crashes_between_erasing_and_acknowledging() {
    let world = World::start().await;
    let (mut keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.hang_up();
    keeper.stop().await;
    let enrolment = car.enrolled.enrolment.clone();
    let mut crashes = 0;
    loop {
        let (listener, key) = (keeper.listener().await, keeper.home.key().unwrap());
        let (mut store, enrolment) = (keeper.home.store().unwrap(), enrolment.clone());
        let dying = tokio::spawn(die_after(listener, key, crashes, move |message| {
            let ToStore::Keep { id, kept } = message;
            store.keep("car", &enrolment, *kept).unwrap();
            FromStore::Kept { id }
        }));
        let text = world.destination.invoice(5_000_000);
        let why = pay_until_the_store_dies(&world, &mut car, &text).await;
        dying.abort();
        let _over = dying.await;
        if let Some(why) = &why {
            assert!(matches!(why, NotAcknowledged::Link(LinkError::Closed | LinkError::Io(_))), "{why:?}");
            crashes += 1;
            car.power_cut();
        }
        car.hang_up();
        keeper.start(&mut car).await;
        car.connect(&world.gateway).await;
        car.usable(&world).await;
        let order = car.begin_to_pay(&text).await;
        car.finish_paying(order, &text).await;
        if why.is_none() {
            break;
        }
        car.hang_up();
        keeper.stop().await;
    }
    // When the device connects; and in the payment for two commitments of the bridge's and two secrets.
    assert_eq!(crashes, 5);
    car.finish_together(&world).await;
}

/// Connects and pays. Gives why that ended before everything was settled; `None` when it did not.
async fn pay_until_the_store_dies(world: &World, car: &mut Car, text: &str) -> Option<NotAcknowledged> {
    let (ours, theirs) = car.links().await;
    let gateway = world.gateway.clone();
    tokio::spawn(async move { drop(gateway.serve_link(theirs).await) });
    match car.try_to_greet(ours).await {
        Ok(()) => {}
        Err(ConnectionError::OwnerStore(why)) => return Some(why),
        Err(other) => panic!("{other}"),
    }
    car.usable(world).await;
    let hash = Invoice::parse(text, Network::Regtest).unwrap().payment_hash();
    car.begin_to_pay(text).await;
    loop {
        let account = car.state().account().clone();
        if account.payments().paid(&hash).is_some() && account.is_settled() {
            return None;
        }
        match car.hear().await {
            Ok(_) => {}
            Err(ConnectionError::OwnerStore(why)) => return Some(why),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Answers so many messages of one connection, and dies when it has carried out the next one.
async fn die_after(
    listener: TcpListener,
    key: StaticKey,
    answers: usize,
    mut keep: impl FnMut(ToStore) -> FromStore,
) {
    let (stream, _) = listener.accept().await.unwrap();
    let link = Link::accept(stream, &key).await.unwrap();
    let (mut sender, mut receiver) = link.split();
    for answered in 0..=answers {
        let message = ToStore::from_bytes(&receiver.receive().await.unwrap()).unwrap();
        let answer = keep(message);
        if answered < answers {
            sender.send(&answer.to_bytes()).await.unwrap();
        }
    }
}

/// The store comes back from an old copy, with a state that was revoked since. The device brings the newest before it greets the gateway: from
/// then on the owner closes with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_store_is_put_right_by_the_device() {
    let world = World::start().await;
    let (mut keeper, mut car) = Keeper::with_a_car().await;
    car.connect(&world.gateway).await;
    car.open(&world).await;
    let path = keeper.home.path().join("store.sqlite");
    let old = std::fs::read(&path).unwrap();
    car.pay(&world.destination.invoice(20_000_000)).await;
    let balance = car.balance().floor();
    let (backup, enrolment) = (car.backup(), car.enrolled.enrolment.clone());
    car.hang_up();
    keeper.stop().await;
    for file in ["store.sqlite-wal", "store.sqlite-shm"] {
        let _not_there = std::fs::remove_file(keeper.home.path().join(file));
    }
    std::fs::write(&path, old).unwrap();
    keeper.start(&mut car).await;
    car.connect(&world.gateway).await;
    car.hang_up();
    world.gateway.stop();

    let car = car.lose();
    let ended = keeper.close(&world, &backup, &enrolment);
    world.mine(1 + u32::from(ended.delay()));
    let fee = car.sweep(&world, &ended.claims);
    assert_eq!(world.cold(), balance - commitment_fee(0) - fee);
}
