//! Stored states outlive the program that wrote them: money hangs on reading them. `stored/v1` holds every state of
//! both machines as release 1 writes it, in postcard, one file each, in hex.
//!
//! After a release these files never change. A test that fails here says that the layout has changed: keep `v1`, add
//! `v2`, and write the migration from one to the other. Before the first release, delete a file and run
//! `cargo test -p farthing-protocol --test stored_states -- --ignored` to write it afresh.

mod common;

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use bitcoin::hex::{DisplayHex, FromHex};
use common::call_story::{payee_of_calls, payer_of_calls};
use common::flat_story::{flat_payee, flat_payer};
use common::payee_story::{Payee, charge, settle};
use common::payer_story::Payer;
use common::*;
use farthing_protocol::lightspeed::{CallNumber, Purse};
use farthing_protocol::payee::Input;
use farthing_protocol::{Msat, Params, payee, payer};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

const READABLE: &str =
    "stored states of released versions must stay readable: add v2 fixtures, write a migration";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stored/v1").join(name).with_extension("hex")
}

/// A new variant does not compile here until it has a file of its own.
fn payer_name(state: &payer::State) -> &'static str {
    match state {
        payer::State::AwaitingAcceptance => "payer_awaiting_acceptance",
        payer::State::Abandoned => "payer_abandoned",
        payer::State::AwaitingFunding(_) => "payer_awaiting_funding",
        payer::State::Open(_) => "payer_open",
        payer::State::Closing(_) => "payer_closing",
        payer::State::Refunding(_) => "payer_refunding",
        payer::State::Closed(_) => "payer_closed",
    }
}

fn payee_name(state: &payee::State) -> &'static str {
    match state {
        payee::State::AwaitingDepth(_) => "payee_awaiting_depth",
        payee::State::Open(_) => "payee_open",
        payee::State::ClosingTogether(_) => "payee_closing_together",
        payee::State::ClosingAlone(_) => "payee_closing_alone",
        payee::State::Closed(_) => "payee_closed",
    }
}

/// Every state of the payer, with the end of its file's name. Different money in each, so that no two fields agree.
fn payer_states() -> Vec<(Payer, &'static str)> {
    let mut awaiting_funding = Payer::awaiting_funding();
    awaiting_funding.buys(Msat::new(1_234));
    let mut seen = Payer::with_spent();
    seen.sees(TIP, spent(&commitment_to(sat(40_000)), 0));
    let mut flat = flat_payer();
    flat.calls(payer::call::Input::call(sat(2_000)));
    vec![
        (Payer::awaiting_acceptance(), ""),
        (Payer::abandoned(), ""),
        (Payer::awaiting_funding(), "_unpaid"),
        (awaiting_funding, ""),
        (Payer::with_spent(), ""),
        (Payer::closing(), ""),
        (Payer::closing_complete(), "_complete"),
        (seen, "_seen"),
        (payer_of_calls(), "_calls"),
        (flat, "_flat"),
        (Payer::refunding(), ""),
        (Payer::closed(), ""),
    ]
}

/// Every state of the payee, with the end of its file's name.
fn payee_states() -> Vec<(Payee, &'static str)> {
    let mut awaiting_depth = Payee::awaiting_depth();
    awaiting_depth.sees(TIP, unconfirmed());
    awaiting_depth.takes(charge(Some(payment(sat(700))), Msat::new(1_234)));
    let mut handed_over = Payee::with(sat(50_000), sat(40_000));
    handed_over.takes(settle(settlement(40_000)));
    handed_over.takes(Input::Settled { transaction: closing_of(&settlement(40_000)) });
    let mut claiming = payee_of_calls();
    claiming.takes(Input::Close);
    let mut spreading = flat_payee(&[0, 7, 19]);
    spreading.takes(Input::Close);
    let mut unfunded = Payee::awaiting_depth();
    unfunded.takes(Input::Close);
    vec![
        (Payee::awaiting_depth(), "_unpaid"),
        (awaiting_depth, ""),
        (Payee::with(sat(50_000), sat(40_000)), ""),
        (payee_of_calls(), "_calls"),
        (flat_payee(&[0, 7, 19]), "_flat"),
        (Payee::closing_together(), ""),
        (handed_over, "_complete"),
        (Payee::closing_alone(), ""),
        (claiming, "_rung"),
        (spreading, "_batch"),
        (Payee::closed(), ""),
        (unfunded, "_unfunded"),
    ]
}

/// Everything that is frozen, as name and bytes.
fn written_today() -> Vec<(String, Vec<u8>)> {
    let payers = payer_states()
        .into_iter()
        .map(|(payer, end)| (payer_name(&payer.state).to_owned() + end, encoded(&payer.state)));
    let payees = payee_states()
        .into_iter()
        .map(|(payee, end)| (payee_name(&payee.state).to_owned() + end, encoded(&payee.state)));
    payers.chain(payees).chain([("params".to_owned(), encoded(&params()))]).collect()
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("every state has an encoding")
}

/// The value, if the bytes are one and nothing else.
fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        Ok((_, [..])) | Err(_) => None,
    }
}

fn frozen(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}; {READABLE}"));
    Vec::from_hex(text.trim()).expect("hex")
}

