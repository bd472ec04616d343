//! How people write down where a gateway is: `<key in 64 hex digits>@host:port`.

use std::fmt;
use std::str::FromStr;

use bitcoin::hex::{DisplayHex as _, FromHex as _};

use super::frames::PublicKey;

/// Where a gateway listens, and the key that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAddress {
    /// Its key.
    pub key: PublicKey,
    /// Host and port.
    pub host: String,
}

/// A text that is no gateway's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no gateway's address: it looks like <64 hex digits>@host:port")]
pub struct BadAddress(String);

impl FromStr for GatewayAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let (key, host) = text.split_once('@').ok_or_else(bad)?;
        let key = <[u8; 32]>::from_hex(key).map_err(|_| bad())?;
        let (name, port) = host.rsplit_once(':').ok_or_else(bad)?;
        if name.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Self { key, host: host.to_owned() })
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key.to_lower_hex_string(), self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let text = format!("{}@gateway.example:8404", "0f".repeat(32));
        let address: GatewayAddress = text.parse().unwrap();
        assert_eq!((address.key, address.to_string()), ([0x0f; 32], text.clone()));
        for bad in ["", "gateway.example:8404", &text[2..], &text[..70], "0f@a:1", &text.replace(":8404", "")]
        {
            assert!(bad.parse::<GatewayAddress>().is_err(), "{bad}");
        }
    }
}
