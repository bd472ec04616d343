//! Receipts that come out of prekeys, and the forgery that pairs stop.

use bitcoin::Network;
use proptest::prelude::*;
use schnorr_fun::fun::marker::{EvenY, NonZero, Normal, Public, Secret, Zero};
use schnorr_fun::fun::{G, Point, Scalar as Field, g, s};

use super::*;
use crate::amount::Msat;
use crate::channel::Expiry;
use crate::cheque::book::{self, Book, Effect, Input, Reject};
use crate::cheque::cheque::{Cheque, Draft, Unwritten, Written};
use crate::cheque::receipt::Memo;
use crate::keys::Seed;

const LATEST: Expiry = Expiry::at_height(900_000);

fn keys(byte: u8) -> ChequeKeys {
    Seed::new([byte; 64], Network::Regtest).cheque_keys()
}

fn commit(book: &Book, keys: &ChequeKeys, input: Input) -> Result<(Book, Vec<Effect>), Reject> {
    let transition = book.handle(keys, input)?;
    Ok(transition.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap())
}

fn issue(book: &Book, keys: &ChequeKeys, count: u32) -> (Book, Vec<SignedPrekey>) {
    let (book, mut effects) = commit(book, keys, Input::Issue(count)).unwrap();
    let Some(Effect::Publish(prekeys)) = effects.pop() else { panic!("{effects:?}") };
    (book, prekeys)
}

fn present(cheque: &Cheque) -> Input {
    let cheque = Box::new(cheque.clone());
    Input::Present { cheque, expiry: LATEST, height: 899_000, margin: 36 }
}

fn endorse(cheque: &Cheque) -> Input {
    Input::Endorse { cheque: Box::new(cheque.clone()), offered: cheque.terms.amount }
}

fn draft(amount: u64) -> Draft {
    let memo = Memo::new("one coffee").unwrap();
    Draft { amount: Msat::new(amount), memo, time: 1_790_000_000, latest: LATEST }
}

