//! A mailbox that is killed in the middle of many requests has everything that it said it has, and gives no prekey twice.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use farthing_http::mailbox::Client;
use farthing_mailbox::{Address, Blob};
use farthing_testkit::mail::seconds_from_now;
use farthing_testkit::people::free_address;
use farthing_testkit::wait::until;
use tokio::task::JoinSet;

use super::{Visitor, open_box, people};

/// Posts letters and takes a prekey after each, until the mailbox does not answer. How many letters it has, and which
/// prekeys it gave.
async fn correspond(client: Client, to: Address, letters: Vec<Blob>, expiry: u64) -> (usize, Vec<u32>) {
    let (mut posted, mut given) = (0, Vec::new());
    for letter in &letters {
        let Ok(()) = client.post(&to, letter, expiry).await else { break };
        posted += 1;
        let Ok(prekey) = client.take_prekey(&to).await else { break };
        given.push(prekey.prekey.id.number);
    }
    (posted, given)
}

#[test]
fn of_a_thousand_letters_each_comes_once_in_their_order() -> Result<()> {
    let (_world, operator, payee) = people()?;
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    open_box(&payee, &mailbox.address, 1_000)?;
    let visitor = Visitor::new(&payee, &mailbox.address)?;
    let expiry = seconds_from_now(3_600)?;
    let letters: Vec<_> = (0..1_000).map(|content| visitor.letter(content)).collect::<Result<_>>()?;
    let mut posters = JoinSet::new();
    for some in letters.chunks(125) {
        let (client, to) = (visitor.client.clone(), visitor.owner.address().clone());
        posters.spawn_on(correspond(client, to, some.to_vec(), expiry), visitor.runtime.handle());
    }
    let done = visitor.runtime.block_on(posters.join_all());
    assert_eq!(done.iter().map(|(posted, _)| posted).sum::<usize>(), 1_000);
    let given: HashSet<u32> = done.into_iter().flat_map(|(_, given)| given).collect();
    assert_eq!(given.len(), 1_000, "each took a prekey of its own");

    let fetched = visitor.fetch_all()?;
    ensure!(fetched.is_sorted_by(|one, next| one.cursor < next.cursor), "the oldest come first");
    let unlike: HashSet<_> = fetched.iter().map(|letter| *letter.blob.as_bytes()).collect();
    let posted: HashSet<_> = letters.iter().map(|letter| *letter.as_bytes()).collect();
    assert!(fetched.len() == 1_000 && unlike == posted, "{} letters came", fetched.len());
    let database = operator.path("regtest/mailbox.sqlite");
    assert_eq!(std::fs::metadata(database)?.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[test]
fn a_mailbox_killed_again_and_again_gives_no_prekey_twice_and_loses_no_letter() -> Result<()> {
    const WORKERS: u32 = 4;
    const LETTERS: u32 = 100;
    let (_world, operator, payee) = people()?;
    let address = free_address()?;
    let mut mailbox = operator.keep_mail("0", &address)?;
    open_box(&payee, &address, 900)?;
    let visitor = Visitor::new(&payee, &address)?;
    let expiry = seconds_from_now(3_600)?;
    let (mut kept, mut given) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let letters = |worker| -> Result<Vec<Blob>> {
            let first = (round * WORKERS + worker) * LETTERS;
            (first..first + LETTERS).map(|content| visitor.letter(content)).collect()
        };
        let letters = (0..WORKERS).map(letters).collect::<Result<Vec<_>>>()?;
        let correspondents: Vec<_> = letters
            .iter()
            .map(|letters| {
                let (client, to) = (visitor.client.clone(), visitor.owner.address().clone());
                visitor.runtime.spawn(correspond(client, to, letters.clone(), expiry))
            })
            .collect();
        let enough = 10 * (round as usize + 1);
        until("letters come", || Ok((visitor.fetch(0)?.len() >= enough).then_some(())))?;
        mailbox.kill()?;
        for (correspondent, letters) in correspondents.into_iter().zip(letters) {
            let (posted, prekeys) = visitor.runtime.block_on(correspondent)?;
            kept.extend(letters.into_iter().take(posted));
            given.extend(prekeys);
        }
        mailbox = operator.keep_mail("0", &address)?;
    }
    let before = given.len();
    while let Ok(prekey) = visitor.take() {
        given.push(prekey.prekey.id.number);
    }
    let unlike: HashSet<&u32> = given.iter().collect();
    ensure!(unlike.len() == given.len(), "a prekey was given twice");
    ensure!(before > 0 && given.len() <= 900, "{before} before the end, {} in all", given.len());
    let fetched: HashSet<_> =
        visitor.fetch_all()?.into_iter().map(|letter| *letter.blob.as_bytes()).collect();
    let lost = kept.iter().filter(|letter| !fetched.contains(letter.as_bytes())).count();
    ensure!(lost == 0, "{lost} of {} letters that were answered for are lost", kept.len());
    Ok(())
}
