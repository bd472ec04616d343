//! Hard budgets: what a call may cost is taken out of every budget before it is sent, at once, so that calls in parallel cannot
//! overdraw one together. What it did not cost is given back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use farthing_node::buyer::calls;
use farthing_protocol::Msat;

use crate::client::ClientError;

/// What a caller may spend. A call that would break one of them is not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The most for one call.
    pub call: Option<Msat>,
    /// The most for all calls of this process.
    pub session: Option<Msat>,
    /// The most for all calls of a day (UTC), over all processes.
    pub day: Option<Msat>,
    /// The most for one payee, over all its channels.
    pub payee: Option<Msat>,
}

/// What was taken out of the budgets.
#[derive(Debug)]
pub(super) struct Spending {
    budget: Budget,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    session: Msat,
    /// The newest day that was seen: a clock that is put back begins no other.
    day: (u64, Msat),
    payees: HashMap<String, Msat>,
}

impl Spending {
    /// Nothing is taken in this process yet, and `today` by earlier ones.
    pub(super) fn new(budget: Budget, today: Msat) -> Self {
        let taken = Taken { session: Msat::ZERO, day: (calls::day(), today), payees: HashMap::new() };
        Self { budget, taken: Mutex::new(taken) }
    }

    /// Takes note of what earlier processes have spent on a payee.
    pub(super) fn knows(&self, payee: &str) -> bool {
        self.taken().payees.contains_key(payee)
    }

    /// Takes note of what earlier processes have spent on a payee.
    pub(super) fn learn(&self, payee: &str, spent: Msat) {
        self.taken().payees.entry(payee.to_owned()).or_insert(spent);
    }

    /// What this process has taken.
    pub(super) fn session(&self) -> Msat {
        self.taken().session
    }

    /// Takes `cost` out of every budget, or out of none. Gives the day whose budget it was.
    pub(super) fn take(&self, payee: &str, cost: Msat) -> Result<u64, ClientError> {
        let Budget { call, session, day, payee: for_payee } = self.budget;
        if let Some(most) = call.filter(|most| cost > *most) {
            return Err(ClientError::OverCost { cost, most });
        }
        self.take_more(calls::day(), payee, cost, [session, day, for_payee])
    }

    /// Takes `cost` more for a call that runs.
    pub(super) fn take_for_running(&self, payee: &str, cost: Msat) -> Result<u64, ClientError> {
        let Budget { session, day, payee: for_payee, .. } = self.budget;
        self.take_more(calls::day(), payee, cost, [session, day, for_payee])
    }

    fn take_more(
        &self,
        today: u64,
        payee: &str,
        cost: Msat,
        [session, day, for_payee]: [Option<Msat>; 3],
    ) -> Result<u64, ClientError> {
        let mut taken = self.taken();
        if today > taken.day.0 {
            taken.day = (today, Msat::ZERO);
        }
        let of_payee = taken.payees.get(payee).copied().unwrap_or(Msat::ZERO);
        let checks = [
            ("for this session", session, taken.session),
            ("for today", day, taken.day.1),
            ("for this seller", for_payee, of_payee),
        ];
        for (which, budget, spent) in checks {
            let Some(budget) = budget else { continue };
            let left = budget.saturating_sub(spent);
            if cost > left {
                return Err(ClientError::OverBudget { which, budget, left, cost });
            }
        }
        taken.session = taken.session.saturating_add(cost);
        taken.day.1 = taken.day.1.saturating_add(cost);
        taken.payees.insert(payee.to_owned(), of_payee.saturating_add(cost));
        Ok(taken.day.0)
    }

    /// Gives back what a call did not cost. What was taken on an earlier day gives nothing back to a later one.
    pub(super) fn give_back(&self, payee: &str, amount: Msat, taken_on: u64) {
        let mut taken = self.taken();
        taken.session = taken.session.saturating_sub(amount);
        if taken_on >= taken.day.0 {
            taken.day.1 = taken.day.1.saturating_sub(amount);
        }
        if let Some(spent) = taken.payees.get_mut(payee) {
            *spent = spent.saturating_sub(amount);
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msat(amount: u64) -> Msat {
        Msat::new(amount)
    }

    #[test]
    fn each_budget_holds_and_a_refused_call_takes_nothing() {
        let budget = Budget {
            call: Some(msat(50)),
            session: Some(msat(100)),
            day: Some(msat(90)),
            payee: Some(msat(70)),
        };
        let spending = Spending::new(budget, msat(20));
        spending.learn("a", msat(40));
        spending.learn("b", Msat::ZERO);
        assert!(matches!(spending.take("b", msat(51)), Err(ClientError::OverCost { .. })));
        let which = |result| match result {
            Err(ClientError::OverBudget { which, .. }) => which,
            other => panic!("{other:?}"),
        };
        assert_eq!(which(spending.take("a", msat(31))), "for this seller");
        spending.take("a", msat(30)).unwrap();
        spending.take("b", msat(40)).unwrap();
        assert_eq!(which(spending.take("b", msat(1))), "for today");
        spending.give_back("b", msat(40), calls::day());
        spending.take("b", msat(40)).unwrap();
        assert_eq!(spending.session(), msat(70));

        let session = Spending::new(Budget { day: None, ..budget }, Msat::ZERO);
        session.take("c", msat(50)).unwrap();
        session.take("d", msat(40)).unwrap();
        assert_eq!(which(session.take("d", msat(11))), "for this session");
    }

    #[test]
    fn midnight_brings_a_new_budget_and_a_clock_that_is_put_back_does_not() {
        let spending = Spending::new(Budget { day: Some(msat(100)), ..Budget::default() }, msat(60));
        let day = calls::day();
        let take = |today, cost| spending.take_more(today, "a", msat(cost), [None, Some(msat(100)), None]);
        assert_eq!(take(day, 40).unwrap(), day);
        take(day, 1).unwrap_err();
        assert_eq!(take(day + 1, 90).unwrap(), day + 1);
        // What is left of yesterday's calls, and a clock that jumps back, make no room today.
        spending.give_back("a", msat(40), day);
        take(day + 1, 11).unwrap_err();
        take(day, 11).unwrap_err();
        spending.give_back("a", msat(90), day + 1);
        assert_eq!(take(day, 100).unwrap(), day + 1);
        take(day + 1, 1).unwrap_err();
    }
}
