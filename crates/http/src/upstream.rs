//! Hands requests on to another server. Behind a [`crate::gate::Gate`] it is a reverse proxy that asks for payment.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::Service;

use crate::hops;

/// A server that requests are handed on to, over HTTP/1.1.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, Body>,
    authority: Authority,
    /// What comes before the request's own path.
    base: String,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("authority", &self.authority).field("base", &self.base).finish()
    }
}

/// An address that is no upstream.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an address such as http://localhost:8000: TLS to the service behind is not supported")]
pub struct BadUpstream(pub String);

impl Upstream {
    /// The server at that address.
    ///
    /// # Errors
    /// When it is not plain HTTP with a host.
    pub fn new(address: &str) -> Result<Self, BadUpstream> {
        let bad = || BadUpstream(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| bad())?;
        let authority = uri.authority().cloned().ok_or_else(bad)?;
        if uri.scheme() != Some(&Scheme::HTTP) || uri.query().is_some() {
            return Err(bad());
        }
        let base = uri.path().trim_end_matches('/').to_owned();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, authority, base })
    }

    fn target(&self, uri: &Uri) -> Option<Uri> {
        let own = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = if self.base.is_empty() { own.to_owned() } else { format!("{}{own}", self.base) };
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }
}

/// Why the other server gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The path cannot be handed on.
    #[error("this path cannot be handed on")]
    Path,
    /// It cannot be reached or broke off.
    #[error("the service behind does not answer: {0}")]
    Unreachable(#[from] hyper_util::client::legacy::Error),
}

impl Service<Request> for Upstream {
    type Response = Response;
    type Error = UpstreamError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, UpstreamError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let target = self.target(request.uri());
        let client = self.client.clone();
        Box::pin(async move {
            *request.uri_mut() = target.ok_or(UpstreamError::Path)?;
            let headers = request.headers_mut();
            hops::strip(headers);
            if let Some(host) = headers.remove(header::HOST) {
                headers.entry(HeaderName::from_static("x-forwarded-host")).or_insert(host);
            }
            let proto = HeaderName::from_static("x-forwarded-proto");
            headers.entry(proto).or_insert(HeaderValue::from_static("http"));
            let mut response = client.request(request).await?.map(Body::new);
            hops::strip(response.headers_mut());
            Ok(response)
        })
    }
}
