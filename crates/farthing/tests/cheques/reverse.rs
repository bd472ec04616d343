//! The other way round: the payee is off while its payer pays, and the payer while the payee collects. Each on a real bitcoind,
//! through the driver.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use super::carriers::{Carriers, DELTA, FEE, FINALITY, MARGIN, sat};
use farthing_node::books::OrderError;
use farthing_node::cheques::Teller;
use farthing_node::cheques::cashing::CashError;
use farthing_node::cheques::paper::Bought;
use farthing_node::cheques::reverse::agent::SaleError;
use farthing_node::cheques::reverse::payee::Permit;
use farthing_node::cheques::reverse::payer::{BuyError, Mail};
use farthing_protocol::channel::SpendKind;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::reverse::authorisation::{Authorisation, Until};
use farthing_protocol::cheque::reverse::purchase::{self, State};
use farthing_protocol::cheque::reverse::sale;
use farthing_protocol::cheque::side::Reject;
use farthing_protocol::cheque::{held, holder};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::{Channel, ChannelId, Msat, commitment};

const AMOUNT: u64 = 5_000;

/// Payer, agent and payee, with a channel each: the payer's ends first.
struct Story {
    stage: Carriers,
    behind: ChannelId,
    towards: ChannelId,
    /// Everybody forgets what it had in memory after each step.
    forgetful: bool,
}

impl Story {
    fn begin() -> Self {
        let stage = Carriers::begin(&["payer", "agent", "payee"]);
        let towards = stage.open("agent", "payee", Kind::Lock, 300);
        let behind = stage.open("payer", "agent", Kind::Purchase, 100);
        Self { stage, behind, towards, forgetful: false }
    }

    fn step(&self) {
        if self.forgetful {
            for name in ["payer", "agent", "payee"] {
                if self.stage.is_on(name) {
                    self.stage.start(name);
                    self.stage.does(name, Teller::tend).unwrap();
                }
            }
        }
    }

    fn expiry(&self, name: &str, id: ChannelId) -> u32 {
        self.stage.at(name).params(id).expect("the channel is there").expiry.height()
    }

    fn permit(&self) -> Permit {
        Permit {
            channel: self.towards,
            payer: self.stage.at("payer").identity(),
            amount: sat(AMOUNT),
            until: None,
            memo: Memo::new("a coffee").unwrap(),
        }
    }

    /// The payee authorises its payer, and goes.
    fn authorise(&self) -> Authorisation {
        let authorisation = self.stage.does("payee", |payee| payee.authorise(self.permit())).unwrap();
        self.step();
        assert_eq!(
            self.stage.does("payee", |payee| payee.authorise(self.permit())).unwrap(),
            authorisation,
            "as often as it is asked"
        );
        self.stage.stop("payee");
        authorisation
    }

    /// The agent offers, the payer checks and promises.
    fn promise(&self, authorisation: &Authorisation) -> Bought {
        self.begin_purchase(authorisation);
        self.step();
        let offer = self.stage.does("agent", |agent| agent.offer_signature(authorisation)).unwrap();
        self.step();
        assert_eq!(
            self.stage.does("agent", |agent| agent.offer_signature(authorisation)).unwrap(),
            offer,
            "and the same again"
        );
        let bought = self.buy(&offer, authorisation).unwrap();
        self.step();
        bought
    }

    fn begin_purchase(&self, authorisation: &Authorisation) {
        let (agent, to) = ("agent".to_owned(), "the payee".to_owned());
        let begin = |payer: &Teller| payer.begin_purchase(authorisation.clone(), agent.clone(), to.clone());
        self.stage.does("payer", begin).unwrap();
    }

    /// The payee takes a payer's mail. Whoever has died in the middle looks what it has.
    fn collect(&self, channel: ChannelId, delivery: &purchase::Delivery) -> Msat {
        let earned = || self.stage.at("payee").earned(channel).unwrap();
        let before = earned();
        self.stage.does("payee", |payee| payee.collect(channel, delivery.clone())).unwrap();
        earned().saturating_sub(before)
    }

    /// The payer buys for that price at most. If it has died in the middle it looks whether it has promised.
    fn buy(&self, offer: &purchase::Offer, authorisation: &Authorisation) -> Result<Bought, BuyError> {
        let (digest, payee, most) = (authorisation.digest(), authorisation.payee, sat(AMOUNT + 1));
        self.stage.does("payer", |payer| {
            let purchases = payer.purchases()?;
            let is_it = |bought: &&Bought| bought.purchase.authorisation().digest() == digest;
            match purchases.iter().find(is_it) {
                Some(bought) if matches!(bought.purchase.state(), State::Promised(_)) => Ok(bought.clone()),
                Some(_) | None => payer.buy_signature(&digest, self.behind, offer.clone(), payee, most),
            }
        })
    }

