//! A file's manifest and list of pieces from a seller: within bounds or refused, and never more memory than the list itself.
#![no_main]

use farthing_fuzz::{Choices, json};
use farthing_http::manifest::{BadManifest, MOST_PIECE, MOST_PIECES, Manifest, Pieces};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    match choices.byte() % 2 {
        0 => {
            let example = Manifest { size: 150_000, piece: 65_536, blake3: [7; 32] };
            let example = serde_json::to_value(example).expect("a manifest is JSON");
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&json(&mut choices, &example)) {
                foreign(manifest, data);
            }
        }
        _ => own(&mut choices),
    }
});

/// A manifest that nobody has checked, with a list that belongs to nothing.
fn foreign(manifest: Manifest, list: &[u8]) {
    // A span is worked out for unchecked manifests too.
    for piece in [0, 1, u64::MAX] {
        if let Some((start, length)) = manifest.span(piece) {
            assert!(start < manifest.size && length <= manifest.size - start);
        }
    }
    let checked = manifest.check();
    let verified = Pieces::verified(manifest, list);
    let Ok(()) = checked else {
        assert_eq!(verified.err(), checked.err());
        return;
    };
    assert!(manifest.pieces() <= MOST_PIECES && manifest.piece <= MOST_PIECE);
    match verified {
        Ok(_) => panic!("nobody guesses a BLAKE3 root"),
        Err(BadManifest::ListLength { expected, got }) => {
            assert_eq!(expected, manifest.pieces() * 32);
            assert_ne!(expected, got);
        }
        Err(error) => assert_eq!(error, BadManifest::WrongList),
    }
    let last = manifest.pieces() - 1;
    for piece in [0, last / 2, last] {
        let (start, length) = manifest.span(piece).expect("a piece of the file");
        assert_eq!(manifest.piece_at(start, length), Some(piece));
        assert_eq!(manifest.piece_at(start, length + 1), None);
    }
    assert_eq!(manifest.span(last + 1), None);
    let _nowhere = (manifest.piece_at(u64::MAX, u64::MAX), manifest.piece_at(0, 0));
}

/// A file that is hashed and sold; the list and one piece may be spoiled on the way.
fn own(choices: &mut Choices<'_>) {
    let piece = 1 << (10 + choices.byte() % 3);
    let (spoil_list, spoil_piece) = (choices.u32() as usize, choices.u32() as usize);
    let (is_list_spoiled, is_piece_spoiled) = (choices.byte() > 127, choices.byte() > 127);
    let file = choices.take(20_000).repeat(1 + usize::from(choices.byte() % 8));
    let Ok(pieces) = Pieces::of_file(file.as_slice(), piece) else {
        assert!(file.is_empty());
        return;
    };
    let manifest = *pieces.manifest();
    assert_eq!((manifest.size, manifest.check()), (file.len() as u64, Ok(())));
    let mut list = pieces.to_bytes();
    if is_list_spoiled {
        let at = spoil_list % list.len();
        list[at] ^= 1;
        assert_eq!(Pieces::verified(manifest, &list).err(), Some(BadManifest::WrongList));
        return;
    }
    let received = Pieces::verified(manifest, &list).expect("the list of this file");
    let spoiled = spoil_piece % file.len();
    for piece in 0..manifest.pieces() {
        let (start, length) = manifest.span(piece).expect("a piece of the file");
        let mut content = file[start as usize..(start + length) as usize].to_vec();
        let is_spoiled = is_piece_spoiled && (start..start + length).contains(&(spoiled as u64));
        if is_spoiled {
            content[spoiled - start as usize] ^= 1;
        }
        let mut check = received.check(piece).expect("a piece of the file");
        for part in content.chunks(700) {
            check.update(part).expect("not longer than the piece");
        }
        assert_eq!(check.finish().is_err(), is_spoiled);
    }
}
