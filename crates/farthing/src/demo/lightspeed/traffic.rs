//! What runs beside the programs: the service that is sold, many clients at once, and a wire on which requests are counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::{self, Body, Bytes};
use axum::http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

/// The largest answer that a client here reads, in bytes.
const MOST_ANSWER: usize = 1 << 20;

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A service that knows nothing of payments and counts what it is asked.
pub struct Service {
    pub url: String,
    requests: Arc<AtomicU64>,
    _task: Task,
}

impl Service {
    /// Starts it.
    pub fn start() -> anyhow::Result<Self> {
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let answer = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready("served\n")
        };
        let app = Router::new().fallback(answer);
        let listener = Handle::current().block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = Handle::current().spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(%error, "the service ended");
            }
        });
        Ok(Self { url, requests, _task: Task(task) })
    }

    /// How many requests reached it.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What went from the payer to the payee.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    calls: AtomicU64,
    signed: AtomicU64,
}

/// Requests that a [`Wire`] has carried.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// All of them.
    pub requests: u64,
    /// Those that carry a call: a number, a word and a MAC.
    pub calls: u64,
    /// Those that carry a payment signed for them.
    pub signed: u64,
}

impl Carried {
    /// What came after that.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            calls: self.calls - before.calls,
            signed: self.signed - before.signed,
        }
    }
}

/// Stands between payer and payee, hands every byte on, and counts the requests. Whom it hands them to may change: a
/// restarted payee listens elsewhere.
pub struct Wire {
    pub url: String,
    target: Arc<Mutex<SocketAddr>>,
    counters: Arc<Counters>,
    _task: Task,
}

impl Wire {
    /// A wire to the server at that address.
    pub fn to(url: &str) -> anyhow::Result<Self> {
        let target = Arc::new(Mutex::new(socket(url)?));
        let counters = Arc::new(Counters::default());
        let listener = Handle::current().block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (to, counting) = (target.clone(), counters.clone());
        let task = Handle::current().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = *to.lock().expect("no holder of this lock panics");
                let counting = counting.clone();
                tokio::spawn(async move {
                    if let Err(error) = connect(client, target, &counting).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
        });
        Ok(Self { url, target, counters, _task: Task(task) })
    }

    /// From now on new connections go there.
    pub fn turn_to(&self, url: &str) -> anyhow::Result<()> {
        *self.target.lock().expect("no holder of this lock panics") = socket(url)?;
        Ok(())
    }

    /// What it has carried.
    pub fn carried(&self) -> Carried {
        let Counters { requests, calls, signed } = &*self.counters;
        let [requests, calls, signed] =
            [requests, calls, signed].map(|counter| counter.load(Ordering::Relaxed));
        Carried { requests, calls, signed }
    }
}

fn socket(url: &str) -> anyhow::Result<SocketAddr> {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    authority.parse().with_context(|| format!("{url} is no address on this machine"))
}

async fn connect(client: TcpStream, target: SocketAddr, counters: &Counters) -> std::io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = async {
        let mut marks = [
            Mark::new(b" HTTP/1.1\r\n", &counters.requests),
            Mark::new(b"\r\nlightspeed: ", &counters.calls),
            Mark::new(b"\r\nauthorization: Payment ", &counters.signed),
        ];
        let mut buffer = [0; 16 << 10];
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return to_server.shutdown().await;
            }
            marks.iter_mut().for_each(|mark| mark.look(&buffer[..length]));
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    let back = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(forth, back).map(drop)
}

/// Text that stands once in the head of each request of one kind, and in no body of ours.
struct Mark<'a> {
    text: &'static [u8],
    seen: usize,
    counter: &'a AtomicU64,
}

impl<'a> Mark<'a> {
    fn new(text: &'static [u8], counter: &'a AtomicU64) -> Self {
        Self { text, seen: 0, counter }
    }

    /// Goes on where the last part ended: a head may come in pieces.
    fn look(&mut self, part: &[u8]) {
        for byte in part {
            let is_next = *byte == self.text[self.seen];
            self.seen = if is_next { self.seen + 1 } else { usize::from(*byte == self.text[0]) };
            if self.seen == self.text.len() {
                self.seen = 0;
                self.counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A plain HTTP client.
pub type Http = Client<HttpConnector, Body>;

/// A plain HTTP client that keeps its connections.
pub fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Sends a request and reads the whole answer.
pub async fn ask(http: &Http, request: Request<Body>) -> anyhow::Result<Response<Bytes>> {
    let (parts, body) = http.request(request).await?.into_parts();
    Ok(Response::from_parts(parts, body::to_bytes(Body::new(body), MOST_ANSWER).await?))
}

/// What became of many calls.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Those that were answered.
    pub answered: u64,
    /// What the others got instead.
    pub others: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Calls a URL from so many clients at once, so often, or until that much time has passed.
pub fn load(url: &str, at_once: usize, calls: u64, time: Duration) -> anyhow::Result<Load> {
    Handle::current().block_on(load_within(url.to_owned(), at_once, calls, time))
}

/// [`load`] beside something else.
pub async fn load_within(url: String, at_once: usize, calls: u64, time: Duration) -> anyhow::Result<Load> {
    let started = Instant::now();
    let left = Arc::new(AtomicU64::new(calls));
    let http = http();
    let mut clients = JoinSet::new();
    for _ in 0..at_once {
        let (http, left, url) = (http.clone(), left.clone(), url.clone());
        clients.spawn(async move {
            let mut load = Load::default();
            let take = |left: u64| left.checked_sub(1);
            while started.elapsed() < time
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            {
                let answer = ask(&http, Request::get(&url).body(Body::empty())?).await?;
                if answer.status().is_success() {
                    load.answered += 1;
                } else {
                    load.others.push(String::from_utf8_lossy(answer.body()).into_owned());
                }
            }
            anyhow::Ok(load)
        });
    }
    let mut sum = Load::default();
    while let Some(load) = clients.join_next().await {
        let load = load??;
        sum.answered += load.answered;
        sum.others.extend(load.others);
    }
    sum.took = started.elapsed();
    Ok(sum)
}