fn write(keys: &ChequeKeys, prekey: &SignedPrekey, salt: u8) -> Written {
    Written::new(draft(1_000), &keys.identity(), *prekey, [salt; 32], &[salt; 32]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the payee's keys and the payer's randomness, what the payee sells opens the cheque's point and is a receipt to
    /// the payer, to nobody else.
    #[test]
    fn what_cashes_a_cheque_is_a_receipt(seed in any::<u8>(), generation: [u8; 8], salt: [u8; 32], blinding in 1..255_u8) {
        let keys = keys(seed);
        let (book, prekeys) = issue(&Book::new(generation), &keys, 2);
        let written =
            Written::new(draft(1_000), &keys.identity(), prekeys[1], salt, &[blinding; 32]).unwrap();
        let (same, effects) = commit(&book, &keys, present(&written.cheque)).unwrap();
        prop_assert_eq!((&same, effects), (&book, vec![Effect::Ask(written.point)]));
        prop_assert_eq!(book.secret(&keys, &written.cheque), None, "nothing before it is endorsed");
        let (book, effects) = commit(&book, &keys, endorse(&written.cheque)).unwrap();
        prop_assert_eq!(effects, vec![Effect::Cash]);
        let secret = book.secret(&keys, &written.cheque).unwrap();
        prop_assert_eq!(secret.point(), written.point);

        let receipt = written.receipt(&secret).unwrap();
        prop_assert_eq!(receipt.verify(), Ok(()));
        prop_assert_eq!(&receipt.terms, &written.cheque.terms);
        let stranger = Written { cheque: Cheque { blinding: secret.clone(), ..written.cheque.clone() }, ..written };
        prop_assert_eq!(stranger.receipt(&secret), None);
    }
}

#[test]
fn a_prekey_is_used_for_one_receipt() {
    let keys = keys(1);
    let (book, prekeys) = issue(&Book::new([0; 8]), &keys, 2);
    let [first, second] = [1, 2].map(|salt| write(&keys, &prekeys[0], salt).cheque);
    let (book, _) = commit(&book, &keys, endorse(&first)).unwrap();
    assert_eq!(commit(&book, &keys, endorse(&second)), Err(Reject::Used(0)));
    assert_eq!(commit(&book, &keys, present(&second)), Err(Reject::Used(0)));
    assert_eq!(book.secret(&keys, &second), None);
    let (again, effects) = commit(&book, &keys, endorse(&first)).unwrap();
    assert_eq!((again, effects.len()), (book.clone(), 1), "the same cheque again is cashed again");
    assert_eq!(book.unused(), 1);
}

#[test]
fn a_restored_book_cashes_no_older_cheque() {
    let keys = keys(1);
    let (_, prekeys) = issue(&Book::new([1; 8]), &keys, 1);
    let cheque = write(&keys, &prekeys[0], 1).cheque;
    let (restored, _) = issue(&Book::new([2; 8]), &keys, 1);
    assert_eq!(commit(&restored, &keys, endorse(&cheque)), Err(Reject::OldGeneration));
    assert_eq!(restored.secret(&keys, &cheque), None);
}

#[test]
fn a_cheque_that_is_not_for_this_payee_or_not_in_time_is_refused() {
    let mine = keys(1);
    let (book, prekeys) = issue(&Book::new([0; 8]), &mine, 1);
    let written = write(&mine, &prekeys[0], 1);
    let mut unissued = written.cheque.clone();
    unissued.prekey.number = 1;
    assert_eq!(commit(&book, &mine, endorse(&unissued)), Err(Reject::NotIssued { got: 1, issued: 1 }));

    let theirs = keys(2);
    assert_eq!(commit(&book, &theirs, endorse(&written.cheque)), Err(Reject::NotOurs));
    let identity = theirs.identity();
    let refused = Written::new(draft(1), &identity, prekeys[0], [1; 32], &[1; 32]);
    assert_eq!(refused.unwrap_err(), Unwritten::NotTheirs(NotTheirs));

    let at = |expiry, height| {
        let (cheque, expiry) = (Box::new(written.cheque.clone()), Expiry::at_height(expiry));
        commit(&book, &mine, Input::Present { cheque, expiry, height, margin: 36 })
    };
    assert_eq!(at(900_001, 899_000), Err(Reject::ExpiresTooLate { latest: 900_000, expiry: 900_001 }));
    assert_eq!(at(900_000, 899_964), Err(Reject::ExpiresTooSoon { expiry: 900_000, height: 899_964 }));
    assert!(at(900_000, 899_963).is_ok());
    let cheque = Box::new(written.cheque.clone());
    let offered = Msat::new(999);
    let little = Reject::TooLittle { least: Msat::new(1_000), got: offered };
    assert_eq!(commit(&book, &mine, Input::Endorse { cheque, offered }), Err(little));
    assert_eq!(book.unused(), 1, "a cheque that nobody pays uses no prekey up");
    let most = book::MOST_PREKEYS;
    assert_eq!(commit(&book, &mine, Input::Issue(most)), Err(Reject::Full));
}

/// How many cheques the forgery takes: the bits of a challenge.
const CHEQUES: usize = 256;

type Number = Field<Public, Zero>;
type Curve = Point<Normal, Public, NonZero>;

/// What the payee's signatures depend on: one public nonce, or the pair.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nonces {
    Single,
    Pair,
}

fn curve(key: &XOnlyPublicKey) -> Curve {
    Point::<EvenY, Public>::from_xonly_bytes(key.serialize()).unwrap().normalize()
}

fn number(bytes: [u8; 32]) -> Number {
    Field::from_bytes(bytes).unwrap()
}

