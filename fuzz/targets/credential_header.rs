//! `Authorization` from a buyer: whatever it holds, the seller's reading of it ends in an error or in a credential that is
//! written and read again the same; and no MAC fits by chance.
#![no_main]

use farthing_fuzz::{Choices, fixture, json};
use farthing_http::challenge::MOST_HEADER;
use farthing_http::credential::{Credential, Payload};
use farthing_http::encoding;
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::{ChannelId, Msat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    if choices.byte().is_multiple_of(3) {
        return header(&String::from_utf8_lossy(choices.rest()));
    }
    let payload = Payload {
        channel: ChannelId::from_bytes([7; 32]),
        total: Msat::new(700_000),
        cost: Msat::new(6_400),
        signature: fixture::fixture().acceptance,
        mac: [9; 32],
    };
    let credential = Credential { challenge: fixture::challenge(), payload };
    let example = serde_json::to_value(&credential).expect("a credential is JSON");
    header(&format!("Payment {}", encoding::encode_bytes(&json(&mut choices, &example))));
});

fn header(header: &str) {
    let Ok(credential) = Credential::from_header(header) else { return };
    assert!(header.len() <= MOST_HEADER);
    let written = credential.to_header();
    if written.len() <= MOST_HEADER {
        assert_eq!(Credential::from_header(&written).expect("what was written can be read"), credential);
    }
    let Credential { challenge, payload } = credential;
    let fixture = fixture::fixture();
    let key = CallKey::agree(&fixture.payee.keys, &fixture.payer.keys.session(), payload.channel);
    let call = Call {
        channel: payload.channel,
        item: [1; 32],
        cost: payload.cost,
        total: payload.total,
        method: "GET",
        authority: &challenge.realm,
        target: "/file",
        challenge: &challenge.id,
    };
    assert!(key.verify(&call, &payload.mac).is_err(), "nobody guesses a MAC");
}
