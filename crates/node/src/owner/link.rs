//! The device's side of the link to its owner's store.

use std::collections::BTreeMap;
use std::time::Duration;

use farthing_protocol::device::Input;
use farthing_protocol::device::kept::{FromStore, Kept, ToStore};
use farthing_protocol::device::wire::{BadMessage, ChannelKeysId};
use tokio::time::timeout;

use crate::device::{ConnectionError, Device, GiveError};
use crate::link::{GatewayAddress, Link, LinkError, Receiver, Sender, StaticKey};

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the device does not go on. Nothing that waits has left it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAcknowledged {
    /// Not there, not who it should be, or silent.
    #[error("owner-store: the owner's store cannot be reached, and without it nothing is paid: {0}")]
    Link(#[from] LinkError),
    /// It speaks another version, or nonsense.
    #[error("owner-store: the owner's store: {0}")]
    Message(#[from] BadMessage),
    /// It answered something else.
    #[error("owner-store: the owner's store answered another question")]
    OtherAnswer,
    /// The owner closes this channel. The device has stored that it is being closed.
    #[error("owner-store: the owner is closing this channel from its store")]
    Closing,
    /// It does not take the state.
    #[error("owner-store: the owner's store refuses: {0}")]
    Refused(String),
}

/// A link to the owner's store. Dialled when there is something to be kept, and again when it was cut.
pub struct StoreLink {
    key: StaticKey,
    address: GatewayAddress,
    link: Option<(Sender, Receiver)>,
    asked: u64,
    acknowledged: BTreeMap<ChannelKeysId, Kept>,
}

impl StoreLink {
    /// The store that this device waits for; `None` when it waits for none.
    pub fn of(device: &Device) -> Option<Self> {
        let address = device.owner_store()?.clone();
        let key = StaticKey::new(*device.secret().link());
        Some(Self { key, address, link: None, asked: 0, acknowledged: BTreeMap::new() })
    }

    /// Has the newest states of all channels that pay acknowledged.
    ///
    /// # Errors
    /// When one is not.
    pub async fn keep_all(&mut self, device: &mut Device) -> Result<(), ConnectionError> {
        let channels: Vec<ChannelKeysId> = device.lives().map(|(id, _)| id).collect();
        for channel in channels {
            if let Some(kept) = device.to_keep(channel) {
                self.keep(device, &kept).await?;
            }
        }
        Ok(())
    }

    /// Has a state acknowledged. When the owner closes the channel, the device stores that it is being closed as well.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn keep(&mut self, device: &mut Device, kept: &Kept) -> Result<(), ConnectionError> {
        if self.acknowledged.get(&kept.channel()) == Some(kept) {
            return Ok(());
        }
        let was_linked = self.link.is_some();
        let mut answered = self.ask(kept).await;
        // A link that was idle may be cut. The state may come again.
        if was_linked && matches!(answered, Err(NotAcknowledged::Link(_))) {
            answered = self.ask(kept).await;
        }
        match answered {
            Ok(()) => {
                self.acknowledged.insert(kept.channel(), kept.clone());
                Ok(())
            }
            Err(NotAcknowledged::Closing) => match device.give(kept.channel(), Input::CloseAlone) {
                // What it would publish stays here: the owner publishes.
                Ok(_) => Err(NotAcknowledged::Closing.into()),
                Err(GiveError::Store(error)) => Err(error.into()),
                Err(_of_a_rule) => Err(NotAcknowledged::Closing.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn ask(&mut self, kept: &Kept) -> Result<(), NotAcknowledged> {
        let (mut sender, mut receiver) = match self.link.take() {
            Some(link) => link,
            None => Link::dial(&self.key, &self.address).await?.split(),
        };
        self.asked += 1;
        let asked = self.asked;
        let message = ToStore::Keep { id: asked, kept: Box::new(kept.clone()) };
        sender.send(&message.to_bytes()).await?;
        let bytes = timeout(PATIENCE, receiver.receive()).await.map_err(|_| LinkError::Silent)??;
        let (id, answer) = match FromStore::from_bytes(&bytes)? {
            FromStore::Kept { id } => (id, Ok(())),
            FromStore::Closing { id } => (id, Err(NotAcknowledged::Closing)),
            FromStore::Refused { id, why } => (id, Err(NotAcknowledged::Refused(why))),
        };
        if id != asked {
            return Err(NotAcknowledged::OtherAnswer);
        }
        self.link = Some((sender, receiver));
        answer
    }
}
