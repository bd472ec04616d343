//! The announcement of a chain, as JSON and with some of its numbers, locks and signatures exchanged: a ladder comes out of
//! it only when every rung is the payer's, for this channel, total, lock and delay. Numbers of any size are refused or fit.
#![no_main]

use bitcoin::Amount;
use farthing_fuzz::{Choices, fixture, json};
use farthing_http::wire::ChainBody;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::{ChainTerms, Ladder, Rung, Shape, Tab, Word, ladder};
use farthing_protocol::{Channel, Msat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let chain = &fixture::chains()[usize::from(choices.byte() % 2)];
    if choices.byte().is_multiple_of(2) {
        let body = ChainBody::new(*chain.terms(), &chain.rungs, &fixture::prepayment());
        let example = serde_json::to_value(&body).expect("a body is JSON");
        let Ok(body) = serde_json::from_slice::<ChainBody>(&json(&mut choices, &example)) else { return };
        let Ok((rungs, payment)) = body.read() else { return };
        let again = ChainBody::new(body.terms, &rungs, &payment).read().expect("it was read");
        assert_eq!(again, (rungs.clone(), payment));
        return judge(chain, body.terms, chain.base, rungs);
    }
    let (mut terms, mut rungs, mut base) = (*chain.terms(), chain.rungs.clone(), chain.base);
    for _ in 0..choices.byte() % 4 {
        change(&mut choices, &mut terms, &mut base, &mut rungs);
    }
    judge(chain, terms, base, rungs);
});

fn change(choices: &mut Choices<'_>, terms: &mut ChainTerms, base: &mut Msat, rungs: &mut Vec<Rung>) {
    let shape = &mut terms.shape;
    let at = usize::from(choices.byte()) % rungs.len().max(1);
    match choices.byte() % 12 {
        0 => shape.unit = Msat::new(choices.amount()),
        1 => shape.words = choices.u32() >> (choices.byte() % 32),
        2 => shape.rungs = choices.u32() >> (choices.byte() % 32),
        3 => shape.delay = Delay::blocks(choices.u32() as u16),
        4 => *base = Msat::new(choices.amount()),
        5 => terms.number = choices.u32(),
        6 => terms.anchor = Word::from_bytes(choices.array()),
        7 => rungs.truncate(at),
        8 if !rungs.is_empty() => rungs.swap(0, at),
        9 => rungs.extend_from_within(at..),
        10 => rungs.iter_mut().skip(at).take(1).for_each(|rung| rung.lock[at % 32] ^= choices.byte()),
        _ => rungs.iter_mut().skip(at).take(1).for_each(|rung| {
            let mut bytes = rung.signature.serialize();
            bytes[usize::from(choices.byte() % 64)] ^= choices.byte();
            if let Ok(signature) = secp256k1::schnorr::Signature::from_slice(&bytes) {
                rung.signature = signature;
            }
        }),
    }
}

fn judge(chain: &fixture::Chain, terms: ChainTerms, base: Msat, rungs: Vec<Rung>) {
    let channel = &fixture::fixture().payee.channel;
    let Shape { unit, words, .. } = terms.shape;
    let fits = ladder::check(channel, &terms.shape, base).is_ok();
    if fits {
        let end = unit.checked_mul(words.into()).and_then(|worth| worth.checked_add(base));
        assert!(end.is_some_and(|end| end <= channel.max_total()), "promises more than is locked");
    }
    let verified = Ladder::verify(channel, terms, base, rungs.clone(), fixture::POLICY.margin as u16);
    // The number and the anchor are not in what the payer signs on: they only say which words open the locks.
    let signed = chain.terms();
    let same = terms.shape == signed.shape && base == chain.base && rungs == chain.rungs;
    assert_eq!(verified.is_ok(), same || is_alike(channel, chain, terms, base, &rungs), "{verified:?}");
    let Ok(ladder) = verified else { return };
    assert!(fits);
    let mut tab = Tab::new(fixture::prepayment(), Msat::ZERO);
    if tab.announce(&ladder).is_ok() {
        assert_eq!(base, fixture::prepayment().total);
        assert!(tab.has_taken(&terms));
        assert!(tab.announce(&ladder).is_err(), "a chain is taken once");
    }
}

/// Other numbers may make the same commitments: what a rung pays counts in whole satoshi, and every total must be the same.
fn is_alike(
    channel: &Channel,
    chain: &fixture::Chain,
    terms: ChainTerms,
    base: Msat,
    rungs: &[Rung],
) -> bool {
    let signed = chain.terms().shape;
    let pays = |shape: &Shape, base: Msat, rung| -> Amount {
        base.saturating_add(shape.worth(shape.rung_index(rung))).floor()
    };
    ladder::check(channel, &terms.shape, base).is_ok()
        && terms.shape.rungs as usize == rungs.len()
        && terms.shape.delay == signed.delay
        && (1..).zip(rungs).all(|(number, rung)| {
            let total = pays(&terms.shape, base, number);
            (1..)
                .zip(&chain.rungs)
                .any(|(known, honest)| rung == honest && total == pays(&signed, chain.base, known))
        })
}
