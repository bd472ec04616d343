//! A device as users have it: a folder on a disk, the program's own session and link around the machine; and its owner on another
//! machine.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::constants::genesis_block;
use bitcoin::{Amount, FeeRate, Network, OutPoint, Transaction};
use farthing_chain::OutputStatus;
use farthing_gateway::gateway::Gateway;
use farthing_node::device::alone::Ended;
use farthing_node::device::connection::now;
use farthing_node::device::store::{Enrolled, Outcome, Paid};
use farthing_node::device::{Backup, Card, Connection, ConnectionError, Device, DeviceHome, Said};
use farthing_node::link::{GatewayAddress, Link, LinkError, StaticKey, pair};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Preimage, fees};
use farthing_protocol::device::headers::Checkpoint;
use farthing_protocol::device::owner::{Claim, OwnerKeys};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::wire::*;
use farthing_protocol::device::{Enrolment, Input, Invoice, Policy, State};
use farthing_protocol::keys::Seed;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::world::*;

/// What a sweep of the owner's pays.
pub const SWEEP: FeeRate = FeeRate::from_sat_per_kwu(1_000);
/// What a commitment pays, as `open_gateway` has it.
pub const RATE: FeeRate = FeeRate::from_sat_per_kwu(1_000);
/// How long the gateway is listened to between two looks at something else.
const MOMENT: Duration = Duration::from_millis(20);

/// The gateway's key on links.
pub fn gateway_key() -> StaticKey {
    StaticKey::new([0x41; 32])
}

/// The device and its owner.
pub struct Car {
    pub owner: OwnerKeys,
    pub enrolled: Enrolled,
    pub home: DeviceHome,
    _folder: TempDir,
    device: Option<Device>,
    connection: Option<Connection>,
    /// What its payments came to, fees included.
    pub spent: Msat,
}

impl Car {
    /// Enrolled on its own disk; no gateway knows it yet.
    pub fn new() -> Self {
        Self::with(policy())
    }

    /// The same, under another policy.
    pub fn with(policy: Policy) -> Self {
        Self::made(policy, None)
    }

    /// A device that waits for a store of its owner's.
    pub fn waiting_for(store: &GatewayAddress) -> Self {
        Self::made(policy(), Some(store))
    }

    fn made(policy: Policy, store: Option<&GatewayAddress>) -> Self {
        let owner = Seed::new([9; 64], Network::Regtest).owner_keys(0);
        let enrolment = Enrolment {
            owner: owner.policy(),
            payment: owner.payment(),
            delayed_payment: owner.delayed_payment(),
            ..enrolment()
        };
        let enrolled = Enrolled {
            name: "car".into(),
            gateway: format!("{}@127.0.0.1:1", "00".repeat(32)),
            enrolment,
            policy: owner.sign(policy),
            checkpoint: Checkpoint { height: 0, header: genesis_block(Network::Regtest).header },
        };
        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let home = DeviceHome::of(folder.path(), Network::Regtest);
        home.make().unwrap();
        let (secret, database) = (home.secret().unwrap(), home.store().unwrap());
        let device = Device::enrol_with(secret, database, &enrolled, store).unwrap();
        let (device, connection) = (Some(device), None);
        Self { owner, enrolled, home, _folder: folder, device, connection, spent: Msat::ZERO }
    }

    /// What the owner keeps since the enrolment.
    pub fn backup(&mut self) -> Backup {
        let Enrolled { name, gateway, enrolment, policy, checkpoint } = self.enrolled.clone();
        let secret = bitcoin::hex::DisplayHex::to_lower_hex_string(&self.device().secret().expose()[..]);
        let identity = self.device().secret().identity();
        let store = self.device().owner_store().map(ToString::to_string);
        let card = Card { name, number: 0, enrolment, policy, checkpoint };
        Backup { secret, gateway, identity, card, store }
    }

