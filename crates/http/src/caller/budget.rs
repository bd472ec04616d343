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

    /// Takes `cost` out of every budget, or out of none.
    pub(super) fn take(&self, payee: &str, cost: Msat) -> Result<(), ClientError> {
        let Budget { call, session, day, payee: for_payee } = self.budget;
        if let Some(most) = call.filter(|most| cost > *most) {
            return Err(ClientError::OverCost { cost, most });
        }
        self.take_more(payee, cost, [session, day, for_payee])
    }

    /// Takes `cost` more for a call that runs.
    pub(super) fn take_for_running(&self, payee: &str, cost: Msat) -> Result<(), ClientError> {
        let Budget { session, day, payee: for_payee, .. } = self.budget;
        self.take_more(payee, cost, [session, day, for_payee])
    }

    fn take_more(
        &self,
        payee: &str,
        cost: Msat,
        [session, day, for_payee]: [Option<Msat>; 3],
    ) -> Result<(), ClientError> {
        let mut taken = self.taken();
        let today = calls::day();
        if taken.day.0 != today {
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
        Ok(())
    }

    /// Gives back what a call did not cost.
    pub(super) fn give_back(&self, payee: &str, amount: Msat) {
        let mut taken = self.taken();
        taken.session = taken.session.saturating_sub(amount);
        taken.day.1 = taken.day.1.saturating_sub(amount);
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
        spending.give_back("b", msat(40));
        spending.take("b", msat(40)).unwrap();
        assert_eq!(spending.session(), msat(70));

        let session = Spending::new(Budget { day: None, ..budget }, Msat::ZERO);
        session.take("c", msat(50)).unwrap();
        session.take("d", msat(40)).unwrap();
        assert_eq!(which(session.take("d", msat(11))), "for this session");
    }
}
