//! Agents that go before the sale, collude with the payer, or are told two things: each on a real bitcoind, through the driver.

use super::carriers::{CAPACITY, COMMITMENT_FEE, Carriers, FINALITY, REFUND_FEE, ask_for, sat};
use super::endings::{expiry, sale};
use farthing_node::cheques::cashing::CashError;
use farthing_node::cheques::paper::{Fate, Issued};
use farthing_node::cheques::selling::{LockError, Towards};
use farthing_protocol::channel::SpendKind;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::{ChannelId, Msat};

const REFUNDED: (SpendKind, u64, u64) = (SpendKind::Refund, CAPACITY - REFUND_FEE, 0);

/// The writer waits until its channel expires, and takes everything back.
fn expires(story: &Carriers, behind: ChannelId, issued: &Issued) {
    assert_eq!(story.fate(&issued.written.point), Fate::Pending);
    story.mine_to(expiry(story, "writer", behind));
    story.mine(FINALITY + 1);
    assert_eq!(story.shares("writer", behind), REFUNDED);
    assert_eq!(story.fate(&issued.written.point), Fate::Ended);
}

#[test]
fn a_channel_that_expires_with_an_open_cheque_is_its_writers_when_the_agent_went_before_the_sale() {
    let (story, behind, towards, issued) = sale();
    story.stop("agent");
    let (presented, _) = story.plan(&issued.written.cheque, towards, &[]);
    let nothing = story.try_to_cash(&presented.point);
    assert!(matches!(nothing, Err(CashError::NoLock)), "{nothing:?}");
    expires(&story, behind, &issued);
    assert_eq!((story.unused_prekeys(), story.totals("payee", towards)), (1, (0, 0)));
}

#[test]
fn a_payee_gives_nothing_away_for_a_lock_that_pays_less_than_the_cheque() {
    let (story, behind, towards, issued) = sale();
    let (presented, route) = story.plan(&issued.written.cheque, towards, &[]);
    // The agent and the writer have agreed on it.
    let less = ask_for(&presented, &route, 0, sat(4_000), Towards::Channel(towards));
    story.does("agent", |agent| agent.lock(&less)).unwrap();
    story.take_lock("agent", towards);
    let refused = story.try_to_cash(&presented.point).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains(&sat(4_000).to_string()) && said.contains(&sat(5_000).to_string()), "{said}");
    assert_eq!((story.unused_prekeys(), story.totals("payee", towards)), (1, (0, 0)));
    assert!(story.at("payee").secrets(towards).unwrap().is_empty());

    story.mine_to(expiry(&story, "agent", towards));
    story.mine(FINALITY + 1);
    assert_eq!(story.shares("payee", towards), REFUNDED);
    story.stop("agent");
    expires(&story, behind, &issued);
    assert_eq!(story.unused_prekeys(), 1);
}

/// Both are over more than half of what the channel holds, in updates of the same number. What the agent has counts, and nothing else.
#[test]
fn of_two_cheques_over_the_same_money_the_one_that_the_agent_has_taken_is_paid() {
    let story = Carriers::begin(&["writer", "agent", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let towards = story.open("agent", "payee", Kind::Lock, 100);
    let copy = story.copy("writer");
    let number = || story.at("writer").update(behind).unwrap().unwrap().signed.terms.number;
    let first = story.write(behind, 60_000, 1);
    let counts = number();
    story.sync("writer", "agent", behind);
    story.restore("writer", &copy);
    let second = story.write(behind, 70_000, 1);
    assert_eq!(number(), counts, "signed twice");
    let update = story.does("writer", |writer| writer.update(behind)).unwrap().unwrap();
    let answer = story.does("agent", |agent| agent.take(behind, update.clone(), Msat::ZERO)).unwrap();
    assert_eq!(answer.taken, None);

    let (presented, asked) = story.ask_directly(&second.written.cheque, towards);
    assert!(matches!(asked, Err(LockError::Unknown)), "{asked:?}");
    let nothing = story.try_to_cash(&presented.point);
    assert!(matches!(nothing, Err(CashError::NoLock)), "{nothing:?}");
    assert_eq!(story.cash_directly(&first, towards), sat(60_000));
    for (name, id, paid) in [("payee", towards, 60_000), ("agent", behind, 60_001)] {
        story.does(name, |side| side.close(id)).unwrap();
        story.look();
        story.mine(FINALITY + 1);
        let shares = (SpendKind::Commitment, CAPACITY - paid - COMMITMENT_FEE, paid);
        assert_eq!(story.shares(name, id), shares, "{name}");
    }
}
