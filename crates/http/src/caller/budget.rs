//! Hard budgets bound what sellers can claim, not what they say that calls cost.
//!
//! What a seller can claim of a channel is the first payment or what words have revealed, whichever is more. It is taken out of
//! every budget before it is revealed, at once, so that calls in parallel cannot overdraw one together. Later calls use up what
//! earlier ones have left of it, so nothing is counted twice. It comes back only when nothing was sent: a seller that refuses a
//! call keeps its word, and one that has signed a closing still has the commitment until the closing is deep in the chain.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use farthing_node::buyer::calls::{self, OnDay};
use farthing_protocol::{ChannelId, Msat};

use crate::client::ClientError;

/// What a caller lets sellers claim. A call that would break one of them is not sent.
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

impl Budget {
    /// Whether it allows a call of that cost, if it is the first one.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, cost: Msat) -> Result<(), ClientError> {
        Spending::new(*self, Msat::ZERO).open("", Msat::ZERO, cost).map(drop)
    }
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
    channels: HashMap<ChannelId, Account>,
}

/// What the seller of one channel can claim.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// The first payment, or what words have revealed.
    revealed: Msat,
    /// What calls have cost, and those without an answer may cost.
    used: Msat,
}

impl Account {
    fn claimable(&self) -> Msat {
        self.revealed.max(self.used)
    }
}

impl Spending {
    /// Nothing is taken in this process yet, and `today` by earlier ones.
    pub(super) fn new(budget: Budget, today: Msat) -> Self {
        let (payees, channels) = (HashMap::new(), HashMap::new());
        let taken = Taken { session: Msat::ZERO, day: (calls::day(), today), payees, channels };
        Self { budget, taken: Mutex::new(taken) }
    }

    /// Whether [`Self::learn`] was told of that payee.
    pub(super) fn knows_payee(&self, payee: &str) -> bool {
        self.taken().payees.contains_key(payee)
    }

    /// Whether [`Self::learn_channel`] was told of that channel.
    pub(super) fn knows_channel(&self, channel: ChannelId) -> bool {
        self.taken().channels.contains_key(&channel)
    }

    /// Takes note of what a payee can claim of what earlier processes have paid.
    pub(super) fn learn(&self, payee: &str, claimable: Msat) {
        self.taken().payees.entry(payee.to_owned()).or_insert(claimable);
    }

    /// Takes note of a channel, of which so much is counted already.
    pub(super) fn learn_channel(&self, channel: ChannelId, revealed: Msat, used: Msat) {
        self.taken().channels.entry(channel).or_insert(Account { revealed, used });
    }

    /// What this process has let sellers claim.
    pub(super) fn session(&self) -> Msat {
        self.taken().session
    }

    /// Takes the first payment of a new channel out of every budget, or out of none. They must allow the call that it is opened
    /// for, too.
    pub(super) fn open(&self, payee: &str, first: Msat, call: Msat) -> Result<OnDay, ClientError> {
        self.check_call(call)?;
        let what = if call > first { "this call takes" } else { "the first payment in a new channel is" };
        let mut taken = self.taken();
        let most = first.max(call);
        let day = taken.count(&self.budget, calls::day(), payee, (what, most))?;
        taken.give_back(payee, OnDay { day, amount: most.saturating_sub(first) });
        Ok(OnDay { day, amount: first })
    }

    /// No such channel was opened.
    pub(super) fn not_opened(&self, payee: &str, counted: OnDay) {
        self.taken().give_back(payee, counted);
    }

    /// Takes what a call may cost out of every budget, as far as what the seller has already does not cover it, or out of none.
    pub(super) fn take(&self, payee: &str, channel: ChannelId, cost: Msat) -> Result<OnDay, ClientError> {
        self.check_call(cost)?;
        self.take_for_running(payee, channel, cost)
    }

    fn check_call(&self, cost: Msat) -> Result<(), ClientError> {
        match self.budget.call.filter(|most| cost > *most) {
            Some(most) => Err(ClientError::OverCost { cost, most }),
            None => Ok(()),
        }
    }

    /// Takes `cost` more for a call that runs.
    pub(super) fn take_for_running(
        &self,
        payee: &str,
        channel: ChannelId,
        cost: Msat,
    ) -> Result<OnDay, ClientError> {
        self.take_on(calls::day(), payee, channel, cost)
    }

    fn take_on(&self, today: u64, payee: &str, channel: ChannelId, cost: Msat) -> Result<OnDay, ClientError> {
        self.raise(today, payee, channel, "this call takes", |account| {
            account.used = account.used.saturating_add(cost);
        })
    }

