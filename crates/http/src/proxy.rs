//! A local address that pays: a program speaks plain HTTP to it, and it calls the seller and pays for each call.

use std::net::{IpAddr, SocketAddr};
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
    local: SocketAddr,
}

/// A router that hands every request on to `target` and pays for it. `local` is where it listens.
pub fn router(caller: Arc<Caller>, target: Url, local: SocketAddr) -> Router {
    Router::new().fallback(pass).with_state(Arc::new(Proxy { caller, target, local }))
}

async fn pass(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(problem) = check_origin(&parts.headers, proxy.local) {
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
                | ClientError::OverLocked { .. }
                | ClientError::OverBudget { .. } => Kind::PaymentRequired,
                _other => Kind::BadGateway,
            };
            Problem::new(kind, error).into_response()
        }
    }
}

/// A page in a browser can send requests to this machine. It must not spend anything: neither from another site, nor by a
/// name of its own that leads here (DNS rebinding), nor by an address that browsers do not take for this machine's own, such as
/// 0.0.0.0.
fn check_origin(headers: &HeaderMap, local: SocketAddr) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site @ ("cross-site" | "same-site")) = text("sec-fetch-site") {
        let detail =
            format!("a page of another origin asks for this ({site}): the proxy pays for programs only");
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let host = headers.get(header::HOST);
    // Browsers always name a host.
    if host.is_some() && !text("host").is_some_and(|host| is_own(host, local)) {
        let detail = "the proxy is to be called by the address that it listens on, or as localhost";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let own_page = text("origin").and_then(|origin| origin.strip_prefix("http://"));
    if headers.get(header::ORIGIN).is_some() && (own_page.is_none() || own_page != text("host")) {
        let detail = "a page of another origin asks for this: the proxy pays for programs only";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    Ok(())
}

/// Whether a host, with or without a port, can be this machine only.
fn is_own(authority: &str, local: SocketAddr) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    let of_this_machine =
        |address: IpAddr| address.is_loopback() || (address == local.ip() && !address.is_unspecified());
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(of_this_machine)
}

/// Headers without those of the connection, and without those that the other side sets anew.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    hops::strip(&mut headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_the_proxys_own() {
        let loopback = "127.0.0.1:8403".parse().unwrap();
        for own in ["127.0.0.1:8403", "127.0.0.2:8403", "[::1]:8403", "localhost:8403", "LocalHost"] {
            assert!(is_own(own, loopback), "{own}");
        }
        for other in ["0.0.0.0:8403", "[::]:8403", "192.168.0.7:8403", "localhost.evil.example:8403", ""] {
            assert!(!is_own(other, loopback), "{other}");
        }
        let elsewhere = "192.168.0.7:8403".parse().unwrap();
        assert!(is_own("192.168.0.7:8403", elsewhere));
        assert!(!is_own("192.168.0.8:8403", elsewhere));
        assert!(!is_own("0.0.0.0:8403", "0.0.0.0:8403".parse().unwrap()));
    }
}
