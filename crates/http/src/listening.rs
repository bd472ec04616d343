//! Listening: how many connections there may be, and how long a request may take to arrive.
//!
//! Whoever connects and says nothing costs a seat, for [`Bounds::head_patience`] at most; whoever connects again and again
//! costs no more than its own seats. Whoever asks and does not read the answer costs a seat for [`Bounds::write_patience`]. A full
//! house leaves newcomers in the kernel's queue.

mod patient;

use std::io;
use std::time::Duration;

use axum::Router;
use farthing_node::seats::Seats;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::listening::patient::Patient;

/// What peers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many connections there may be at once.
    pub connections: usize,
    /// How many of them may come from one address; of IPv6, from one network of 64 bits.
    pub of_one_peer: usize,
    /// How long the head of a request may take to arrive, and so how long a connection may be idle.
    pub head_patience: Duration,
    /// The largest head of a request, in bytes, and what is buffered of a connection at most.
    pub head: usize,
    /// How long a peer may leave an answer lying without taking a byte of it.
    pub write_patience: Duration,
    /// How long answers may go on after the server was told to stop.
    pub stop_patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 2_048,
            of_one_peer: 512,
            head_patience: Duration::from_secs(30),
            head: 64 << 10,
            // Not less: a buyer reads its answers one after the other, and a slow one has the next wait until a piece is there.
            write_patience: Duration::from_secs(120),
            stop_patience: Duration::from_secs(30),
        }
    }
}

/// Serves until `stop` is ready; then finishes what is under way, as long as there is patience for it.
///
/// # Errors
/// When the listener has no address any more.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let (seats, graceful) = (Seats::new(bounds.connections, bounds.of_one_peer), GracefulShutdown::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, _from, seat) = tokio::select! {
            arrival = seats.accept(&listener) => arrival,
            () = &mut stop => break,
        };
        let connection = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_patience)
            .max_buf_size(bounds.head)
            .serve_connection(
                TokioIo::new(Patient::new(stream, bounds.write_patience)),
                TowerToHyperService::new(app.clone()),
            );
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A peer that goes away, or speaks no HTTP, is nobody's fault here.
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(seat);
        });
    }
    drop(listener);
    if tokio::time::timeout(bounds.stop_patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("answers that took too long to end are cut off");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(120);

    async fn start(
        bounds: Bounds,
    ) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let app = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/never", get(|| async { std::future::pending::<&str>().await }))
            .route("/endless", get(|| async { Body::from_stream(stream::repeat_with(block)) }));
        let stopped = async move { drop(stopped.await) };
        let serving = tokio::spawn(async move { serve(listener, app, bounds, stopped).await });
        (address, stop, serving)
    }

    fn block() -> io::Result<Bytes> {
        Ok(Bytes::from_static(&[0; 1 << 16]))
    }

    /// All that the server says until it closes.
    async fn all(stream: &mut TcpStream) -> String {
        let mut said = Vec::new();
        // A reset is an end, too.
        let _end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await.expect("in time");
        String::from_utf8(said).unwrap()
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await.unwrap();
    }

    async fn is_served(stream: &mut TcpStream) -> bool {
        ask(stream, "/").await;
        let mut said = [0; 12];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut said)).await.expect("in time").is_ok()
            && said == *b"HTTP/1.1 200"
    }

    #[tokio::test]
    async fn a_peer_gets_its_seats_and_one_that_leaves_makes_room() {
        let (address, _stop, _serving) = start(Bounds { of_one_peer: 2, ..Bounds::default() }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert!(is_served(&mut first).await && is_served(&mut second).await);
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(all(&mut third).await, "");
        drop(first);
        let again = async {
            loop {
                let mut fourth = TcpStream::connect(address).await.unwrap();
                let _refused =
                    fourth.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await;
                if all(&mut fourth).await.starts_with("HTTP/1.1 200") {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, again).await.expect("the seat comes free");
    }

    #[tokio::test]
    async fn a_full_house_lets_newcomers_wait() {
        let (address, _stop, _serving) = start(Bounds { connections: 1, ..Bounds::default() }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(is_served(&mut first).await);
        let mut second = TcpStream::connect(address).await.unwrap();
        ask(&mut second, "/").await;
        let mut nothing = [0; 1];
        let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut nothing)).await;
        assert!(early.is_err(), "served beside the first: {early:?}");
        drop(first);
        let mut said = [0; 12];
        tokio::time::timeout(DEADLINE, second.read_exact(&mut said)).await.expect("in time").unwrap();
        assert_eq!(said, *b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn half_a_head_and_an_idle_connection_are_ended() {
        let bounds = Bounds { head_patience: Duration::from_millis(50), ..Bounds::default() };
        let (address, _stop, _serving) = start(bounds).await;
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nhost: he").await.unwrap();
        assert!(!all(&mut half).await.contains("200"));
        let mut idle = TcpStream::connect(address).await.unwrap();
        ask(&mut idle, "/").await;
        assert!(all(&mut idle).await.ends_with("here"), "served once, then ended");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_gives_its_seat_back() {
        let bounds =
            Bounds { connections: 1, write_patience: Duration::from_millis(50), ..Bounds::default() };
        let (address, _stop, _serving) = start(bounds).await;
        let mut idler = TcpStream::connect(address).await.unwrap();
        ask(&mut idler, "/endless").await;
        assert!(is_served(&mut TcpStream::connect(address).await.unwrap()).await);
    }

    #[tokio::test]
    async fn a_head_of_a_mebibyte_is_refused() {
        let (address, _stop, _serving) = start(Bounds::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
        // It may be refused before all of it is written.
        let _broken = stream.write_all(head.as_bytes()).await;
        let said = all(&mut stream).await;
        assert!(!said.contains("200"), "{said}");
        assert!(is_served(&mut TcpStream::connect(address).await.unwrap()).await);
    }

    #[tokio::test]
    async fn a_stop_waits_for_answers_but_not_for_ever() {
        let bounds = Bounds { stop_patience: Duration::from_millis(50), ..Bounds::default() };
        let (address, stop, serving) = start(bounds).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, "/never").await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(is_served(&mut idle).await);
        stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, serving).await.expect("it stops").unwrap().unwrap();
    }
}