    /// What the seller of a channel can claim by all that was taken.
    pub(super) fn claimable(&self, channel: ChannelId) -> Msat {
        self.taken().channels.get(&channel).map_or(Msat::ZERO, |account| account.claimable())
    }

    /// Takes out of every budget what a word reveals beyond what calls cost, before it leaves, or out of none.
    pub(super) fn reveal(
        &self,
        payee: &str,
        channel: ChannelId,
        claimable: Msat,
    ) -> Result<OnDay, ClientError> {
        self.raise(
            calls::day(),
            payee,
            channel,
            "the word for this call is worth more than it costs, by",
            |account| {
                account.revealed = account.revealed.max(claimable);
            },
        )
    }

    fn raise(
        &self,
        today: u64,
        payee: &str,
        channel: ChannelId,
        what: &'static str,
        change: impl FnOnce(&mut Account),
    ) -> Result<OnDay, ClientError> {
        let mut taken = self.taken();
        let nothing = Account { revealed: Msat::ZERO, used: Msat::ZERO };
        let before = taken.channels.get(&channel).copied().unwrap_or(nothing);
        let mut after = before;
        change(&mut after);
        let amount = after.claimable().saturating_sub(before.claimable());
        let day = taken.count(&self.budget, today, payee, (what, amount))?;
        taken.channels.insert(channel, after);
        Ok(OnDay { day, amount })
    }

    /// A call did not cost so much of what was taken for it. What words have revealed stays counted; the rest comes back, and is
    /// what this gives. What was taken on an earlier day gives nothing back to a later one.
    pub(super) fn give_back(&self, payee: &str, channel: ChannelId, amount: Msat, day: u64) -> OnDay {
        let mut taken = self.taken();
        let Some(account) = taken.channels.get_mut(&channel) else {
            return OnDay { day, amount: Msat::ZERO };
        };
        let before = account.claimable();
        account.used = account.used.saturating_sub(amount);
        let counted = OnDay { day, amount: before.saturating_sub(account.claimable()) };
        taken.give_back(payee, counted);
        counted
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no holder of this lock panics")
    }
}

