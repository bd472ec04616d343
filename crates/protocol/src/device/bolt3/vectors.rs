//! BOLT 3's published transactions (appendix C), built here byte for byte, and judged by Bitcoin's own consensus code.

use std::str::FromStr;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hex::FromHex;
use bitcoin::{Amount, FeeRate, OutPoint, Transaction, TxOut, Txid};
use secp256k1::{PublicKey, SECP256K1, SecretKey, ecdsa};

use super::*;
use crate::amount::Msat;
use crate::testing;

const VECTORS: &str = include_str!("../../../tests/vectors/bolt3-appendix-c.txt");

const LOCAL_FUNDING: &str = "30ff4956bbdd3222d44cc5e8a1261dab1e07957bdac5ae88fe3261ef321f3749";
const REMOTE_FUNDING: &str = "1552dfba4f6cf29a62a0af13c8d6981d36d0ef8d61ba10fb0fe90da7634d7e13";
const COMMITMENT_SECRET: &str = "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

fn key(hex: &str) -> SecretKey {
    SecretKey::from_slice(&Vec::from_hex(hex).unwrap()).unwrap()
}

fn public(hex: &str) -> PublicKey {
    key(hex).public_key(SECP256K1)
}

fn repeated(byte: u8) -> PublicKey {
    SecretKey::from_slice(&[byte; 32]).unwrap().public_key(SECP256K1)
}

/// The appendix' channel; its *local* is the holder.
fn terms() -> Terms {
    let txid = Txid::from_str("8984484a580b825b9972d7adb15050b3ab624ccd731946b3eeddb92f4e7ef6be").unwrap();
    let party = |funding, byte, delayed_byte| PartyTerms {
        funding_key: public(funding),
        // The appendix uses the payment basepoint for HTLCs too. What it does not use may be any point.
        basepoints: Basepoints {
            payment: repeated(byte),
            delayed_payment: repeated(delayed_byte),
            htlc: repeated(byte),
            revocation: repeated(0x22),
        },
        dust_limit: Amount::from_sat(546),
        delay: 144,
    };
    Terms {
        funding: OutPoint { txid, vout: 0 },
        capacity: Amount::from_sat(10_000_000),
        holder: party(LOCAL_FUNDING, 0x11, 0x33),
        bridge: party(REMOTE_FUNDING, 0x44, 0x55),
    }
}

fn htlc(number: usize) -> Htlc {
    let (offered_by, msat, expiry, preimage) = [
        (Side::Bridge, 1_000_000, 500, 0),
        (Side::Bridge, 2_000_000, 501, 1),
        (Side::Holder, 2_000_000, 502, 2),
        (Side::Holder, 3_000_000, 503, 3),
        (Side::Bridge, 4_000_000, 504, 4),
        (Side::Holder, 5_000_000, 506, 5),
        (Side::Holder, 5_000_001, 505, 5),
    ][number];
    Htlc { offered_by, amount: Msat::new(msat), payment_hash: Preimage([preimage; 32]).hash(), expiry }
}

struct Vector {
    contents: Contents,
    commitment: Transaction,
    local_signature: ecdsa::Signature,
    remote_signature: ecdsa::Signature,
    second_stage: Vec<SecondStage>,
}

struct SecondStage {
    local_signature: ecdsa::Signature,
    remote_signature: ecdsa::Signature,
    transaction: Transaction,
    preimage: Option<Preimage>,
}

fn vectors() -> Vec<Vector> {
    VECTORS.split("name: ").skip(1).map(parse).collect()
}

fn parse(text: &str) -> Vector {
    let all = |start: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(start));
        lines.map(|rest| rest.trim_start_matches([' ', ':', '=']).to_owned()).collect()
    };
    let number = |start: &str| all(start)[0].parse::<u64>().unwrap();
    let signatures = |start: &str| -> Vec<ecdsa::Signature> {
        let parse = |hex: &String| ecdsa::Signature::from_der(&Vec::from_hex(hex).unwrap()).unwrap();
        all(start).iter().map(parse).collect()
    };
    let htlcs = match text.lines().next().unwrap() {
        "simple commitment tx with no HTLCs" => vec![],
        "commitment tx with 3 htlc outputs, 2 offered having the same amount and preimage" => vec![1, 5, 6],
        _ => (0..5).collect(),
    };
    let contents = Contents {
        number: CommitmentNumber::try_from(42).unwrap(),
        point: public(COMMITMENT_SECRET),
        fee_rate: FeeRate::from_sat_per_kwu(number("local_feerate_per_kw")),
        to_holder: Msat::new(number("to_local_msat")),
        to_bridge: Msat::new(number("to_remote_msat")),
        htlcs: htlcs.into_iter().map(htlc).collect(),
    };
    let second_stage = text.lines().filter(|line| line.starts_with("htlc_")).map(|line| {
        let (_, rest) = line.split_once('#').unwrap();
        let number: usize = rest[..1].parse().unwrap();
        let transaction = deserialize_hex(line.rsplit(' ').next().unwrap()).unwrap();
        let preimage = line.starts_with("htlc_success").then_some(Preimage([number as u8; 32]));
        (transaction, preimage)
    });
    let signatures_of_htlcs =
        signatures("# local_htlc_signature").into_iter().zip(signatures("remote_htlc_signature"));
    let second_stage =
        signatures_of_htlcs.zip(second_stage).map(|((local, remote), (transaction, preimage))| SecondStage {
            local_signature: local,
            remote_signature: remote,
            transaction,
            preimage,
        });
    Vector {
        contents,
        commitment: deserialize_hex(&all("output commit_tx")[0]).unwrap(),
        local_signature: signatures("# local_signature")[0],
        remote_signature: signatures("remote_signature")[0],
        second_stage: second_stage.collect(),
    }
}

