//! A mailbox under load: letters over HTTP, each stored (`synchronous = FULL`) before it is answered. Mailbox and posters share
//! this process and this machine's processors; the letters are sealed beforehand. There is no gate before it: what that adds
//! to a request is measured with Lightspeed.
//!
//! What a cheque fills is a letter, and the prekey that it was written on until it is given out: the growth of the database's
//! file over both, for as many.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use bitcoin::Network;
use farthing_http::mailbox::{self, Client, Owner};
use farthing_mailbox::Blob;
use farthing_mailbox::address::Host;
use farthing_node::entropy;
use farthing_node::mail::{Bounds, Mailroom};
use farthing_node::prekeys::Prekeys;
use farthing_protocol::keys::Seed;
use farthing_testkit::wait::until;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::farthing::Folder;
use crate::stats::median;

pub const CONNECTIONS: usize = 64;
pub const ROUNDS: usize = 5;
/// Letters of one round, and as many prekeys.
const LETTERS: usize = 4_096;
/// What a letter carries: about as much as a cheque.
const CONTENT: usize = 400;

/// Medians over the rounds.
pub struct Mailbox {
    pub letters_per_s: f64,
    pub prekeys_per_s: f64,
    pub bytes_per_cheque: f64,
}

/// Measures.
pub fn measure(folder: &Folder) -> anyhow::Result<Mailbox> {
    let runtime = Runtime::new()?;
    let path = folder.path().join("mailbox");
    let before = {
        drop(Mailroom::open(&path, bounds())?);
        std::fs::metadata(&path)?.len()
    };
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        // Another payee each time, so that no box is larger than another.
        let seed = Seed::new([round as u8 + 1; 64], Network::Regtest);
        rounds.push(self::round(&runtime, &path, &seed, folder)?);
    }
    // The last connection that closes leaves no log behind.
    let after = std::fs::metadata(&path)?.len();
    Ok(Mailbox {
        letters_per_s: median(rounds.iter().map(|round| round.0)),
        prekeys_per_s: median(rounds.iter().map(|round| round.1)),
        bytes_per_cheque: (after - before) as f64 / (ROUNDS * LETTERS) as f64,
    })
}

fn bounds() -> Bounds {
    let all = (ROUNDS * LETTERS) as u32;
    Bounds { most_letters: all, most_prekeys: all, ..Bounds::default() }
}

/// Letters and prekeys a second.
fn round(runtime: &Runtime, path: &Path, seed: &Seed, folder: &Folder) -> anyhow::Result<(f64, f64)> {
    let book = folder.path().join(format!("book-{}", seed.cheque_keys().identity()));
    let issued = Prekeys::open(&book, seed.cheque_keys())?.issue(LETTERS as u32)?;
    let mailroom = Arc::new(Mailroom::open(path, bounds())?);
    let serving = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = mailbox::router(mailroom.clone());
        anyhow::Ok((address, tokio::spawn(axum::serve(listener, routes).into_future())))
    });
    let (address, serving) = serving?;
    let owner = Owner::new(seed, Host::new(address.to_string())?);
    let client = Client::new(Duration::from_secs(30))?;
    let standing = runtime.block_on(async {
        client.open(&owner).await?;
        anyhow::Ok(client.publish_prekeys(&owner, &issued).await?)
    })?;
    ensure!(standing.unused as usize == LETTERS, "all prekeys were published");

    let letters: Vec<Blob> = (0..LETTERS)
        .map(|_| Blob::seal(owner.address(), &[7; CONTENT], entropy::bytes()))
        .collect::<Result<_, _>>()?;
    let expiry = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 86_400;
    let letters_per_s = rate(runtime, &letters, |letters: Vec<Blob>| {
        let (client, to) = (client.clone(), owner.address().clone());
        async move {
            for letter in &letters {
                client.post(&to, letter, expiry).await?;
            }
            anyhow::Ok(())
        }
    })?;
    // Only some, since the next round's would take their room in the file.
    let prekeys_per_s = rate(runtime, &letters[..LETTERS / 16], |some: Vec<Blob>| {
        let (client, of) = (client.clone(), owner.address().clone());
        async move {
            for _ in some {
                client.take_prekey(&of).await?;
            }
            anyhow::Ok(())
        }
    })?;
    let kept = runtime.block_on(client.fetch(&owner, 0))?;
    ensure!(kept.len() == mailbox::PAGE as usize, "the letters are there");
    drop(client);
    serving.abort();
    let _aborted = runtime.block_on(serving);
    until("the last connection ends", || Ok((Arc::strong_count(&mailroom) == 1).then_some(())))?;
    Ok((letters_per_s, prekeys_per_s))
}

/// How many of the letters' tasks are done a second, shared out over the connections.
fn rate<F>(runtime: &Runtime, letters: &[Blob], work: impl Fn(Vec<Blob>) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    runtime.block_on(async {
        let mut posters = JoinSet::new();
        for some in letters.chunks(letters.len().div_ceil(CONNECTIONS)) {
            posters.spawn(work(some.to_vec()));
        }
        while let Some(poster) = posters.join_next().await {
            poster??;
        }
        anyhow::Ok(())
    })?;
    Ok(letters.len() as f64 / start.elapsed().as_secs_f64())
}
