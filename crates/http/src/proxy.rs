//! A local address that pays: a program speaks plain HTTP to it, and it calls the seller and pays for each call.

use std::sync::Arc;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
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
            let status = match &error {
                ClientError::OverCost { .. }
                | ClientError::OverPrepaid { .. }
                | ClientError::OverDeposit { .. }
                | ClientError::OverBudget { .. } => StatusCode::PAYMENT_REQUIRED,
                _other => StatusCode::BAD_GATEWAY,
            };
            let mut response = Problem::new(Kind::PaymentRequired, error).into_response();
            *response.status_mut() = status;
            response
        }
    }
}

/// Headers without those of the connection, and without those that the other side sets anew.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    hops::strip(&mut headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    headers
}