    /// The device is lost with all that it had stored. What its owner has left is put into a new one.
    pub fn lose(mut self) -> Self {
        let backup = self.backup();
        let Self { owner, spent, .. } = self;
        let (secret, enrolled) = backup.restored().unwrap();
        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let home = DeviceHome::of(folder.path(), Network::Regtest);
        home.restore(&secret).unwrap();
        let device = Device::enrol(home.secret().unwrap(), home.store().unwrap(), &enrolled).unwrap();
        let (device, connection) = (Some(device), None);
        Self { owner, enrolled, home, _folder: folder, device, connection, spent }
    }

    pub fn device(&mut self) -> &mut Device {
        match &mut self.connection {
            Some(connection) => connection.device(),
            None => self.device.as_mut().unwrap(),
        }
    }

    /// Where its one channel stands.
    pub fn state(&mut self) -> State {
        let mut lives = self.device().lives();
        let (_, life) = lives.next().expect("a channel has begun");
        assert!(lives.next().is_none(), "there is one channel");
        life.state().clone()
    }

    pub fn balance(&mut self) -> Msat {
        self.state().account().balance().unwrap()
    }

    /// By which the gateway knows it.
    pub fn link_key(&mut self) -> [u8; 32] {
        StaticKey::new(*self.device().secret().link()).public()
    }

    /// Both ends of a new link, after a real handshake: the device's, the gateway's.
    pub async fn links(&mut self) -> (Link, Link) {
        let own = StaticKey::new(*self.device().secret().link());
        pair(&own, &gateway_key()).await.unwrap()
    }

    /// Greets whoever has the other end.
    pub async fn greet(&mut self, link: Link) {
        self.try_to_greet(link).await.unwrap();
    }

