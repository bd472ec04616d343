//! An answer of the service's, as far as it is there before anything is charged for it.
//!
//! One that ends in time and is short enough is read to its end: if it breaks off, it is free, and it is kept for a retry. Whether
//! one without a stated length does, nobody knows before it has ended. So what comes at once of it is gathered, and an answer that
//! goes on then is charged and sent as it comes: one that flows slowly is not held back for longer than that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{self, Body, HttpBody};
use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

/// For how long an answer without a stated length is gathered.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What is there of an answer.
#[derive(Debug)]
pub(super) enum Gathered {
    /// All of it.
    Whole(Bytes),
    /// It is long, or goes on for some time.
    Begun(Body),
}

/// Why nothing is charged for an answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// It broke off.
    Off(axum::Error),
    /// It is short, and took too long to end.
    TooSlow,
}

/// Reads an answer to its end, if that comes in time and it has at most that many bytes.
pub(super) async fn gather(body: Body, most: usize, until: Instant) -> Result<Gathered, Broken> {
    match body.size_hint().upper() {
        Some(size) if size <= most as u64 => match timeout_at(until, body::to_bytes(body, most)).await {
            Ok(read) => read.map(Gathered::Whole).map_err(Broken::Off),
            Err(_elapsed) => Err(Broken::TooSlow),
        },
        Some(_large) => Ok(Gathered::Begun(body)),
        None => gather_at_once(body, most, until).await,
    }
}

async fn gather_at_once(mut body: Body, most: usize, until: Instant) -> Result<Gathered, Broken> {
    let until = until.min(Instant::now() + AT_ONCE);
    let (mut first, mut length) = (VecDeque::new(), 0_usize);
    loop {
        match timeout_at(until, poll_fn(|context| Pin::new(&mut body).poll_frame(context))).await {
            Ok(None) => return Ok(Gathered::Whole(joined(first))),
            Ok(Some(Err(error))) => return Err(Broken::Off(error)),
            Ok(Some(Ok(frame))) => {
                length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
                // What is kept has no trailers.
                let may_be_kept = frame.is_data() && length <= most;
                first.push_back(frame);
                if !may_be_kept {
                    break;
                }
            }
            Err(_elapsed) => break,
        }
    }
    Ok(Gathered::Begun(Body::new(Begun { first, rest: body })))
}

fn joined(frames: VecDeque<Frame<Bytes>>) -> Bytes {
    let mut bytes = BytesMut::new();
    for data in frames.into_iter().filter_map(|frame| frame.into_data().ok()) {
        bytes.extend_from_slice(&data);
    }
    bytes.freeze()
}

/// What was gathered, then the rest.
struct Begun {
    first: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.first.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default() // its length was not stated
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    type Part = Result<&'static str, std::io::Error>;

    fn parts(parts: Vec<Part>) -> Body {
        Body::from_stream(stream::iter(parts))
    }

    async fn gathered(body: Body, most: usize) -> Result<Gathered, Broken> {
        gather(body, most, Instant::now() + Duration::from_secs(60)).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_at_once_is_whole() {
        let short = gathered(parts(vec![Ok("one, "), Ok("two")]), 8).await;
        assert!(matches!(&short, Ok(Gathered::Whole(bytes)) if bytes == "one, two"), "{short:?}");
        let stated = gathered(Body::from("one, two"), 8).await;
        assert!(matches!(&stated, Ok(Gathered::Whole(bytes)) if bytes == "one, two"), "{stated:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_comes_as_it_was() {
        let long = gathered(parts(vec![Ok("one, "), Ok("two, "), Ok("three")]), 8).await;
        let Ok(Gathered::Begun(body)) = long else { panic!("{long:?}") };
        assert_eq!(body::to_bytes(body, 100).await.expect("it does not break off"), "one, two, three");
    }

    #[tokio::test(start_paused = true)]
    async fn what_flows_slowly_is_not_held_back() {
        let flows = stream::iter([Ok::<_, std::io::Error>("one")]).chain(stream::pending());
        let begun = Instant::now();
        let slow = gathered(Body::from_stream(flows), 8).await;
        assert!(begun.elapsed() < 2 * AT_ONCE);
        let Ok(Gathered::Begun(body)) = slow else { panic!("{slow:?}") };
        let first = body.into_data_stream().next().await;
        assert!(matches!(&first, Some(Ok(bytes)) if bytes == "one"), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_at_once_is_free() {
        let broken = gathered(parts(vec![Ok("one"), Err(std::io::Error::other("gone"))]), 8).await;
        assert!(matches!(broken, Err(Broken::Off(_))), "{broken:?}");
    }
}
