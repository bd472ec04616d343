//! Speaks to mailboxes: as a stranger who posts letters and takes prekeys, and as the owner of a box.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use bitcoin::hashes::{Hash as _, sha256};
use bytes::Bytes;
use farthing_mailbox::address::Host;
use farthing_mailbox::{Address, Blob, Request, blob};
use farthing_protocol::cheque::prekey::SignedPrekey;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use super::{
    DeleteError, FetchError, MOST_PREKEYS, OpenError, Owner, PAGE, PostError, PublishError, RECORD, ROOT,
    StandingBody, TIME, TakeError, TermsBody, box_path, letters_path, prekeys_path,
};
use crate::caller::{Caller, Outgoing};
use crate::client::{self, ClientError};
use crate::problem::Kind;

/// How often an owner's request is signed anew when the mailbox names another time.
const ATTEMPTS: usize = 4;

/// A conversation with mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    payer: Option<Arc<Caller>>,
    allow_http: bool,
}

/// A letter that waited at the mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where it comes among the mailbox's letters.
    pub cursor: u64,
    /// What was posted.
    pub blob: Blob,
}

impl Fetched {
    /// Its name at the mailbox: its SHA-256.
    pub fn id(&self) -> [u8; 32] {
        sha256::Hash::hash(self.blob.as_bytes()).to_byte_array()
    }
}

