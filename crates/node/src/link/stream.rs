//! A link over anything that tokio reads and writes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::GatewayAddress;
use super::frames::{
    Assembly, FIRST_BYTES, Handshake, LinkError, PublicKey, SECOND_BYTES, Session, StaticKey,
};

/// How long connecting and the handshake may take together, each.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a message may take to be written.
const WRITE: Duration = Duration::from_secs(30);

/// A link, ready to be used.
pub struct Link {
    sender: Sender,
    receiver: Receiver,
}

/// What went over a link in one direction, handshake aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes, as encrypted.
    pub bytes: u64,
    /// Whole messages.
    pub messages: u64,
}

/// The half that sends.
pub struct Sender {
    session: Arc<Session>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    sealed: u64,
    traffic: Traffic,
}

/// The half that receives.
pub struct Receiver {
    session: Arc<Session>,
    reader: Pin<Box<dyn AsyncRead + Send>>,
    assembly: Assembly,
    traffic: Traffic,
}

impl Link {
    /// Connects to a gateway over TCP, as a device does.
    ///
    /// # Errors
    /// See [`LinkError`]; nothing was said to anybody who does not have the gateway's key.
    pub async fn dial(own: &StaticKey, gateway: &GatewayAddress) -> Result<Self, LinkError> {
        let connect = TcpStream::connect(&gateway.host);
        let stream = timeout(HANDSHAKE, connect).await.map_err(|_| LinkError::Silent)??;
        // The messages of a round are short conversations: waiting to fill packets would only delay them.
        stream.set_nodelay(true)?;
        Self::connect(stream, own, &gateway.key).await
    }

    /// The device's side of a connection.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn connect<S>(mut stream: S, own: &StaticKey, gateway: &PublicKey) -> Result<Self, LinkError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (handshake, first) = Handshake::begin(own, gateway)?;
        let exchange = async {
            stream.write_all(&first).await?;
            stream.flush().await?;
            let mut second = [0; SECOND_BYTES];
            stream.read_exact(&mut second).await?;
            Ok::<_, std::io::Error>(second)
        };
        let second = timeout(HANDSHAKE, exchange).await.map_err(|_| LinkError::Silent)?.map_err(ended)?;
        Ok(Self::over(stream, handshake.finish(&second)?))
    }

    /// The gateway's side of a connection. Who it is shows [`Self::peer`].
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn accept<S>(mut stream: S, own: &StaticKey) -> Result<Self, LinkError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let exchange = async {
            let mut first = [0; FIRST_BYTES];
            stream.read_exact(&mut first).await.map_err(ended)?;
            let (session, second) = Handshake::answer(own, &first)?;
            stream.write_all(&second).await?;
            stream.flush().await?;
            Ok::<_, LinkError>(session)
        };
        let session = timeout(HANDSHAKE, exchange).await.map_err(|_| LinkError::Silent)??;
        Ok(Self::over(stream, session))
    }

    fn over<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, session: Session) -> Self {
        let session = Arc::new(session);
        let (reader, writer) = split(stream);
        let sender = Sender {
            session: session.clone(),
            writer: Box::pin(writer),
            sealed: 0,
            traffic: Traffic::default(),
        };
        let receiver = Receiver {
            session,
            reader: Box::pin(reader),
            assembly: Assembly::default(),
            traffic: Traffic::default(),
        };
        Self { sender, receiver }
    }

    /// The other side's key.
    pub fn peer(&self) -> PublicKey {
        self.sender.session.peer()
    }

    /// Names this connection, for [`farthing_protocol::device::wire::round_id`].
    pub fn connection(&self) -> [u8; 32] {
        self.sender.session.connection()
    }

    /// Both halves, to be used at the same time.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    /// See [`LinkError`]. Whether the message arrived is then not known.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let frames = self.session.seal(&mut self.sealed, message)?;
        let written = async {
            self.writer.write_all(&frames).await?;
            self.writer.flush().await
        };
        timeout(WRITE, written).await.map_err(|_| LinkError::Silent)?.map_err(ended)?;
        self.traffic.bytes += frames.len() as u64;
        self.traffic.messages += 1;
        Ok(())
    }

    /// What was sent so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}

impl Receiver {
    /// The next message. May be cancelled at any time: nothing that came is lost.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            if let Some(message) = self.assembly.next(&self.session)? {
                self.traffic.messages += 1;
                return Ok(message);
            }
            let mut bytes = [0; 16_384];
            match self.reader.read(&mut bytes).await.map_err(ended)? {
                0 => return Err(LinkError::Closed),
                length => {
                    self.assembly.take(&bytes[..length]);
                    self.traffic.bytes += length as u64;
                }
            }
        }
    }

    /// What came so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}

/// A connection that ended is no failure of the network.
fn ended(error: std::io::Error) -> LinkError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => LinkError::Closed,
        _other => LinkError::Io(error),
    }
}

/// Both ends of a link in one process, after a real handshake: the device's, the gateway's.
///
/// # Errors
/// See [`LinkError`].
pub async fn pair(device: &StaticKey, gateway: &StaticKey) -> Result<(Link, Link), LinkError> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let key = gateway.public();
    tokio::try_join!(Link::connect(near, device, &key), Link::accept(far, gateway))
}

#[cfg(test)]
mod tests;
