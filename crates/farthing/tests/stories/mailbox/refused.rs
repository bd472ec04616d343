//! What a mailbox does not take, from whoever sends it; and what does not happen by it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Result, ensure};
use farthing_mailbox::blob;
use farthing_testkit::Person;
use farthing_testkit::calls::curl;
use farthing_testkit::mail::seconds_from_now;
use farthing_testkit::message::Message;
use farthing_testkit::relay::Relay;
use farthing_testkit::wait::{PATIENCE, until};

use super::{Visitor, ask, assert_said, open_box, people};

#[test]
fn letters_of_another_length_and_junk_are_refused_and_the_mailbox_goes_on() -> Result<()> {
    let (_world, operator, payee) = people()?;
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    let address = mailbox.address.as_str();
    open_box(&payee, address, 2)?;
    let visitor = Visitor::new(&payee, address)?;
    let good = format!("{}?expiry={}", visitor.letters(), seconds_from_now(3_600)?);
    let whole = visitor.letter(1)?;
    for length in [0, 1, blob::LENGTH - 1] {
        let answer = ask(address, "POST", &good, &whole.as_bytes()[..length])?;
        ensure!(
            (answer.status(), answer.problem()) == (400, "bad-request".to_owned()),
            "{length}: {answer:?}"
        );
    }
    let url = format!("http://{address}{good}");
    for length in [blob::LENGTH + 1, 100_000] {
        let file = operator.path("body");
        std::fs::write(&file, vec![7; length])?;
        let status = curl(&[
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--data-binary",
            &format!("@{}", file.display()),
            &url,
        ])?;
        ensure!(status == "400", "{length} bytes: {status}");
    }
    // A body that is announced and cut off.
    let mut cut = TcpStream::connect(address)?;
    cut.set_read_timeout(Some(PATIENCE))?;
    write!(cut, "POST {good} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", blob::LENGTH)?;
    cut.write_all(&whole.as_bytes()[..blob::LENGTH - 1])?;
    cut.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    let _reset = cut.read_to_end(&mut answer);
    ensure!(!answer.starts_with(b"HTTP/1.1 2"), "a truncated letter was taken");
    for (name, value) in [
        ("authorization", "Mailbox zzzz".to_owned()),
        ("authorization", format!("Mailbox {}", "00".repeat(72))),
        ("authorization", "Payment e30".to_owned()),
        ("lightspeed", "junk".to_owned()),
        ("authorization", "M".repeat(9_000)),
    ] {
        let junk =
            Message::request("GET", &visitor.letters(), address).with(name, &value).send_to(address)?;
        ensure!((400..500).contains(&junk.status()), "{name}: {value}: {junk:?}");
    }
    assert_eq!(visitor.fetch(0)?, []);
    visitor.post(&whole, 3_600)?;
    assert_eq!(visitor.fetch(0)?.len(), 1);
    Ok(())
}

/// Whoever listens on the way has the owner's very requests, and a stranger has keys of its own. Neither gets a letter, and
/// none is gone afterwards.
#[test]
fn what_is_overheard_or_signed_by_others_fetches_and_deletes_nothing() -> Result<()> {
    let (world, operator, payee) = people()?;
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    let address = mailbox.address.as_str();
    open_box(&payee, address, 1)?;
    let wire = Relay::recording(address)?;
    // The owner's requests name the host that it speaks to: the relay's.
    let overheard = Visitor::new(&payee, wire.address())?;
    let direct = Visitor::new(&payee, address)?;
    direct.post(&direct.letter(1)?, 3_600)?;
    let letter = overheard.fetch(0)?.remove(0);
    direct.post(&direct.letter(2)?, 3_600)?;
    let requests = wire.requests();
    ensure!(!requests.is_empty(), "something was overheard");
    for request in &requests {
        let replayed = request.send_to(address)?;
        ensure!((replayed.status(), replayed.problem()) == (409, "stale-request".to_owned()), "{replayed:?}");
        let elsewhere = request.clone().with("host", address).send_to(address)?;
        ensure!(elsewhere.status() == 403, "{elsewhere:?}");
    }

    let stranger = Person::new(&world, "stranger", 0)?;
    open_box(&stranger, address, 1)?;
    let proof = Relay::recording(address)?;
    let own = Visitor::new(&stranger, proof.address())?;
    own.fetch(0)?;
    let header =
        proof.requests().last().and_then(|request| request.header("authorization").map(str::to_owned));
    let header = header.unwrap_or_default();
    let id: String = letter.id().iter().map(|byte| format!("{byte:02x}")).collect();
    for (method, target) in [
        ("GET", direct.letters()),
        ("GET", format!("{}?after=0", direct.letters())),
        ("DELETE", format!("{}/{id}", direct.letters())),
    ] {
        let request = Message::request(method, &target, address);
        ensure!(request.send_to(address)?.status() == 403, "{method} without a proof");
        let foreign = request.with("authorization", &header).send_to(address)?;
        ensure!(
            foreign.status() == 403 && foreign.body.len() < blob::LENGTH,
            "{method} {target}: {foreign:?}"
        );
    }
    assert_eq!(direct.fetch(0)?.len(), 2);
    Ok(())
}

