//! The growing file: what of it is there, and how it becomes the file that was bought.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::client::ClientError;
use crate::manifest::{Manifest, Pieces};

/// Where a file grows until it is whole.
pub fn part_path(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Where a file is to grow, what it is to be, and what of it is there.
pub struct Place {
    pub(super) pieces: Arc<Pieces>,
    pub(super) target: Arc<File>,
    pub(super) missing: VecDeque<u64>,
    pub(super) part: PathBuf,
    pub(super) out: PathBuf,
    /// Nothing of the file was there before.
    is_new: bool,
}

impl Place {
    /// Opens the growing file and finds what is missing in it.
    pub(super) fn prepare(pieces: Arc<Pieces>, out: &Path) -> Result<Self, ClientError> {
        let (part, manifest) = (part_path(out), pieces.manifest());
        let failed = |source| ClientError::File { path: part.display().to_string(), source };
        let is_new = !part.exists();
        let mut options = OpenOptions::new();
        let target =
            options.read(true).write(true).create(true).truncate(false).open(&part).map_err(failed)?;
        if let Err(full) = make_room(&target, manifest.size) {
            if is_new {
                let _stays = std::fs::remove_file(&part);
            }
            return Err(failed(full));
        }
        let mut missing = VecDeque::new();
        for piece in 0..manifest.pieces() {
            if is_new || !is_present(&target, &pieces, manifest, piece).map_err(failed)? {
                missing.push_back(piece);
            }
        }
        Ok(Self { target: Arc::new(target), missing, part, out: out.to_owned(), is_new, pieces })
    }

    /// Nothing is bought: what was made for it goes.
    pub fn give_up(self) {
        if self.is_new {
            // An empty file that stays does no harm: the next purchase fills it.
            let _stays = std::fs::remove_file(&self.part);
        }
    }
}

/// Gives the file its length and its place on the disk, so that a full disk is known before anything is locked; where the file system
/// cannot promise a place, its length only.
fn make_room(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)?;
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        allocated => Ok(allocated?),
    }
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
