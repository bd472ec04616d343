//! One RPC call: who is asked, what is sent, and what can go wrong on the way.
//!
//! Built on `jsonrpc`, the layer below the `corepc` clients. Their blocking clients decode every field of one release
//! of Bitcoin Core and are meant for tests; here each call decodes only the fields it uses, so that a newer Core or a
//! Knots node, which add and drop fields, are understood as well.

use std::error::Error as StdError;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jsonrpc::bitreq;
use jsonrpc::bitreq_http::{self, BitreqHttpTransport};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::to_raw_value;
use thiserror::Error;

/// How long one call may take. Generous: a node that is validating a block holds its answers back.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Codes of `bitcoind`'s RPC errors, from `src/rpc/protocol.h`.
pub(crate) mod code {
    /// The transaction or the block is not known.
    pub(crate) const NOT_FOUND: i32 = -5;
    /// An argument is out of range.
    pub(crate) const INVALID_PARAMETER: i32 = -8;
    /// The transaction cannot be decoded, for example since it has no input.
    pub(crate) const MALFORMED: i32 = -22;
    /// The transaction cannot be accepted: its inputs are missing, or it pays an absurd fee.
    pub(crate) const TRANSACTION_ERROR: i32 = -25;
    /// The transaction breaks a rule of consensus or policy.
    pub(crate) const TRANSACTION_REJECTED: i32 = -26;
    /// The transaction is in the chain and has an output that is still unspent.
    pub(crate) const ALREADY_IN_CHAIN: i32 = -27;
    /// The node is still starting.
    pub(crate) const IN_WARMUP: i32 = -28;
}

/// Where a `bitcoind` listens for RPC, and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcConfig {
    /// The address, for example `http://127.0.0.1:8332`. Plain HTTP: a node on another machine is reached through a
    /// tunnel.
    pub url: String,
    /// What to authenticate with.
    pub auth: RpcAuth,
}

/// The credentials for a node's RPC.
#[derive(Clone, PartialEq, Eq)]
pub enum RpcAuth {
    /// The `.cookie` file in the node's data folder. It is read again for every call, since the node writes a new one
    /// whenever it starts.
    Cookie(PathBuf),
    /// A user and password, as set up with the node's `-rpcauth`.
    UserPass {
        /// The user's name.
        user: String,
        /// The password, which is never printed.
        password: String,
    },
}

impl fmt::Debug for RpcAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(path) => f.debug_tuple("Cookie").field(path).finish(),
            Self::UserPass { user, password: _ } => {
                f.debug_struct("UserPass").field("user", user).finish_non_exhaustive()
            }
        }
    }
}

/// A question to the node that got no usable answer.
#[derive(Debug, Error)]
pub enum ChainError {
    /// Nothing answers at the address, or the connection broke.
    #[error("no bitcoind answers at {url}: start it with -server, or correct the RPC address")]
    Unreachable {
        /// The address that was asked.
        url: String,
        /// What the connection ran into.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The cookie file cannot be read. A node that is stopped has removed it.
    #[error("cannot read the cookie {}: start bitcoind, or correct the path of its data folder", path.display())]
    Cookie {
        /// The cookie file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The node is there but cannot answer yet.
    #[error("bitcoind at {url} is busy ({reason}): try again")]
    Busy {
        /// The address that was asked.
        url: String,
        /// The node's own words.
        reason: String,
    },
    /// The node does not accept our credentials, or not from this machine.
    #[error(
        "bitcoind at {url} turns us away (HTTP {status}): check the user and password, or the cookie's path"
    )]
    Unauthorised {
        /// The address that was asked.
        url: String,
        /// The HTTP status: 401 for wrong credentials, 403 for an address that `-rpcallowip` does not list.
        status: i32,
    },
    /// The node understood the question and refused it.
    #[error("bitcoind refused {method}: {message} (code {code})")]
    Refused {
        /// The RPC method.
        method: &'static str,
        /// The code, from the node's `src/rpc/protocol.h`.
        code: i32,
        /// The node's own words.
        message: String,
    },
    /// The answer is not what this method returns: perhaps something other than a `bitcoind` listens there.
    #[error("the answer to {method} cannot be understood: is there a bitcoind at the RPC address?")]
    Unexpected {
        /// The RPC method.
        method: &'static str,
        /// What was wrong with the answer.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ChainError {
    /// Whether the same call may succeed later without anybody changing the configuration: the node is stopped,
    /// starting, or out of breath.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cookie { .. } | Self::Busy { .. } => true,
            Self::Unauthorised { .. } | Self::Refused { .. } | Self::Unexpected { .. } => false,
        }
    }

    pub(crate) fn unexpected(
        method: &'static str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> ChainError {
        ChainError::Unexpected { method, source: source.into() }
    }
}