#[test]
fn a_full_box_takes_the_next_letter_when_one_is_deleted_or_has_expired() -> Result<()> {
    let (_world, operator, payee) = people()?;
    let operator = operator.with("FARTHING_MAILBOX__MOST_LETTERS", "2");
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    open_box(&payee, &mailbox.address, 1)?;
    let visitor = Visitor::new(&payee, &mailbox.address)?;
    visitor.post(&visitor.letter(1)?, 15)?;
    visitor.post(&visitor.letter(2)?, 3_600)?;
    visitor.post(&visitor.letter(2)?, 3_600)?;
    let refused = visitor.post(&visitor.letter(3)?, 3_600);
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("full")), "{refused:?}");
    until("the first expires", || Ok((visitor.fetch(0)?.len() == 1).then_some(())))?;
    visitor.post(&visitor.letter(3)?, 3_600)?;
    ensure!(visitor.post(&visitor.letter(4)?, 3_600).is_err(), "it is full again");
    visitor.delete(&visitor.fetch(0)?[0])?;
    visitor.post(&visitor.letter(4)?, 3_600)?;
    let contents: Vec<_> = visitor.fetch(0)?.into_iter().map(|letter| letter.blob).collect();
    assert_eq!(contents, [visitor.letter(3)?, visitor.letter(4)?]);
    Ok(())
}

#[test]
fn a_mailbox_without_postage_or_bounds_that_make_sense_does_not_start() -> Result<()> {
    let (_world, operator, payee) = people()?;
    let signet = operator.with("FARTHING_NETWORK", "signet");
    assert_said(signet.start_keeping_mail("0", "127.0.0.1:0")?.wait()?, &["--free", "set a price"])?;
    assert_said(operator.start_keeping_mail("5sat/piece", "127.0.0.1:0")?.wait()?, &["100msat/message"])?;
    for (name, value, said) in [
        ("FARTHING_MAILBOX__MOST_LETTERS", "0", "most_letters in [mailbox]"),
        ("FARTHING_MAILBOX__IDLE_DAYS", "1", "idle_days in [mailbox]"),
        ("FARTHING_MAILBOX__MOST_LETTRES", "1", "most_lettres"),
    ] {
        assert_said(operator.with(name, value).start_keeping_mail("0", "127.0.0.1:0")?.wait()?, &[said])?;
    }
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    let other = operator.start_keeping_mail("0", "127.0.0.1:0")?.wait()?;
    assert_said(other, &[&format!("process {}", mailbox.process.id())])?;
    assert_said(payee.attempt(&["cheque", "address"])?, &["--mailbox URL", "[cheque]"])?;
    assert_said(payee.attempt(&["cheque", "address", "--mailbox", "http://a b"])?, &["names no mailbox"])?;
    payee.attempt(&["cheque", "address", "--mailbox", "127.0.0.1:1"])?.failure(4)?;
    Ok(())
}
