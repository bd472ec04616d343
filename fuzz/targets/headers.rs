//! Short texts that come with a request or an answer: a receipt, the span of a file, a call, an invoice.
#![no_main]

use bitcoin::Network;
use farthing_fuzz::{Choices, json};
use farthing_http::credential::Receipt;
use farthing_http::encoding;
use farthing_http::span::Span;
use farthing_protocol::device::invoice::Invoice;
use farthing_protocol::lightspeed::Call;
use farthing_protocol::lightspeed::call;
use farthing_protocol::{ChannelId, Msat};
use libfuzzer_sys::fuzz_target;

/// For 20,000 sat, of regtest.
const INVOICE: &str = "lnbcrt200u1p45n5sqdq8w3hkcmqpp5wkrhhdqa8ya4lwz9tnnqanvdmgqp6p33vjttzn0607y4v4hwef9qsp5qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs9qrsgqxqrrsscqpj3mnl28gmqg35c5w5flpvxz7ls5hxng59zfwhtkdu8u8xy0f5mhwps4663eqg5pqkun2lr59vx5tsquqmetq3fva94csynfj3azmnfxspx72lf3";

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    match choices.byte() % 5 {
        0 => receipt(&mut choices),
        1 => span(choices),
        2 => call(choices),
        _ => invoice(choices),
    }
});

fn receipt(choices: &mut Choices<'_>) {
    let written = Receipt::header(ChannelId::from_bytes([7; 32]), Msat::new(6_400), "2026-11-22T00:00:00Z");
    let example = encoding::decode(written.to_str().expect("base64url")).expect("JSON");
    let text = encoding::encode_bytes(&json(choices, &example));
    if let Ok(receipt) = Receipt::from_header(&text) {
        assert_eq!(Receipt::from_header(&receipt.to_header()).ok(), Some(receipt));
    }
}

/// What is served lies within the file.
fn span(mut choices: Choices<'_>) {
    let size = choices.amount();
    let text = if choices.byte().is_multiple_of(2) {
        format!("bytes={}-{}", choices.amount(), choices.amount())
    } else {
        String::from_utf8_lossy(choices.rest()).into_owned()
    };
    let Ok(Span { start, length }) = Span::parse(&text, size) else { return };
    assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size), "{text} of {size}");
}

/// As a gate reads it, whose room is for the longest call there is: a call has one spelling.
fn call(mut choices: Choices<'_>) {
    let mut room = [0; call::LENGTH_WITH_LAST.div_ceil(3) * 4];
    let text = if choices.byte().is_multiple_of(2) {
        encoding::encode_bytes(choices.rest())
    } else {
        String::from_utf8_lossy(choices.rest()).into_owned()
    };
    if text.len() > room.len() {
        return;
    }
    let Ok(length) = encoding::decode_into(&text, &mut room) else { return };
    let Ok((call, mac)) = Call::from_bytes(&room[..length]) else { return };
    assert_eq!(call.to_bytes(&mac), room[..length]);
    assert_eq!(encoding::encode_bytes(&room[..length]), text);
}

/// As it came, or a good one with up to three characters exchanged, which the checksum always notices.
fn invoice(mut choices: Choices<'_>) {
    if choices.byte().is_multiple_of(2) {
        let _may_be_refused = Invoice::parse(&String::from_utf8_lossy(choices.rest()), Network::Regtest);
        return;
    }
    let genuine = Invoice::parse(INVOICE, Network::Regtest).expect("a good one");
    let mut bytes = INVOICE.as_bytes().to_vec();
    for _ in 0..choices.byte() % 4 {
        let at = usize::from(choices.byte()) % bytes.len();
        bytes[at] = choices.byte() & 0x7f;
    }
    if let Ok(read) = Invoice::parse(&String::from_utf8_lossy(&bytes), Network::Regtest) {
        assert_eq!(read, genuine);
    }
}