impl Client {
    /// A client that pays nothing: for a box's owner, and for mailboxes that are free. One that stays silent longer than
    /// `patience` counts as gone.
    ///
    /// # Errors
    /// When the system's certificates cannot be loaded.
    pub fn new(patience: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { http: client::http(patience)?, payer: None, allow_http: false })
    }

    /// A client that pays postage by that caller, within its budget.
    pub fn paying(payer: Arc<Caller>) -> Self {
        let http = payer.client().http().clone();
        Self { http, payer: Some(payer), allow_http: false }
    }

    /// Allows plain http to another machine.
    #[must_use]
    pub fn allowing_http(self, allow_http: bool) -> Self {
        Self { allow_http, ..self }
    }

    /// How much a mailbox keeps.
    ///
    /// # Errors
    /// When it cannot be reached, or speaks something else.
    pub async fn terms(&self, host: &Host) -> Result<TermsBody, ClientError> {
        let response = self.send(self.http.get(self.url(host, ROOT)?)).await?;
        client::json(client::succeeded(response).await?).await
    }

    /// Posts a letter, which the mailbox keeps until `expiry`, in seconds since 1970. To post the same one again is harmless.
    ///
    /// # Errors
    /// When nobody has opened a box for the address, there is no room, or the postage is not paid.
    pub async fn post(&self, to: &Address, letter: &Blob, expiry: u64) -> Result<(), PostError> {
        let url = self.url(&to.host, &format!("{}?expiry={expiry}", letters_path(&to.identity)))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let body = Bytes::copy_from_slice(letter.as_bytes());
        let posted = match self.paid(url, headers, body).await {
            Ok(response) => client::succeeded(response).await.map(drop),
            Err(error) => Err(error),
        };
        match posted {
            // The mailbox has it, whoever heard of that.
            Ok(())
            | Err(ClientError::Refused { kind: Some(Kind::AlreadyKept), .. } | ClientError::AnswerLost(_)) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one of the address's prekeys, which nobody else gets, and checks its signature.
    ///
    /// # Errors
    /// When there is none, the mailbox gives one of somebody else, or it is not paid.
    pub async fn take_prekey(&self, of: &Address) -> Result<SignedPrekey, TakeError> {
        let url = self.url(&of.host, &prekeys_path(&of.identity))?;
        let response = self.paid(url, HeaderMap::new(), Bytes::new()).await?;
        let prekey: SignedPrekey = client::json(client::succeeded(response).await?).await?;
        prekey.verify(&of.identity)?;
        Ok(prekey)
    }

    /// Opens the owner's box, which may cost something once. One that is open stays as it is.
    ///
    /// # Errors
    /// When the mailbox has no room, or it is not paid.
    pub async fn open(&self, owner: &Owner) -> Result<(), OpenError> {
        let path = box_path(&owner.address().identity);
        let response = self.owned(owner, Method::POST, &path, Bytes::new()).await?;
        client::succeeded(response).await?;
        Ok(())
    }

    /// Publishes prekeys of one generation. Those that were published before are passed over.
    ///
    /// # Errors
    /// When there is no box or no room in it.
    pub async fn publish_prekeys(
        &self,
        owner: &Owner,
        prekeys: &[SignedPrekey],
    ) -> Result<StandingBody, PublishError> {
        let path = prekeys_path(&owner.address().identity);
        let mut standing = None;
        for some in prekeys.chunks(MOST_PREKEYS) {
            let body = serde_json::to_vec(some).expect("prekeys can be written as JSON");
            let response = self.owned(owner, Method::PUT, &path, body.into()).await?;
            standing = Some(client::json(client::succeeded(response).await?).await?);
        }
        match standing {
            Some(standing) => Ok(standing),
            None => self.standing(owner).await,
        }
    }

    /// How many prekeys are left.
    ///
    /// # Errors
    /// When there is no box.
    pub async fn standing(&self, owner: &Owner) -> Result<StandingBody, PublishError> {
        let path = prekeys_path(&owner.address().identity);
        let response = self.owned(owner, Method::GET, &path, Bytes::new()).await?;
        Ok(client::json(client::succeeded(response).await?).await?)
    }

    /// Fetches the letters after a cursor, the oldest first, at most [`PAGE`]; from the beginning with 0. They stay there until
    /// they are deleted or expire.
    ///
    /// # Errors
    /// When there is no box, or the answer is no row of letters.
    pub async fn fetch(&self, owner: &Owner, after: u64) -> Result<Vec<Fetched>, FetchError> {
        let path = format!("{}?after={after}", letters_path(&owner.address().identity));
        let response = self.owned(owner, Method::GET, &path, Bytes::new()).await?;
        let mut response = client::succeeded(response).await?;
        let url = response.url().clone();
        let mut records = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|source| client::network(&url, source))? {
            records.extend_from_slice(&part);
            if records.len() > PAGE as usize * RECORD {
                return Err(ClientError::Nonsense(format!("it sends more than {PAGE} letters")).into());
            }
        }
        Ok(letters(&records)?)
    }

    /// Has the mailbox forget a letter. One that is not there is forgotten already.
    ///
    /// # Errors
    /// When there is no box.
    pub async fn delete(&self, owner: &Owner, id: [u8; 32]) -> Result<(), DeleteError> {
        let id = sha256::Hash::from_byte_array(id);
        let path = format!("{}/{id}", letters_path(&owner.address().identity));
        let response = self.owned(owner, Method::DELETE, &path, Bytes::new()).await?;
        client::succeeded(response).await?;
        Ok(())
    }

    /// `https`, but plain to this machine, or where that is allowed.
    fn url(&self, host: &Host, path: &str) -> Result<Url, ClientError> {
        let plain = format!("http://{}", host.as_str());
        let url = match client::address(&plain, self.allow_http) {
            Ok(url) => url,
            Err(_not_here) => client::address(&format!("https://{}", host.as_str()), false)?,
        };
        // A host is a host: nothing before or behind it.
        let is_bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty();
        if !is_bare || url.password().is_some() {
            return Err(ClientError::Url(host.as_str().to_owned()));
        }
        client::join(&url, path)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|source| ClientError::Network {
            url: source.url().map_or_else(String::new, Url::to_string),
            source,
        })
    }

    /// Posts something that may cost postage.
    async fn paid(&self, url: Url, headers: HeaderMap, body: Bytes) -> Result<Response, ClientError> {
        match &self.payer {
            Some(payer) => {
                let outgoing = Outgoing { method: Method::POST, url, headers, body };
                Ok(payer.call(&outgoing).await?.into_response())
            }
            None => self.send(self.http.post(url).headers(headers).body(body)).await,
        }
    }

    /// Sends an owner's request, and signs it again where the mailbox asks for another time.
    async fn owned(
        &self,
        owner: &Owner,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, ClientError> {
        let url = self.url(&owner.address().host, path)?;
        let authority = client::authority(&url);
        let request = Request { authority: &authority, method: method.as_str(), target: path, body: &body };
        let mut time = now();
        for attempt in 1.. {
            let proof = owner.sign(&request, time).to_header();
            let proof = HeaderValue::try_from(proof).expect("hexadecimal digits");
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, proof);
            let response = if method == Method::POST {
                self.paid(url.clone(), headers, body.clone()).await?
            } else {
                let request = self.http.request(method.clone(), url.clone());
                self.send(request.headers(headers).body(body.clone())).await?
            };
            let named = response.headers().get(HeaderName::from_static(TIME));
            let named = named.and_then(|time| time.to_str().ok()?.parse().ok());
            match named {
                Some(named) if response.status() == StatusCode::CONFLICT && attempt < ATTEMPTS => {
                    time = named
                }
                Some(_) | None => return Ok(response),
            }
        }
        unreachable!("the loop ends by returning")
    }
}

/// Reads a row of records.
fn letters(records: &[u8]) -> Result<Vec<Fetched>, ClientError> {
    let (whole, rest) = records.as_chunks::<RECORD>();
    if !rest.is_empty() {
        let detail = format!("its letters are no row of {RECORD} bytes each: {} are left over", rest.len());
        return Err(ClientError::Nonsense(detail));
    }
    let letter = |record: &[u8; RECORD]| {
        let (cursor, blob) = record.split_first_chunk().expect("a record has 8 bytes and more");
        let blob = Blob::from_bytes(blob).expect("the rest of a record is as long as a blob");
        Fetched { cursor: u64::from_be_bytes(*cursor), blob }
    };
    Ok(whole.iter().map(letter).collect())
}

/// The clock, in microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

const _: () = assert!(RECORD == 8 + blob::LENGTH);