impl Taken {
    /// Takes an amount out of every budget, or out of none. Gives the day whose budget it was.
    fn count(
        &mut self,
        budget: &Budget,
        today: u64,
        payee: &str,
        (what, cost): (&'static str, Msat),
    ) -> Result<u64, ClientError> {
        if today > self.day.0 {
            self.day = (today, Msat::ZERO);
        }
        let of_payee = self.payees.get(payee).copied().unwrap_or(Msat::ZERO);
        let checks = [
            ("for this session", budget.session, self.session),
            ("for today", budget.day, self.day.1),
            ("for this seller", budget.payee, of_payee),
        ];
        for (which, budget, spent) in checks {
            let Some(budget) = budget else { continue };
            let left = budget.saturating_sub(spent);
            if cost > left {
                return Err(ClientError::OverBudget { what, which, budget, left, cost });
            }
        }
        self.session = self.session.saturating_add(cost);
        self.day.1 = self.day.1.saturating_add(cost);
        self.payees.insert(payee.to_owned(), of_payee.saturating_add(cost));
        Ok(self.day.0)
    }

    fn give_back(&mut self, payee: &str, OnDay { day, amount }: OnDay) {
        self.session = self.session.saturating_sub(amount);
        if day >= self.day.0 {
            self.day.1 = self.day.1.saturating_sub(amount);
        }
        if let Some(spent) = self.payees.get_mut(payee) {
            *spent = spent.saturating_sub(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msat(amount: u64) -> Msat {
        Msat::new(amount)
    }

    fn channel(number: u8) -> ChannelId {
        ChannelId::from_bytes([number; 32])
    }

    /// Which budget it would break.
    fn which<T: std::fmt::Debug>(result: Result<T, ClientError>) -> &'static str {
        match result {
            Err(ClientError::OverBudget { which, .. }) => which,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_budget_holds_and_a_refused_call_takes_nothing() {
        let budget = Budget {
            call: Some(msat(50)),
            session: Some(msat(100)),
            day: Some(msat(90)),
            payee: Some(msat(70)),
        };
        let (a, b) = (channel(1), channel(2));
        let spending = Spending::new(budget, msat(20));
        spending.learn("a", msat(40));
        spending.learn("b", Msat::ZERO);
        assert!(matches!(spending.take("b", b, msat(51)), Err(ClientError::OverCost { .. })));
        assert_eq!(which(spending.take("a", a, msat(31))), "for this seller");
        spending.take("a", a, msat(30)).unwrap();
        let day = spending.take("b", b, msat(40)).unwrap().day;
        assert_eq!(which(spending.take("b", b, msat(1))), "for today");
        // It was not sent.
        assert_eq!(spending.give_back("b", b, msat(40), day).amount, msat(40));
        spending.take("b", b, msat(40)).unwrap();
        assert_eq!(spending.session(), msat(70));

        let session = Spending::new(Budget { day: None, ..budget }, Msat::ZERO);
        session.take("c", a, msat(50)).unwrap();
        session.take("d", b, msat(40)).unwrap();
        assert_eq!(which(session.take("d", b, msat(11))), "for this session");
    }

    #[test]
    fn the_first_payment_counts_at_once_and_pays_for_the_first_calls() {
        let spending = Spending::new(Budget { session: Some(msat(1_000)), ..Budget::default() }, Msat::ZERO);
        assert_eq!(which(spending.open("a", msat(1_001), msat(1))), "for this session");
        assert_eq!(which(spending.open("a", msat(550), msat(1_001))), "for this session");
        let first = spending.open("a", msat(550), msat(1_000)).unwrap();
        spending.learn_channel(channel(1), msat(550), Msat::ZERO);
        assert_eq!(spending.take("a", channel(1), msat(500)).unwrap().amount, Msat::ZERO);
        assert_eq!(spending.take("a", channel(1), msat(500)).unwrap().amount, msat(450));
        assert_eq!(which(spending.take("a", channel(1), msat(1))), "for this session");
        assert_eq!(which(spending.open("a", msat(1), msat(1))), "for this session");
        spending.not_opened("a", first);
        assert_eq!(spending.session(), msat(450));
    }

    /// A seller that refuses calls, closes alone and has another channel opened gets no more than the budget.
    #[test]
    fn what_was_revealed_stays_counted_whatever_the_seller_says_that_it_cost() {
        let spending = Spending::new(Budget { payee: Some(msat(1_000)), ..Budget::default() }, Msat::ZERO);
        let mut claimed = Msat::ZERO;
        for number in 1..=9 {
            let channel = channel(number);
            let Ok(_first) = spending.open("evil", msat(100), msat(1)) else { break };
            spending.learn_channel(channel, msat(100), Msat::ZERO);
            claimed = claimed.saturating_add(msat(100));
            let Ok(taken) = spending.take("evil", channel, msat(200)) else { break };
            let Ok(_word) = spending.reveal("evil", channel, msat(220)) else { break };
            claimed = claimed.saturating_add(msat(120));
            assert_eq!(spending.give_back("evil", channel, msat(200), taken.day).amount, Msat::ZERO);
            // What it has covers the next call.
            assert_eq!(spending.take("evil", channel, msat(220)).unwrap().amount, Msat::ZERO);
        }
        assert_eq!(claimed, msat(980));
    }

    #[test]
    fn a_word_that_is_worth_more_than_is_left_is_not_revealed() {
        let spending = Spending::new(Budget { session: Some(msat(110)), ..Budget::default() }, Msat::ZERO);
        spending.take("a", channel(1), msat(100)).unwrap();
        assert_eq!(which(spending.reveal("a", channel(1), msat(111))), "for this session");
        assert_eq!(spending.reveal("a", channel(1), msat(110)).unwrap().amount, msat(10));
    }

    #[test]
    fn midnight_brings_a_new_budget_and_a_clock_that_is_put_back_does_not() {
        let spending = Spending::new(Budget { day: Some(msat(100)), ..Budget::default() }, msat(60));
        let (day, a) = (calls::day(), channel(1));
        let take = |today, cost| spending.take_on(today, "a", a, msat(cost)).map(|counted| counted.day);
        assert_eq!(take(day, 40).unwrap(), day);
        take(day, 1).unwrap_err();
        assert_eq!(take(day + 1, 90).unwrap(), day + 1);
        // What is left of yesterday's calls, and a clock that jumps back, make no room today.
        spending.give_back("a", a, msat(40), day);
        take(day + 1, 11).unwrap_err();
        take(day, 11).unwrap_err();
        spending.give_back("a", a, msat(90), day + 1);
        assert_eq!(take(day, 100).unwrap(), day + 1);
        take(day + 1, 1).unwrap_err();
    }
}
