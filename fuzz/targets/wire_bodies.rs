//! The JSON bodies of opening and closing: what decodes is handed on as server and client do, and ends in an error or in
//! something that fits the fixed channel. Terms of any size make a channel or an error, never a panic.
#![no_main]

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Amount, FeeRate, Transaction};
use farthing_fuzz::{Choices, fixture, json};
use farthing_http::wire::{AcceptedBody, CloseBody, ClosedBody, ClosingBody, OpenBody};
use farthing_protocol::closing::{self, Answer, Proposal, PublicNonce};
use farthing_protocol::opening::{Limits, Opening};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, Msat, commitment, payee, payer};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let fixture = fixture::fixture();
    match choices.byte() % 6 {
        0 | 1 => {
            let height = choices.u32();
            let body = OpenBody { challenge: fixture::challenge(), opening: fixture.opening.clone() };
            if let Some(body) = read(&mut choices, &body) {
                open(body, height);
            }
        }
        2 => {
            let body = AcceptedBody { channel: fixture.payer.channel.id(), signature: fixture.acceptance };
            if let Some(AcceptedBody { channel, signature }) = read(&mut choices, &body) {
                let accepted = payer::State::AwaitingAcceptance
                    .handle(&fixture.payer, payer::Input::Accepted(signature));
                assert_eq!(accepted.is_ok(), signature == fixture.acceptance);
                let _another_channel = channel != fixture.payer.channel.id();
            }
        }
        3 => {
            let nonce = proposal(1).public_nonce().0;
            let body = CloseBody { to_payee_sat: 40_000, fee_rate_sat_per_kwu: 500, nonce, mac: [9; 32] };
            if let Some(body) = read(&mut choices, &body) {
                close(&body);
            }
        }
        4 => {
            let body = ClosingBody { nonce: proposal(2).public_nonce().0, partial_signature: [1; 32] };
            if let Some(body) = read(&mut choices, &body) {
                let answer = Answer::from(body);
                // Its halves add up only if both are the payee's for this round, which nobody guesses.
                let completed = proposal(3).complete(&fixture.payer.channel, &fixture.payer.keys, &answer);
                assert!(completed.is_err());
            }
        }
        _ => {
            let body = ClosedBody { transaction: serialize_hex(&fixture.closing) };
            if let Some(body) = read(&mut choices, &body) {
                closed(&body.transaction);
            }
        }
    }
});

fn read<T: Serialize + DeserializeOwned>(choices: &mut Choices<'_>, example: &T) -> Option<T> {
    let example = serde_json::to_value(example).expect("a body is JSON");
    serde_json::from_slice(&json(choices, &example)).ok()
}

fn proposal(entropy: u8) -> Proposal {
    let fixture = fixture::fixture();
    Proposal::new(&fixture.payer.channel, &fixture.payer.keys, fixture.settlement, [entropy; 32])
        .expect("the settlement fits")
}

/// As the server opens a channel, without the chain.
fn open(body: OpenBody, height: u32) {
    let OpenBody { challenge, opening } = body;
    let offer = match challenge.request() {
        Ok(request) => request.method_details.offer,
        Err(_) => fixture::offer(),
    };
    let Opening { params, signature } = opening;
    let limits = Limits {
        most_capacity: Amount::MAX_MONEY,
        fee_rate: (FeeRate::ZERO, FeeRate::MAX),
        most_lifetime: u32::MAX,
        most_prepaid: Amount::MAX_MONEY,
        most_confirmations: u32::MAX,
    };
    let _may_be_refused = (offer.check(&params, height), limits.check(&offer, &params, height));
    let Ok(channel) = Channel::new(params) else { return };
    let params = channel.params();
    let most = channel.max_total();
    assert!(Msat::from_amount(params.prepaid).is_some_and(|prepaid| prepaid <= most));
    // Every total makes a transaction that pays no more than is locked.
    for total in [Msat::ZERO, Msat::from_amount(params.prepaid).unwrap_or_default(), most] {
        let transaction = commitment::build(&channel, total);
        let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
        assert!(paid + channel.commitment_fee() <= params.capacity);
    }
    let setup = payee::Setup { keys: fixture::keys(2), policy: fixture::POLICY, channel };
    let accepted = payee::accept(&setup, &signature);
    if setup.channel.id() != fixture::fixture().payee.channel.id() {
        // The example's signature is on another channel.
        assert!(accepted.is_err(), "nobody guesses a signature");
    }
}

fn close(body: &CloseBody) {
    let fixture = fixture::fixture();
    let setup = &fixture.payee;
    let id = setup.channel.id();
    let mut scratch = String::new();
    let key = CallKey::agree(&setup.keys, &fixture.payer.keys.session(), id);
    let call = body.call(id, "files.example:8402", "/close", &mut scratch);
    assert!(key.verify(&call, &body.mac).is_err(), "nobody guesses a MAC");
    // As if the MAC had fitted.
    let (settlement, nonce) = (body.settlement(), PublicNonce(body.nonce));
    let accepted = payee::accept(setup, &fixture.opening.signature).expect("the payer's own signature");
    let (state, _) = accepted.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
    let agreed = state.handle(setup, payee::Input::Settle { settlement, height: 500 });
    let signed = closing::cosign(&setup.channel, &setup.keys, &settlement, &nonce, [5; 32]);
    if agreed.is_ok() {
        let transaction = closing::build(&setup.channel, &settlement).expect("the machine has built it");
        let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
        assert!(paid <= fixture::CAPACITY);
    } else {
        let _the_machine_refuses_more = signed.is_ok();
    }
}

fn closed(hex: &str) {
    let Ok(transaction) = deserialize_hex::<Transaction>(hex) else { return };
    let fixture = fixture::fixture();
    let channel = &fixture.payee.channel;
    let _kind = channel.spend_kind(&transaction);
    if closing::is_complete(channel, &fixture.settlement, &transaction) {
        assert_eq!(transaction, fixture.closing, "nobody guesses a signature");
    }
}
