//! Connects to other nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a peer may take to answer a dial.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects, for LDK. Lightning's messages are small, several to a payment: none may wait for the acknowledgement of the one before
/// (RFC 1122, section 4.2.3.4). LDK's own connecting leaves that as it is.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<std::net::TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    stream.into_std()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_dialled_sends_small_messages_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = dial(listener.local_addr().unwrap()).await.unwrap();
        assert!(dialled.nodelay().unwrap());
    }
}
