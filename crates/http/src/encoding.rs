//! The draft's encoding of JSON in headers: canonical (RFC 8785), then base64url without padding (RFC 4648).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Text that does not decode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not base64url without padding.
    #[error("not base64url without padding: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Not the expected JSON.
    #[error("not the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Canonical JSON in base64url.
pub fn encode(value: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(canonical(value))
}

/// Canonical JSON.
pub fn canonical(value: &impl Serialize) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("values of ours can be written as JSON")
}

/// Raw bytes in base64url.
pub fn encode_bytes(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads JSON in base64url; it need not be canonical.
///
/// # Errors
/// When it is neither.
pub fn decode<T: DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?)
}

/// Reads raw bytes in base64url.
///
/// # Errors
/// When it is not base64url without padding.
pub fn decode_bytes(text: &str) -> Result<Vec<u8>, DecodeError> {
    Ok(URL_SAFE_NO_PAD.decode(text)?)
}

/// Reads raw bytes in base64url into `room`, and gives how many they are.
///
/// # Errors
/// When it is not base64url without padding, or there may be more of it than `room` holds.
pub fn decode_into(text: &str, room: &mut [u8]) -> Result<usize, base64::DecodeSliceError> {
    URL_SAFE_NO_PAD.decode_slice(text, room)
}

/// Hexadecimal text for byte arrays in JSON.
pub mod hex_array {
    use bitcoin::hex::{DisplayHex as _, FromHex};
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// Writes lower-case hexadecimal.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.as_slice().to_lower_hex_string())
    }

    /// Reads hexadecimal of exactly `N` bytes.
    ///
    /// # Errors
    /// When it is something else.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = Vec::<u8>::from_hex(&text).map_err(de::Error::custom)?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| de::Error::custom(format!("expected {N} bytes, got {length}")))
    }
}

/// Millisatoshi as decimal text in JSON, since a JSON number is exact only up to 2⁵³.
pub mod msat_text {
    use farthing_protocol::Msat;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// Writes decimal digits.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(amount: &Msat, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&amount.get())
    }

    /// Reads decimal digits.
    ///
    /// # Errors
    /// When it is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Msat, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Msat::new).map_err(de::Error::custom)
    }
}
