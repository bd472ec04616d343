//! A file for sale: its size, its BLAKE3 root, and the hashes of its pieces.
//!
//! A piece is a power of two of bytes, so each piece is a whole subtree of BLAKE3's tree, and the list of the pieces'
//! chaining values is the file's *bao* outboard cut off at the piece level: 32 bytes a piece. The list is checked
//! against the root once; after that each piece is checked by itself as it arrives, with no proof beside it, so a wrong
//! piece costs at most that piece.

use std::io::{self, Read};

use blake3::hazmat::{self, ChainingValue, HasherExt as _, Mode};
use serde::{Deserialize, Serialize};

use crate::encoding::hex_array;

/// The smallest piece: a BLAKE3 chunk.
pub const LEAST_PIECE: u64 = 1_024;
/// The largest: what a buyer risks at once, and what fits in memory easily.
pub const MOST_PIECE: u64 = 1 << 26;
/// The longest list of pieces that a buyer fetches: 32 MiB.
pub const MOST_PIECES: u64 = 1 << 20;

/// What a buyer must know of a file to check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The file's size in bytes. Not zero.
    pub size: u64,
    /// The size of every piece but the last, in bytes: a power of two.
    pub piece: u64,
    /// The file's BLAKE3 hash.
    #[serde(with = "hex_array")]
    pub blake3: [u8; 32],
}

/// Why a manifest or a list of pieces is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadManifest {
    /// Nothing to sell.
    #[error("the file is empty")]
    Empty,
    /// Not a power of two within bounds.
    #[error("a piece of {0} bytes is not a power of two from {LEAST_PIECE} to {MOST_PIECE}")]
    PieceSize(u64),
    /// Too many pieces.
    #[error("the file has {0} pieces, more than {MOST_PIECES}: use larger pieces")]
    TooMany(u64),
    /// The list has the wrong length.
    #[error("the list of pieces has {got} bytes, but must have {expected}")]
    ListLength {
        /// 32 bytes a piece.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The list does not hash to the root.
    #[error("the list of pieces does not belong to the file that was offered")]
    WrongList,
}

/// A piece whose bytes are not those of the file that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("piece {0} is not a piece of the file that was offered")]
pub struct WrongPiece(pub u64);

/// The chaining values of a file's pieces, checked against its root.
#[derive(Clone, Debug)]
pub struct Pieces {
    manifest: Manifest,
    values: Vec<ChainingValue>,
}

impl Manifest {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn check(&self) -> Result<(), BadManifest> {
        if self.size == 0 {
            return Err(BadManifest::Empty);
        }
        if !self.piece.is_power_of_two() || !(LEAST_PIECE..=MOST_PIECE).contains(&self.piece) {
            return Err(BadManifest::PieceSize(self.piece));
        }
        let pieces = self.pieces();
        if pieces > MOST_PIECES { Err(BadManifest::TooMany(pieces)) } else { Ok(()) }
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u64 {
        self.size.div_ceil(self.piece.max(1))
    }

    /// Where a piece begins and how long it is, in bytes.
    pub fn span(&self, piece: u64) -> Option<(u64, u64)> {
        let start = piece.checked_mul(self.piece).filter(|start| *start < self.size)?;
        Some((start, self.piece.min(self.size - start)))
    }

    /// Which piece a range of bytes is exactly.
    pub fn piece_at(&self, start: u64, length: u64) -> Option<u64> {
        let piece = start.checked_div(self.piece)?;
        (self.span(piece) == Some((start, length))).then_some(piece)
    }
}

impl Pieces {
    /// Reads a file once and hashes it.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or has too many pieces.
    pub fn of_file(mut file: impl Read, piece: u64) -> Result<Self, HashError> {
        Manifest { size: 1, piece, blake3: [0; 32] }.check()?;
        let mut buffer = vec![0; 1 << 16];
        let mut whole = blake3::Hasher::new();
        let mut values = Vec::new();
        let mut size = 0_u64;
        let mut hasher = PieceHasher::at(0);
        let mut in_piece = 0_u64;
        loop {
            let room = (piece - in_piece).min(buffer.len() as u64) as usize;
            let got = file.read(&mut buffer[..room])?;
            if got == 0 {
                break;
            }
            whole.update(&buffer[..got]);
            hasher.update(&buffer[..got]);
            size += got as u64;
            in_piece += got as u64;
            if in_piece == piece {
                values.push(hasher.finish());
                hasher = PieceHasher::at(size);
                in_piece = 0;
            }
        }
        if in_piece > 0 {
            values.push(hasher.finish());
        }
        let manifest = Manifest { size, piece, blake3: *whole.finalize().as_bytes() };
        manifest.check()?;
        if manifest.pieces() == 1 {
            values = vec![manifest.blake3];
        }
        Ok(Self { manifest, values })
    }

    /// Checks a list of pieces against the root.
    ///
    /// # Errors
    /// When the manifest is out of bounds or the list does not belong to it.
    pub fn verified(manifest: Manifest, list: &[u8]) -> Result<Self, BadManifest> {
        manifest.check()?;
        let (values, rest) = list.as_chunks::<32>();
        if values.len() as u64 != manifest.pieces() || !rest.is_empty() {
            return Err(BadManifest::ListLength { expected: manifest.pieces() * 32, got: list.len() as u64 });
        }
        let pieces = Self { manifest, values: values.to_vec() };
        if pieces.root() == manifest.blake3 { Ok(pieces) } else { Err(BadManifest::WrongList) }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The list as it travels: 32 bytes a piece.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.concat()
    }

