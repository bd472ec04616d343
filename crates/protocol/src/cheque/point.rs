//! Adaptor points and the secrets behind them: a point is `secret·G` on secp256k1.
//!
//! A signature that is encrypted under a point ([`super::adaptor`]) opens with the point's secret. Points add up like
//! their secrets, and that is used three times: a cheque's point hides the payee's receipt behind the writer's own
//! secret ([`super::cheque`]), each hop of a sale adds a tweak of its own ([`super::held`]), and several cheques
//! together have one point ([`super::promises`]).
//!
//! A tweak is nothing but another secret, so it has the same type.

use std::fmt;

use secp256k1::constants::CURVE_ORDER;
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use serde::{Deserialize, Serialize};

use crate::tagged;

/// What a signature is encrypted under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdaptorPoint(PublicKey);

/// What opens it. Compared in constant time, wiped when dropped, never printed. It is stored, because whoever has bought
/// it must still be able to use it after a restart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdaptorSecret(SecretKey);

impl Drop for AdaptorSecret {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl fmt::Debug for AdaptorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdaptorSecret(..)")
    }
}

impl AdaptorSecret {
    /// A secret from 32 bytes of fresh randomness, or from bytes that [`Self::to_bytes`] gave. `None` for zero and for
    /// what is not below the group's order; random bytes are neither but for odds of 2⁻¹²⁷.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        SecretKey::from_slice(bytes).ok().map(Self)
    }

    pub(crate) fn from_key(key: SecretKey) -> Self {
        Self(key)
    }

    pub(crate) fn as_key(&self) -> &SecretKey {
        &self.0
    }

    /// The 32 bytes, big-endian. Whoever sees them can open what is encrypted under the point.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.secret_bytes()
    }

    /// The point that it opens.
    pub fn point(&self) -> AdaptorPoint {
        AdaptorPoint(self.0.public_key(SECP256K1))
    }

    /// The secret of the two points' sum. `None` when they cancel out.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let mut tweak = Scalar::from(other.0);
        let sum = self.0.add_tweak(&tweak).ok().map(Self);
        tweak.non_secure_erase();
        sum
    }

    /// The secret of the opposite point, so that adding it takes this one away again.
    pub fn negated(&self) -> Self {
        Self(self.0.negate())
    }

    fn times(&self, factor: &Coefficient) -> Self {
        Self(self.0.mul_tweak(&factor.0).expect("a product of two numbers that are not zero"))
    }
}

impl AdaptorPoint {
    pub(crate) fn from_key(key: PublicKey) -> Self {
        Self(key)
    }

    pub(crate) fn as_key(&self) -> &PublicKey {
        &self.0
    }

    /// Reads a compressed point.
    pub fn from_bytes(bytes: &[u8; 33]) -> Option<Self> {
        PublicKey::from_slice(bytes).ok().map(Self)
    }

    /// The compressed point (SEC 1).
    pub fn to_bytes(&self) -> [u8; 33] {
        self.0.serialize()
    }

    /// The sum of two points. `None` when they cancel out.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        self.0.combine(&other.0).ok().map(Self)
    }

    /// This point moved by a tweak. `None` when that leaves nothing.
    pub fn tweaked(&self, tweak: &AdaptorSecret) -> Option<Self> {
        self.plus(&tweak.point())
    }

    fn times(&self, factor: &Coefficient) -> Self {
        Self(self.0.mul_tweak(SECP256K1, &factor.0).expect("a point times what is not zero"))
    }
}

impl fmt::Debug for AdaptorPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How much one point counts in the joint point of several: a hash of all of them and of the one, so that nobody can
/// choose a point as a function of the others and cancel them (as in MuSig2's key aggregation, BIP327).
struct Coefficient(Scalar);

impl Coefficient {
    fn of(all: &[AdaptorPoint], one: &AdaptorPoint) -> Self {
        let points: Vec<[u8; 33]> = all.iter().map(AdaptorPoint::to_bytes).collect();
        let one = one.to_bytes();
        let parts: Vec<&[u8]> = points.iter().chain([&one]).map(<[u8; 33]>::as_slice).collect();
        let hash = tagged::hash("farthing/cheque-coefficient", &parts);
        // A hash that is zero or not below the group's order comes up with odds of 2^-127.
        Self(SecretKey::from_slice(&hash).expect("a hash in the range of scalars").into())
    }

    /// What it is multiplied by to give one: its power `n - 2`, *n* the group's order (Fermat). A coefficient is no secret.
    fn inverse(&self) -> Self {
        let mut exponent = CURVE_ORDER;
        exponent[31] -= 2;
        let base = SecretKey::from_slice(&self.0.to_be_bytes()).expect("it is not zero");
        let times = |one: SecretKey, other: SecretKey| {
            one.mul_tweak(&other.into()).expect("a product of two numbers that are not zero")
        };
        let bits = exponent.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        // The highest bit is set.
        let power = bits.skip(1).fold(base, |power, is_set| {
            let square = times(power, power);
            if is_set { times(square, base) } else { square }
        });
        Self(power.into())
    }
}

