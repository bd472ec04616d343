//! What the operator can ask a running gateway: over loopback TCP, with a token out of a file that only the operator can read.
//!
//! One line each way: the token and a word (`status`, `devices`, `channels`, `payments`; `policy` and an owner's signed policy; `open` and
//! a channel for the ordinary node, `close` and whose of its channels); then JSON.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Amount;
use bitcoin::hex::DisplayHex as _;
use farthing_node::entropy;
use farthing_node::seats::Seats;
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::records::{Outcome, Stage};

/// The longest question: a policy with a list of payees.
const MOST_BYTES: u64 = 1 << 16;
/// How long a question may take to arrive. What it asks for has limits of its own.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many questions are answered at once.
const CONNECTIONS: usize = 16;

const NO_DEVICE: &str =
    "no device here is of the owner who signed this policy, or a newer policy of that owner is in force";
const NO_ORDINARY_NODE: &str = "the ordinary node does not run: set ordinary_listen in [gateway]";

/// A channel that the ordinary node is to open.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenChannel {
    /// With whom.
    pub peer: PublicKey,
    /// Where that is.
    pub address: SocketAddr,
    /// What the operator's wallet puts into it.
    pub capacity_sat: u64,
    /// Whether the network is told of it.
    pub is_public: bool,
}

/// Channels of the ordinary node that are to be closed.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloseChannel {
    /// Those with this peer.
    pub peer: PublicKey,
    /// Without asking the peer.
    pub is_alone: bool,
}

/// Why the gateway could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// It does not run, or the file with its address cannot be read.
    #[error("no gateway runs in {}: start `farthing gateway run` ({source})", folder.display())]
    NotRunning {
        /// The data folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It gave no sense.
    #[error("the gateway's answer cannot be read")]
    Unreadable,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("admin")
}

