//! A decision whose effects cannot be reached before the state behind it is stored.
//!
//! A machine's `handle` returns a [`Transition`]: the next state and what to do about it. The effects are private;
//! the only way to them is [`Transition::commit`] (or [`Transition::commit_all`]), which first calls `save` with the
//! next state. When `save` fails the old state stays in force and nothing is sent, served, signed or broadcast.
//!
//! After a crash, `resume` of the stored state lists what may not have happened yet. Every effect is idempotent, so
//! doing it twice is harmless.

/// What a machine decided: the next state, and effects that only a successful save releases.
#[must_use = "nothing happens until this is committed"]
#[derive(Debug)]
pub struct Transition<S, E> {
    next: S,
    effects: Vec<E>,
}

impl<S, E> Transition<S, E> {
    /// Goes to `next`, with nothing to do yet.
    pub(crate) fn to(next: S) -> Self {
        Self { next, effects: Vec::new() }
    }

    /// And then does `effect`.
    pub(crate) fn then(mut self, effect: E) -> Self {
        self.effects.push(effect);
        self
    }

    /// What it leads to, for a machine that is made of two.
    pub(crate) fn next(&self) -> &S {
        &self.next
    }

    /// The same decision of a machine that is one of several kinds.
    pub(crate) fn map<S2, E2>(
        self,
        state: impl FnOnce(S) -> S2,
        effect: impl Fn(E) -> E2,
    ) -> Transition<S2, E2> {
        Transition { next: state(self.next), effects: self.effects.into_iter().map(effect).collect() }
    }

    /// One decision out of two, for a machine that is made of two: both next states are stored together, then this one's
    /// effects come out before the other's.
    pub(crate) fn join<S2, E2, S3, E3>(
        self,
        other: Transition<S2, E2>,
        state: impl FnOnce(S, S2) -> S3,
        effect: impl Fn(E) -> E3,
        other_effect: impl Fn(E2) -> E3,
    ) -> Transition<S3, E3> {
        let effects = self.effects.into_iter().map(effect);
        let effects = effects.chain(other.effects.into_iter().map(other_effect)).collect();
        Transition { next: state(self.next, other.next), effects }
    }

    /// Handles one more input in the state that this transition leads to, before either is stored. Both will be
    /// stored or neither. When the input is refused, the transition comes back unchanged beside the refusal.
    pub fn and_then<R>(mut self, handle: impl FnOnce(&S) -> Result<Self, R>) -> (Self, Result<usize, R>) {
        match handle(&self.next) {
            Ok(further) => {
                let count = further.effects.len();
                self.next = further.next;
                self.effects.extend(further.effects);
                (self, Ok(count))
            }
            Err(reject) => (self, Err(reject)),
        }
    }

    /// How many effects wait. A caller that joins inputs with [`Self::and_then`] needs it to tell whose is whose.
    pub fn effect_count(&self) -> usize {
        self.effects.len()
    }

    /// Stores the next state, then releases the effects.
    ///
    /// # Errors
    /// What `save` answered; then nothing has happened.
    pub fn commit<X>(self, save: impl FnOnce(&S) -> Result<(), X>) -> Result<(S, Vec<E>), X> {
        save(&self.next)?;
        Ok((self.next, self.effects))
    }

    /// Stores the next states of several machines at once, then releases all effects. For group commit: `save` is one
    /// durable write.
    ///
    /// # Errors
    /// What `save` answered; then nothing has happened to any of them.
    pub fn commit_all<K, X>(
        batch: Vec<(K, Self)>,
        save: impl FnOnce(&[(&K, &S)]) -> Result<(), X>,
    ) -> Result<Vec<(K, S, Vec<E>)>, X> {
        let states: Vec<(&K, &S)> = batch.iter().map(|(key, transition)| (key, &transition.next)).collect();
        save(&states)?;
        Ok(batch.into_iter().map(|(key, transition)| (key, transition.next, transition.effects)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_save_releases_nothing() {
        let transition = Transition::to(1).then("serve");
        assert_eq!(transition.commit(|_| Err("disk full")), Err("disk full"));
    }

    #[test]
    fn the_state_is_stored_before_the_effects_come_out() {
        let mut stored = None;
        let transition = Transition::to(1).then("serve");
        let committed = transition.commit(|next| {
            stored = Some(*next);
            Ok::<_, ()>(())
        });
        assert_eq!(committed, Ok((1, vec!["serve"])));
        assert_eq!(stored, Some(1));
    }

    #[test]
    fn a_refused_second_input_keeps_the_first() {
        let (transition, second) = Transition::to(1).then("a").and_then(|_| Err("no"));
        assert_eq!(second, Err("no"));
        let (transition, third) =
            transition.and_then(|state| Ok::<_, ()>(Transition::to(state + 1).then("b")));
        assert_eq!(third, Ok(1));
        assert_eq!(transition.commit(|_| Ok::<_, ()>(())), Ok((2, vec!["a", "b"])));
    }

    #[test]
    fn a_failed_group_save_releases_nothing_for_anyone() {
        let batch = vec![("x", Transition::to(1).then("a")), ("y", Transition::to(2).then("b"))];
        assert_eq!(Transition::commit_all(batch, |_| Err("disk full")).err(), Some("disk full"));
    }
}
