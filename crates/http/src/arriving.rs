//! Bodies that have to arrive in time: a peer that sends one byte by byte would have its seat for as long as it wants.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::problem::{Kind, Problem};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// A body of JSON that has arrived in time.
pub(crate) struct Posted<T>(pub(crate) T);

/// Any other body that has.
pub(crate) struct PostedBytes(pub(crate) Bytes);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        read(in_time(Json::from_request(request, state)).await?).map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for PostedBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = in_time(Bytes::from_request(request, state)).await?;
        read.map(Self).map_err(|rejection| Problem::new(Kind::BadRequest, rejection.body_text()))
    }
}

/// What is read of a body, if it is read in time.
pub(crate) async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(PATIENCE, reading).await.map_err(|_elapsed| {
        let detail = format!("the body was not there after {} s: send it again", PATIENCE.as_secs());
        // Not for good: a payer that announces a chain would drop it, though an earlier request may have brought it.
        Problem::new(Kind::Unavailable, detail).retry_after(1)
    })
}

/// A body, or what is wrong with it in the words of RFC 9457.
pub(crate) fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|rejection| Problem::new(Kind::BadRequest, rejection.body_text()))
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::body::Body;
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse as _;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// A body that comes one byte after the other, and has no end.
    pub(crate) fn drips() -> Body {
        let drips = stream::repeat(Bytes::from_static(b" ")).then(|byte| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok::<_, std::io::Error>(byte)
        });
        Body::from_stream(drips)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let posts = |body| {
            Request::post("/").header(header::CONTENT_TYPE, "application/json").body(body).expect("a request")
        };
        let refused = Posted::<u32>::from_request(posts(drips()), &()).await.map(drop).unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let refused = PostedBytes::from_request(posts(drips()), &()).await.map(drop).unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(Posted::from_request(posts(Body::from("7")), &()).await.ok().map(|body| body.0), Some(7));
    }
}
