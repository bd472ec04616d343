//! The device's stored states outlive the program that wrote them. `stored/device-v2` holds them as release 1 writes them, in
//! postcard, one file each, in hex; `stored/device-v1` as programs wrote them before, which are read as [`FormerState`].
//!
//! After a release these files never change (see `stored_states.rs`). Before the first release, delete a file and run
//! `cargo test -p farthing-protocol --test device_stored -- --ignored` to write it afresh.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use bitcoin::hex::{DisplayHex, FromHex};
use bitcoin::{Amount, FeeRate};
use device::*;
use farthing_protocol::device::bolt3::CommitmentNumber;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::commitment::to_remote_script;
use farthing_protocol::device::machine::FormerState;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::{Input, State};
use proptest::prelude::*;

const READABLE: &str =
    "stored states of released versions must stay readable: add device-v3 fixtures, write a migration";

fn path(name: &str) -> PathBuf {
    of_version("device-v2", name)
}

fn of_version(version: &str, name: &str) -> PathBuf {
    let stored = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stored");
    stored.join(version).join(name).with_extension("hex")
}

/// A new variant does not compile here until it has a file of its own.
fn name(state: &State) -> &'static str {
    match state {
        State::Opening(_) => "opening",
        State::Open(_) => "open",
        State::Closing(_) => "closing",
    }
}

/// More was paid than has entries. Programs wrote no such state before version 2.
const SPENT: &str = "_spent";

/// Every state, with the end of its file's name.
fn states() -> Vec<(World, &'static str)> {
    let mut incomplete = World::new();
    incomplete.commit_bridge(Next::first()).unwrap();
    incomplete.validate_holder(Next::first()).unwrap();
    let mut in_flight = paid();
    in_flight.approve(invoice(2, 30_000_000), Source::Gateway).unwrap();
    let ours = htlc(2, 30_000_000);
    in_flight.commit_bridge(in_flight.next_bridge().add(ours)).unwrap();
    let mut erasing = paid();
    erasing.commit_holder(erasing.next_holder()).unwrap();
    let number = CommitmentNumber::try_from(erasing.holder.len() as u64 - 2).unwrap();
    erasing.give(Input::Revoke { number }).unwrap();
    let mut together = paid();
    let newest = together.holder.last().unwrap();
    let settlement = Settlement {
        to_holder: newest.to_holder.floor() - Amount::from_sat(500),
        holder_script: owner_script(),
        to_bridge: newest.to_bridge.floor(),
        bridge_script: to_remote_script(&public(0x66)),
    };
    together.give(Input::CloseTogether(settlement)).unwrap();
    let mut alone = paid();
    alone.give(Input::CloseAlone).unwrap();
    let mut banned = paid();
    banned.give(Input::GatewayCheated).unwrap();
    let mut spent = World::open();
    (1..=36).for_each(|byte| spent.pay(byte, 1_000_000).unwrap());
    spent.approve(invoice(37, 1_000_000), Source::Direct).unwrap();
    vec![
        (World::new(), ""),
        (incomplete, "_incomplete"),
        (paid(), ""),
        (in_flight, "_in_flight"),
        (erasing, "_erasing"),
        (together, "_together"),
        (alone, "_alone"),
        (banned, "_banned"),
        (spent, SPENT),
    ]
}

fn paid() -> World {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    world
}

fn written_today() -> Vec<(String, Vec<u8>)> {
    let written = |(world, end): (World, &str)| {
        (name(&world.state).to_owned() + end, postcard::to_stdvec(&world.state).unwrap())
    };
    states().into_iter().map(written).collect()
}

static WRITTEN: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(written_today);

fn decoded(bytes: &[u8]) -> Option<State> {
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Some(state),
        Ok((_, [..])) | Err(_) => None,
    }
}

#[test]
fn states_are_written_as_release_1_wrote_them() {
    for (name, bytes) in written_today() {
        let text =
            fs::read_to_string(path(&name)).unwrap_or_else(|error| panic!("{name}: {error}; {READABLE}"));
        assert_eq!(bytes.to_lower_hex_string(), text.trim(), "{name}: {READABLE}");
    }
}

#[test]
fn states_that_release_1_wrote_are_read_and_do_their_work() {
    for (world, end) in states() {
        let text = fs::read_to_string(path(&(name(&world.state).to_owned() + end))).unwrap();
        let read = decoded(&Vec::from_hex(text.trim()).unwrap()).expect(READABLE);
        assert_eq!(read, world.state, "{READABLE}");
        assert_eq!(read.resume(&world.setup), world.state.resume(&world.setup));
    }
}

/// Every payment had an entry, without the time at which its invoice was made.
#[test]
fn states_of_before_release_1_are_read_and_do_their_work() {
    for (world, end) in states().into_iter().filter(|(_, end)| *end != SPENT) {
        let name = name(&world.state).to_owned() + end;
        let text = fs::read_to_string(of_version("device-v1", &name)).unwrap();
        let bytes = Vec::from_hex(text.trim()).unwrap();
        let former: FormerState = postcard::from_bytes(&bytes).expect(&name);
        let (read, now) = (State::from(former), &world.state);
        assert_eq!(read.resume(&world.setup), now.resume(&world.setup), "{name}");
        assert_eq!((read.name(), read.is_banned()), (now.name(), now.is_banned()), "{name}");
        let (account, expected) = (read.account(), now.account());
        assert_eq!(account.balance(), expected.balance(), "{name}");
        for byte in [1, 2] {
            let hash = preimage(byte).hash();
            assert_eq!(account.is_live(&hash), expected.is_live(&hash), "{name}");
            assert_eq!(account.payments().paid(&hash), expected.payments().paid(&hash), "{name}");
        }
    }
    let mut world = paid();
    let text = fs::read_to_string(of_version("device-v1", "open")).unwrap();
    world.state = postcard::from_bytes::<FormerState>(&Vec::from_hex(text.trim()).unwrap()).unwrap().into();
    let again = world.approve(invoice(1, 50_000_000), Source::Direct).unwrap_err();
    assert_eq!(again.rule(), "invoice-not-paid");
    world.pay(2, 50_000_000).unwrap();
    let third = world.approve(invoice(3, 50_000_000), Source::Direct).unwrap_err();
    assert_eq!(third.rule(), "payment-velocity");
}

#[test]
fn a_state_that_was_cut_short_or_has_something_behind_it_is_no_state() {
    for (name, bytes) in written_today() {
        for length in 0..bytes.len() {
            assert!(decoded(&bytes[..length]).is_none(), "{name} with {length} of {} bytes", bytes.len());
        }
        assert!(decoded(&[bytes.as_slice(), &[0]].concat()).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a damaged store holds: an error, or a state that can be asked everything without a panic.
    #[test]
    fn damage_never_panics(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = which.get(&WRITTEN).1.clone();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(state) = decoded(&bytes) {
            let World { setup, bridge, .. } = World::open();
            state.resume(&setup);
            let number = CommitmentNumber::FIRST;
            let commitment = farthing_protocol::device::bolt3::Commitment::build(
                &setup.terms,
                farthing_protocol::device::bolt3::Side::Bridge,
                &bridge[0],
            );
            let take_back = Input::TakeBack { commitment: commitment.txid(), fee_rate: FeeRate::ZERO };
            for input in [Input::Fund, Input::CloseAlone, Input::Revoke { number }, Input::Erased { number }, take_back] {
                drop(state.handle(&setup, input));
            }
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