    /// Starts checking a piece.
    pub fn check(&self, piece: u64) -> Option<PieceCheck> {
        let (start, length) = self.manifest.span(piece)?;
        let expected = *self.values.get(usize::try_from(piece).ok()?)?;
        let hasher = if self.manifest.pieces() == 1 { None } else { Some(PieceHasher::at(start)) };
        Some(PieceCheck { piece, expected, left: length, hasher, whole: blake3::Hasher::new() })
    }

    fn root(&self) -> [u8; 32] {
        if let [only] = self.values.as_slice() {
            return *only; // a file of one piece is hashed as a whole
        }
        let (left, right) = self.halves(&self.values, self.manifest.size);
        *hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    }

    fn halves(&self, values: &[ChainingValue], length: u64) -> (ChainingValue, ChainingValue) {
        let left = hazmat::left_subtree_len(length);
        let (left_values, right_values) = values.split_at((left / self.manifest.piece) as usize);
        (self.subtree(left_values, left), self.subtree(right_values, length - left))
    }

    fn subtree(&self, values: &[ChainingValue], length: u64) -> ChainingValue {
        match values {
            [only] => *only,
            several => {
                let (left, right) = self.halves(several, length);
                hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }
}

/// Why a file could not be hashed for sale.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It cannot be sold.
    #[error(transparent)]
    Bad(#[from] BadManifest),
}

/// Hashes one piece at its place in the file.
struct PieceHasher(blake3::Hasher);

impl PieceHasher {
    fn at(offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Self(hasher)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> ChainingValue {
        self.0.finalize_non_root()
    }
}

/// A piece being checked as it arrives.
pub struct PieceCheck {
    piece: u64,
    expected: ChainingValue,
    left: u64,
    /// None when the piece is the whole file.
    hasher: Option<PieceHasher>,
    whole: blake3::Hasher,
}

impl PieceCheck {
    /// Takes in the next bytes.
    ///
    /// # Errors
    /// When there are more bytes than the piece has.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), WrongPiece> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(WrongPiece(self.piece))?;
        match &mut self.hasher {
            Some(hasher) => hasher.update(bytes),
            None => {
                self.whole.update(bytes);
            }
        }
        Ok(())
    }

    /// Whether the bytes were the piece.
    ///
    /// # Errors
    /// When they were not, or not all of it.
    pub fn finish(self) -> Result<(), WrongPiece> {
        let got = match &self.hasher {
            Some(hasher) if self.left == 0 => hasher.finish(),
            None if self.left == 0 => *self.whole.finalize().as_bytes(),
            Some(_) | None => return Err(WrongPiece(self.piece)),
        };
        if got == self.expected { Ok(()) } else { Err(WrongPiece(self.piece)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// For every size and piece size: the root is BLAKE3's, the list verifies, each piece checks, and a flipped bit
        /// anywhere does not.
        #[test]
        fn pieces_are_subtrees_of_blake3(size in 1_usize..40_000, power in 10_u32..14, flip in any::<usize>()) {
            let file = bytes(size);
            let pieces = Pieces::of_file(file.as_slice(), 1 << power).unwrap();
            prop_assert_eq!(pieces.manifest().blake3, *blake3::hash(&file).as_bytes());
            let received = Pieces::verified(*pieces.manifest(), &pieces.to_bytes()).unwrap();
            let flipped = flip % size;
            for piece in 0..pieces.manifest().pieces() {
                let (start, length) = pieces.manifest().span(piece).unwrap();
                let mut content = file[start as usize..(start + length) as usize].to_vec();
                let mut check = received.check(piece).unwrap();
                for part in content.chunks(700) {
                    check.update(part).unwrap();
                }
                prop_assert_eq!(check.finish(), Ok(()));
                if (start..start + length).contains(&(flipped as u64)) {
                    content[flipped - start as usize] ^= 1;
                    let mut check = received.check(piece).unwrap();
                    check.update(&content).unwrap();
                    prop_assert_eq!(check.finish(), Err(WrongPiece(piece)));
                }
            }
        }
    }

    #[test]
    fn a_list_for_another_file_or_of_another_length_is_refused() {
        let pieces = Pieces::of_file(bytes(5_000).as_slice(), 1_024).unwrap();
        let mut list = pieces.to_bytes();
        assert_eq!(list.len(), 5 * 32);
        let short = Pieces::verified(*pieces.manifest(), &list[..128]).unwrap_err();
        assert_eq!(short, BadManifest::ListLength { expected: 160, got: 128 });
        list[40] ^= 1;
        assert_eq!(Pieces::verified(*pieces.manifest(), &list).unwrap_err(), BadManifest::WrongList);
    }

    #[test]
    fn a_piece_too_long_or_too_short_is_refused() {
        let pieces = Pieces::of_file(bytes(5_000).as_slice(), 1_024).unwrap();
        let mut long = pieces.check(0).unwrap();
        assert_eq!(long.update(&bytes(1_025)), Err(WrongPiece(0)));
        let mut short = pieces.check(0).unwrap();
        short.update(&bytes(1_023)).unwrap();
        assert_eq!(short.finish(), Err(WrongPiece(0)));
    }

    #[test]
    fn absurd_manifests_are_refused() {
        let manifest = Manifest { size: 10, piece: 1_024, blake3: [0; 32] };
        assert_eq!(manifest.check(), Ok(()));
        assert_eq!(Manifest { size: 0, ..manifest }.check(), Err(BadManifest::Empty));
        for piece in [0, 1, 512, 1_025, 1 << 27] {
            assert_eq!(Manifest { piece, ..manifest }.check(), Err(BadManifest::PieceSize(piece)));
        }
        let vast = Manifest { size: u64::MAX, ..manifest };
        assert!(matches!(vast.check(), Err(BadManifest::TooMany(_))));
        assert_eq!(vast.span(u64::MAX), None);
    }
}
