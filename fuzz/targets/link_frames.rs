//! The link's frames: whatever comes after a handshake, nothing is taken that the other side did not send, in its order; and no
//! first message of a stranger makes the handshake panic.
#![no_main]

use farthing_fuzz::Choices;
use farthing_node::link::frames::{Assembly, Handshake};
use farthing_node::link::{LinkError, StaticKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let (device, gateway) = (StaticKey::new([1; 32]), StaticKey::new([2; 32]));
    if choices.byte().is_multiple_of(4) {
        assert!(Handshake::answer(&gateway, choices.peek()).is_err(), "nobody guesses a tag");
        return;
    }
    let (handshake, first) = Handshake::begin(&device, &gateway.public()).expect("the key is one");
    let (near, second) = Handshake::answer(&gateway, &first).expect("it is for this gateway");
    let far = handshake.finish(&second).expect("it is from this gateway");
    let mut sealed = 0;
    let messages: Vec<Vec<u8>> =
        (0..3_u8).map(|mark| vec![mark; usize::from(choices.byte()) * 400]).collect();
    let mut bytes = Vec::new();
    for message in &messages {
        bytes.extend(near.seal(&mut sealed, message).expect("it is short enough"));
    }
    // Some of it is changed, cut or repeated.
    for _ in 0..choices.byte() % 3 {
        let at = choices.u32() as usize % bytes.len();
        match choices.byte() % 4 {
            0 => bytes[at] ^= choices.byte(),
            1 => bytes.truncate(at),
            2 => bytes.extend_from_within(..at),
            _ => drop(bytes.drain(..at)),
        }
        if bytes.is_empty() {
            return;
        }
    }
    let (mut assembly, mut taken) = (Assembly::default(), 0);
    for part in bytes.chunks(1 + usize::from(choices.byte()) * 50) {
        assembly.take(part);
        loop {
            match assembly.next(&far) {
                Ok(Some(message)) => {
                    assert_eq!(message, messages[taken], "what was sent, in its order");
                    taken += 1;
                }
                Ok(None) => break,
                Err(LinkError::Forged | LinkError::TooLong(_) | LinkError::Closed) => return,
                Err(other) => panic!("{other}"),
            }
        }
    }
});