    /// What the payer knows of its purchase.
    fn bought(&self) -> Bought {
        let mut all = self.stage.at("payer").purchases().unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// What the payer mails, and the payee gets: then it is delivered.
    fn mail(&self) -> (ChannelId, purchase::Delivery) {
        let mail = self.stage.at("payer").to_mail(&self.bought()).expect("something to mail");
        let Mail::Delivery(channel, delivery) = mail else { panic!("{mail:?}") };
        let digest = self.bought().purchase.authorisation().digest();
        self.stage.does("payer", |payer| payer.delivered(&digest)).unwrap();
        self.step();
        assert_eq!(self.stage.at("payer").to_mail(&self.bought()), None, "and nothing more");
        (channel, delivery)
    }

    /// The payee takes its channel to the chain, and has the amount there.
    fn close(&self) {
        self.stage.does("payee", |payee| payee.close(self.towards)).unwrap();
        self.stage.look();
        self.stage.mine(FINALITY + 1);
        let ending = self.stage.ending("payee", self.towards).unwrap();
        assert_eq!((ending.kind, ending.received.to_sat()), (SpendKind::Commitment, AMOUNT));
    }
}

fn paid_while_both_are_never_on_together(story: Story) {
    let authorisation = story.authorise();
    story.promise(&authorisation);
    story.stage.sync("payer", "agent", story.behind);
    story.step();
    let bought = story.bought();
    assert!(matches!(bought.purchase.state(), State::Paid(..)), "{}", bought.state());
    assert_eq!(story.stage.totals("agent", story.behind), (AMOUNT + 1, AMOUNT + 1), "the price, and its fee");
    let (channel, delivery) = story.mail();
    story.stage.stop("payer");

    // Days later.
    story.stage.mine(50);
    story.stage.start("payee");
    assert_eq!(story.stage.totals("payee", story.towards), (0, 0));
    assert_eq!(story.collect(channel, &delivery), sat(AMOUNT));
    story.step();
    assert_eq!(story.collect(channel, &delivery), Msat::ZERO, "once");
    assert_eq!(story.stage.totals("payee", story.towards), (AMOUNT, AMOUNT));
    story.stage.sync("agent", "payee", story.towards);
    story.step();
    assert_eq!(story.stage.totals("agent", story.towards), (AMOUNT, AMOUNT), "paid plainly by now");
    assert!(story.stage.does("payee", Teller::to_answer).unwrap().is_empty());

    // The payer has proof, and the payee and the agent their money on the chain.
    story.stage.start("payer");
    let (params, payment) = story.bought().purchase.proof().unwrap();
    let channel = Channel::new(params).unwrap();
    assert_eq!((authorisation.check(&channel), commitment::verify(&channel, &payment)), (Ok(()), Ok(())));
    assert_eq!(payment.total, sat(AMOUNT));
    story.close();
    story.stage.does("agent", |agent| agent.close(story.behind)).unwrap();
    story.stage.look();
    story.stage.mine(FINALITY + 1);
    let ending = story.stage.ending("agent", story.behind).unwrap();
    assert_eq!((ending.kind, ending.received.to_sat()), (SpendKind::Commitment, AMOUNT + 1));
    assert_eq!(FEE, sat(1));
}

#[test]
fn a_payee_that_is_off_is_paid_and_collects_while_its_payer_is_off() {
    paid_while_both_are_never_on_together(Story::begin());
}

#[test]
fn it_is_paid_the_same_when_everybody_forgets_everything_after_each_step() {
    paid_while_both_are_never_on_together(Story { forgetful: true, ..Story::begin() });
}

#[test]
fn an_agent_that_takes_the_price_silently_gives_its_secret_away_on_the_chain() {
    let story = Story::begin();
    let authorisation = story.authorise();
    story.promise(&authorisation);
    // It takes the promise and completes it. What it would answer is never heard.
    let update = story.stage.at("payer").update(story.behind).unwrap().unwrap();
    drop(story.stage.does("agent", |agent| agent.take(story.behind, update.clone(), Msat::ZERO)).unwrap());
    assert_eq!(story.stage.totals("agent", story.behind), (AMOUNT + 1, AMOUNT + 1));
    assert!(matches!(story.bought().purchase.state(), State::Promised(_)));
    let expiry = story.expiry("payer", story.behind);
    story.stage.stop("payer");

    // It publishes in the last blocks before the payer could take everything back.
    story.stage.mine_to(expiry - MARGIN);
    story.stage.mine(1);
    story.stage.start("payer");
    let bought = story.bought();
    assert!(matches!(bought.purchase.state(), State::Paid(..)), "{}", bought.state());
    let (channel, delivery) = story.mail();
    story.stage.stop("payer");
    story.stage.stop("agent");

    // The payee comes back at the last moment that it has, and needs nobody.
    story.stage.mine_to(authorisation.terms.until.get());
    story.stage.start("payee");
    assert_eq!(story.collect(channel, &delivery), sat(AMOUNT));
    story.close();
}

#[test]
fn an_agent_that_was_paid_pays_the_payee_plainly_when_the_mail_is_lost() {
    let story = Story::begin();
    let authorisation = story.authorise();
    story.promise(&authorisation);
    story.stage.sync("payer", "agent", story.behind);
    // What it has not done yet it does now and then; and what it has died of, the next time.
    story.stage.does("agent", Teller::tend).unwrap();
    story.stage.in_peace(|| story.stage.at("agent").tend()).unwrap();
    story.stage.stop("payer");
    story.stage.start("payee");
    story.stage.sync("agent", "payee", story.towards);
    assert_eq!(story.stage.totals("payee", story.towards), (AMOUNT, AMOUNT));
    assert!(story.stage.does("payee", Teller::authorised).unwrap().is_empty());
    // The mail that is found after all is of the same increment.
    story.stage.start("payer");
    let (channel, delivery) = story.mail();
    assert_eq!(story.collect(channel, &delivery), Msat::ZERO);
    story.close();
}

#[test]
fn an_agent_that_goes_away_costs_payer_and_payee_time_and_nothing_else() {
    let story = Story::begin();
    let authorisation = story.authorise();
    story.promise(&authorisation);
    story.stage.stop("agent");
    let refused = story.stage.does("payer", |payer| payer.give_back(&authorisation.digest())).unwrap_err();
    assert!(matches!(refused, BuyError::Rejected(purchase::Reject::Used)), "{refused}");
    story.stage.mine_to(story.expiry("payer", story.behind));
    story.stage.mine(FINALITY + 1);
    assert_eq!(story.stage.ending("payer", story.behind).unwrap().kind, SpendKind::Refund);
    assert_eq!(*story.bought().purchase.state(), State::Ended);

    // The payee is bound until its authorisation ends.
    story.stage.start("payee");
    let until = authorisation.terms.until.get();
    let closing = story.stage.does("payee", |payee| payee.close(story.towards)).unwrap_err();
    assert!(closing.to_string().contains("authorised"), "{closing}");
    story.stage.mine_to(until);
    story.stage.does("payee", Teller::end_authorisations).unwrap();
    assert_eq!(story.stage.does("payee", Teller::authorised).unwrap().len(), 1, "in this block still");
    // It closes by itself in the next one, which is the last that leaves it its margin.
    assert_eq!(until, story.expiry("payee", story.towards) - MARGIN - 1);
    story.stage.mine(1);
    assert_eq!(story.stage.totals("payee", story.towards), (0, 0));
}

#[test]
fn an_authorisation_that_is_given_back_makes_room_for_the_next() {
    let story = Story::begin();
    let first = story.authorise();
    story.begin_purchase(&first);
    // The agent has tied something up for it.
    let offer = story.stage.does("agent", |agent| agent.offer_signature(&first)).unwrap();
    let (digest, most) = (first.digest(), sat(AMOUNT + 1));
    let bought = story.stage.does("payer", |payer| payer.give_back(&digest)).unwrap();
    let mail = story.stage.at("payer").to_mail(&bought);
    let Some(Mail::Release(release)) = mail else { panic!("a release is mailed") };
    let buy = |payer: &Teller| payer.buy_signature(&digest, story.behind, offer.clone(), first.payee, most);
    let refused = story.stage.does("payer", buy).unwrap_err();
    assert!(matches!(refused, BuyError::Rejected(purchase::Reject::Released)), "{refused}");

    story.stage.start("payee");
    let other = Permit { amount: sat(AMOUNT + 1), ..story.permit() };
    let refused = story.stage.does("payee", |payee| payee.authorise(other.clone())).unwrap_err();
    let not_free = |error: &CashError| match error {
        CashError::Order(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(reject)))) => {
            *reject == held::Reject::NotFree
        }
        _other => false,
    };
    assert!(not_free(&refused), "{refused}");
    story.stage.does("payee", |payee| payee.take_release(release)).unwrap();
    // As the program does before it authorises: the agent's offer is there by now.
    story.stage.take_lock("agent", story.towards);
    assert!(story.stage.at("payee").is_free(story.towards).unwrap());
    let second = story.stage.does("payee", |payee| payee.authorise(other.clone())).unwrap();
    assert_eq!((first.terms.serial, second.terms.serial), (1, 2));
    // The agent drops the old sale for it, and hears of the old one no more: also after a restart.
    let offer = story.stage.does("agent", |agent| agent.offer_signature(&second)).unwrap();
    assert_eq!(offer.update.signed.terms.promises[0].amount, sat(AMOUNT + 1));
    story.stage.start("agent");
    let old = story.stage.does("agent", |agent| agent.offer_signature(&first)).unwrap_err();
    assert!(matches!(old, SaleError::Rejected(sale::Reject::Old { newest: 2, got: 1 })), "{old}");
}

