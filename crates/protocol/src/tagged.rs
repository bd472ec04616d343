//! Tagged hashes as in BIP340: one tag for each purpose, so that a hash made for one can never be another.

use bitcoin::hashes::{Hash, HashEngine, sha256};

/// An engine that has already absorbed `SHA256(tag) ‖ SHA256(tag)`.
pub(crate) fn engine(tag: &str) -> sha256::HashEngine {
    let tag = sha256::Hash::hash(tag.as_bytes());
    let mut engine = sha256::Hash::engine();
    engine.input(tag.as_ref());
    engine.input(tag.as_ref());
    engine
}

/// The tagged hash over the parts, each preceded by its length in eight bytes, so that no two lists of parts
/// hash alike.
pub(crate) fn hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut engine = engine(tag);
    for part in parts {
        engine.input(&(part.len() as u64).to_be_bytes());
        engine.input(part);
    }
    sha256::Hash::from_engine(engine).to_byte_array()
}