/// The connection to one node. It keeps nothing open between calls.
#[derive(Debug)]
pub(crate) struct Rpc {
    config: RpcConfig,
}

impl Rpc {
    pub(crate) fn new(config: RpcConfig) -> Rpc {
        Rpc { config }
    }

    pub(crate) fn config(&self) -> &RpcConfig {
        &self.config
    }

    /// Calls `method` and decodes its result.
    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
    ) -> Result<T, ChainError> {
        self.call_within(TIMEOUT, method, params)
    }

    /// The same, for a method that may take longer.
    pub(crate) fn call_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: &'static str,
        params: &[Value],
    ) -> Result<T, ChainError> {
        let params = to_raw_value(params).expect("JSON values serialise");
        let client = jsonrpc::Client::with_transport(self.transport(timeout)?);
        client.call(method, Some(&params)).map_err(|error| self.explain(method, error))
    }

    /// Like [`call`](Self::call), for the methods that answer an unknown hash or height with an error of this `code`:
    /// then `None`.
    pub(crate) fn find<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
        none: i32,
    ) -> Result<Option<T>, ChainError> {
        match self.call(method, params) {
            Ok(found) => Ok(Some(found)),
            Err(ChainError::Refused { code, .. }) if code == none => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn transport(&self, timeout: Duration) -> Result<BitreqHttpTransport, ChainError> {
        let builder = BitreqHttpTransport::builder().timeout(timeout);
        let builder = builder.url(&self.config.url).expect("the builder takes any text as its address");
        let builder = match &self.config.auth {
            RpcAuth::UserPass { user, password } => builder.basic_auth(user.clone(), Some(password.clone())),
            RpcAuth::Cookie(path) => match fs::read_to_string(path) {
                Ok(cookie) => builder.cookie_auth(cookie.trim_end()),
                Err(source) => return Err(ChainError::Cookie { path: path.clone(), source }),
            },
        };
        Ok(builder.build())
    }

    fn explain(&self, method: &'static str, error: jsonrpc::Error) -> ChainError {
        let url = self.config.url.clone();
        match error {
            jsonrpc::Error::Rpc(error) if error.code == code::IN_WARMUP => {
                ChainError::Busy { url, reason: error.message }
            }
            jsonrpc::Error::Rpc(error) => {
                ChainError::Refused { method, code: error.code, message: error.message }
            }
            jsonrpc::Error::Transport(error) => match error.downcast::<bitreq_http::Error>() {
                Ok(error) => self.explain_http(method, *error),
                Err(source) => ChainError::Unreachable { url, source },
            },
            error => ChainError::unexpected(method, error),
        }
    }

    fn explain_http(&self, method: &'static str, error: bitreq_http::Error) -> ChainError {
        let url = self.config.url.clone();
        match error {
            bitreq_http::Error::Http(answer) => match answer.status_code {
                status @ (401 | 403) => ChainError::Unauthorised { url, status },
                // The node's work queue is full.
                503 => ChainError::Busy { url, reason: answer.body },
                _ => ChainError::unexpected(method, bitreq_http::Error::Http(answer)),
            },
            error @ bitreq_http::Error::Bitreq(bitreq::Error::SerdeJsonError(_)) => {
                ChainError::unexpected(method, error)
            }
            error => ChainError::Unreachable { url, source: error.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let auth = RpcAuth::UserPass { user: "satoshi".into(), password: "hunter2".into() };
        let config = RpcConfig { url: "http://127.0.0.1:8332".into(), auth };

        let printed = format!("{config:?} {:?}", Rpc::new(config.clone()));

        assert!(printed.contains("satoshi"));
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn a_node_that_is_not_there_is_worth_another_try() {
        let auth = RpcAuth::UserPass { user: "u".into(), password: "p".into() };
        let rpc = Rpc::new(RpcConfig { url: "http://127.0.0.1:1".into(), auth });

        let error = rpc.call::<Value>("getblockchaininfo", &[]).unwrap_err();

        assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
        assert!(error.is_transient());
    }

    #[test]
    fn a_missing_cookie_names_the_file() {
        let auth = RpcAuth::Cookie("/nowhere/.cookie".into());
        let rpc = Rpc::new(RpcConfig { url: "http://127.0.0.1:1".into(), auth });

        let error = rpc.call::<Value>("getblockchaininfo", &[]).unwrap_err();

        assert!(error.to_string().contains("/nowhere/.cookie"), "{error}");
        assert!(error.is_transient());
    }
}