fn assert_readable<T: DeserializeOwned + Debug + PartialEq>(name: &str, expected: &T) {
    assert_eq!(decoded::<T>(&frozen(name)).as_ref(), Some(expected), "{name}: {READABLE}");
}

#[test]
fn states_are_written_as_release_1_wrote_them() {
    for (name, bytes) in written_today() {
        assert_eq!(bytes.to_lower_hex_string(), frozen(&name).to_lower_hex_string(), "{name}: {READABLE}");
    }
}

#[test]
fn states_that_release_1_wrote_are_read_and_do_their_work() {
    for (payer, end) in payer_states() {
        let name = payer_name(&payer.state).to_owned() + end;
        assert_readable(&name, &payer.state);
        let read: payer::State = decoded(&frozen(&name)).unwrap();
        assert_eq!(read.resume(&payer.setup), payer.state.resume(&payer.setup), "{name}");
    }
    for (payee, end) in payee_states() {
        let name = payee_name(&payee.state).to_owned() + end;
        assert_readable(&name, &payee.state);
        let read: payee::State = decoded(&frozen(&name)).unwrap();
        assert_eq!(read.resume(&payee.setup), payee.state.resume(&payee.setup), "{name}");
    }
    assert_readable("params", &params());
}

#[test]
fn every_variant_is_frozen_and_no_file_is_idle() {
    let mut names: Vec<String> = written_today().into_iter().map(|(name, _)| name + ".hex").collect();
    let mut files: Vec<String> = fs::read_dir(path("x").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    files.sort();
    assert_eq!(files, names, "{READABLE}");
}

#[test]
fn a_state_that_was_cut_short_or_has_something_behind_it_is_no_state() {
    for (name, bytes) in written_today() {
        for length in 0..bytes.len() {
            assert!(!is_something(&name, &bytes[..length]), "{name} with {length} of {} bytes", bytes.len());
        }
        assert!(is_something(&name, &bytes));
        assert!(!is_something(&name, &[bytes.as_slice(), &[0]].concat()));
    }
}

/// Whether the bytes decode as what the file's name says.
fn is_something(name: &str, bytes: &[u8]) -> bool {
    if name.starts_with("payer") {
        decoded::<payer::State>(bytes).is_some()
    } else if name.starts_with("payee") {
        decoded::<payee::State>(bytes).is_some()
    } else {
        decoded::<Params>(bytes).is_some()
    }
}

#[test]
fn garbage_is_no_state() {
    for garbage in [&[][..], &[0xff; 200], &[0x7f], &[42; 300], b"{\"Open\":{}}"] {
        for name in ["payer", "payee", "params"] {
            assert!(!is_something(name, garbage), "{name}: {garbage:?}");
        }
    }
}

/// One of the frozen files with some bytes changed.
fn spoiled() -> impl Strategy<Value = (String, Vec<u8>)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    (prop::sample::select(written_today()), changes).prop_map(|((name, mut bytes), changes)| {
        for (index, byte) in changes {
            let index = index.index(bytes.len().max(1));
            bytes.get_mut(index).into_iter().for_each(|old| *old = byte);
        }
        (name, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a damaged store holds: an error, or a state that can be asked everything without a panic.
    #[test]
    fn damage_never_panics((name, bytes) in spoiled()) {
        let sighting = || at(EXPIRY, confirmed(9));
        if let Some(state) = decoded::<payer::State>(&bytes).filter(|_| name.starts_with("payer")) {
            let setup = payer_setup();
            state.resume(&setup);
            let buy = payer::Input::Buy { cost: sat(1) };
            let call = payer::Input::Call(payer::call::Input::call(sat(1)));
            let last = state.purse().map_or(CallNumber { epoch: 0, counter: 0 }, Purse::last_number);
            let sum = payer::call::Input::Reconcile { last, spent: sat(1) };
            let sum = payer::Input::Call(sum);
            let close = payer::Input::Close { fee_rate: rate(2), charged: None };
            for input in [buy, call, sum, close, payer::Input::Sighted(sighting())] {
                drop(state.handle(&setup, input));
            }
        }
        if let Some(state) = decoded::<payee::State>(&bytes).filter(|_| name.starts_with("payee")) {
            let setup = payee_setup();
            state.resume(&setup);
            if let Some(tab) = state.tab() {
                let (_, _, _) = (tab.ledger(), tab.exposure(&setup.channel), tab.next_chain());
                drop(state.handle(&setup, Input::Fold(Box::new(tab.clone()))));
            }
            for input in [charge(None, sat(1)), settle(settlement(0)), Input::Close, Input::Sighted(sighting())] {
                drop(state.handle(&setup, input));
            }
        }
        if let Some(params) = decoded::<Params>(&bytes).filter(|_| name == "params") {
            drop(farthing_protocol::Channel::new(params));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for name in ["payer", "payee", "params"] {
            is_something(name, &bytes);
        }
    }
}

/// Never over an old one.
#[test]
#[ignore = "writes the files that are missing"]
fn write_missing_files() {
    for (name, bytes) in written_today() {
        let path = path(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            fs::write(path, bytes.to_lower_hex_string() + "\n").unwrap();
        }
    }
}