/// The same channel and state with the two sides exchanged.
fn exchanged(mut terms: Terms, mut contents: Contents) -> (Terms, Contents) {
    std::mem::swap(&mut terms.holder, &mut terms.bridge);
    std::mem::swap(&mut contents.to_holder, &mut contents.to_bridge);
    for htlc in &mut contents.htlcs {
        htlc.offered_by = htlc.offered_by.other();
    }
    (terms, contents)
}

#[test]
fn every_published_commitment_is_built_byte_for_byte() {
    let terms = terms();
    let vectors = vectors();
    assert_eq!(vectors.len(), 16);
    for Vector { contents, commitment: published, local_signature, remote_signature, .. } in vectors {
        assert!(contents.htlcs.is_empty() || contents.total() == Msat::from_amount(terms.capacity));
        let built = Commitment::build(&terms, Side::Holder, &contents);
        assert_eq!(built.digest().sign(&key(LOCAL_FUNDING)), local_signature);
        assert_eq!(built.digest().sign(&key(REMOTE_FUNDING)), remote_signature);
        let complete = built.complete(&terms, &local_signature, &remote_signature);
        assert_eq!(serialize_hex(&complete), serialize_hex(&published));
        assert!(testing::spends(&[terms.funding_txout()], &complete));
        assert!(complete.weight() <= fees::commitment_weight(built.htlcs().len()));
    }
}

#[test]
fn every_published_second_stage_is_built_byte_for_byte() {
    let terms = terms();
    let mut count = 0;
    for vector in vectors() {
        let built = Commitment::build(&terms, Side::Holder, &vector.contents);
        assert_eq!(built.htlcs().len(), vector.second_stage.len());
        for (output, published) in built.htlcs().iter().zip(vector.second_stage) {
            count += 1;
            let SecondStage { local_signature, remote_signature, transaction, preimage } = published;
            let digest = output.second_stage_digest(&built);
            // The basepoint secrets of both sides are 32 equal bytes.
            let secret = |byte| SecretKey::from_slice(&[byte; 32]).unwrap();
            let point = vector.contents.point;
            assert_eq!(digest.sign(&keys::secret_key(&secret(0x11), &point)), local_signature);
            assert_eq!(digest.sign(&keys::secret_key(&secret(0x44), &point)), remote_signature);
            let (complete, weight) = match preimage {
                Some(preimage) => {
                    let complete = htlc_success::complete(
                        &built,
                        output,
                        &local_signature,
                        &remote_signature,
                        &preimage,
                    );
                    (complete, fees::HTLC_SUCCESS)
                }
                None => {
                    let complete =
                        htlc_timeout::complete(&built, output, &local_signature, &remote_signature);
                    (complete, fees::HTLC_TIMEOUT)
                }
            };
            assert_eq!(serialize_hex(&complete), serialize_hex(&transaction));
            let spent: TxOut = built.unsigned().output[output.vout as usize].clone();
            assert!(testing::spends(&[spent], &complete));
            assert!(complete.weight() <= weight);
        }
    }
    assert_eq!(count, 33);
}

/// With no fee it does not matter who funded the channel: the bridge's commitment is the same transaction with the sides
/// exchanged, but for the obscured number, which names the opener's basepoint first.
#[test]
fn the_bridges_commitment_mirrors_the_holders() {
    let vector = &vectors()[1];
    assert_eq!(vector.contents.fee_rate, FeeRate::ZERO);
    let ours = Commitment::build(&terms(), Side::Holder, &vector.contents);
    let (terms, contents) = exchanged(terms(), vector.contents.clone());
    let theirs = Commitment::build(&terms, Side::Bridge, &contents);
    assert_eq!(ours.unsigned().output, theirs.unsigned().output);
    assert_ne!(ours.unsigned().lock_time, theirs.unsigned().lock_time);
}

#[test]
fn the_holder_pays_the_fee_of_both_commitments() {
    let contents = Contents { fee_rate: FeeRate::from_sat_per_kwu(1_000), ..vectors()[0].contents.clone() };
    for broadcaster in [Side::Holder, Side::Bridge] {
        let built = Commitment::build(&terms(), broadcaster, &contents);
        let values: Vec<u64> = built.unsigned().output.iter().map(|output| output.value.to_sat()).collect();
        assert_eq!(values, [3_000_000, 7_000_000 - 724]);
    }
}

#[test]
fn a_closing_is_valid_and_weighs_what_it_says() {
    let terms = terms();
    let settlement = closing::Settlement {
        to_holder: Amount::from_sat(6_000_000),
        holder_script: commitment::to_remote_script(&terms.holder.basepoints.payment),
        to_bridge: Amount::from_sat(3_999_000),
        bridge_script: commitment::to_remote_script(&terms.bridge.basepoints.payment),
    };
    let built = closing::Closing::build(&terms, &settlement);
    let signed = |hex| built.digest().sign(&key(hex));
    let complete = built.complete(&terms, &signed(LOCAL_FUNDING), &signed(REMOTE_FUNDING));
    assert!(testing::spends(&[terms.funding_txout()], &complete));
    assert_eq!(complete.output[0].value, settlement.to_bridge);
    let slack = built.weight().to_wu() - complete.weight().to_wu();
    assert!(slack <= 6, "signatures of 70 to 73 bytes, got a slack of {slack}");

    let nothing = closing::Settlement { to_bridge: Amount::ZERO, ..settlement };
    assert_eq!(closing::Closing::build(&terms, &nothing).txid(), {
        let mut alone = complete;
        alone.output.remove(0);
        alone.compute_txid()
    });
}
