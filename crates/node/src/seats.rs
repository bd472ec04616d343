//! Seats: how many connections a server takes, in all and from one address, so that nobody takes all of them by itself.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long nothing is accepted after the system had no room for a connection. Some connection will end.
const PAUSE: Duration = Duration::from_millis(200);

/// The seats of one server.
#[derive(Debug)]
pub struct Seats {
    all: Arc<Semaphore>,
    of_one_peer: usize,
    taken: Arc<Taken>,
}

/// Who is connected, how often.
#[derive(Debug, Default)]
struct Taken(Mutex<HashMap<IpAddr, usize>>);

/// One connection's. It is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    taken: Arc<Taken>,
    peer: IpAddr,
    _of_all: OwnedSemaphorePermit,
}

impl Seats {
    /// So many connections in all, further ones wait until one ends; and so many from one address, or one network of IPv6, further ones
    /// are closed.
    pub fn new(connections: usize, of_one_peer: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(connections)), of_one_peer, taken: Arc::default() }
    }

    /// The next connection that has a seat. Whoever stops waiting loses none.
    pub async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Seat) {
        loop {
            let of_all = self.all.clone().acquire_owned().await.expect("nobody closes this semaphore");
            let (stream, from) = accept(listener).await;
            match self.take(from.ip(), of_all) {
                Some(seat) => return (stream, from, seat),
                None => {
                    let most = self.of_one_peer;
                    tracing::debug!(%from, most, "a peer with too many connections was turned away");
                }
            }
        }
    }

    fn take(&self, peer: IpAddr, of_all: OwnedSemaphorePermit) -> Option<Seat> {
        let peer = network(peer);
        let mut taken = self.taken.lock();
        let count = taken.get(&peer).copied().unwrap_or_default();
        if count >= self.of_one_peer {
            return None;
        }
        taken.insert(peer, count + 1);
        drop(taken);
        Some(Seat { taken: self.taken.clone(), peer, _of_all: of_all })
    }
}

impl Taken {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // Small messages must not wait for the acknowledgement of the ones before (RFC 1122, section 4.2.3.4).
                if stream.set_nodelay(true).is_ok() {
                    return (stream, from);
                }
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                // Mostly no file descriptor is left.
                tracing::warn!(%error, "cannot take connections for a moment");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One customer of a provider has 2^64 addresses of IPv6 (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(120);

    async fn open(connections: usize, of_one_peer: usize) -> (Seats, TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Seats::new(connections, of_one_peer), listener, address)
    }

    #[tokio::test]
    async fn an_address_gets_its_seats_and_one_that_leaves_makes_room() {
        let (seats, listener, address) = open(10, 2).await;
        let next = || timeout(DEADLINE, seats.accept(&listener));
        let _ours = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (_, _, first) = next().await.unwrap();
        let _second = next().await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        let closed = async {
            tokio::select! {
                _let_in = seats.accept(&listener) => panic!("a third one was let in"),
                read = third.read(&mut byte) => matches!(read, Ok(0) | Err(_)),
            }
        };
        assert!(timeout(DEADLINE, closed).await.unwrap());
        drop(first);
        let fourth = TcpStream::connect(address).await.unwrap();
        let (_, from, _seat) = next().await.unwrap();
        assert_eq!(from, fourth.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_full_house_lets_newcomers_wait() {
        let (seats, listener, address) = open(1, 10).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let (_, _, seat) = seats.accept(&listener).await;
        let second = TcpStream::connect(address).await.unwrap();
        let early = timeout(Duration::from_millis(100), seats.accept(&listener)).await;
        assert!(early.is_err(), "let in beside the first");
        drop(seat);
        let (_, from, _seat) = timeout(DEADLINE, seats.accept(&listener)).await.expect("in time");
        assert_eq!(from, second.local_addr().unwrap());
    }

    #[test]
    fn one_network_of_ipv6_is_one_peer() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8:0:1::1"), address("2001:db8:0:1:ffff::2"));
        assert_ne!(address("2001:db8:0:1::1"), address("2001:db8:0:2::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.2"), address("192.0.2.1"));
    }
}
