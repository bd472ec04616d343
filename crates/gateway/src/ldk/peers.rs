//! Connections to other nodes.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use farthing_node::seats::Seats;
use lightning::sign::SignerProvider;
use secp256k1::PublicKey;
use tokio::net::TcpListener;

use super::dial::dial;
use super::{Node, Signer};

/// How many nodes may be connected that dialled this one, and how many from one address.
const CONNECTIONS: usize = 512;
const OF_ONE_PEER: usize = 32;
/// The pause before the next dial.
const RECONNECT: Duration = Duration::from_millis(200);

impl<P> Node<P>
where
    P: SignerProvider + Send + Sync + 'static,
    Signer<P>: Send + Sync,
{
    /// Takes connections of peers.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn listen(self: &Arc<Self>, address: SocketAddr) -> Result<SocketAddr, std::io::Error> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let node = self.clone();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            let seats = Seats::new(CONNECTIONS, OF_ONE_PEER);
            loop {
                let (stream, _, seat) = seats.accept(&listener).await;
                let Ok(stream) = stream.into_std() else { continue };
                let peers = node.peers.clone();
                let Some(ended) = node.admit(|| lightning_net_tokio::setup_inbound(peers, stream)) else {
                    return;
                };
                tokio::spawn(async move {
                    ended.await;
                    drop(seat);
                });
            }
        });
        Ok(address)
    }

    /// Keeps a connection to a peer, whatever happens to it. What it tells of the network is believed.
    pub fn keep_connected(self: &Arc<Self>, peer: PublicKey, address: SocketAddr) {
        self.gossip.choose(peer);
        let node = self.clone();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            loop {
                if node.peers.peer_by_node_id(&peer).is_none()
                    && let Ok(stream) = dial(address).await
                {
                    let peers = node.peers.clone();
                    let connected = node.admit(|| lightning_net_tokio::setup_outbound(peers, peer, stream));
                    let Some(ended) = connected else { return };
                    ended.await;
                }
                tokio::time::sleep(RECONNECT).await;
            }
        });
    }

    /// Registers a connection with the peers, unless the node has stopped: one that came in between would be served by a node whose
    /// state nobody stores any more.
    fn admit<C>(&self, register: impl FnOnce() -> C) -> Option<C> {
        let _door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.is_stopped()).then(register)
    }
}
