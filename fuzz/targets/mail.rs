//! What comes by mail, and what a mailbox reads: addresses, blobs, letters, invitations, and an owner's proofs. Whatever it is, it ends in an
//! error or in a value that is written and read again the same; nothing opens that was not sealed, and no signature fits by
//! chance.
#![no_main]

use std::sync::LazyLock;

use bitcoin::Network;
use farthing_fuzz::Choices;
use farthing_mailbox::address::Host;
use farthing_mailbox::{Address, Blob, Invitation, Letter, MailKey, Proof, Request, blob};
use farthing_protocol::cheque::reverse::authorisation::Authorisation;
use farthing_protocol::keys::{ChequeKeys, Seed};
use libfuzzer_sys::fuzz_target;

struct Payee {
    keys: ChequeKeys,
    mail: MailKey,
    address: Address,
}

static PAYEE: LazyLock<Payee> = LazyLock::new(|| {
    let seed = Seed::new([7; 64], Network::Regtest);
    let (keys, mail) = (seed.cheque_keys(), MailKey::of(&seed));
    let host = Host::new("mail.example").expect("a host");
    let address = Address { network: Network::Regtest, identity: keys.identity(), mail: mail.public(), host };
    Payee { keys, mail, address }
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    match choices.byte() % 5 {
        0 => address(choices),
        1 => sealed(choices),
        2 => letter(choices.rest()),
        3 => proof(choices),
        _ => invitation(choices),
    }
});

/// A text as it came, or a good one with up to three characters exchanged, which the checksum always notices (BIP173).
fn address(mut choices: Choices<'_>) {
    if choices.byte().is_multiple_of(2) {
        let Ok(address) = String::from_utf8_lossy(choices.rest()).parse::<Address>() else { return };
        assert_eq!(address.to_string().parse(), Ok(address));
        return;
    }
    let mut bytes = PAYEE.address.to_string().into_bytes();
    for _ in 0..choices.byte() % 4 {
        let at = usize::from(choices.byte()) % bytes.len();
        bytes[at] = choices.byte() & 0x7f;
    }
    let text = String::from_utf8(bytes).expect("ASCII");
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address, PAYEE.address, "{text}");
    }
}

/// Bytes as they came, or a sealed content with some bytes exchanged.
fn sealed(mut choices: Choices<'_>) {
    let is_sealed = choices.byte() % 2 == 1;
    let entropy = choices.array();
    if !is_sealed {
        let bytes = choices.rest();
        match Blob::from_bytes(bytes) {
            Ok(blob) => {
                assert!(PAYEE.mail.open(&PAYEE.address.identity, &blob).is_err(), "nobody guesses a seal")
            }
            Err(_) => assert_ne!(bytes.len(), blob::LENGTH),
        }
        return;
    }
    let changes = choices.byte() % 3;
    let places: Vec<(usize, u8)> =
        (0..changes).map(|_| (choices.u32() as usize % blob::LENGTH, choices.byte())).collect();
    let content = choices.rest();
    let Ok(blob) = Blob::seal(&PAYEE.address, content, entropy) else {
        assert!(content.len() > blob::MOST_CONTENT);
        return;
    };
    let mut bytes = *blob.as_bytes();
    for (at, change) in places {
        bytes[at] ^= change;
    }
    let opened = Blob::from_bytes(&bytes).map(|blob| PAYEE.mail.open(&PAYEE.address.identity, &blob));
    let opened = opened.expect("it is as long as before");
    assert_eq!(opened.as_deref().ok(), (bytes == *blob.as_bytes()).then_some(content));
    if let Ok(content) = opened {
        letter(&content);
    }
}

fn letter(bytes: &[u8]) {
    let Ok(letter) = Letter::from_bytes(bytes) else { return };
    let Ok(blob) = letter.seal(&PAYEE.address, [1; 32]) else { return };
    let opened = PAYEE.mail.open(&PAYEE.address.identity, &blob).expect("it was sealed for this payee");
    assert_eq!(Letter::from_bytes(&opened), Ok(letter));
}

/// A text as it came, or an authorisation's bytes.
fn invitation(mut choices: Choices<'_>) {
    if choices.byte().is_multiple_of(2) {
        let Ok(invitation) = String::from_utf8_lossy(choices.rest()).parse::<Invitation>() else { return };
        assert_eq!(invitation.to_string().parse(), Ok(invitation));
        return;
    }
    let Ok(authorisation) = Authorisation::from_bytes(choices.rest()) else { return };
    assert_eq!(Authorisation::from_bytes(&authorisation.to_bytes()), Ok(authorisation));
}

/// A header as it came, or a good one with some characters exchanged, for a request that may be another.
fn proof(mut choices: Choices<'_>) {
    let signed = Request { authority: "mail.example", method: "GET", target: "/mailbox", body: b"" };
    let (is_good, other_target) = (choices.byte() % 2 == 1, choices.byte().is_multiple_of(4));
    let good = signed.sign(&PAYEE.keys, choices.u64());
    let header = if is_good {
        let mut bytes = good.to_header().into_bytes();
        for _ in 0..choices.byte() % 3 {
            let at = usize::from(choices.byte()) % bytes.len();
            bytes[at] = choices.byte() & 0x7f;
        }
        String::from_utf8(bytes).expect("ASCII")
    } else {
        String::from_utf8_lossy(choices.rest()).into_owned()
    };
    let Ok(proof) = Proof::from_header(&header) else { return };
    assert_eq!(Proof::from_header(&proof.to_header()), Ok(proof));
    let asked = Request { target: if other_target { "/mailbox?after=1" } else { signed.target }, ..signed };
    let holds = proof.verify(&PAYEE.address.identity, &asked).is_ok();
    assert_eq!(holds, proof == good && !other_target, "nobody guesses a signature");
}
