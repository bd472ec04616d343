//! The body of an answer that counts as broken off when nothing comes of it for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use reqwest::{Body, Response, ResponseBuilderExt as _};
use tokio::time::{Sleep, sleep};

/// A body and for how long it may be silent.
struct Impatient {
    body: Body,
    patience: Duration,
    /// Since somebody waits for the next part.
    silent: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Impatient {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.silent = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = self.patience;
        let silent = self.silent.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(silent.as_mut().poll(context));
        let silent =
            io::Error::new(io::ErrorKind::TimedOut, "the seller stopped in the middle of its answer");
        Poll::Ready(Some(Err(silent.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The same answer, whose body may be silent for no longer than that.
pub(super) fn impatient(response: Response, patience: Duration) -> Response {
    let url = response.url().clone();
    let (parts, body) = axum::http::Response::<Body>::from(response).into_parts();
    let body = Body::wrap(Impatient { body, patience, silent: None });
    let mut same = axum::http::Response::builder().url(url).body(body).expect("an address that was asked");
    (*same.status_mut(), *same.version_mut()) = (parts.status, parts.version);
    *same.headers_mut() = parts.headers;
    same.into()
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_come_slowly_but_not_stop() {
        let slowly = stream::iter(0..3).then(|_| async {
            sleep(Duration::from_secs(29)).await;
            Ok::<_, io::Error>("part")
        });
        let body = Body::wrap_stream(slowly.chain(stream::pending()));
        let answer = axum::http::Response::builder().header("x-kept", "yes").body(body).unwrap();
        let mut answer = impatient(answer.into(), Duration::from_secs(30));
        assert_eq!(answer.headers()["x-kept"], "yes");
        for _ in 0..3 {
            assert_eq!(answer.chunk().await.unwrap().unwrap(), "part");
        }
        assert!(answer.chunk().await.unwrap_err().is_timeout());
    }
}
