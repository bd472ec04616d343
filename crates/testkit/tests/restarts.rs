//! The same stories again, with one side or both starting anew from what they have stored after every step: the ends
//! are the same to the satoshi.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::Amount;
use common::*;
use farthing_node::books::Item;
use farthing_protocol::Msat;

/// Who starts anew after every step.
#[derive(Clone, Copy)]
struct Anew {
    seller: bool,
    buyer: bool,
}

const NOBODY: Anew = Anew { seller: false, buyer: false };
const EVERY: [Anew; 3] = [
    Anew { seller: true, buyer: false },
    Anew { seller: false, buyer: true },
    Anew { seller: true, buyer: true },
];

impl Anew {
    /// What was in memory is gone, and nobody has looked at the chain yet.
    fn start(self, story: &mut Story) {
        if self.seller {
            story.start_seller();
        }
        if self.buyer {
            story.start_buyer();
        }
    }
}

/// What each has in the end, the seller first.
type Ends = (Amount, Amount);

fn ends(story: &Story) -> Ends {
    assert_eq!((story.buyer().balance().pending, story.seller().balance().pending), (sat(0), sat(0)));
    (story.seller().balance().confirmed, story.buyer().balance().confirmed)
}

fn opens_and_buys(story: &mut Story, anew: Anew) -> farthing_protocol::ChannelId {
    let (id, _lost) = story.propose();
    anew.start(story);
    // The answer was lost, so the buyer proposes again, and the seller gives the same one.
    let (offer, key) = story.seller().offer();
    let opening = story.buyer().proposal(id).unwrap();
    let (_, signature) = story.seller().accept(&offer, key, opening).unwrap();
    anew.start(story);
    wait(story.buyer().accepted(id, signature)).unwrap();
    anew.start(story);
    story.look();
    story.mine(1);
    for number in 1..=4 {
        let item = Item { id: [number; 32], cost: Msat::new(10_000_000) };
        let bought = wait(story.buyer().buy(id, item)).unwrap();
        anew.start(story);
        story.look();
        let again = wait(story.buyer().buy(id, item)).unwrap();
        assert_eq!((again.payment, again.again), (bought.payment, true));
        wait(story.seller().charge(id, item, Some(again.payment))).unwrap();
        anew.start(story);
        wait(story.seller().charge(id, item, Some(again.payment))).unwrap();
    }
    assert_eq!(story.sellers(id).ledger().spent, Msat::new(40_000_000));
    id
}

fn closes_together(anew: Anew) -> Ends {
    let mut story = Story::begin();
    let id = opens_and_buys(&mut story, anew);
    // The first round is lost; the second has new nonces.
    let proposal = wait(story.buyer().propose_closing(id, rate(2), None)).unwrap().unwrap();
    story.seller().settle(id, proposal.settlement(), &proposal.public_nonce()).unwrap();
    anew.start(&mut story);
    let closing = story.agree_to_close(id, 2);
    anew.start(&mut story);
    story.look();
    assert_eq!(story.spender(id), Some(closing.clone()));
    wait(story.seller().settled(id, closing)).unwrap();
    for _ in 0..FINALITY {
        anew.start(&mut story);
        story.mine(1);
    }
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closed", "closed"));
    ends(&story)
}

fn the_seller_closes_alone(anew: Anew) -> Ends {
    let mut story = Story::begin();
    let id = opens_and_buys(&mut story, anew);
    wait(story.seller().close(id)).unwrap();
    for _ in 0..FINALITY {
        anew.start(&mut story);
        story.look();
        story.mine(1);
    }
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closed", "closed"));
    ends(&story)
}

fn the_buyer_is_refunded(anew: Anew) -> Ends {
    let mut story = Story::begin();
    let id = story.fund();
    story.mine(1);
    story.mine_to(story.expiry(id));
    for _ in 0..=FINALITY {
        anew.start(&mut story);
        story.look();
        story.mine(1);
    }
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closed", "closed"));
    ends(&story)
}

#[test]
fn closing_together() {
    let expected = closes_together(NOBODY);
    for anew in EVERY {
        assert_eq!(closes_together(anew), expected);
    }
}

#[test]
fn closing_alone() {
    let expected = the_seller_closes_alone(NOBODY);
    for anew in EVERY {
        assert_eq!(the_seller_closes_alone(anew), expected);
    }
}

#[test]
fn refund() {
    let expected = the_buyer_is_refunded(NOBODY);
    for anew in EVERY {
        assert_eq!(the_buyer_is_refunded(anew), expected);
    }
}
