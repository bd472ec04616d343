//! An address: bech32m (BIP350) with the prefix `farthing`. It holds the network, the payee's identity, the key that its mail
//! is encrypted to, and its mailbox.
//!
//! The identity signs the payee's prekeys, and mail is bound to it, so a mailbox can put in neither prekeys nor a mail key of
//! its own.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};
use bitcoin::Network;
use bitcoin::p2p::Magic;
use secp256k1::{PublicKey, XOnlyPublicKey};

const PREFIX: &str = "farthing";
const VERSION: u8 = 1;
/// The longest host, in bytes.
pub const MOST_HOST: usize = 255;

/// Where mail for a payee goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The chain that its channels are on.
    pub network: Network,
    /// Who it is: signs its prekeys.
    pub identity: XOnlyPublicKey,
    /// What its mail is encrypted to.
    pub mail: PublicKey,
    /// Which mailbox keeps it.
    pub host: Host,
}

/// A mailbox's host, with a port if need be: 1 to 255 visible ASCII characters. What is behind it is for the caller to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

/// A text that is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mailbox's host is 1 to {MOST_HOST} visible ASCII characters")]
pub struct BadHost;

impl Host {
    /// Takes a text for a host.
    ///
    /// # Errors
    /// When it is empty or too long, or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, BadHost> {
        let text = text.into();
        let is_good =
            (1..=MOST_HOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_good.then_some(Self(text)).ok_or(BadHost)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAddress {
    /// Not bech32m: a typing error, most likely.
    #[error("this is no address: {0}")]
    Bech32(#[from] bech32::primitives::decode::CheckedHrpstringError),
    /// Another kind of text.
    #[error("an address begins with `{PREFIX}1`, this with `{0}1`")]
    Prefix(String),
    /// A later kind of address.
    #[error("an address of version {0} is not known here, only {VERSION}")]
    Version(u8),
    /// Cut off.
    #[error("the address is too short")]
    Length,
    /// An unknown chain.
    #[error("the address is for a network that is not known here")]
    Network,
    /// A key that is no point.
    #[error("a key of the address is no point of the curve")]
    Key,
    /// No mailbox.
    #[error(transparent)]
    Host(#[from] BadHost),
}

impl Address {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.network.magic().to_bytes());
        bytes.extend(self.identity.serialize());
        bytes.extend(self.mail.serialize());
        bytes.extend(self.host.0.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadAddress> {
        let (version, rest) = bytes.split_first().ok_or(BadAddress::Length)?;
        if *version != VERSION {
            return Err(BadAddress::Version(*version));
        }
        let (magic, rest) = rest.split_first_chunk().ok_or(BadAddress::Length)?;
        let (identity, rest) = rest.split_first_chunk::<32>().ok_or(BadAddress::Length)?;
        let (mail, host) = rest.split_first_chunk::<33>().ok_or(BadAddress::Length)?;
        let host = std::str::from_utf8(host).map_err(|_| BadHost)?;
        Ok(Self {
            network: Network::from_magic(Magic::from_bytes(*magic)).ok_or(BadAddress::Network)?,
            identity: XOnlyPublicKey::from_slice(identity).map_err(|_| BadAddress::Key)?,
            mail: PublicKey::from_slice(mail).map_err(|_| BadAddress::Key)?,
            host: Host::new(host)?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = Hrp::parse_unchecked(PREFIX);
        // At most 325 bytes: below the 1,023 characters that the checksum covers.
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, prefix, &self.to_bytes()).map_err(|_| fmt::Error)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text.trim())?;
        if checked.hrp() != Hrp::parse_unchecked(PREFIX) {
            return Err(BadAddress::Prefix(checked.hrp().to_lowercase()));
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use farthing_protocol::keys::Seed;

    use super::*;
    use crate::blob::MailKey;

    fn address(network: Network, host: &str) -> Address {
        let seed = Seed::new([7; 64], network);
        Address {
            network,
            identity: seed.cheque_keys().identity(),
            mail: MailKey::of(&seed).public(),
            host: Host::new(host).unwrap(),
        }
    }

    #[test]
    fn an_address_survives_the_way_through_its_text() {
        let networks = [Network::Bitcoin, Network::Testnet4, Network::Signet, Network::Regtest];
        for (network, host) in
            networks.into_iter().zip(["a", "mail.example", "[::1]:8402", &"h".repeat(MOST_HOST)])
        {
            let address = address(network, host);
            let text = address.to_string();
            assert!(text.starts_with("farthing1") && text.len() <= 1_023, "{text}");
            assert_eq!(text.parse(), Ok(address.clone()));
            assert_eq!(text.to_uppercase().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let bytes = address(Network::Regtest, "mail.example").to_bytes();
        let parse = |prefix, bytes: &[u8]| {
            let text = bech32::encode::<Bech32m>(Hrp::parse(prefix).unwrap(), bytes).unwrap();
            text.parse::<Address>().unwrap_err()
        };
        assert_eq!(parse("farthingreceipt", &bytes), BadAddress::Prefix("farthingreceipt".into()));
        assert_eq!(parse(PREFIX, &[]), BadAddress::Length);
        assert_eq!(parse(PREFIX, &bytes[..60]), BadAddress::Length);
        assert_eq!(parse(PREFIX, &bytes[..70]), BadHost.into());
        assert_eq!(parse(PREFIX, &[&[2], &bytes[1..]].concat()), BadAddress::Version(2));
        assert_eq!(parse(PREFIX, &[&[1, 0, 0, 0, 0], &bytes[5..]].concat()), BadAddress::Network);
        assert_eq!(parse(PREFIX, &[&bytes[..5], &[0xff; 32], &bytes[37..]].concat()), BadAddress::Key);
        assert_eq!(parse(PREFIX, &[&bytes[..37], &[0x05; 33], &bytes[70..]].concat()), BadAddress::Key);
        for bad in [&b"\x1b"[..], b" ", "ä".as_bytes(), &[0xff], &[b'h'; MOST_HOST]] {
            assert_eq!(parse(PREFIX, &[&bytes[..], bad].concat()), BadHost.into());
        }
        let mut mistyped = address(Network::Regtest, "mail.example").to_string().into_bytes();
        mistyped[30] = if mistyped[30] == b'q' { b'p' } else { b'q' };
        let mistyped = String::from_utf8(mistyped).unwrap();
        assert!(matches!(mistyped.parse::<Address>(), Err(BadAddress::Bech32(_))));
    }
}
