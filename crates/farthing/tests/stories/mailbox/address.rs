//! `farthing cheque address`: an address that payers can use, and prekeys that are filled up.

use anyhow::{Context as _, Result, ensure};
use farthing_mailbox::Address;

use super::{Visitor, open_box, people};

#[test]
fn an_address_names_its_payee_and_is_filled_up_when_prekeys_were_used() -> Result<()> {
    let (_world, operator, payee) = people()?;
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    let first = open_box(&payee, &mailbox.address, 7)?;
    let address: Address = first["address"].as_str().context("an address")?.parse()?;
    let visitor = Visitor::new(&payee, &mailbox.address)?;
    ensure!(address == *visitor.owner.address() && address.host.as_str() == mailbox.address, "{address:?}");
    let prekey = visitor.take()?;
    ensure!(first["receipt_key"] == prekey.payee.to_string(), "{first}");
    visitor.take()?;
    let second = open_box(&payee, &mailbox.address, 7)?;
    ensure!(second["address"] == first["address"] && second["prekeys"] == 7, "{second}");
    let mut numbers: Vec<u32> = Vec::new();
    while let Ok(prekey) = visitor.take() {
        numbers.push(prekey.prekey.id.number);
    }
    assert_eq!(numbers, [2, 3, 4, 5, 6, 7, 8]);

    // The mailbox of the configuration.
    let configured =
        payee.with("FARTHING_CHEQUE__MAILBOX", &mailbox.address).with("FARTHING_CHEQUE__PREKEYS", "3");
    let third = configured.run(&["cheque", "address"])?;
    ensure!(third["prekeys"] == 3 && third["address"] == first["address"], "{third}");
    Ok(())
}

/// A copy of the folder has forgotten what it issued since; the words alone know nothing of it. Either way no prekey is
/// published that was published before.
#[test]
fn a_payee_that_comes_back_from_a_backup_publishes_new_prekeys() -> Result<()> {
    let (world, operator, payee) = people()?;
    let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
    open_box(&payee, &mailbox.address, 3)?;
    let visitor = Visitor::new(&payee, &mailbox.address)?;
    let book = payee.path("regtest/prekeys.sqlite");
    let backup = payee.path("backup");
    std::fs::copy(&book, &backup)?;
    let old = visitor.take()?.prekey.id;
    open_box(&payee, &mailbox.address, 3)?;

    std::fs::copy(&backup, &book)?;
    let restored = open_box(&payee, &mailbox.address, 3)?;
    ensure!(restored["new_generation"] == true && restored["prekeys"] == 3, "{restored}");
    let new = visitor.take()?.prekey.id;
    ensure!(new.generation != old.generation && new.number == 0, "{new:?} after {old:?}");

    // The same copy once more: by now the mailbox has another generation than it.
    std::fs::copy(&backup, &book)?;
    let restored = open_box(&payee, &mailbox.address, 3)?;
    ensure!(restored["new_generation"] == true && restored["prekeys"] == 3, "{restored}");
    let newest = visitor.take()?.prekey.id;
    let known = [old.generation, new.generation];
    ensure!(!known.contains(&newest.generation) && newest.number == 0, "{newest:?} after {known:?}");
    let new = newest;

    std::fs::remove_file(&book)?;
    let again = open_box(&payee, &mailbox.address, 2)?;
    ensure!(again["prekeys"] == 2, "what another generation left there does not count: {again}");
    let newer = visitor.take()?.prekey.id;
    ensure!(newer.generation != new.generation && newer.number == 0, "{newer:?} after {new:?}");
    drop(world);
    Ok(())
}
