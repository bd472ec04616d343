//! The growing file: what of it is there, and how it becomes the file that was bought.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::client::ClientError;
use crate::manifest::{Manifest, Pieces};

/// Where a file grows until it is whole.
pub fn part_path(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Opens the growing file and finds what is missing in it.
pub(super) fn prepare(part: &Path, pieces: &Pieces) -> Result<(Arc<File>, VecDeque<u64>), ClientError> {
    let manifest = pieces.manifest();
    let failed = |source| ClientError::File { path: part.display().to_string(), source };
    let fresh = !part.exists();
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part).map_err(failed)?;
    file.set_len(manifest.size).map_err(failed)?;
    let mut missing = VecDeque::new();
    for piece in 0..manifest.pieces() {
        if fresh || !is_present(&file, pieces, manifest, piece).map_err(failed)? {
            missing.push_back(piece);
        }
    }
    Ok((Arc::new(file), missing))
}

fn is_present(file: &File, pieces: &Pieces, manifest: &Manifest, piece: u64) -> io::Result<bool> {
    let (Some((start, length)), Some(mut check)) = (manifest.span(piece), pieces.check(piece)) else {
        return Ok(false);
    };
    let mut buffer = vec![0; 1 << 16];
    let mut at = start;
    while at < start + length {
        let size = (start + length - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..size], at)?;
        if check.update(&buffer[..size]).is_err() {
            return Ok(false);
        }
        at += size as u64;
    }
    Ok(check.finish().is_ok())
}

/// The file is whole: it goes to its place.
pub(super) fn finish(file: &File, part: &Path, out: &Path) -> Result<(), ClientError> {
    let failed = |source| ClientError::File { path: out.display().to_string(), source };
    file.sync_all().map_err(failed)?;
    std::fs::rename(part, out).map_err(failed)
}
