//! What became of a call, as its answer tells.

use std::time::Duration;

use farthing_protocol::Msat;
use reqwest::Response;
use reqwest::header::RETRY_AFTER;

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
    /// It is being served.
    Running,
    /// The channel takes no calls any more.
    Closed,
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
            Some(wire::RUNNING) => Self::Running,
            Some(wire::CLOSED) => Self::Closed,
            Some(wire::FORGOTTEN) => Self::Forgotten,
            Some(_) | None => Self::Open,
        })
    }
}

/// The payee's epoch, if the answer tells it.
pub(super) fn epoch(response: &Response) -> Option<u32> {
    header(response, wire::EPOCH)?.parse().ok()
}

/// The least pause before another try, whatever a seller says.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// When another try makes sense, if the answer tells: a minute at most.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: u64 = header(response, RETRY_AFTER.as_str())?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(60)).max(LEAST_PAUSE))
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seller_that_names_no_pause_is_not_asked_without_one() {
        let after = |seconds: &str| {
            let answer = axum::http::Response::builder().header(RETRY_AFTER, seconds).body("").unwrap();
            retry_after(&answer.into())
        };
        assert_eq!(after("0"), Some(LEAST_PAUSE));
        assert_eq!(after("3"), Some(Duration::from_secs(3)));
        assert_eq!(after("999"), Some(Duration::from_secs(60)));
        assert_eq!(after("soon"), None);
    }
}
