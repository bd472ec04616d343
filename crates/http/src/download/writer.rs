//! Writes what arrives to its place in the growing file.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::client::ClientError;

/// How many bytes gather in memory before they are written. A piece in flight holds at most about twice that.
const WRITE: u64 = 512 * 1024;

/// Writes a piece in few large writes, each while the next bytes arrive.
pub(super) struct Writer {
    file: Arc<File>,
    at: u64,
    gathered: Vec<Bytes>,
    size: u64,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    pub(super) fn new(file: Arc<File>, at: u64) -> Self {
        Self { file, at, gathered: Vec::new(), size: 0, writing: None }
    }

    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.size += bytes.len() as u64;
        self.gathered.push(bytes);
        if self.size >= WRITE { self.flush().await } else { Ok(()) }
    }

    /// Waits until everything is written.
    pub(super) async fn finish(mut self) -> Result<(), ClientError> {
        self.flush().await?;
        self.wait().await
    }

    /// Starts writing what has gathered, once the write before it is done.
    async fn flush(&mut self) -> Result<(), ClientError> {
        self.wait().await?;
        let (file, gathered, mut at) = (self.file.clone(), mem::take(&mut self.gathered), self.at);
        self.at += mem::take(&mut self.size);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            for bytes in gathered {
                file.write_all_at(&bytes, at)?;
                at += bytes.len() as u64;
            }
            Ok(())
        }));
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), ClientError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| ClientError::File { path: "the downloaded file".to_owned(), source })
    }
}
