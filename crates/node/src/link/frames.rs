//! Handshake and frames, without IO.
//!
//! ```text
//! handshake   96 bytes device → gateway (e, es, s, ss), 48 bytes back (e, ee, se); no payload
//! frame       length, 2 bytes, big-endian │ ciphertext of at most 65,535 bytes, 16 of them the tag
//! message     length, 4 bytes, big-endian │ bytes; spread over as many frames as it takes
//! ```
//!
//! A length of a message is part of the ciphertext, so only the other side can state one; it is still bounded, before any room
//! is made for it.

use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::{Zeroize, ZeroizeOnDrop};

use farthing_protocol::device::wire;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"farthing/link/1";
/// The longest ciphertext of Noise.
const MOST_CIPHERTEXT: usize = 65_535;
const TAG: usize = 16;
const MOST_CHUNK: usize = MOST_CIPHERTEXT - TAG;
const LENGTH: usize = 4;

/// The first handshake message: 32 bytes of key, 48 of encrypted key, 16 of tag.
pub const FIRST_BYTES: usize = 96;
/// The second handshake message: 32 bytes of key, 16 of tag.
pub const SECOND_BYTES: usize = 48;

/// A side's public key on the link (X25519).
pub type PublicKey = [u8; 32];

/// A side's secret key on the link. Neither `Clone` nor `Debug`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct StaticKey {
    secret: [u8; 32],
    public: PublicKey,
}

impl StaticKey {
    /// The key made of 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        let resolver = snow::resolvers::DefaultResolver;
        let mut curve =
            snow::resolvers::CryptoResolver::resolve_dh(&resolver, &snow::params::DHChoice::Curve25519)
                .expect("the curve is built in");
        curve.set(&secret);
        let mut public = [0; 32];
        public.copy_from_slice(curve.pubkey());
        Self { secret, public }
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The handshake failed: another key than the one that is pinned, another version, or changed bytes.
    #[error("the other side is not who it should be, or speaks another version: {0}")]
    Handshake(String),
    /// A frame that the other side did not send, or not now.
    #[error("a frame was changed, repeated or left out on the way")]
    Forged,
    /// A frame or a message of a length that none has.
    #[error("a message of {0} bytes, longer than any")]
    TooLong(usize),
    /// Nothing came for too long.
    #[error("the other side has been silent for too long")]
    Silent,
    /// The other side has gone.
    #[error("the connection was cut")]
    Closed,
    /// The transport.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// A handshake that has begun.
pub struct Handshake(HandshakeState);

impl Handshake {
    /// The device's side: it knows the gateway's key. Gives the first message.
    ///
    /// # Errors
    /// When the key is none.
    pub fn begin(own: &StaticKey, gateway: &PublicKey) -> Result<(Self, Vec<u8>), LinkError> {
        let builder = builder().local_private_key(&own.secret).map_err(handshake)?;
        let builder = builder.remote_public_key(gateway).map_err(handshake)?;
        let mut state = builder.build_initiator().map_err(handshake)?;
        let mut first = vec![0; FIRST_BYTES];
        let length = state.write_message(&[], &mut first).map_err(handshake)?;
        first.truncate(length);
        Ok((Self(state), first))
    }

    /// The device's side: takes the gateway's message.
    ///
    /// # Errors
    /// When the gateway does not have the key.
    pub fn finish(mut self, second: &[u8]) -> Result<Session, LinkError> {
        self.0.read_message(second, &mut []).map_err(handshake)?;
        Session::new(self.0)
    }

    /// The gateway's side: takes the device's first message, gives its own.
    ///
    /// # Errors
    /// When the device expects another gateway.
    pub fn answer(own: &StaticKey, first: &[u8]) -> Result<(Session, Vec<u8>), LinkError> {
        let builder = builder().local_private_key(&own.secret).map_err(handshake)?;
        let mut state = builder.build_responder().map_err(handshake)?;
        state.read_message(first, &mut []).map_err(handshake)?;
        let mut second = vec![0; SECOND_BYTES];
        let length = state.write_message(&[], &mut second).map_err(handshake)?;
        second.truncate(length);
        Ok((Session::new(state)?, second))
    }
}

fn builder() -> Builder<'static> {
    let pattern = PATTERN.parse().expect("the pattern is one of Noise");
    Builder::new(pattern).prologue(PROLOGUE).expect("a builder takes one prologue")
}

fn handshake(error: snow::Error) -> LinkError {
    LinkError::Handshake(error.to_string())
}

/// A link whose handshake is done.
pub struct Session {
    state: StatelessTransportState,
    peer: PublicKey,
    connection: [u8; 32],
}

