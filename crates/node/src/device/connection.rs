//! A device that is connected to its gateway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farthing_protocol::device::wire::{BadMessage, Order, ToDevice, Welcome};
use tokio::time::{Instant, timeout_at};

use super::session::{Said, Session};
use super::{Device, DeviceHome};
use crate::link::{GatewayAddress, Link, LinkError, Receiver, Sender, StaticKey, Traffic};
use crate::owner::{NotAcknowledged, StoreLink};
use crate::store::StoreError;

/// How long the gateway may take to greet.
const GREETING: Duration = Duration::from_secs(60);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The link.
    #[error("the gateway: {0}")]
    Link(#[from] LinkError),
    /// The gateway speaks another version, or nonsense.
    #[error("the gateway: {0}")]
    Message(#[from] BadMessage),
    /// The disk; nothing that is not stored was said.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The owner's store did not acknowledge: nothing that waits for it has left the device.
    #[error(transparent)]
    OwnerStore(#[from] NotAcknowledged),
    /// The stored address of the gateway cannot be read.
    #[error(transparent)]
    Address(#[from] crate::link::BadAddress),
}

/// A connection.
pub struct Connection {
    device: Device,
    session: Session,
    sender: Sender,
    receiver: Receiver,
    owner_store: Option<StoreLink>,
    welcome: Option<Welcome>,
    /// Whether the gateway has said which blocks are new.
    is_current: bool,
}

impl Connection {
    /// Dials the gateway, greets it and waits for its greeting and for the newest headers.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn dial(device: Device) -> Result<Self, ConnectionError> {
        let address: GatewayAddress = device.enrolled().gateway.parse()?;
        let key = StaticKey::new(*device.secret().link());
        let link = Link::dial(&key, &address).await?;
        Self::over(device, link).await
    }

    /// The same over a link that is there. The owner's store, if the device waits for one, comes first: it has the newest states before the
    /// gateway is greeted.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn over(mut device: Device, link: Link) -> Result<Self, ConnectionError> {
        let mut owner_store = StoreLink::of(&device);
        if let Some(store) = &mut owner_store {
            store.keep_all(&mut device).await?;
        }
        let (session, hello) = Session::begin(&device, link.connection());
        let (mut sender, receiver) = link.split();
        sender.send(&hello.to_bytes()).await?;
        let (welcome, is_current) = (None, false);
        let mut connection = Self { device, session, sender, receiver, owner_store, welcome, is_current };
        let until = Instant::now() + GREETING;
        while connection.welcome.is_none() || !connection.is_current {
            connection.next(until).await?;
        }
        connection.bring_policy().await?;
        Ok(connection)
    }

    /// Gives the gateway the owner's policy where it has an older one, before an order could be judged by that.
    async fn bring_policy(&mut self) -> Result<(), ConnectionError> {
        let enrolled = self.device.enrolled();
        let own =
            enrolled.policy.clone().verify(&enrolled.enrolment.owner).map_or(0, |policy| policy.version);
        let policy = enrolled.policy.clone();
        if self.welcome.is_some_and(|welcome| welcome.enrolled && welcome.policy < own) {
            self.order(Order::Policy(policy)).await?;
        }
        Ok(())
    }

    /// What the gateway asks for its service.
    pub fn welcome(&self) -> Option<Welcome> {
        self.welcome
    }

    /// The device.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// The device again, when the connection is over.
    pub fn into_device(self) -> Device {
        self.device
    }

    /// What was sent and received so far.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        (self.sender.traffic(), self.receiver.traffic())
    }

    /// Sends an order. Gives its number in reports.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn order(&mut self, order: Order) -> Result<u64, ConnectionError> {
        let (id, message) = self.session.order(order);
        self.sender.send(&message.to_bytes()).await?;
        Ok(id)
    }

    /// Waits for the next message, decides, stores, answers. Gives what is left to do for the program.
    ///
    /// # Errors
    /// [`LinkError::Silent`] when nothing came until then; what began is not lost and the next call goes on. Else the connection is
    /// over.
    pub async fn next(&mut self, until: Instant) -> Result<Vec<Said>, ConnectionError> {
        let bytes = timeout_at(until, self.receiver.receive()).await.map_err(|_| LinkError::Silent)??;
        let message = ToDevice::from_bytes(&bytes)?;
        self.is_current |= matches!(message, ToDevice::Headers(_));
        let (mut left, mut cut) = (Vec::new(), None);
        for said in self.session.take(&mut self.device, message, now())? {
            match said {
                // What is to be published is published, whether the gateway hears of it or not.
                Said::Send(_) | Said::Keep(_) if cut.is_some() => {}
                Said::Send(message) => cut = self.sender.send(&message.to_bytes()).await.err(),
                // What comes after it is dropped with the connection when this fails; the gateway asks for it again.
                Said::Keep(kept) => {
                    let store = self.owner_store.as_mut().expect("only a device with a store says this");
                    store.keep(&mut self.device, &kept).await?;
                }
                Said::Welcome(welcome) => self.welcome = Some(welcome),
                other => left.push(other),
            }
        }
        match cut {
            // The next call says so.
            Some(error) if left.is_empty() => Err(error.into()),
            Some(_) | None => Ok(left),
        }
    }
}

impl DeviceHome {
    /// Reads the device.
    ///
    /// # Errors
    /// When there is none, or its files cannot be read.
    pub fn device(&self) -> Result<Device, crate::home::HomeError> {
        let missing = || crate::home::HomeError::Missing(self.path().to_owned());
        if !self.is_there() {
            return Err(missing());
        }
        Device::open(self.secret()?, self.store()?)?.ok_or_else(missing)
    }
}

/// Seconds since 1970, by the device's clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
