//! HTTP/1.1 messages as bytes, so that a story can send what no client of ours would, and a relay can spoil what passes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::wait::PATIENCE;

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `GET /file HTTP/1.1` or `HTTP/1.1 206 Partial Content`.
    pub start: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// A request without a body.
    pub fn request(method: &str, target: &str, host: &str) -> Self {
        let headers = vec![("host".to_owned(), host.to_owned())];
        Self { start: format!("{method} {target} HTTP/1.1"), headers, body: Vec::new() }
    }

    /// An answer that tells a problem of one of our types (RFC 9457).
    pub fn refusal(status: u16, problem: &str) -> Self {
        let uri = format!("https://paymentauth.org/problems/{problem}");
        let body = json!({ "type": uri, "title": problem, "status": status, "detail": problem });
        let answer =
            Self { start: format!("HTTP/1.1 {status} Refused"), headers: Vec::new(), body: Vec::new() };
        answer.with_body(body.to_string().into_bytes())
    }

    /// An answer with a body.
    pub fn answer(status: u16, body: &[u8]) -> Self {
        let start = format!("HTTP/1.1 {status} Answer");
        Self { start, headers: Vec::new(), body: Vec::new() }.with_body(body.to_vec())
    }

    /// With this header instead of any that it has of that name.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(self, body: Vec<u8>) -> Self {
        let length = body.len().to_string();
        Self { body, ..self.with("content-length", &length) }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What a request asks for: path and query.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// An answer's status, 0 for a request.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The last part of the problem's type that the body names (RFC 9457), or nothing.
    pub fn problem(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["type"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default().to_owned()
    }

    /// Sends the request over a connection of its own and reads the answer.
    ///
    /// # Errors
    /// When nobody answers, or not in HTTP.
    pub fn send_to(&self, address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        self.write(&mut stream)?;
        let answer = Self::read(&mut BufReader::new(stream), self.start.starts_with("HEAD"))?;
        answer.context("the connection was closed without an answer")
    }

    /// Reads one message, or nothing when the other side has closed the connection.
    pub(crate) fn read(from: &mut impl BufRead, bodiless: bool) -> Result<Option<Self>> {
        let Some(mut message) = Self::read_head(from)? else { return Ok(None) };
        if message.header("transfer-encoding").is_some() {
            bail!("a message in chunks, which nobody here reads: {message:?}");
        }
        let length: usize = message.header("content-length").unwrap_or("0").parse()?;
        if !bodiless {
            message.body.resize(length, 0);
            from.read_exact(&mut message.body)?;
        }
        Ok(Some(message))
    }

    /// Reads an answer from a file that holds nothing else, as `call -i -o` writes it: its body is the rest of the file.
    pub(crate) fn read_saved(from: &mut impl BufRead) -> Result<Option<Self>> {
        let Some(mut message) = Self::read_head(from)? else { return Ok(None) };
        from.read_to_end(&mut message.body)?;
        Ok(Some(message))
    }

    fn read_head(from: &mut impl BufRead) -> Result<Option<Self>> {
        let start = line(from)?;
        if start.is_empty() {
            return Ok(None);
        }
        let mut message = Self { start, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = line(from)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(message))
    }

    /// Writes the message.
    pub(crate) fn write(&self, to: &mut impl Write) -> Result<()> {
        let mut head = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n")?;
        }
        head.push_str("\r\n");
        to.write_all(&[head.as_bytes(), &self.body].concat())?;
        Ok(to.flush()?)
    }
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    from.take(64 * 1024).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
