//! A device's connection, from its first message to its end.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::block::Header;
use bitcoin::{Amount, BlockHash};
use farthing_chain::ChainError;
use farthing_protocol::device::wire::{
    ChannelKeysId, Enrol, Hello, Order, Report, ToDevice, ToGateway, Welcome,
};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::MissedTickBehavior;

use crate::caller::{Caller, Reply};
use crate::channels::OrderError;
use crate::clerk::Clerk;
use crate::gateway::Gateway;
use crate::greeting;
pub use crate::greeting::NoHello;
use crate::headers::{Page, Position};
use crate::records::{ChannelRecord, DeviceRecord, Stage};

/// How long somebody who is not enrolled is listened to. A device enrols right after the greeting.
const STRANGER: Duration = Duration::from_secs(60);
/// How long an order waits for what it needs: opening for a key, closing until nothing of the channel is being stored.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a session looks for new blocks, and whether what orders wait for is there: as often as the node looks for blocks, within these.
const LEAST_TICK: Duration = Duration::from_millis(50);
const MOST_TICK: Duration = Duration::from_secs(1);
/// How many orders of one device may wait at once.
const MOST_WAITING: usize = 64;
/// How many orders of one device are tried between two ticks: to look for a way may take milliseconds.
const MOST_TRIES: usize = 8;
/// How long a payment waits until the bridge is connected again, and for the map of the network: both are missing right after a start.
const PAYING: Duration = Duration::from_secs(15);

/// A device's end of a connection, authenticated.
pub struct Connection {
    /// The device's static key.
    pub device: [u8; 32],
    /// The hash of the handshake, to which both sides contributed.
    pub hash: [u8; 32],
    /// What comes from the device. Ends with the connection.
    pub incoming: mpsc::Receiver<ToGateway>,
    /// What goes to it, at most [`MOST_UNREAD`](crate::caller::MOST_UNREAD) messages.
    pub outgoing: mpsc::Sender<ToDevice>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The device did not say hello.
    #[error(transparent)]
    NoHello(#[from] NoHello),
    /// It stayed a stranger.
    #[error("nobody enrolled this device within {} seconds", STRANGER.as_secs())]
    Stranger,
    /// It is on another chain.
    #[error("the device is on another network")]
    Network,
    /// The bitcoind.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The process ends.
    #[error("the work on headers was given up: {0}")]
    Work(#[from] JoinError),
}

impl Gateway {
    /// Serves a device until its connection ends.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn serve(self: &Arc<Self>, connection: Connection) -> Result<(), SessionError> {
        let Connection { device, hash, mut incoming, outgoing } = connection;
        let hello = greeting::hear(&mut incoming, greeting::PATIENCE).await?;
        if hello.network != self.chain.network() {
            return Err(SessionError::Network);
        }
        let caller = Arc::new(Caller::new(outgoing, hash));
        let mut session = Session {
            gateway: self.clone(),
            device,
            caller,
            hello,
            sent: None,
            rung: None,
            reading: JoinSet::new(),
            clerk: None,
            wanted: VecDeque::new(),
            tries: 0,
        };
        session.run(&mut incoming, STRANGER).await
    }
}

struct Session {
    gateway: Arc<Gateway>,
    device: [u8; 32],
    caller: Arc<Caller>,
    hello: Hello,
    /// The last header that was sent; `None` before the first page.
    sent: Option<Position>,
    /// The newest block with which the clerk was woken.
    rung: Option<BlockHash>,
    /// The page that is read for the device, one at a time. It is not read any more when the connection has ended before its turn.
    reading: JoinSet<Result<Page, SessionError>>,
    clerk: Option<JoinHandle<()>>,
    /// Orders that wait for what they need, or for their turn.
    wanted: VecDeque<Wanted>,
    /// How many were tried since the last tick.
    tries: usize,
}

/// An order that waits.
struct Wanted {
    id: u64,
    what: What,
    until: Instant,
}

/// What became of an order.
enum Carried {
    /// It was carried out, or never will be; with what the device is told at once.
    Done(Option<Report>),
    /// It may be carried out later. What the device is told when that is too late.
    NotYet(Report),
}

enum What {
    Open(Amount),
    Close(ChannelKeysId),
    Pay(ChannelKeysId, String),
}

impl What {
    fn patience(&self) -> Duration {
        match self {
            Self::Open(_) | Self::Close(_) => PATIENCE,
            Self::Pay(..) => PAYING,
        }
    }
}

impl Drop for Session {
    /// Whatever ended the connection: nobody waits for it any longer.
    fn drop(&mut self) {
        self.caller.hang_up();
        if let Some(clerk) = self.clerk.take() {
            clerk.abort();
        }
        let mut books = self.gateway.books();
        let is_this = books.sessions.get(&self.device).is_some_and(|other| Arc::ptr_eq(other, &self.caller));
        if is_this {
            books.sessions.remove(&self.device);
            // Numbers of orders begin anew with the next connection: a report about one of these would be taken for another's.
            books.forget_orders(&self.device);
        }
    }
}

impl Session {
    async fn run(
        &mut self,
        incoming: &mut mpsc::Receiver<ToGateway>,
        patience: Duration,
    ) -> Result<(), SessionError> {
        self.welcome();
        // One comes even when nothing is new: the device waits for it before it decides by the chain's time.
        self.read_on();
        match self.reading.join_next().await {
            Some(page) => self.send(page??),
            None => self.send_headers(Vec::new()),
        }
        self.attend();
        let mut ticks = tokio::time::interval(self.gateway.settings.poll.clamp(LEAST_TICK, MOST_TICK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stranger = std::pin::pin!(tokio::time::sleep(patience));
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some(message) => self.take(message),
                    None => return Ok(()),
                },
                Some(page) = self.reading.join_next() => self.send(page??),
                // The device has a newer connection.
                () = self.caller.ended() => return Ok(()),
                _ = ticks.tick() => {
                    self.ring();
                    self.read_on();
                    self.try_wanted();
                }
                () = &mut stranger, if self.clerk.is_none() => return Err(SessionError::Stranger),
            }
        }
    }

