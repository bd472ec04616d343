//! Bodies of requests whose MAC covers them: they are in memory before anybody knows who sent them.
//!
//! A small one is read at once. A larger one needs a place while it is in memory, and there are only so many: so strangers make
//! this process hold 64 MiB of them, and not one for each connection. Who waits for a place waits within the time that its body
//! has to arrive.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest body that needs no place, in bytes.
const SMALL: usize = 64 << 10;
/// How many larger ones are in memory at once.
const PLACES: usize = 64;

/// The places for large bodies.
pub(crate) struct Bodies(Arc<Semaphore>);

/// A body in memory. Its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// Too long.
    #[error("the body has more than {0} bytes, the most that is read here: send less")]
    TooLong(usize),
    /// It broke off.
    #[error("the body broke off, and nothing of it counts: send it again ({0})")]
    BrokeOff(#[from] axum::Error),
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

impl Bodies {
    /// Reads a body of at most that many bytes.
    ///
    /// # Errors
    /// When it is longer, or breaks off.
    pub(crate) async fn read(&self, body: Body, most: usize) -> Result<Held, Unread> {
        let mut parts = body.into_data_stream();
        let (mut bytes, mut place) = (BytesMut::new(), None);
        while let Some(part) = parts.next().await {
            let part = part?;
            let length = bytes.len().saturating_add(part.len());
            if length > most {
                return Err(Unread::TooLong(most));
            }
            if length > SMALL && place.is_none() {
                place = Some(self.0.clone().acquire_owned().await.expect("the places are never closed"));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Held { bytes: bytes.freeze(), _place: place })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;

    use super::*;

    const LARGE: usize = SMALL + 1;

    fn body(length: usize) -> Body {
        Body::from(vec![b' '; length])
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_waits_until_another_one_has_left_the_memory_and_a_small_one_does_not() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(bodies.read(body(LARGE), LARGE).await.expect("there is a place"));
        }
        assert_eq!(bodies.read(body(SMALL), LARGE).await.expect("it needs none").bytes.len(), SMALL);
        let waits = tokio::time::timeout(Duration::from_secs(60), bodies.read(body(LARGE), LARGE)).await;
        assert!(waits.is_err(), "all places are taken");
        held.pop();
        assert_eq!(bodies.read(body(LARGE), LARGE).await.expect("one is free").bytes.len(), LARGE);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_or_breaks_off_is_not_read() {
        let bodies = Bodies::default();
        let too_long = bodies.read(body(11), 10).await;
        assert!(matches!(too_long, Err(Unread::TooLong(10))), "{too_long:?}");
        let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))];
        let broken = bodies.read(Body::from_stream(stream::iter(parts)), 10).await;
        assert!(matches!(broken, Err(Unread::BrokeOff(_))), "{broken:?}");
    }
}