    /// The same, if its owner's store lets it. Else it starts from its disk again.
    pub async fn try_to_greet(&mut self, link: Link) -> Result<(), ConnectionError> {
        let device = self.device.take().expect("it is not connected");
        match Connection::over(device, link).await {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => {
                self.device = Some(self.home.device().unwrap());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Connects to the real gateway.
    pub async fn connect(&mut self, gateway: &Arc<Gateway>) {
        let (ours, theirs) = self.links().await;
        self.connect_over(gateway, ours, theirs).await;
    }

    /// The same, over a link that a test made.
    pub async fn connect_over(&mut self, gateway: &Arc<Gateway>, ours: Link, theirs: Link) {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            if let Err(error) = gateway.serve_link(theirs).await {
                eprintln!("a link ended: {error}");
            }
        });
        self.greet(ours).await;
    }

    /// The connection is cut.
    pub fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.device = Some(connection.into_device());
        }
    }

    /// Power is cut: nothing is closed in good order, and everything is read from the disk again.
    pub fn power_cut(&mut self) {
        self.hang_up();
        std::mem::forget(self.device.take());
        let mut device = self.home.device().unwrap();
        device.resume().unwrap();
        self.device = Some(device);
    }

    /// Takes one message of the gateway's and answers it.
    pub async fn hear(&mut self) -> Result<Vec<Said>, ConnectionError> {
        self.hear_for(PATIENCE).await
    }

    /// The same, with less patience.
    pub async fn hear_for(&mut self, patience: Duration) -> Result<Vec<Said>, ConnectionError> {
        self.connection.as_mut().expect("it is connected").next(Instant::now() + patience).await
    }

    /// Answers the gateway until something is so.
    pub async fn answer_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            match self.hear_for(MOMENT).await {
                Ok(_) | Err(ConnectionError::Link(LinkError::Silent)) => {}
                Err(error) => panic!("{error} while waiting: {what}"),
            }
        }
    }

    /// Answers until the gateway asks once more what is to be done about a closing of the bridge's, as it does with each block.
    pub async fn asked_about_the_end(&mut self) {
        let is_asked = |said: &Said| match said {
            Said::ClosedByBridge(..) => true,
            // It is none in force.
            Said::Refused { rule, .. } => rule == "onchain-known-commitment",
            _other => false,
        };
        while !self.hear().await.unwrap().iter().any(is_asked) {}
    }

    pub async fn order(&mut self, order: Order) -> u64 {
        self.connection.as_mut().expect("it is connected").order(order).await.unwrap()
    }

    /// The next report about an order, `Paying` aside.
    pub async fn report(&mut self, order: u64) -> Report {
        loop {
            for said in self.hear().await.unwrap() {
                match said {
                    Said::Report(id, Report::Paying(_)) if id == order => {}
                    Said::Report(id, report) if id == order => return report,
                    _other => {}
                }
            }
        }
    }

    async fn asked(&mut self, order: Order) -> Report {
        let order = self.order(order).await;
        self.report(order).await
    }

    /// Has the gateway serve it.
    pub async fn enrol(&mut self) {
        let Enrolled { name, enrolment, policy, .. } = self.enrolled.clone();
        let identity = self.device().secret().identity();
        let enrol = Enrol { invitation: String::new(), name, identity, owner: enrolment.owner, policy };
        assert_eq!(self.asked(Order::Enrol(enrol)).await, Report::Done);
    }

    /// Opens a channel over a coin of the owner's, who signs when the device says that it may, and not before.
    pub async fn open(&mut self, world: &World) -> ChannelKeysId {
        self.enrol().await;
        let Report::FundingWanted { channel, script, .. } =
            self.asked(Order::Open { capacity: CAPACITY }).await
        else {
            panic!("the bridge agrees")
        };
        let (unsigned, coin) = funding(world, script);
        let outpoint = OutPoint { txid: unsigned.compute_txid(), vout: 0 };
        let order = self.order(Order::Funding { channel, outpoint }).await;
        let mut statement = None;
        loop {
            let heard = self.hear().await.unwrap();
            let is_over = heard.iter().any(|said| matches!(said, Said::Report(id, _) if *id == order));
            for said in heard {
                match said {
                    Said::Funded(_, said) => statement = Some(said),
                    Said::Report(id, report) if id == order => {
                        assert_eq!(report, Report::Funded { channel });
                    }
                    _other => {}
                }
            }
            if is_over {
                break;
            }
        }
        let statement = statement.expect("the device speaks to its owner first");
        assert!(statement.is_from(&self.device().secret().identity()));
        assert_eq!((statement.outpoint, statement.value), (outpoint, CAPACITY));
        world.chain.broadcast(&sign(unsigned, &coin)).unwrap();
        world.mine(7);
        self.usable(world).await;
        channel
    }

    /// Answers until the gateway can pay from the channel.
    pub async fn usable(&mut self, world: &World) {
        let gateway = world.gateway.clone();
        self.answer_until("the channel is usable", |car| {
            let (channel, _) = car.device().lives().next().unwrap();
            gateway.details(channel.0).is_some_and(|details| details.is_usable)
        })
        .await;
    }

    /// Approves an invoice, as `farthing device pay` does.
    pub fn approve(&mut self, text: &str) -> Invoice {
        let invoice = Invoice::parse(text, Network::Regtest).unwrap();
        let tip = self.device().headers().tip();
        let (channel, _) = self.device().paying().unwrap();
        let input = Input::Approve { invoice, source: Source::Direct, tip };
        self.device().give(channel, input).unwrap();
        let amount_msat = invoice.amount().get();
        let paid = Paid { invoice: text.into(), amount_msat, outcome: Outcome::Pending };
        self.device().store().note(&invoice.payment_hash().0, channel, &paid, now()).unwrap();
        invoice
    }

    /// Approves an invoice and orders its payment.
    pub async fn begin_to_pay(&mut self, text: &str) -> u64 {
        let hash = Invoice::parse(text, Network::Regtest).unwrap().payment_hash();
        // It may have gone through before a cut, and the report about it was lost.
        if self.state().account().payments().paid(&hash).is_none() {
            self.approve(text);
        }
        let (channel, _) = self.device().paying().unwrap();
        self.order(Order::Pay { channel, invoice: text.into() }).await
    }

    /// Pays, and stays until both sides have one state.
    pub async fn pay(&mut self, text: &str) -> Preimage {
        let order = self.begin_to_pay(text).await;
        self.finish_paying(order, text).await
    }

    /// Waits for the proof of a payment.
    pub async fn finish_paying(&mut self, order: u64, text: &str) -> Preimage {
        let invoice = Invoice::parse(text, Network::Regtest).unwrap();
        let report = self.report(order).await;
        let Report::Paid { preimage, fee } = report else { panic!("paid, not {report:?}") };
        assert_eq!(preimage.hash(), invoice.payment_hash());
        self.spent = self.spent.saturating_add(invoice.amount()).saturating_add(fee);
        self.settle().await;
        preimage
    }

    /// Stays until both sides have one state, and nothing is under way.
    pub async fn settle(&mut self) {
        self.answer_until("the states settle", |car| car.state().account().is_settled()).await;
        let owed = Msat::from_amount(CAPACITY).unwrap().saturating_sub(self.spent);
        assert_eq!(self.balance(), owed, "by the device's own books");
    }

    /// Has a payment locked in at a destination that does not claim it.
    pub async fn lock_in(&mut self, world: &mut World, preimage: &Preimage, msat: u64) -> u64 {
        let invoice = world.destination.node.hold_invoice(msat, preimage.hash()).unwrap();
        let order = self.begin_to_pay(&invoice).await;
        let news = &mut world.destination.news;
        let mut is_there = false;
        self.answer_until("the HTLC is at the destination", |_| {
            while let Ok(told) = news.try_recv() {
                is_there |= told == farthing_gateway::ordinary::News::Waiting(preimage.hash());
            }
            is_there
        })
        .await;
        order
    }

    /// Closes with nothing but a bitcoind, or goes on with it.
    pub fn close_alone(&mut self, world: &World) -> Ended {
        let mut closed = self.device().close_alone(&world.chain);
        assert_eq!(closed.len(), 1, "there is one channel");
        let (_, ended) = closed.remove(0);
        ended.unwrap()
    }

    /// The owner brings what is in the chain to the cold address. Gives what it paid to miners.
    pub fn sweep(&self, world: &World, claims: &[Claim]) -> Amount {
        let is_there = |claim: &&Claim| {
            matches!(world.chain.output(&claim.outpoint).unwrap(), OutputStatus::Confirmed { .. })
        };
        let there: Vec<Claim> = claims.iter().filter(is_there).cloned().collect();
        let swept = self.owner.sweep(&there, &script(COLD), SWEEP).expect("it is worth the fee");
        world.chain.broadcast(&swept).unwrap();
        world.mine(1);
        let claimed: Amount = there.iter().map(|claim| claim.value).sum();
        claimed - swept.output[0].value
    }

    /// Nothing is lost by what a hostile gateway did: with the real one it pays as before, and closes to the satoshi.
    pub async fn goes_on(&mut self, world: &mut World) {
        self.hang_up();
        world.restart_gateway().await;
        self.connect(&world.gateway).await;
        self.usable(world).await;
        self.pay(&world.destination.invoice(20_000_000)).await;
        self.finish_together(world).await;
    }

    /// All three close together; the cold address gets the balance less the closing's fee, to the satoshi.
    pub async fn finish_together(&mut self, world: &World) {
        let (channel, _) = self.device().paying().expect("the channel is open");
        let balance = self.balance();
        let before = world.cold();
        let report = self.asked(Order::Close { channel }).await;
        let Report::Closed(txid) = report else { panic!("closed, not {report:?}") };
        let closing = world.chain.mempool_transaction(&txid).unwrap().expect("it is on its way");
        world.mine(1);
        let fee = fee_of(&closing, CAPACITY);
        assert!(fee < Amount::from_sat(2_000), "{fee}");
        let owed = Msat::from_amount(CAPACITY).unwrap().saturating_sub(self.spent);
        assert_eq!(balance, owed, "by the device's own books");
        // The bridge's part is in whole satoshi too; what both round down goes to the miner.
        let rounded = CAPACITY - owed.floor() - self.spent.floor();
        assert_eq!(world.cold() - before + fee, owed.floor() + rounded);
    }
}

/// What a transaction pays to miners.
pub fn fee_of(transaction: &Transaction, spent: Amount) -> Amount {
    spent - transaction.output.iter().map(|output| output.value).sum::<Amount>()
}

/// What a commitment with so many HTLC outputs pays to miners, out of the owner's side.
pub fn commitment_fee(htlcs: usize) -> Amount {
    fees::fee(RATE, fees::commitment_weight(htlcs))
}