    fn welcome(&self) {
        let settings = &self.gateway.settings;
        let enrolled = self.gateway.books().devices.contains_key(&self.device);
        let policy = self.gateway.policy(self.device).map_or(0, |policy| policy.version);
        let welcome = Welcome { enrolled, fee_ppm: settings.fee_ppm, fee_base: settings.fee_base, policy };
        let _gone = self.caller.send(ToDevice::Welcome(welcome));
    }

    /// Wakes the clerk with each new block: what was looked for on the chain may be there now. Not with the headers: the node may see a block
    /// after the page that holds it was read.
    fn ring(&mut self) {
        let newest = self.gateway.node.channels.current_best_block().block_hash;
        if self.clerk.is_some() && self.rung.replace(newest) != Some(newest) {
            self.gateway.books().bell(self.device).notify_one();
        }
    }

    /// Has the next page of headers read, if there is anything new for the device.
    fn read_on(&mut self) {
        // Whoever may connect would cost the bitcoind whatever they like.
        let is_enrolled = self.gateway.books().devices.contains_key(&self.device);
        // And a device that reads slowly is sent no more of them than it reads.
        if !is_enrolled || !self.reading.is_empty() || self.caller.is_crowded() {
            return;
        }
        // The node looks for blocks anyway: a device that waits costs the bitcoind nothing.
        let newest = self.gateway.node.channels.current_best_block().block_hash;
        if self.sent.is_some_and(|(_, hash)| hash == newest) {
            return;
        }
        let (gateway, sent, said) = (self.gateway.clone(), self.sent, self.hello.tip);
        self.reading.spawn(async move {
            let turn = gateway.header_readers.clone().acquire_owned().await;
            let read = move || {
                let page = Page::read(&gateway.chain, sent, said);
                drop(turn);
                page
            };
            Ok(spawn_blocking(read).await??)
        });
    }

