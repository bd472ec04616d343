//! The holder's signed word that it holds a promise no more ([`crate::cheque::cancellation`]).
//!
//! The point is noted before anything is signed, and no promise under it is taken from then on: else a payer could have the word
//! signed first, promise then, and show a receipt as the proof that the word was broken.

use super::{Effect, Held, Reject};
use crate::cheque::point::AdaptorPoint;
use crate::transition::Transition;

/// How many such words a holder signs in a channel: each point is remembered for the channel's life, 33 bytes each.
pub const MOST_GIVEN_UP: usize = 256;

impl Held {
    /// Whether such a word was signed.
    pub fn has_given_up(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Of a promise that the newest update leaves out, and that was not bought. The same point again is signed again.
    pub(super) fn give_up(&self, point: AdaptorPoint) -> Result<Transition<Self, Effect>, Reject> {
        let number = self.signed.terms.number;
        if number == 0 || self.place_of(&point).is_some() || self.sold.contains(&point) {
            return Err(Reject::NotGivenUp);
        }
        if !self.given_up.contains(&point) && self.given_up.len() >= MOST_GIVEN_UP {
            return Err(Reject::TooManyGivenUp);
        }
        let mut next = self.clone();
        next.given_up.insert(point);
        Ok(Transition::to(next).then(Effect::GiveUp(point, number)))
    }
}
