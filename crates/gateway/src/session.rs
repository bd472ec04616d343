//! A device's connection, from its first message to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::{Amount, BlockHash};
use farthing_chain::{Chain, ChainError};
use farthing_protocol::device::wire::{
    ChannelKeysId, Enrol, Hello, MOST_HEADERS, Order, Report, ToDevice, ToGateway, Welcome,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::caller::{Caller, Reply};
use crate::clerk::Clerk;
use crate::gateway::{Gateway, OrderError};
use crate::records::DeviceRecord;

/// A device that does not know our chain gets headers from this many blocks below where it stands.
const BACK: u32 = 100;
/// How long an order waits for what it needs: opening for a key, closing until nothing of the channel is being stored.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device's end of a connection, authenticated.
pub struct Connection {
    /// The device's static key.
    pub device: [u8; 32],
    /// The hash of the handshake, to which both sides contributed.
    pub hash: [u8; 32],
    /// What comes from the device. Ends with the connection.
    pub incoming: mpsc::UnboundedReceiver<ToGateway>,
    /// What goes to it.
    pub outgoing: mpsc::UnboundedSender<ToDevice>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The device began with something else.
    #[error("the device did not begin with a hello")]
    NoHello,
    /// It is on another chain.
    #[error("the device is on another network")]
    Network,
    /// The bitcoind.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Gateway {
    /// Serves a device until its connection ends.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn serve(self: &Arc<Self>, connection: Connection) -> Result<(), SessionError> {
        let Connection { device, hash, mut incoming, outgoing } = connection;
        let Some(ToGateway::Hello(hello)) = incoming.recv().await else { return Err(SessionError::NoHello) };
        if hello.network != self.chain.network() {
            return Err(SessionError::Network);
        }
        let caller = Arc::new(Caller::new(outgoing, hash));
        let mut session = Session {
            gateway: self.clone(),
            device,
            sent: start_of_headers(&self.chain, &hello)?,
            caller,
            hello,
            clerk: None,
            wanted: Vec::new(),
        };
        session.run(&mut incoming).await
    }
}

struct Session {
    gateway: Arc<Gateway>,
    device: [u8; 32],
    caller: Arc<Caller>,
    hello: Hello,
    /// The last header that the device has.
    sent: (u32, BlockHash),
    clerk: Option<JoinHandle<()>>,
    /// Orders that wait for what they need.
    wanted: Vec<Wanted>,
}

/// An order that waits.
struct Wanted {
    id: u64,
    what: What,
    until: Instant,
}

#[derive(Clone, Copy)]
enum What {
    Open(Amount),
    Close(ChannelKeysId),
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
        }
    }
}

impl Session {
    async fn run(&mut self, incoming: &mut mpsc::UnboundedReceiver<ToGateway>) -> Result<(), SessionError> {
        self.welcome();
        // One comes even when nothing is new: the device waits for it before it decides by the chain's time.
        let is_first = true;
        self.headers(is_first)?;
        self.attend();
        let mut ticks = tokio::time::interval(self.gateway.settings.poll.max(Duration::from_millis(50)));
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some(message) => self.take(message),
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    self.headers(false)?;
                    self.try_wanted();
                }
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

    /// Sends what is new in the chain.
    fn headers(&mut self, is_first: bool) -> Result<(), SessionError> {
        let chain = &self.gateway.chain;
        let (mut height, mut hash) = self.sent;
        // Back to where the device's chain is still the node's.
        while chain.block_hash(height)? != Some(hash) {
            hash = chain.header(&hash)?.prev_blockhash;
            height = height.saturating_sub(1);
        }
        loop {
            let mut headers = Vec::new();
            while headers.len() < MOST_HEADERS {
                let Some(next) = chain.block_hash(height + 1)? else { break };
                let header = chain.header(&next)?;
                if header.prev_blockhash != hash {
                    break;
                }
                headers.push(header);
                (height, hash) = (height + 1, next);
            }
            let is_new = self.sent != (height, hash);
            self.sent = (height, hash);
            if is_new || is_first {
                let is_last = headers.len() < MOST_HEADERS;
                let _gone = self.caller.send(ToDevice::Headers(headers));
                if !is_last {
                    continue;
                }
            }
            return Ok(());
        }
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
            }
        }
        let (gateway, caller) = (self.gateway.clone(), self.caller.clone());
        let clerk = Clerk::new(gateway, self.device, caller, &self.hello.channels);
        self.clerk = Some(tokio::spawn(clerk.work()));
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
                gateway.books().opening_orders.insert(channel.0, id);
                match gateway.funding(device, channel.0, outpoint) {
                    Ok(()) => {
                        gateway.ask_again(channel.0);
                        None
                    }
                    Err(error) => refused(error.to_string()),
                }
            }
            Order::Pay { channel, invoice } => match gateway.pay(device, channel.0, &invoice, id) {
                Ok(report) => Some(report),
                Err(error) => gateway.not_paid(&invoice, &error).or_else(|| refused(error.to_string())),
            },
            Order::Close { channel } => {
                self.want(id, What::Close(channel));
                None
            }
            Order::Status { channel } => Some(gateway.status_of(device, channel.0)),
        }
    }

    fn want(&mut self, id: u64, what: What) {
        self.wanted.push(Wanted { id, what, until: Instant::now() + PATIENCE });
        self.try_wanted();
    }

    /// Carries out what waits, as soon as there is a key, or the channel rests.
    fn try_wanted(&mut self) {
        for wanted in std::mem::take(&mut self.wanted) {
            let Wanted { id, what, until } = wanted;
            let done = match what {
                What::Open(capacity) => self.gateway.open_channel(self.device, capacity, id),
                What::Close(channel) => self.gateway.close(self.device, channel.0, id),
            };
            match done {
                Ok(()) => {}
                Err(OrderError::NoKey | OrderError::NotNow(_)) if Instant::now() < until => {
                    self.wanted.push(wanted);
                }
                Err(error) => self.caller.report(id, Report::Refused { why: error.to_string() }),
            }
        }
    }

    fn enrol(&self, enrol: Enrol) -> Result<(), String> {
        if enrol.invitation != self.gateway.settings.invitation {
            return Err("this gateway wants an invitation".into());
        }
        if enrol.policy.clone().verify(&enrol.owner).is_none() {
            return Err("the policy is not signed by the owner".into());
        }
        let record = match self.gateway.books().devices.get(&self.device) {
            // The owner stays who it was.
            Some(known) if known.enrol.owner != enrol.owner => {
                return Err("this device is enrolled for another owner".into());
            }
            Some(known) => {
                DeviceRecord { enrol: Enrol { policy: known.enrol.policy.clone(), ..enrol }, ..known.clone() }
            }
            None => DeviceRecord { enrol, channels: Vec::new() },
        };
        self.gateway.save_device(self.device, &record).map_err(|error| error.to_string())?;
        self.gateway.books().devices.insert(self.device, record);
        Ok(())
    }
}

/// The last header that both know, or one well below.
fn start_of_headers(chain: &Chain, hello: &Hello) -> Result<(u32, BlockHash), ChainError> {
    let (height, hash) = hello.tip;
    if chain.block_hash(height)? == Some(hash) {
        return Ok((height, hash));
    }
    let back = height.min(chain.tip()?.height).saturating_sub(BACK);
    let hash = chain.block_hash(back)?.unwrap_or(hash);
    Ok((back, hash))
}