impl Gateway {
    /// Answers the operator's questions from now on.
    ///
    /// # Errors
    /// When no port or file can be had.
    pub async fn listen_to_operator(self: &Arc<Self>) -> Result<(), io::Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let token = entropy::bytes::<32>().to_lower_hex_string();
        let path = file(&self.settings.folder);
        let _not_there = std::fs::remove_file(&path);
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        write!(written, "{} {token}", listener.local_addr()?)?;
        let gateway = self.clone();
        tokio::spawn(async move {
            let seats = Seats::new(CONNECTIONS, CONNECTIONS);
            loop {
                let (stream, _, seat) = seats.accept(&listener).await;
                let (gateway, token) = (gateway.clone(), token.clone());
                tokio::spawn(async move {
                    let _until_it_is_answered = seat;
                    if let Err(error) = gateway.tell(stream, &token).await {
                        tracing::debug!(%error, "a question of the operator's was cut off");
                    }
                });
            }
        });
        Ok(())
    }

    async fn tell(&self, stream: TcpStream, token: &str) -> Result<(), io::Error> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        timeout(PATIENCE, (&mut stream).take(MOST_BYTES).read_line(&mut line)).await??;
        let (given, word) = line.trim().split_once(' ').unwrap_or_default();
        let answer = match (is_equal(given.as_bytes(), token.as_bytes()), word) {
            (true, "status") => self.status(),
            (true, "devices") => self.devices(),
            (true, "channels") => self.channels(),
            (true, "payments") => self.payments(),
            (true, word) => match word.split_once(' ') {
                Some(("policy", policy)) => match serde_json::from_str(policy) {
                    Ok(policy) => match self.owners_policy(&policy) {
                        0 => json!({ "error": NO_DEVICE }),
                        devices => json!({ "devices": devices }),
                    },
                    Err(_unreadable) => return Ok(()),
                },
                Some(("open", wanted)) => match serde_json::from_str(wanted) {
                    Ok(wanted) => self.open_for_operator(wanted).await,
                    Err(_unreadable) => return Ok(()),
                },
                Some(("close", wanted)) => match serde_json::from_str(wanted) {
                    Ok(wanted) => self.close_for_operator(&wanted),
                    Err(_unreadable) => return Ok(()),
                },
                Some(_) | None => return Ok(()),
            },
            (false, _) => return Ok(()),
        };
        stream.write_all(format!("{answer}\n").as_bytes()).await
    }

    fn close_for_operator(&self, wanted: &CloseChannel) -> Value {
        let Some(operator) = self.operator() else { return json!({ "error": NO_ORDINARY_NODE }) };
        match operator.close_channels(&wanted.peer, wanted.is_alone) {
            Ok(count) => json!({ "closing": count }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }

    async fn open_for_operator(&self, wanted: OpenChannel) -> Value {
        let Some(operator) = self.operator() else { return json!({ "error": NO_ORDINARY_NODE }) };
        let OpenChannel { peer, address, capacity_sat, is_public } = wanted;
        let opened = operator.open_channel(peer, address, Amount::from_sat(capacity_sat), is_public).await;
        match opened {
            Ok(txid) => json!({ "funding": txid.to_string() }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }

    fn status(&self) -> Value {
        let height = self.node.channels.current_best_block().height;
        let peers = self.node.peers.list_peers().len();
        let known_channels = self.node.known_channels();
        let tally = self.tally();
        let books = self.books();
        json!({
            "node": self.node.id().to_string(),
            "bridge": self.settings.bridge.to_string(),
            "height": height,
            "peers": peers,
            "devices": books.devices.len(),
            "online": books.sessions.len(),
            "channels": books.channels.values().filter(|record| record.stage != Stage::Ready).count(),
            "known_channels": known_channels,
            "joint_signatures": tally.joint_signatures,
            "link_bytes": tally.link_bytes,
            "link_messages": tally.link_messages,
            "fee_ppm": self.settings.fee_ppm,
            "ordinary": self.operator().map(|operator| operator.status()),
        })
    }

    fn devices(&self) -> Value {
        let books = self.books();
        let devices = books.devices.iter().map(|(key, record)| {
            let policy = record.enrol.policy.clone().verify(&record.enrol.owner);
            json!({
                "device": key.to_lower_hex_string(),
                "name": record.enrol.name,
                "policy": policy.as_ref().map(|policy| policy.version),
                "paused": policy.is_some_and(|policy| policy.paused),
                "online": books.sessions.contains_key(key),
                "keys_and_channels": record.channels.len(),
                "owed_msat": books.arrears.of(key).get(),
            })
        });
        devices.collect()
    }

    fn channels(&self) -> Value {
        let all = self.node.channels.list_channels();
        let books = self.books();
        let used = books.channels.iter().filter(|(_, record)| record.stage != Stage::Ready);
        let channels = used.map(|(channel, record)| {
            let details =
                all.iter().find(|details| Some(details.user_channel_id) == record.user_channel_id());
            let stage = match &record.stage {
                Stage::Ready => "ready",
                Stage::Opening { .. } => "opening",
                Stage::Agreed { is_funded: false, .. } => "agreed",
                Stage::Agreed { is_funded: true, .. } => "funded",
                Stage::Over(why) => why,
            };
            json!({
                "channel": channel.to_lower_hex_string(),
                "device": record.device.to_lower_hex_string(),
                "stage": stage,
                "usable": details.is_some_and(|details| details.is_usable),
                "capacity_sat": details.map(|details| details.channel_value_satoshis),
                "spendable_msat": details.map(|details| details.next_outbound_htlc_limit_msat),
                "trouble": books.trouble.get(channel),
            })
        });
        channels.collect()
    }

    fn payments(&self) -> Value {
        let books = self.books();
        let payments = books.payments.values().map(|record| {
            let (outcome, fee, why) = match &record.outcome {
                Outcome::Pending => ("pending", None, None),
                Outcome::Paid { fee, .. } => ("paid", Some(fee.get()), None),
                Outcome::Failed(why) => ("failed", None, Some(why)),
            };
            json!({
                "payment_hash": record.payment_hash.0.to_lower_hex_string(),
                "channel": record.channel.to_lower_hex_string(),
                "amount_msat": record.amount.get(),
                "ordered_at": record.ordered_at,
                "outcome": outcome,
                "fee_msat": fee,
                "why": why,
            })
        });
        payments.collect()
    }
}

/// Asks a gateway that runs in that folder.
///
/// # Errors
/// See [`AdminError`].
pub async fn ask(folder: &Path, word: &str) -> Result<Value, AdminError> {
    let not_running = |source| AdminError::NotRunning { folder: folder.to_owned(), source };
    let text = std::fs::read_to_string(file(folder)).map_err(not_running)?;
    let (address, token) = text.trim().split_once(' ').ok_or(AdminError::Unreadable)?;
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{token} {word}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = asked.await.map_err(not_running)?;
    serde_json::from_str(&answer).map_err(|_| AdminError::Unreadable)
}

/// Takes the same time wherever two tokens differ.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}
