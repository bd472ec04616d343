//! The load: keep-alive connections of one thread, each with one request under way, written and read as plain bytes.
//! The same for a service with and without a gate.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farthing_protocol::lightspeed::call::{LENGTH, NO_BODY, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::caller::Caller;
use super::service::{PRICE, Work};
use crate::stats::process_time_us;

/// The length of every answer's body.
const BODY: usize = 1_024;
/// What is not counted at the beginning of a round.
const WARM_UP: Duration = Duration::from_millis(200);

/// Requests that were prepared, each of the same length.
pub struct Requests {
    bytes: Vec<u8>,
    length: usize,
    next: Cell<usize>,
    is_endless: bool,
}

impl Requests {
    /// Calls of one payer, in its order.
    pub fn of(caller: &mut Caller, to: SocketAddr, work: Work, calls: usize) -> anyhow::Result<Self> {
        let authority = to.to_string();
        let target = Target { method: "GET", authority: &authority, uri: work.path(), body: NO_BODY };
        let mut bytes = Vec::new();
        let mut length = 0;
        for _ in 0..calls {
            let request = request(&authority, work, &caller.call(PRICE, &target)?);
            length = request.len();
            bytes.extend(request);
        }
        Ok(Self { bytes, length, next: Cell::new(0), is_endless: false })
    }

    /// The same request again and again, with a header of the same length that means nothing to a service without a gate.
    pub fn free(to: SocketAddr, work: Work) -> Self {
        let bytes = request(&to.to_string(), work, &[0; LENGTH]);
        Self { length: bytes.len(), bytes, next: Cell::new(0), is_endless: true }
    }

    fn next(&self) -> Option<&[u8]> {
        let at = self.next.get();
        self.next.set(if self.is_endless { 0 } else { at + self.length });
        self.bytes.get(at..at + self.length)
    }
}

fn request(authority: &str, work: Work, call: &[u8]) -> Vec<u8> {
    let call = URL_SAFE_NO_PAD.encode(call);
    format!("GET {} HTTP/1.1\r\nhost: {authority}\r\nlightspeed: {call}\r\n\r\n", work.path()).into_bytes()
}

/// How a load is paced.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub connections: usize,
    /// Requests a second over all connections; as many as are answered without it.
    pub rate: Option<f64>,
    pub lasts: Duration,
}

/// What came of it, after the warm-up.
pub struct Outcome {
    pub per_s: f64,
    /// What this process took of the processors for each, in microseconds: service and load together.
    pub cpu_us: f64,
    /// In microseconds, sorted.
    latencies: Vec<f64>,
}

impl Outcome {
    pub fn percentile(&self, percent: f64) -> f64 {
        let at = (self.latencies.len() as f64 * percent / 100.0) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// Sends the requests for a while; connections share the payers out evenly. Blocks.
pub fn run(to: SocketAddr, requests: Vec<Requests>, pace: Pace) -> anyhow::Result<Outcome> {
    let requests: Vec<Rc<Requests>> = requests.into_iter().map(Rc::new).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connections = Vec::with_capacity(pace.connections);
        for index in 0..pace.connections {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            connections.push((stream, requests[index % requests.len()].clone()));
        }
        let (start, cpu) = (Instant::now(), process_time_us());
        let tasks = connections.into_iter().enumerate().map(|(index, (stream, requests))| {
            tokio::task::spawn_local(connection(stream, requests, pace, start, index))
        });
        let (mut latencies, mut answers) = (Vec::new(), 0);
        for task in tasks.collect::<Vec<_>>() {
            let (of_one, answered) = task.await??;
            latencies.extend(of_one);
            answers += answered;
        }
        let cpu_us = (process_time_us() - cpu) / answers as f64;
        latencies.sort_by(f64::total_cmp);
        Ok(Outcome { per_s: latencies.len() as f64 / pace.lasts.as_secs_f64(), cpu_us, latencies })
    })
}

/// Sends one request after the other. The latencies of those that were answered in time, and how many were answered at all.
async fn connection(
    mut stream: TcpStream,
    requests: Rc<Requests>,
    pace: Pace,
    start: Instant,
    index: usize,
) -> anyhow::Result<(Vec<f64>, u64)> {
    let (counted, end) = (start + WARM_UP, start + WARM_UP + pace.lasts);
    let period = pace.rate.map(|rate| Duration::from_secs_f64(pace.connections as f64 / rate));
    let mut due = start + period.unwrap_or_default().mul_f64(index as f64 / pace.connections as f64);
    let (mut latencies, mut answers) = (Vec::new(), 0);
    let mut buffer = vec![0; 4_096];
    loop {
        if let Some(period) = period {
            tokio::time::sleep_until(due.into()).await;
            due += period;
        }
        let request = requests.next().context("too few requests were prepared")?;
        let sent = Instant::now();
        stream.write_all(request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        let answered = Instant::now();
        answers += 1;
        if answered > end {
            return Ok((latencies, answers));
        }
        if answered > counted {
            latencies.push((answered - sent).as_secs_f64() * 1e6);
        }
    }
}

/// Reads one whole answer.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the service has closed the connection");
        filled += read;
        let answer = &buffer[..filled];
        // The body holds no line ends, so the last blank line ends the head.
        let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            bail!("not served: {}", String::from_utf8_lossy(answer));
        }
        if filled == head + 4 + BODY {
            return Ok(());
        }
    }
}