#[test]
fn what_could_lose_somebody_money_is_refused_by_name() {
    let story = Story::begin();
    let late = story.stage.open("payer", "agent", Kind::Purchase, 300 - MARGIN - DELTA - 2);
    let authorisation = story.authorise();
    let offer = story.stage.does("agent", |agent| agent.offer_signature(&authorisation)).unwrap();
    story.begin_purchase(&authorisation);
    let digest = authorisation.digest();
    let buy = |channel, offer: &purchase::Offer, most| {
        let buy =
            |payer: &Teller| payer.buy_signature(&digest, channel, offer.clone(), authorisation.payee, most);
        match story.stage.does("payer", buy).unwrap_err() {
            BuyError::Rejected(reject) => reject,
            other => panic!("{other}"),
        }
    };
    let most = sat(AMOUNT + 1);
    // It was opened two blocks after the payee's channel, so it ends a block too late.
    let reject = buy(late, &offer, most);
    assert!(matches!(reject, purchase::Reject::EndsTooLate { delta: DELTA, .. }), "{reject}");
    let reject = buy(story.behind, &offer, sat(AMOUNT));
    assert!(matches!(reject, purchase::Reject::TooDear { .. }), "{reject}");
    let mut other = offer.clone();
    other.update.signed.terms.number += 1;
    assert!(matches!(buy(story.behind, &other, most), purchase::Reject::BadUpdate(_)));
    // Somebody else's signatures under the payee's terms are worth nothing to the agent.
    let forged = {
        let seed = Seed::new([9; 64], bitcoin::Network::Regtest);
        let (identity, channel) = (seed.cheque_keys(), seed.channel_keys(KeyId::from_u64(1)));
        Authorisation::sign(authorisation.terms.clone(), &identity, &channel)
    };
    let refused = story.stage.does("agent", |agent| agent.offer_signature(&forged)).unwrap_err();
    assert!(refused.to_string().contains("not signed"), "{refused}");
    // What the agent tells the payee by itself is not taken.
    story.stage.start("payee");
    let update = story.stage.at("agent").update(story.towards).unwrap().unwrap();
    let answer =
        story.stage.does("payee", |payee| payee.take(story.towards, update.clone(), Msat::ZERO)).unwrap();
    assert_eq!(answer.taken, None);
    assert_eq!(story.stage.totals("payee", story.towards), (0, 0));
    // An authorisation that the payee could not claim in time, in a channel that is free.
    let free = story.stage.open("agent", "payee", Kind::Lock, 300);
    let until = Some(Until::height(story.expiry("payee", free)));
    let long = Permit { channel: free, until, ..story.permit() };
    let refused = story.stage.does("payee", |payee| payee.authorise(long.clone())).unwrap_err();
    let too_long = |error: &CashError| match error {
        CashError::Order(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(reject)))) => {
            matches!(reject, held::Reject::TooLong { .. })
        }
        _other => false,
    };
    assert!(too_long(&refused), "{refused}");
    let good = Permit { until: None, ..long };
    story.stage.does("payee", |payee| payee.authorise(good.clone())).unwrap();
}

/// A channel that a reorganisation took away, or that the payee and its agent have closed, is worth nothing to the payer.
#[test]
fn a_payer_promises_nothing_for_a_channel_that_is_not_in_the_chain() {
    let story = Story::begin();
    let authorisation = story.authorise();
    story.begin_purchase(&authorisation);
    let offer = story.stage.does("agent", |agent| agent.offer_signature(&authorisation)).unwrap();
    let buy = || story.buy(&offer, &authorisation);
    // The payee's channel was funded a block before the payer's.
    let funded = story.stage.chain.tip().unwrap().height - 1;
    let block = story.stage.chain.block_hash(funded).unwrap().unwrap();
    story.stage.node.invalidate(&block).unwrap();
    let refused = buy().unwrap_err();
    assert!(matches!(refused, BuyError::Rejected(purchase::Reject::NotDeep)), "{refused}");
    story.stage.node.reconsider(&block).unwrap();
    buy().unwrap();
}
