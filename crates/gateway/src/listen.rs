//! Takes devices' connections: Noise over TCP, then messages. How long each part may take is in the link (the handshake), in `greeting`
//! (the first message) and in [`crate::session`] (enrolling).

use std::net::SocketAddr;
use std::sync::Arc;

use farthing_node::link::{Link, LinkError, StaticKey};
use farthing_node::seats::Seats;
use farthing_protocol::device::wire::{BadMessage, ToDevice, ToGateway};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::caller::MOST_UNREAD;
use crate::gateway::{Gateway, Limits};
use crate::session::{Connection, SessionError};

/// How many messages of a device wait in memory for the session. What else it sends waits in the network.
const MOST_WAITING: usize = 16;

/// Why a device's connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What came is no message.
    #[error(transparent)]
    Message(#[from] BadMessage),
    /// What was said.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Gateway {
    /// Listens for devices.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        key: StaticKey,
    ) -> Result<SocketAddr, std::io::Error> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (gateway, key) = (self.clone(), Arc::new(key));
        let Limits { connections, connections_of_one_address, .. } = self.settings.limits;
        tokio::spawn(async move {
            let seats = Seats::new(connections, connections_of_one_address);
            loop {
                let (stream, from, seat) = seats.accept(&listener).await;
                let (gateway, key) = (gateway.clone(), key.clone());
                tokio::spawn(async move {
                    if let Err(error) = gateway.welcome(stream, &key).await {
                        tracing::info!(%from, %error, "a device's connection ended");
                    }
                    drop(seat);
                });
            }
        });
        Ok(address)
    }

    async fn welcome(self: &Arc<Self>, stream: TcpStream, key: &StaticKey) -> Result<(), ConnectionError> {
        let link = Link::accept(stream, key).await?;
        self.serve_link(link).await
    }

    /// Serves a device over a link.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn serve_link(self: &Arc<Self>, link: Link) -> Result<(), ConnectionError> {
        let (device, hash) = (link.peer(), link.connection());
        let (mut sender, mut receiver) = link.split();
        let (to_session, incoming) = mpsc::channel(MOST_WAITING);
        let (outgoing, mut to_device) = mpsc::channel::<ToDevice>(MOST_UNREAD);
        let counting = |bytes: u64| {
            let mut books = self.books();
            books.tally.link_bytes += bytes;
            books.tally.link_messages += 1;
        };
        let writing = async move {
            let mut counted = 0;
            while let Some(message) = to_device.recv().await {
                sender.send(&message.to_bytes()).await?;
                counting(sender.traffic().bytes - counted);
                counted = sender.traffic().bytes;
            }
            Ok::<_, ConnectionError>(())
        };
        let reading = async move {
            let mut counted = 0;
            loop {
                let bytes = receiver.receive().await?;
                counting(receiver.traffic().bytes - counted);
                counted = receiver.traffic().bytes;
                let message = ToGateway::from_bytes(&bytes)?;
                if to_session.send(message).await.is_err() {
                    return Ok::<_, ConnectionError>(());
                }
            }
        };
        // Whichever ends first ends the others; the session cleans up after itself when its messages end.
        let session = self.serve(Connection { device, hash, incoming, outgoing });
        tokio::pin!(session);
        tokio::select! {
            ended = &mut session => Ok(ended?),
            ended = reading => { session.await?; ended }
            ended = writing => ended,
        }
    }
}