impl Session {
    fn new(state: HandshakeState) -> Result<Self, LinkError> {
        let missing = || LinkError::Handshake("the other side has no key".to_owned());
        let peer = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or_else(missing)?;
        let connection = state.get_handshake_hash().try_into().map_err(|_| missing())?;
        Ok(Self { state: state.into_stateless_transport_mode().map_err(handshake)?, peer, connection })
    }

    /// The other side's key.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Names this connection: the hash of its handshake, equal on both sides and never again.
    pub fn connection(&self) -> [u8; 32] {
        self.connection
    }

    /// A message as frames, ready to be sent. `sealed` counts the frames that this side sent before.
    ///
    /// # Errors
    /// When the message is longer than any may be.
    pub fn seal(&self, sealed: &mut u64, message: &[u8]) -> Result<Vec<u8>, LinkError> {
        let length = message.len();
        if length > wire::MOST_BYTES {
            return Err(LinkError::TooLong(length));
        }
        let stated = u32::try_from(length).expect("it is bounded");
        let plain = [&stated.to_be_bytes(), message].concat();
        let mut frames = Vec::with_capacity(plain.len() + (plain.len() / MOST_CHUNK + 1) * (TAG + 2));
        for chunk in plain.chunks(MOST_CHUNK) {
            let mut ciphertext = vec![0; chunk.len() + TAG];
            let length = self.state.write_message(*sealed, chunk, &mut ciphertext).map_err(handshake)?;
            *sealed += 1;
            let stated = u16::try_from(length).expect("a chunk with its tag is no longer than Noise allows");
            frames.extend_from_slice(&stated.to_be_bytes());
            frames.extend_from_slice(&ciphertext[..length]);
        }
        Ok(frames)
    }

    /// One frame with these plain bytes, whatever length they state.
    #[cfg(test)]
    pub(crate) fn seal_raw(&self, sealed: u64, plain: &[u8]) -> Vec<u8> {
        let mut ciphertext = vec![0; plain.len() + TAG];
        let length = self.state.write_message(sealed, plain, &mut ciphertext).unwrap();
        let stated = u16::try_from(length).unwrap().to_be_bytes();
        [&stated[..], &ciphertext[..length]].concat()
    }

    /// The plain bytes of one frame's ciphertext. `opened` counts the frames that were taken in before.
    fn open(&self, opened: &mut u64, ciphertext: &[u8]) -> Result<Vec<u8>, LinkError> {
        let mut plain = vec![0; ciphertext.len()];
        let length =
            self.state.read_message(*opened, ciphertext, &mut plain).map_err(|_| LinkError::Forged)?;
        *opened += 1;
        plain.truncate(length);
        Ok(plain)
    }
}

/// Puts messages together again. Bytes come in as the transport gives them.
#[derive(Default)]
pub struct Assembly {
    /// What came and is not a whole frame yet.
    incoming: Vec<u8>,
    /// Plain bytes that are not a whole message yet.
    plain: Vec<u8>,
    opened: u64,
    failed: bool,
}

impl Assembly {
    /// Takes bytes from the transport.
    pub fn take(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// The next whole message, if it has come. After an error there is none any more.
    ///
    /// # Errors
    /// [`LinkError::Forged`] and [`LinkError::TooLong`].
    pub fn next(&mut self, session: &Session) -> Result<Option<Vec<u8>>, LinkError> {
        if self.failed {
            return Err(LinkError::Closed);
        }
        let next = self.advance(session);
        self.failed = next.is_err();
        next
    }

    fn advance(&mut self, session: &Session) -> Result<Option<Vec<u8>>, LinkError> {
        loop {
            if let Some((stated, rest)) = self.plain.split_first_chunk::<LENGTH>() {
                let length = u32::from_be_bytes(*stated) as usize;
                if length > wire::MOST_BYTES {
                    return Err(LinkError::TooLong(length));
                }
                if rest.len() > length {
                    // Each message begins with a frame of its own.
                    return Err(LinkError::Forged);
                }
                if rest.len() == length {
                    let message = rest.to_vec();
                    self.plain.clear();
                    return Ok(Some(message));
                }
            }
            let Some((stated, rest)) = self.incoming.split_first_chunk::<2>() else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes(*stated));
            if length <= TAG {
                return Err(LinkError::Forged);
            }
            let Some(ciphertext) = rest.get(..length) else { return Ok(None) };
            let plain = session.open(&mut self.opened, ciphertext)?;
            self.plain.extend_from_slice(&plain);
            self.incoming.drain(..2 + length);
        }
    }
}