    fn send(&mut self, page: Page) {
        let is_first = self.sent.replace(page.up_to).is_none();
        let is_full = page.is_full();
        if is_first || !page.headers.is_empty() {
            self.send_headers(page.headers);
        }
        if is_full {
            self.read_on();
        }
    }

    fn send_headers(&self, headers: Vec<Header>) {
        let _gone = self.caller.send(ToDevice::Headers(headers));
    }

    /// Begins to serve the device's channels, if it is enrolled. A device has one connection: an older one is over.
    fn attend(&mut self) {
        {
            let mut books = self.gateway.books();
            if !books.devices.contains_key(&self.device) || self.clerk.is_some() {
                return;
            }
            if let Some(older) = books.sessions.insert(self.device, self.caller.clone()) {
                older.hang_up();
                books.forget_orders(&self.device);
            }
            // What stood still is tried again.
            let channels = books.devices.get(&self.device).map(|record| record.channels.clone());
            for channel in channels.unwrap_or_default() {
                if self.gateway.bans.of(&channel).is_none() {
                    books.trouble.remove(&channel);
                }
            }
        }
        self.forget_keys();
        let (gateway, caller) = (self.gateway.clone(), self.caller.clone());
        let clerk = Clerk::new(gateway, self.device, caller, &self.hello.channels);
        self.clerk = Some(tokio::spawn(clerk.work()));
    }

    /// A device that came back from its owner's backup has none of the keys that were kept ready. Channels over them could not be opened.
    fn forget_keys(&self) {
        let has = |id: &[u8; 32]| self.hello.channels.iter().any(|(channel, _)| channel.0 == *id);
        let lost: Vec<[u8; 32]> = {
            let books = self.gateway.books();
            let is_lost = |(id, record): &(&[u8; 32], &ChannelRecord)| {
                record.device == self.device && record.stage == Stage::Ready && !has(id)
            };
            books.channels.iter().filter(is_lost).map(|(id, _)| *id).collect()
        };
        for id in lost {
            if let Err(error) = self.gateway.remove_keys(self.device, id) {
                tracing::error!(%error, "a key that the device lost is not removed");
            }
        }
    }

    fn take(&mut self, message: ToGateway) {
        match message {
            ToGateway::Answer { id, answer } => self.caller.take(id, Reply::Answer(answer)),
            ToGateway::Round { id, messages } => self.caller.take(id, Reply::Round(messages)),
            ToGateway::Order { id, order } => {
                if let Some(report) = self.carry_out(id, order) {
                    self.caller.report(id, report);
                }
            }
            // It comes once.
            ToGateway::Hello(_) => {}
        }
    }

    /// What the device wants. `None` when the answer comes later.
    fn carry_out(&mut self, id: u64, order: Order) -> Option<Report> {
        let is_enrolled = self.gateway.books().devices.contains_key(&self.device);
        let refused = |why: String| Some(Report::Refused { why });
        if !is_enrolled && !matches!(order, Order::Enrol(_)) {
            return refused("this device is not enrolled here".into());
        }
        let (gateway, device) = (&self.gateway, self.device);
        match order {
            Order::Enrol(enrol) => match self.enrol(enrol) {
                Ok(()) => {
                    self.attend();
                    self.read_on();
                    Some(Report::Done)
                }
                Err(why) => refused(why),
            },
            Order::Policy(policy) => match gateway.new_policy(device, policy) {
                Ok(()) => Some(Report::Done),
                Err(why) => refused(why),
            },
            Order::Open { capacity } => {
                self.want(id, What::Open(capacity));
                None
            }
            Order::Funding { channel, outpoint } => {
                {
                    let mut books = gateway.books();
                    if books.channels.get(&channel.0).is_some_and(|record| record.device == device) {
                        books.opening_orders.insert(channel.0, id);
                    }
                }
                match gateway.funding(device, channel.0, outpoint) {
                    Ok(()) => {
                        gateway.ask_again(channel.0);
                        None
                    }
                    Err(error) => refused(error.to_string()),
                }
            }
            Order::Pay { channel, invoice } => {
                self.want(id, What::Pay(channel, invoice));
                None
            }
            Order::Close { channel } => {
                self.want(id, What::Close(channel));
                None
            }
            Order::Status { channel } => Some(gateway.status_of(device, channel.0)),
        }
    }