/// The joint point of several: `Σ a_i·T_i`, whatever order they are given in. One alone is itself.
pub fn joint_point(points: &[AdaptorPoint]) -> AdaptorPoint {
    let [one] = points else {
        let mut all = points.to_vec();
        all.sort_unstable();
        let weighted: Vec<PublicKey> =
            all.iter().map(|point| point.times(&Coefficient::of(&all, point)).0).collect();
        let weighted: Vec<&PublicKey> = weighted.iter().collect();
        let sum = PublicKey::combine_keys(&weighted);
        return AdaptorPoint(sum.expect("at least one point; no weights by a hash cancel out"));
    };
    *one
}

/// The secret of [`joint_point`], from the secrets of all of them.
pub fn joint_secret(secrets: &[&AdaptorSecret]) -> AdaptorSecret {
    if let [one] = secrets {
        return (*one).clone();
    }
    let mut pairs: Vec<(AdaptorPoint, &AdaptorSecret)> =
        secrets.iter().map(|secret| (secret.point(), *secret)).collect();
    pairs.sort_unstable_by_key(|(point, _)| *point);
    let all: Vec<AdaptorPoint> = pairs.iter().map(|(point, _)| *point).collect();
    let weighted = pairs.iter().map(|(point, secret)| secret.times(&Coefficient::of(&all, point)));
    let sum = weighted.reduce(|sum, next| sum.plus(&next).expect("no weights by a hash cancel out"));
    sum.expect("at least one secret")
}

/// The one secret that is missing of several: from the secret of their joint point and all the others. `None` when it is not one that is
/// missing, or they do not belong together.
pub fn missing_secret(
    points: &[AdaptorPoint],
    joint: &AdaptorSecret,
    known: &[AdaptorSecret],
) -> Option<AdaptorSecret> {
    let mut all = points.to_vec();
    all.sort_unstable();
    let mut left = joint.clone();
    let mut missing = None;
    for point in &all {
        let factor = Coefficient::of(&all, point);
        match known.iter().find(|secret| secret.point() == *point) {
            Some(secret) => left = left.plus(&secret.times(&factor).negated())?,
            None if missing.is_none() => missing = Some((*point, factor)),
            None => return None,
        }
    }
    let (point, factor) = missing?;
    let secret = if all.len() == 1 { left } else { left.times(&factor.inverse()) };
    (secret.point() == point).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> AdaptorSecret {
        AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_tweak_goes_on_and_comes_off() {
        let (secret, tweak) = (secret(1), secret(2));
        let moved = secret.plus(&tweak).unwrap();
        assert_eq!(moved.point(), secret.point().tweaked(&tweak).unwrap());
        assert_ne!(moved.point(), secret.point());
        assert_eq!(moved.plus(&tweak.negated()), Some(secret.clone()));
        assert_eq!(secret.plus(&secret.negated()), None);
        assert_eq!(secret.point().tweaked(&secret.negated()), None);
    }

    #[test]
    fn the_joint_secret_opens_the_joint_point_in_any_order() {
        let secrets = [secret(1), secret(2), secret(3), secret(4)];
        for count in 1..=secrets.len() {
            let some: Vec<&AdaptorSecret> = secrets[..count].iter().collect();
            let turned: Vec<AdaptorPoint> = some.iter().rev().map(|secret| secret.point()).collect();
            assert_eq!(joint_secret(&some).point(), joint_point(&turned), "{count} points");
        }
        assert_eq!(joint_point(&[secrets[0].point()]), secrets[0].point());
    }

    #[test]
    fn the_one_missing_secret_comes_out_of_the_joint_one_and_nothing_of_two() {
        let secrets = [secret(1), secret(2), secret(3), secret(4)];
        for count in 1..=secrets.len() {
            let some = &secrets[..count];
            let joint = joint_secret(&some.iter().collect::<Vec<_>>());
            let points: Vec<AdaptorPoint> = some.iter().rev().map(AdaptorSecret::point).collect();
            for missing in some {
                let known: Vec<AdaptorSecret> =
                    secrets.iter().filter(|secret| *secret != missing).cloned().collect();
                assert_eq!(missing_secret(&points, &joint, &known).as_ref(), Some(missing), "of {count}");
            }
            assert_eq!(missing_secret(&points, &joint, &[]).is_some(), count == 1);
            assert_eq!(missing_secret(&points, &joint, &secrets), None, "none is missing");
            assert_eq!(missing_secret(&points, &secret(9), &secrets[1..]), None, "another joint secret");
        }
    }

    #[test]
    fn a_secret_is_not_printed_and_zero_is_none() {
        assert_eq!(format!("{:?}", secret(7)), "AdaptorSecret(..)");
        assert_eq!(AdaptorSecret::from_bytes(&[0; 32]), None);
        assert_eq!(AdaptorSecret::from_bytes(&[0xff; 32]), None);
    }
}
