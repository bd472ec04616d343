//! The link between device and gateway: encrypted, and each side knows who the other is before it takes a byte as said.
//!
//! | part | does |
//! |---|---|
//! | [`frames`] | Noise handshake and frames, without IO: bytes in, messages out. Serial or BLE can carry them |
//! | [`Link`] | the same over anything that tokio reads and writes, with time limits |
//! | [`GatewayAddress`] | how people write down where a gateway is, and its key |
//!
//! **Who knows whom.** Pattern IK of [Noise]: the device has its gateway's static key from the address that its owner gave it; the
//! gateway learns the device's in the handshake and looks it up. A key that it does not know may only ask to be enrolled.
//!
//! **What an attacker on the way can do**: cut the connection. A bit that was flipped, a frame that comes again, is missing or comes
//! in another order ends it ([`LinkError::Forged`]), and nothing of that frame has reached anybody. So the engine of
//! joint signatures, which takes changed bytes for a cheat, only ever sees what the other side sent.
//!
//! [Noise]: https://noiseprotocol.org/noise.html

pub mod frames;

mod address;
mod stream;

pub use address::{BadAddress, GatewayAddress};
pub use frames::{LinkError, PublicKey, StaticKey};
pub use stream::{Link, Receiver, Sender, Traffic, pair};
