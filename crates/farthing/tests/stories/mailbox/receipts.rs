//! `farthing receipt verify`: anybody can check a receipt; no node, channel or wallet is needed.

use anyhow::{Context as _, Result, ensure};
use bitcoin::Network;
use farthing_node::home::Home;
use farthing_protocol::Msat;
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::book::Input;
use farthing_protocol::cheque::cheque::{Draft, Written};
use farthing_protocol::cheque::receipt::{Memo, Receipt, Terms};
use farthing_testkit::Person;

use super::{assert_said, people};

/// A payee's receipt for a cheque that was written on one of its prekeys.
fn receipt(payee: &Person, memo: &str) -> Result<Receipt> {
    let mut book = Home::open(&payee.path(""), Network::Regtest)?.prekeys()?;
    let prekey = book.issue(1)?[0];
    let draft = Draft {
        amount: Msat::new(500_000),
        memo: Memo::new(memo)?,
        time: 1_790_000_000,
        latest: Expiry::at_height(1_000),
    };
    let written = Written::new(draft, &book.keys().identity(), prekey, [2; 32], &[3; 32])?;
    let cheque = Box::new(written.cheque.clone());
    book.handle(Input::Endorse { cheque, offered: Msat::new(500_000) })?;
    let secret = book.book()?.secret(book.keys(), &written.cheque).context("the cheque is endorsed")?;
    written.receipt(&secret).context("a receipt")
}

#[test]
fn a_receipt_tells_who_was_paid_and_a_forged_one_fails() -> Result<()> {
    let (_world, stranger, payee) = people()?;
    let good = receipt(&payee, "one coffee \u{202e}eerf")?;
    let verify = |text: &str, options: &[&str]| {
        let nobody = stranger
            .with("FARTHING_BITCOIND__URL", "http://127.0.0.1:1")
            .with("FARTHING_DATA", "/nonexistent");
        nobody.attempt(&[&["receipt", "verify", text], options].concat())
    };
    let text = good.to_string();
    let said = verify(&text, &[])?.result()?;
    let (payee_key, other_key) =
        (good.terms.payee.to_string(), receipt(&stranger, "")?.terms.payee.to_string());
    ensure!(said["payee"] == payee_key.as_str() && said["amount_msat"] == 500_000, "{said}");
    ensure!(said["memo"] == good.terms.memo.as_str() && said["time"] == 1_790_000_000, "{said}");
    verify(&text, &["--payee", &payee_key])?.success()?;
    assert_said(
        verify(&text, &["--payee", &other_key])?,
        &["is signed by", &payee_key, "not by", &other_key],
    )?;

    let forge = |change: fn(&mut Terms)| {
        let mut forged = good.clone();
        change(&mut forged.terms);
        forged.to_string()
    };
    for forged in [
        forge(|terms| terms.amount = Msat::new(500_001)),
        forge(|terms| terms.time += 1),
        forge(|terms| terms.memo = Memo::default()),
        forge(|terms| terms.salt[0] ^= 1),
    ] {
        assert_said(verify(&forged, &[])?, &["forged"])?;
    }
    let mut mistyped = text.clone().into_bytes();
    mistyped[40] = if mistyped[40] == b'q' { b'p' } else { b'q' };
    for bad in [String::from_utf8(mistyped)?, text[..60].to_owned(), "coffee".to_owned(), String::new()] {
        assert_said(verify(&bad, &[])?, &["this is no receipt"])?;
    }
    Ok(())
}
