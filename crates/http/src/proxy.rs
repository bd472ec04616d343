//! A local address that pays: a program speaks plain HTTP to it, and it calls the seller and pays for each call.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use reqwest::Url;

use crate::caller::{Caller, Outgoing};
use crate::client::ClientError;
use crate::hops;
use crate::problem::{Kind, Problem};

/// The largest body of a request, in bytes.
const MOST_BODY: usize = 16 << 20;

struct Proxy {
    caller: Arc<Caller>,
    target: Url,
}

/// A router that hands every request on to `target` and pays for it.
pub fn router(caller: Arc<Caller>, target: Url) -> Router {
    Router::new().fallback(pass).with_state(Arc::new(Proxy { caller, target }))
}

async fn pass(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(problem) = check_origin(&parts.headers) {
        return problem.into_response();
    }
    let body = match body::to_bytes(body, MOST_BODY).await {
        Ok(body) => body,
        Err(error) => return Problem::new(Kind::BadRequest, error).into_response(),
    };
    let mut url = proxy.target.clone();
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}{}", parts.uri.path()));
    url.set_query(parts.uri.query());
    let outgoing = Outgoing { method: parts.method, url, headers: handed_on(&parts.headers), body };
    match proxy.caller.call(&outgoing).await {
        Ok(paid) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = paid.status();
            *response.headers_mut() = handed_on(paid.headers());
            let parts = stream::try_unfold(paid, |mut paid| async move {
                Ok::<_, ClientError>(paid.chunk().await?.map(|part| (part, paid)))
            });
            *response.body_mut() = Body::from_stream(parts);
            response
        }
        Err(error) => {
            let kind = match &error {
                ClientError::OverCost { .. }
                | ClientError::OverPrepaid { .. }
                | ClientError::OverDeposit { .. }
                | ClientError::OverBudget { .. } => Kind::PaymentRequired,
                _other => Kind::BadGateway,
            };
            Problem::new(kind, error).into_response()
        }
    }
}

/// A page in a browser can send requests to this machine. It must not spend anything: neither from another site, nor by a
/// name of its own that leads here (DNS rebinding).
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site @ ("cross-site" | "same-site")) = text("sec-fetch-site") {
        let detail =
            format!("a page of another origin asks for this ({site}): the proxy pays for programs only");
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let host = text("host").and_then(|host| host.parse::<Authority>().ok());
    let is_local = host.as_ref().is_none_or(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    });
    if is_local {
        return Ok(());
    }
    Err(Problem::new(Kind::Forbidden, "the proxy is to be called by its address or as localhost"))
}

/// Headers without those of the connection, and without those that the other side sets anew.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    hops::strip(&mut headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    headers
}
