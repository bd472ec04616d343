//! Pays for the calls of a `reqwest` client: a middleware for [`reqwest_middleware`].
//!
//! ```no_run
//! # async fn example(caller: std::sync::Arc<farthing_http::caller::Caller>) -> reqwest_middleware::Result<()> {
//! use farthing_http::middleware::Pay;
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(Pay::new(caller)).build();
//! let answer = client.get("https://api.example/v1/quote").send().await?;
//! # Ok(()) }
//! ```

use std::sync::Arc;

use axum::http::Extensions;
use bytes::Bytes;
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::caller::{Caller, Outgoing};

/// Sends requests through a [`Caller`], which pays for those that cost something. It is the last in its chain: the caller
/// sends by a client of its own, since it may have to send the same bytes again.
#[derive(Clone)]
pub struct Pay(Arc<Caller>);

impl Pay {
    /// Pays by that caller.
    pub fn new(caller: Arc<Caller>) -> Self {
        Self(caller)
    }
}

/// The request's body is a stream.
#[derive(Debug, thiserror::Error)]
#[error(
    "a paid call covers its body, so the body must be known when it is sent: a stream cannot be paid for"
)]
struct Streams;

#[async_trait::async_trait]
impl Middleware for Pay {
    async fn handle(
        &self,
        request: Request,
        _extensions: &mut Extensions,
        _next: Next<'_>,
    ) -> Result<Response> {
        let body = match request.body() {
            None => Bytes::new(),
            Some(body) => Bytes::copy_from_slice(body.as_bytes().ok_or_else(|| Error::middleware(Streams))?),
        };
        let outgoing = Outgoing {
            method: request.method().clone(),
            url: request.url().clone(),
            headers: request.headers().clone(),
            body,
        };
        let paid = self.0.call(&outgoing).await.map_err(Error::middleware)?;
        Ok(paid.into_response())
    }
}
