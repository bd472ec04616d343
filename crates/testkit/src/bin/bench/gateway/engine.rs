//! The floor that the engine sets: what a joint signature costs the processor of one side, with nothing around it. Both sides run in this
//! thread, by the engine's own interface; no messages are encoded or sent.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use dkls23_secp256k1::Party;
use dkls23_secp256k1::protocols::dkg_session::DkgSession;
use dkls23_secp256k1::protocols::sign_session::SignSession;
use dkls23_secp256k1::protocols::signing::SignData;
use dkls23_secp256k1::protocols::{Abort, Parameters, PartyIndex};
use farthing_node::entropy;
use k256::Secp256k1;

use crate::stats::{median, thread_time_us};

const SIGNATURES: usize = if cfg!(debug_assertions) { 1 } else { 51 };

/// Milliseconds of one side, in the median.
pub fn signature_ms() -> anyhow::Result<f64> {
    let parties = parties()?;
    let mut took = Vec::with_capacity(SIGNATURES);
    for _ in 0..SIGNATURES {
        let start = thread_time_us();
        sign(&parties)?;
        took.push((thread_time_us() - start) / 2_000.0);
    }
    Ok(median(took))
}

fn index(number: u8) -> PartyIndex {
    PartyIndex::new(number).expect("indexes count from 1")
}

fn failed(abort: Abort) -> anyhow::Error {
    anyhow!("the engine: {}", abort.description())
}

/// A new key's two halves.
fn parties() -> anyhow::Result<[Party; 2]> {
    let session = entropy::bytes::<32>().to_vec();
    let parameters = Parameters::new(2, 2).expect("two of two is a threshold");
    let mut first = DkgSession::<Secp256k1>::new(parameters.clone(), index(1), session.clone());
    let mut second = DkgSession::<Secp256k1>::new(parameters, index(2), session);
    let (fragments, others) = (first.phase1(), second.phase1());
    let (proof, zero, derivation) = first.phase2(&[fragments[0], others[0]]).map_err(failed)?;
    let (other_proof, other_zero, other_derivation) =
        second.phase2(&[fragments[1], others[1]]).map_err(failed)?;
    let (opened, products, opened_derivation) = first.phase3().map_err(failed)?;
    let (other_opened, other_products, other_opened_derivation) = second.phase3().map_err(failed)?;
    let proofs = [proof, other_proof];
    let committed = BTreeMap::from([(index(1), derivation), (index(2), other_derivation)]);
    let openings = BTreeMap::from([(index(1), opened_derivation), (index(2), other_opened_derivation)]);
    let no_address = |_: &_| String::new();
    let (first, _) = first
        .phase4(&proofs, &other_zero, &other_opened, &other_products, &committed, &openings, no_address)
        .map_err(failed)?;
    let (second, _) = second
        .phase4(&proofs, &zero, &opened, &products, &committed, &openings, no_address)
        .map_err(failed)?;
    Ok([first, second])
}

/// One joint signature, verified by the engine.
fn sign(parties: &[Party; 2]) -> anyhow::Result<()> {
    let (id, message_hash) = (entropy::bytes::<32>().to_vec(), entropy::bytes());
    let start = |party, other| {
        let data = SignData { sign_id: id.clone(), counterparties: vec![index(other)], message_hash };
        SignSession::new(party, data).map_err(failed)
    };
    let (mut first, from_first) = start(&parties[0], 2)?;
    let (mut second, from_second) = start(&parties[1], 1)?;
    let (to_second, to_first) =
        (first.phase2(&from_second).map_err(failed)?, second.phase2(&from_first).map_err(failed)?);
    let halves = [first.phase3(&to_first).map_err(failed)?, second.phase3(&to_second).map_err(failed)?];
    let signatures =
        [first.phase4(&halves, true).map_err(failed)?, second.phase4(&halves, true).map_err(failed)?];
    (signatures[0].s == signatures[1].s).then_some(()).context("both sides get the same signature")
}
