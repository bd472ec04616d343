//! An announcement of a flat batch: what decodes is checked as the seller checks it, and only the batch that the payer has signed is
//! taken. What then comes as a preimage pays once, and only at its own output.
#![no_main]

use std::sync::LazyLock;

use farthing_fuzz::{Choices, fixture, json};
use farthing_http::wire::BatchBody;
use farthing_protocol::flat::{Batch, BatchTerms, Preimages, Signed, Terms};
use farthing_protocol::lightspeed::Word;
use farthing_protocol::session::CallKey;
use libfuzzer_sys::fuzz_target;

const OUTPUTS: u32 = 8;

struct Announced {
    terms: BatchTerms,
    signed: Signed,
    body: BatchBody,
    preimages: Preimages,
    batch: Batch,
}

static ANNOUNCED: LazyLock<Announced> = LazyLock::new(|| {
    let setup = &fixture::fixture().payer;
    let margin = fixture::POLICY.margin;
    let terms = BatchTerms { number: 1, terms: fixture::batch(OUTPUTS) };
    let signed = terms.sign(&setup.channel, &setup.keys).expect("the terms fit");
    let body = BatchBody::new(terms, &signed, &fixture::prepayment());
    let batch = Batch::verify(&setup.channel, terms, signed.clone(), margin).expect("it is genuine");
    Announced { terms, signed, body, preimages: terms.preimages(&setup.channel, &setup.keys), batch }
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    if choices.byte().is_multiple_of(2) {
        body(&mut choices);
    } else {
        reveals(&mut choices);
    }
});

fn body(choices: &mut Choices<'_>) {
    let known = &*ANNOUNCED;
    let example = serde_json::to_value(&known.body).expect("a body is JSON");
    let Ok(body) = serde_json::from_slice::<BatchBody>(&json(choices, &example)) else { return };
    let fixture = fixture::fixture();
    let channel = &fixture.payee.channel;
    let key = CallKey::agree(&fixture.payee.keys, &fixture.payer.keys.session(), channel.id());
    let call = body.call(channel.id(), "files.example:8402", "/batches");
    assert!(key.verify(&call, &body.mac).is_err(), "nobody guesses a MAC");
    // As if the MAC had fitted.
    let Ok((signed, _payment)) = body.read() else { return };
    // Number and highest fee rate are in no transaction: the MAC alone covers them.
    let theirs = Terms { most_fee_rate: known.terms.terms.most_fee_rate, ..body.batch.terms };
    let is_signed = (theirs, &signed) == (known.terms.terms, &known.signed);
    let is_genuine = is_signed && theirs == body.batch.terms;
    let verified = Batch::verify(channel, body.batch, signed, fixture::POLICY.margin);
    assert!(verified.is_ok() || !is_genuine, "a genuine batch is taken");
    assert!(verified.is_err() || is_signed, "nobody guesses a signature");
}

fn reveals(choices: &mut Choices<'_>) {
    let mut batch = ANNOUNCED.batch.clone();
    let mut known = [false; OUTPUTS as usize];
    while !choices.is_empty() {
        let (index, of) = (u32::from(choices.byte() % 10), u32::from(choices.byte()) % OUTPUTS);
        let right = *ANNOUNCED.preimages.preimage(of).as_bytes();
        let mut bytes = right;
        if choices.byte() > 200 {
            bytes[usize::from(choices.byte() % 32)] ^= choices.byte();
        }
        let genuine = bytes == right && index == of;
        assert_eq!(batch.reveal(index, Word::from_bytes(bytes)).is_ok(), genuine);
        if genuine {
            known[of as usize] = true;
        }
        let revealed = known.iter().filter(|is_known| **is_known).count() as u32;
        assert_eq!((batch.revealed(), batch.paid()), (revealed, ANNOUNCED.terms.worth(revealed)));
        if known.iter().all(|is_known| *is_known) {
            return;
        }
    }
}
