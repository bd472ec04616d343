//! `WWW-Authenticate` from a seller: whatever it holds, the buyer's reading of it ends in an error or in terms that can be
//! reckoned with, and what was read is written and read again the same.
#![no_main]

use bitcoin::FeeRate;
use farthing_fuzz::{Choices, fixture, json, reckon};
use farthing_http::challenge::{Calls, Challenge, MOST_HEADER, Price};
use farthing_http::encoding;
use farthing_protocol::Msat;
use farthing_protocol::flat::{BatchTerms, Terms};
use farthing_protocol::opening::{Limits, Offer};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    match choices.byte() % 3 {
        0 => header(&String::from_utf8_lossy(choices.rest())),
        1 => {
            // A good header with some bytes in its middle exchanged.
            let mut bytes = fixture::challenge().to_header().into_bytes();
            for _ in 0..choices.byte() % 8 {
                let at = choices.u32() as usize % bytes.len();
                bytes[at] = choices.byte();
            }
            header(&String::from_utf8_lossy(&bytes));
        }
        _ => {
            let is_for_calls = choices.byte().is_multiple_of(2);
            let example = if is_for_calls { fixture::request_for_calls() } else { fixture::request() };
            let example = serde_json::to_value(example).expect("a request is JSON");
            let request = json(&mut choices, &example);
            // The price below is reckoned with what the fuzzer chose, not with what the example says.
            let _readable: Option<Value> = serde_json::from_slice(&request).ok();
            let challenge = Challenge { request: encoding::encode_bytes(&request), ..fixture::challenge() };
            header(&challenge.to_header());
        }
    }
});

fn header(header: &str) {
    let Ok(challenge) = Challenge::from_header(header) else { return };
    assert!(header.len() <= MOST_HEADER);
    // Escaping can make it longer than what is read.
    let written = challenge.to_header();
    if written.len() <= MOST_HEADER {
        let again = Challenge::from_header(&written).expect("what was written can be read");
        assert_eq!(again, challenge);
    }
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let _may_have_expired = challenge.check_expiry(now);
    assert!(challenge.check(&[9; 32], now).is_err(), "nobody guesses an HMAC");
    let Ok(request) = challenge.request() else { return };
    if let Some(offered) = &request.method_details.calls {
        calls(offered, &request.method_details.offer);
    }
    let price = request.price();
    let Some(manifest) = request.method_details.file else { return };
    let price = price.expect("`request` has checked it, for a file");
    terms(price, &request.method_details.offer);
    if manifest.check().is_ok() {
        // As the client adds it up, for a few pieces at both ends.
        let pieces = manifest.pieces();
        for piece in (0..pieces.min(4)).chain(pieces.saturating_sub(4)..pieces) {
            let (_, length) = manifest.span(piece).expect("a piece of the file");
            let _may_be_more_than_exists = price.of(length);
        }
    }
}

fn terms(price: Price, offer: &Offer) {
    assert!(price.unit > 0);
    if let (Some(one), Some(two)) = (price.of(1), price.of(2)) {
        assert!(one <= two && two.get() <= one.get().saturating_mul(2));
    }
    let limits = Limits {
        most_capacity: fixture::CAPACITY,
        fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(200)),
        most_lifetime: 1_008,
        most_prepaid: bitcoin::Amount::from_sat(50_000),
        most_confirmations: 6,
    };
    let fee_rate = limits.choose_fee_rate(offer, FeeRate::from_sat_per_vb_u32(3));
    let prepaid = Offer::prepaid(fee_rate);
    assert!(Msat::from_amount(prepaid).is_some());
    let _depth = offer.confirmations.required(fixture::CAPACITY);
    let params = fixture::fixture().payer.channel.params();
    let _may_be_refused = (offer.check(params, 500), limits.check(offer, params, 500));
}

/// As a caller reckons with it before anything is locked or paid.
fn calls(offered: &Calls, offer: &Offer) {
    // Nothing yet; so much is set aside at first for an answer that flows; and more than anybody answers.
    for (bytes, events) in [(0, 0), (64 * 1024, 16), (u64::MAX, u64::MAX)] {
        reckon(&offered.price, bytes, events);
    }
    let Some(flat) = offered.flat else { return };
    let channel = &fixture::fixture().payer.channel;
    let prepaid = Msat::from_amount(channel.params().prepaid).expect("it is small");
    match BatchTerms::fit(channel, 1, prepaid, &flat) {
        Some(batch) => {
            let outputs = batch.terms.outputs;
            assert!(
                outputs <= flat.outputs && batch.worth(outputs) <= channel.max_total(),
                "more than is locked"
            );
            let _for_people =
                batch.terms.explain(channel, offer.margin, FeeRate::from_sat_per_vb_u32(3)).to_string();
        }
        // Which term it is, a batch of all outputs tells best.
        None => {
            let _may_fit_with_fewer = Terms { prepaid: prepaid.ceil(), ..flat }.check(channel, offer.margin);
        }
    }
}
