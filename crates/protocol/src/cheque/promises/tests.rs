//! Every subset opens with its own secrets alone, and the cheaper schemes lose money.

use bitcoin::Network;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::channel::Expiry;
use crate::cheque::cheque::{Draft, Written};
use crate::cheque::prekey::{Generation, Prekey, PrekeyId, SignedPrekey};
use crate::cheque::receipt::Memo;
use crate::keys::Seed;
use crate::testing;

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
}

fn terms(base: u64, amounts: &[u64]) -> Terms {
    let (channel, keys) = (testing::channel(), testing::payer_keys());
    let base = (base > 0).then(|| commitment::sign(&channel, &keys, Msat::new(base)));
    let promise = |(index, amount): (usize, &u64)| Promise {
        amount: Msat::new(*amount),
        point: secret(index as u8 + 1).point(),
    };
    Terms {
        number: 1,
        base,
        promises: amounts.iter().enumerate().map(promise).collect(),
        settled: Vec::new(),
    }
}

fn secrets(count: usize, known: &[usize]) -> Vec<Option<AdaptorSecret>> {
    (0..count).map(|index| known.contains(&index).then(|| secret(index as u8 + 1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the promises resolve, there is one payment for exactly that, and it completes a commitment that consensus
    /// accepts. Its payer finds the secret in it.
    #[test]
    fn every_resolution_has_its_commitment(
        base in prop_oneof![Just(0), 600_000..20_000_000_u64],
        amounts in prop::collection::vec(400_000..15_000_000_u64, 1..=MOST_OPEN),
        known in subsequence(vec![0, 1, 2, 3], 0..=4),
    ) {
        let (channel, payer) = (testing::channel(), testing::payer_keys());
        let terms = terms(base, &amounts);
        let update = terms.sign(&channel, &payer);
        prop_assert_eq!(update.check(&channel), Ok(()));
        prop_assert_eq!(update.signed.signatures.len(), (1 << amounts.len()) - 1);

        let known: Vec<usize> = known.into_iter().filter(|index| *index < amounts.len()).collect();
        let payment = match known.as_slice() {
            [] => terms.base,
            known => Some(update.signed.open(&channel, &secrets(amounts.len(), known)).unwrap()),
        };
        let paid: u64 = base + known.iter().map(|index| amounts[*index]).sum::<u64>();
        prop_assert_eq!(payment.map_or(0, |payment| payment.total.get()), paid);
        let Some(payment) = payment else { return Ok(()) };
        prop_assert_eq!(commitment::verify(&channel, &payment), Ok(()));
        let transaction = commitment::complete(&channel, &testing::payee_keys(), &payment);
        testing::assert_spends_funding(&channel, &transaction);
        prop_assert_eq!(Channel::paid_to(&transaction, &channel.params().payee), Msat::new(paid).floor());

        let points: Vec<AdaptorPoint> = known.iter().map(|index| terms.promises[*index].point).collect();
        let choice = |subset| terms.members(subset).map(|promise| promise.point).collect();
        let given_away = given_away(&channel, &payer, &transaction, terms.subsets().map(choice));
        match points.as_slice() {
            [] => prop_assert_eq!(given_away, None),
            points => {
                let (paid, secret) = given_away.unwrap();
                prop_assert_eq!(&paid, points);
                prop_assert_eq!(secret.point(), joint_point(points));
            }
        }
    }
}

#[test]
fn a_secret_opens_no_other_subset_than_its_own() {
    let channel = testing::channel();
    let update = terms(600_000, &[1_000_000, 2_000_000, 4_000_000]).sign(&channel, &testing::payer_keys());
    let key = channel.params().payer.funding_xonly();
    let all = [secret(1), secret(2), secret(3)];
    for known in 1..8_usize {
        let given: Vec<&AdaptorSecret> =
            all.iter().enumerate().filter(|(index, _)| known >> index & 1 == 1).map(|(_, s)| s).collect();
        let joint = joint_secret(&given);
        for (subset, signature) in update.signed.terms.subsets().zip(&update.signed.signatures) {
            let digest = digest(&channel, update.signed.terms.total(subset));
            let opened = adaptor::decrypt(&key, &digest, signature, &joint).is_some();
            assert_eq!(opened, subset == known, "secrets {known:b}, subset {subset:b}");
        }
    }
}

#[test]
fn what_a_payer_may_not_send_is_refused() {
    let (channel, payer) = (testing::channel(), testing::payer_keys());
    let good = terms(600_000, &[1_000_000, 2_000_000]);
    let resigned = |spoil: fn(&mut Terms)| {
        let mut terms = good.clone();
        spoil(&mut terms);
        terms.sign(&channel, &payer).check(&channel)
    };
    assert_eq!(resigned(|_| {}), Ok(()));
    assert_eq!(resigned(|terms| terms.promises[1].amount = Msat::ZERO), Err(BadUpdate::Nothing));
    assert_eq!(
        resigned(|terms| terms.promises[1].point = terms.promises[0].point),
        Err(BadUpdate::SamePoint)
    );
    let most = channel.max_total();
    for amount in [most.get(), u64::MAX] {
        let mut terms = good.clone();
        terms.promises[0].amount = Msat::new(amount);
        assert_eq!(terms.check(&channel), Err(BadUpdate::OverCapacity { most }));
    }
    assert_eq!(terms(600_000, &[1; 5]).check(&channel), Err(BadUpdate::TooMany(5)));
    let wrong_base = |terms: &mut Terms| {
        if let Some(base) = &mut terms.base {
            base.total = Msat::new(700_000);
        }
    };
    assert_eq!(resigned(wrong_base), Err(BadUpdate::Base(WrongSignature(Msat::new(700_000)))));

    // By anybody else, or changed on the way.
    let theirs = good.sign(&channel, &testing::payee_keys());
    assert_eq!(theirs.check(&channel), Err(BadUpdate::Statement));
    let none = Signed { terms: Terms { promises: Vec::new(), ..good.clone() }, signatures: Vec::new() };
    let fewer = Update { signed: none, ..good.sign(&channel, &payer) };
    assert_eq!(fewer.check(&channel), Err(BadUpdate::Statement));
    let mut short = good.sign(&channel, &payer);
    short.signed.signatures.clear();
    assert_eq!(short.check(&channel), Err(BadUpdate::Count { needed: 3, got: 0 }));
}

/// A payer that signs the statement honestly and cheats in what is encrypted.
#[test]
fn an_encrypted_signature_under_another_point_or_for_another_state_is_refused() {
    let (channel, payer) = (testing::channel(), testing::payer_keys());
    let good = terms(600_000, &[1_000_000, 2_000_000]);
    let with = |subset: Subset, signature: EncryptedSignature| {
        let mut update = good.sign(&channel, &payer);
        update.signed.signatures[subset - 1] = signature;
        update.statement =
            payer.sign_statement(STATEMENT, &good.statement(&channel, &update.signed.signatures));
        update.check(&channel)
    };
    for subset in good.subsets() {
        let (total, point) = (good.total(subset), good.point(subset));
        let sign = |point: &AdaptorPoint, total: Msat| {
            adaptor::sign(&payer.funding, point, &digest(&channel, total))
        };
        let refused = Err(BadUpdate::Encrypted(total));
        assert_eq!(with(subset, sign(&point, total)), Ok(()));
        assert_eq!(with(subset, sign(&secret(9).point(), total)), refused, "another point");
        let less = Msat::new(total.get() - 1_000);
        assert_eq!(with(subset, sign(&point, less)), refused, "another total");
    }
    let sum = secret(1).point().plus(&secret(2).point()).unwrap();
    let plain = adaptor::sign(&payer.funding, &sum, &digest(&channel, good.total(3)));
    assert_eq!(with(3, plain), Err(BadUpdate::Encrypted(good.total(3))), "the plain sum of both points");
}

/// The agent's accomplice is the second payee. With one signature for the sum under the last point, its secret alone brings
/// the first payee's amount, too.
#[test]
fn one_signature_for_the_sum_gives_the_first_amount_to_the_accomplice_of_the_second() {
    let (channel, payer) = (testing::channel(), testing::payer_keys());
    let terms = terms(600_000, &[1_000_000, 2_000_000]);
    let accomplice = secret(2);
    let key = channel.params().payer.funding_xonly();

    let sum = digest(&channel, terms.total(0b11));
    let naive = adaptor::sign(&payer.funding, &terms.promises[1].point, &sum);
    let signature =
        adaptor::decrypt(&key, &sum, &naive, &accomplice).expect("the attack works on the naive scheme");
    let stolen = Payment { total: terms.total(0b11), signature };
    let transaction = commitment::complete(&channel, &testing::payee_keys(), &stolen);
    testing::assert_spends_funding(&channel, &transaction);

    let update = terms.sign(&channel, &payer);
    let got = update.signed.open(&channel, &[None, Some(accomplice.clone())]).unwrap();
    assert_eq!(got.total, Msat::new(2_600_000), "here it brings its own amount");
    for (subset, signature) in terms.subsets().zip(&update.signed.signatures) {
        let digest = digest(&channel, terms.total(subset));
        let opened = adaptor::decrypt(&key, &digest, signature, &accomplice);
        assert_eq!(opened.is_some(), subset == 0b10, "subset {subset:b}");
    }
}

/// The accomplice sees the first cheque's point and publishes a prekey from which that point is taken away. The second
/// cheque's point then cancels the first one in a plain sum, and the accomplice knows what is left.
#[test]
fn plain_sums_of_points_fall_to_a_prekey_built_from_another_cheques_point() {
    let (channel, payer) = (testing::channel(), testing::payer_keys());
    let honest = secret(1).point();
    let keys = Seed::new([4; 64], Network::Regtest).cheque_keys();
    let id = PrekeyId { generation: Generation::from_entropy([0; 8]), number: 0 };
    let opposite = {
        let bytes: [u8; 33] = honest.as_key().negate(secp256k1::SECP256K1).serialize();
        AdaptorPoint::from_bytes(&bytes).unwrap()
    };
    let draft = || Draft {
        amount: Msat::new(1_900_000),
        memo: Memo::default(),
        time: 1_790_000_000,
        latest: Expiry::at_height(testing::EXPIRY),
    };
    let key = channel.params().payer.funding_xonly();
    // The nonce has to come out even, or the honest point is added instead of taken away: every other salt.
    let stolen = (1..=16_u8).find_map(|salt| {
        let rogue = Prekey::chosen(id, opposite.plus(&secret(7).point()).unwrap(), secret(8).point());
        let rogue = SignedPrekey::of(&keys, rogue);
        let written = Written::new(draft(), &keys.identity(), rogue, [salt; 32], &[9; 32]).unwrap();
        // All that is left of the sum, from what the accomplice knows: its own nonces, its key, and the mailed secret.
        let halves = [secret(7), secret(8)];
        let left = Prekey::rogue_secret(&rogue.prekey, &keys, &written.cheque.terms, &halves)?;
        let left = left.plus(&written.cheque.blinding)?;

        let mut terms = terms(600_000, &[1_000_000, 2_000_000]);
        terms.promises[1].point = written.point;
        let both = digest(&channel, terms.total(0b11));
        let sum = honest.plus(&written.point)?;
        let naive = adaptor::sign(&payer.funding, &sum, &both);
        let signature = adaptor::decrypt(&key, &both, &naive, &left)?;
        Some((terms, left, Payment { total: Msat::new(3_600_000), signature }))
    });
    let (terms, left, payment) = stolen.expect("the attack works on plain sums");
    assert_eq!(commitment::verify(&channel, &payment), Ok(()));

    let update = terms.sign(&channel, &payer);
    assert_eq!(update.check(&channel), Ok(()));
    for (subset, signature) in terms.subsets().zip(&update.signed.signatures) {
        let digest = digest(&channel, terms.total(subset));
        assert_eq!(adaptor::decrypt(&key, &digest, signature, &left), None, "subset {subset:b}");
    }
}
