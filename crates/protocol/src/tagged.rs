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

/// SHA-256 of what an engine has absorbed, whole blocks, and then of `rest`. The padding is made here and everything fed at
/// once, where it fits into `ROOM` bytes: the library's own way, in six small parts, takes half as long as the hashing.
pub(crate) fn finish<const ROOM: usize>(engine: sha256::HashEngine, rest: &[u8]) -> [u8; 32] {
    let mut room = [0; ROOM];
    match room.get_mut(..rest.len()) {
        Some(beginning) => {
            beginning.copy_from_slice(rest);
            finish_in_place(engine, &mut room, rest.len())
        }
        None => finish_in_parts(engine, rest),
    }
}

/// [`finish`] of the first `length` bytes of `room`, which is overwritten.
pub(crate) fn finish_in_place(mut engine: sha256::HashEngine, room: &mut [u8], length: usize) -> [u8; 32] {
    let bits = (engine.n_bytes_hashed() + length) as u64 * 8;
    match room.get_mut(..(length + 9).next_multiple_of(64)) {
        Some(blocks) if engine.n_bytes_hashed().is_multiple_of(64) => {
            let (_message, padding) = blocks.split_at_mut(length);
            padding.fill(0);
            padding[0] = 0x80;
            if let Some(length) = padding.last_chunk_mut() {
                *length = bits.to_be_bytes();
            }
            engine.input(blocks);
            engine.midstate().to_byte_array()
        }
        Some(_) | None => finish_in_parts(engine, &room[..length]),
    }
}

fn finish_in_parts(mut engine: sha256::HashEngine, rest: &[u8]) -> [u8; 32] {
    engine.input(rest);
    sha256::Hash::from_engine(engine).to_byte_array()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finishing_at_once_gives_the_same_hash() {
        let message: Vec<u8> = (0..=u8::MAX).cycle().take(700).collect();
        for absorbed in [0, 64, 128, 3] {
            let mut engine = sha256::Hash::engine();
            engine.input(&message[..absorbed]);
            for end in absorbed..message.len() {
                let expected = sha256::Hash::hash(&message[..end]).to_byte_array();
                assert_eq!(finish::<64>(engine.clone(), &message[absorbed..end]), expected);
                assert_eq!(finish::<512>(engine.clone(), &message[absorbed..end]), expected);
            }
        }
    }
}
