//! What became of a call, as its answer tells.

use farthing_protocol::Msat;
use reqwest::Response;

use crate::client::ClientError;
use crate::credential::Receipt;
use crate::wire;

/// What became of a call.
pub(super) enum Outcome {
    /// Served, for that much.
    Served(Msat),
    /// It ran and failed; free.
    Free,
    /// Served, and charged as the answer flows.
    Metered,
    /// It was not admitted; free.
    Refused,
    /// Too long ago to tell.
    Forgotten,
    /// Not settled: whatever stands between, a server that broke off or one that does not know the header.
    Open,
}

impl Outcome {
    pub(super) fn of(response: &Response, most: Msat) -> Result<Self, ClientError> {
        if let Some(receipt) = header(response, wire::RECEIPT) {
            let receipt = Receipt::from_header(receipt)
                .map_err(|error| ClientError::Nonsense(format!("its receipt does not decode: {error}")))?;
            if receipt.cost > most {
                let detail = format!("it says that it charged {} where {most} was the most", receipt.cost);
                return Err(ClientError::Nonsense(detail));
            }
            return Ok(Self::Served(receipt.cost));
        }
        Ok(match header(response, wire::LIGHTSPEED) {
            Some(wire::FREE) => Self::Free,
            Some(wire::METERED) => Self::Metered,
            Some(wire::REFUSED) => Self::Refused,
            Some(wire::FORGOTTEN) => Self::Forgotten,
            Some(_) | None => Self::Open,
        })
    }
}

pub(super) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