/// Payers who write 256 cheques try to make a receipt that the payee never signed. Of each cheque they prepare two, with
/// different salts, and choose between them when they know all challenges.
fn forge(nonces: Nonces) -> Receipt {
    let keys = keys(1);
    let (mut book, prekeys) = issue(&Book::new([0; 8]), &keys, CHEQUES as u32);
    let key = curve(&keys.receipt());

    // Each prepared receipt: its challenge, and the even nonce that the payee would sign with.
    let prepared = |prekey: &SignedPrekey, salt: u8| {
        let written = write(&keys, prekey, salt);
        let terms = written.cheque.terms.clone();
        let (nonce, _) = match nonces {
            Nonces::Single => prekey.prekey.first.x_only_public_key(),
            Nonces::Pair => prekey.prekey.nonce(&terms).unwrap(),
        };
        (written, number(challenge(&nonce, &terms).to_be_bytes()), curve(&nonce))
    };
    let choices: Vec<_> = prekeys.iter().map(|prekey| [prepared(prekey, 1), prepared(prekey, 2)]).collect();

    // Weights such that the chosen challenges add up to any number, bit by bit.
    let mut power = Number::from(1_u32);
    let mut weights = Vec::new();
    let mut constant = Number::zero();
    let mut nonce_sum = Point::<Normal, Public, Zero>::zero();
    for [(_, e0, nonce), (_, e1, _)] in &choices {
        let weight = s!(power * { s!(e1 - e0).public().non_zero().unwrap().invert() }).public();
        constant = s!(constant + weight * e0).public();
        nonce_sum = g!(nonce_sum + weight * nonce).normalize();
        weights.push(weight);
        power = s!(power + power).public();
    }
    let terms =
        Terms { memo: Memo::new("ten thousand coffees").unwrap(), ..choices[0][0].0.cheque.terms.clone() };
    let (nonce, extra) = (1_u32..)
        .find_map(|extra| {
            let extra = Field::<Public, Zero>::from(extra);
            let nonce = g!(nonce_sum + constant * key + extra * G).normalize().non_zero()?;
            nonce.is_y_even().then(|| (XOnlyPublicKey::from_slice(&nonce.to_xonly_bytes()).unwrap(), extra))
        })
        .unwrap();
    let target = challenge(&nonce, &terms).to_be_bytes();

    // The payee honestly answers one cheque for each prekey.
    let mut sum = extra;
    for (bit, (choice, weight)) in choices.iter().zip(&weights).enumerate() {
        let is_set = target[31 - bit / 8] >> (bit % 8) & 1 == 1;
        let (written, e, _) = &choice[usize::from(is_set)];
        let answer = match nonces {
            Nonces::Pair => {
                let (next, _) = commit(&book, &keys, endorse(&written.cheque)).unwrap();
                book = next;
                let sold = book.secret(&keys, &written.cheque).unwrap();
                sold.plus(&written.cheque.blinding.negated()).unwrap().to_bytes()
            }
            // The payee that this module does not have.
            Nonces::Single => {
                let (mut drawn, parity) =
                    (secret(&keys, written.cheque.prekey, 1), written.prekey.prekey.first);
                if parity.x_only_public_key().1 == Parity::Odd {
                    drawn = drawn.negated();
                }
                let (key, parity) = (keys.receipt.secret_key(), keys.receipt.x_only_public_key().1);
                let key = if parity == Parity::Odd { key.negate() } else { key };
                let (drawn, key) = (number(drawn.to_bytes()), number(key.secret_bytes()));
                s!(drawn + e * key).public().to_bytes()
            }
        };
        sum = s!(sum + weight * { number(answer) }).public();
    }
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&nonce.serialize());
    signature[32..].copy_from_slice(&sum.to_bytes());
    Receipt { terms, signature: schnorr::Signature::from_slice(&signature).unwrap() }
}

#[test]
fn single_nonces_let_256_cheques_forge_a_receipt_and_pairs_do_not() {
    assert_eq!(forge(Nonces::Single).verify(), Ok(()), "the forgery works on single prekeys");
    assert!(forge(Nonces::Pair).verify().is_err(), "and fails on pairs");
}

/// Three receipts under one pair are three equations in three unknowns, the receipt key among them.
#[test]
fn a_prekey_used_three_times_gives_the_receipt_key_away() {
    let keys = keys(1);
    let id = PrekeyId { generation: Generation([0; 8]), number: 0 };
    let prekey = SignedPrekey::new(&keys, id);
    // Rows of: r1's factor, r2's factor, the key's factor, and what they add up to.
    let mut rows: Vec<[Number; 4]> = Vec::new();
    for salt in 1..=3 {
        let terms = write(&keys, &prekey, salt).cheque.terms;
        let (nonce, parity) = prekey.prekey.nonce(&terms).unwrap();
        let turn = |n: Number| if parity == Parity::Odd { s!(-n).public() } else { n };
        let e = number(challenge(&nonce, &terms).to_be_bytes());
        let c = number(prekey.prekey.coefficient(&terms).to_be_bytes());
        let z = number(sign(&keys, id, &terms).unwrap().to_bytes());
        rows.push([turn(Number::from(1_u32)), turn(c), e, z]);
    }
    for column in 0..3 {
        let inverse = rows[column][column].non_zero().unwrap().invert();
        rows[column] = rows[column].map(|entry| s!(entry * inverse).public());
        for row in (0..3).filter(|row| *row != column) {
            let (factor, pivot) = (rows[row][column], rows[column]);
            for (entry, subtracted) in rows[row].iter_mut().zip(pivot) {
                let present = *entry;
                *entry = s!(present - factor * subtracted).public();
            }
        }
    }
    let key: Field<Secret, Zero> = rows[2][3].secret();
    let even = if keys.receipt.x_only_public_key().1 == Parity::Odd {
        keys.receipt.secret_key().negate()
    } else {
        keys.receipt.secret_key()
    };
    assert_eq!(key.to_bytes(), even.secret_bytes());
}
