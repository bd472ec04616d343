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
use crate::seats::Seats;

/// How many connections there are at once, those of strangers included, until their handshake has failed.
const MOST_CONNECTIONS: usize = 256;
/// And how many from one address: an owner's devices may share one, but a stranger must not keep the others out.
const OF_ONE_ADDRESS: usize = 64;
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
    let seats = Seats::new(MOST_CONNECTIONS, OF_ONE_ADDRESS);
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            (stream, from, seat) = seats.accept(&listener) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    let _until_it_ends = seat;
                    if let Err(error) = attend(&shared, stream).await {
                        tracing::info!(%from, %error, "a device's connection to its owner's store ended");
                    }
                });
            }
        }
    }
}

async fn attend<K>(shared: &Arc<Shared<K>>, stream: TcpStream) -> Result<(), ServeError>
where
    K: Fn(&PublicKey) -> Option<Known> + Send + Sync + 'static,
{
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