    fn want(&mut self, id: u64, what: What) {
        if self.wanted.len() >= MOST_WAITING {
            let why = format!("{MOST_WAITING} orders of this device wait already");
            return self.caller.report(id, Report::Refused { why });
        }
        self.wanted.push_back(Wanted { id, until: Instant::now() + what.patience(), what });
        // Only this one: those that wait have their turn with the next tick, however many orders come.
        if self.tries < MOST_TRIES
            && let Some(newest) = self.wanted.pop_back()
        {
            self.try_one(newest);
        }
    }

    /// Carries out what waits, as soon as there is what it needs.
    fn try_wanted(&mut self) {
        self.tries = 0;
        for _ in 0..self.wanted.len().min(MOST_TRIES) {
            if let Some(oldest) = self.wanted.pop_front() {
                self.try_one(oldest);
            }
        }
    }

    fn try_one(&mut self, wanted: Wanted) {
        self.tries += 1;
        let (is_late, id) = (Instant::now() >= wanted.until, wanted.id);
        match self.carry_on(&wanted) {
            Carried::Done(Some(report)) => self.caller.report(id, report),
            // The report comes with what LDK says of it.
            Carried::Done(None) => {}
            Carried::NotYet(why) if is_late => self.caller.report(id, why),
            Carried::NotYet(_) => self.wanted.push_back(wanted),
        }
    }

    fn carry_on(&self, wanted: &Wanted) -> Carried {
        let refused = |error: &dyn Display| Report::Refused { why: error.to_string() };
        let (gateway, id) = (&self.gateway, wanted.id);
        let ordered = match &wanted.what {
            What::Open(capacity) => gateway.open_channel(self.device, *capacity, id),
            What::Close(channel) => gateway.close(self.device, channel.0, id),
            What::Pay(channel, invoice) => {
                return match gateway.pay(self.device, channel.0, invoice, id) {
                    Ok(report) => Carried::Done(Some(report)),
                    Err(error) => {
                        let report = gateway.not_paid(invoice, &error).unwrap_or_else(|| refused(&error));
                        if gateway.may_pass(&error) {
                            Carried::NotYet(report)
                        } else {
                            Carried::Done(Some(report))
                        }
                    }
                };
            }
        };
        match ordered {
            Ok(()) => Carried::Done(None),
            Err(error @ (OrderError::NoKey | OrderError::NotNow(_))) => Carried::NotYet(refused(&error)),
            Err(error) => Carried::Done(Some(refused(&error))),
        }
    }

    fn enrol(&self, enrol: Enrol) -> Result<(), String> {
        if enrol.invitation != self.gateway.settings.invitation {
            return Err("this gateway wants an invitation".into());
        }
        if enrol.policy.clone().verify(&enrol.owner).is_none() {
            return Err("the policy is not signed by the owner".into());
        }
        // From reading to storing: a policy that the owner sends at the same time must not be lost.
        let mut books = self.gateway.books();
        let record = match books.devices.get(&self.device) {
            // The owner stays who it was.
            Some(known) if known.enrol.owner != enrol.owner => {
                return Err("this device is enrolled for another owner".into());
            }
            Some(known) => {
                DeviceRecord { enrol: Enrol { policy: known.enrol.policy.clone(), ..enrol }, ..known.clone() }
            }
            None if books.devices.len() >= self.gateway.settings.limits.devices => {
                return Err("this gateway serves as many devices as it may".into());
            }
            None => DeviceRecord { enrol, channels: Vec::new() },
        };
        self.gateway.save_device(self.device, &record).map_err(|error| error.to_string())?;
        books.devices.insert(self.device, record);
        Ok(())
    }
}
