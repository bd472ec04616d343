//! Takes devices' states: Noise over TCP, one answer to each message, after the disk has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farthing_protocol::device::Enrolment;
use farthing_protocol::device::kept::{FromStore, Kept, NotKept, ToStore};
use farthing_protocol::device::wire::BadMessage;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::store::{KeepError, OwnerStore};
use crate::link::{Link, LinkError, PublicKey, StaticKey};

/// How many connections there are at once, those of strangers included, until their handshake has failed.
const MOST_CONNECTIONS: usize = 256;
/// A device that says nothing for so long is let go; it comes again when it has something to keep.
const IDLE: Duration = Duration::from_secs(600);

/// A device of the owner's.
#[derive(Clone, Debug)]
pub struct Known {
    /// What the owner calls it.
    pub name: String,
    /// The owner's card.
    pub enrolment: Enrolment,
}

/// Why a device's connection ended.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no device of the owner's has this key")]
    Stranger,
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error("the work on the disk was given up: {0}")]
    Work(#[from] JoinError),
}

struct Shared<K> {
    key: StaticKey,
    store: Mutex<OwnerStore>,
    known: K,
}

/// Serves devices until it is dropped, and their connections with it. `known` looks up whose key on links this is.
pub async fn serve<K>(listener: TcpListener, key: StaticKey, store: OwnerStore, known: K)
where
    K: Fn(&PublicKey) -> Option<Known> + Send + Sync + 'static,
{
    let shared = Arc::new(Shared { key, store: Mutex::new(store), known });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        if let Err(error) = attend(&shared, stream).await {
                            tracing::info!(%from, %error, "a device's connection to its owner's store ended");
                        }
                    });
                }
                // Too many files are open, for one: others will close.
                Err(error) => {
                    tracing::warn!("the owner's store cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn attend<K>(shared: &Arc<Shared<K>>, stream: TcpStream) -> Result<(), ServeError>
where
    K: Fn(&PublicKey) -> Option<Known> + Send + Sync + 'static,
{
    stream.set_nodelay(true).map_err(LinkError::from)?;
    let link = Link::accept(stream, &shared.key).await?;
    let known = (shared.known)(&link.peer()).ok_or(ServeError::Stranger)?;
    let (mut sender, mut receiver) = link.split();
    loop {
        let bytes = timeout(IDLE, receiver.receive()).await.map_err(|_| LinkError::Silent)??;
        let ToStore::Keep { id, kept } = ToStore::from_bytes(&bytes)?;
        let (shared, known) = (shared.clone(), known.clone());
        let answer = tokio::task::spawn_blocking(move || keep(&shared.store, &known, id, *kept)).await?;
        sender.send(&answer.to_bytes()).await?;
    }
}

/// Keeps a state, and says so or why not.
fn keep(store: &Mutex<OwnerStore>, known: &Known, id: u64, kept: Kept) -> FromStore {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    match store.keep(&known.name, &known.enrolment, kept) {
        Ok(number) => {
            tracing::debug!("state {number} of {} is kept", known.name);
            FromStore::Kept { id }
        }
        Err(KeepError::Rule(NotKept::Closing)) => FromStore::Closing { id },
        Err(error) => {
            tracing::warn!("a state of {} is not kept: {error}", known.name);
            FromStore::Refused { id, why: error.to_string() }
        }
    }
}
