//! A mailbox that crashes before or after each save: what it said is so, and nothing is given twice.

use anyhow::{Context as _, Result, ensure};
use farthing_testkit::crashes::at_every_point;
use farthing_testkit::people::free_address;
use farthing_testkit::{Person, World};

use super::{Visitor, open_box};

struct Stage {
    world: World,
}

/// Each step is tried until the mailbox, started again after its crash, answers.
fn insist<T>(
    operator: &Person,
    address: &str,
    mailbox: &mut farthing_testkit::Mailbox,
    crashed: &mut bool,
    mut step: impl FnMut() -> Result<T>,
) -> Result<T> {
    for _ in 0..3 {
        match step() {
            Ok(done) => return Ok(done),
            Err(error) => {
                ensure!(!*crashed, "it failed without a crash: {error:#}");
                let restarted = operator.keep_mail("0", address)?;
                let ended = std::mem::replace(mailbox, restarted).process.wait()?;
                ensure!(ended.has_crashed(), "{ended:?}");
                *crashed = true;
            }
        }
    }
    step()
}

#[test]
fn a_mailbox_that_crashes_at_any_point_keeps_its_word() -> Result<()> {
    let scene = || Ok(Stage { world: World::new(env!("CARGO_BIN_EXE_farthing"))? });
    let points = at_every_point(scene, |stage, point| {
        let operator = Person::new(&stage.world, &format!("operator-{point}"), 0)?;
        let payee = Person::new(&stage.world, &format!("payee-{point}"), 0)?;
        let address = free_address()?;
        // The box is there before.
        let before = operator.keep_mail("0", &address)?;
        open_box(&payee, &address, 4)?;
        before.process.stop()?.success()?;

        let mut crashed = false;
        let dying = operator.crashing_at(point).start_keeping_mail("0", &address)?;
        let mut mailbox = farthing_testkit::Mailbox::of(dying)?;
        let visitor = Visitor::new(&payee, &address)?;
        let mut insist = |step: &mut dyn FnMut() -> Result<()>| {
            insist(&operator, &address, &mut mailbox, &mut crashed, step)
        };
        let mut taken = Vec::new();
        let mut take = || {
            taken.push(visitor.take()?.prekey.id.number);
            Ok(())
        };
        insist(&mut take)?;
        let [first, second] = [visitor.letter(1)?, visitor.letter(2)?];
        insist(&mut || visitor.post(&first, 3_600))?;
        insist(&mut take)?;
        insist(&mut || visitor.post(&second, 3_600))?;
        let mut fetched = Vec::new();
        insist(&mut || {
            fetched = visitor.fetch(0)?;
            Ok(())
        })?;
        ensure!(fetched.len() == 2, "{} letters", fetched.len());
        insist(&mut || visitor.delete(&fetched[0]))?;
        insist(&mut || open_box(&payee, &address, 4).map(drop))?;
        mailbox.kill()?;

        let mailbox = operator.keep_mail("0", &address)?;
        let left = visitor.fetch(0)?;
        ensure!(left.len() == 1 && left[0].blob == second, "{} letters are left", left.len());
        while let Ok(prekey) = visitor.take() {
            taken.push(prekey.prekey.id.number);
        }
        let mut unlike = taken.clone();
        unlike.sort_unstable();
        unlike.dedup();
        ensure!(unlike.len() == taken.len(), "a prekey was given twice: {taken:?}");
        ensure!(taken.len() >= 5, "prekeys were lost: {taken:?}");
        mailbox.kill().context("it ran to the end")?;
        Ok(crashed)
    })?;
    ensure!(points >= 12, "only {points} points crashed");
    Ok(())
}

/// The payee's program dies while it fills its box up: no number is published twice, and the next run fills it.
#[test]
fn a_payee_that_crashes_while_it_publishes_fills_its_box_up_the_next_time() -> Result<()> {
    let scene = || Ok(Stage { world: World::new(env!("CARGO_BIN_EXE_farthing"))? });
    let points = at_every_point(scene, |stage, point| {
        let operator = Person::new(&stage.world, &format!("operator-{point}"), 0)?;
        let payee = Person::new(&stage.world, &format!("payee-{point}"), 0)?;
        let mailbox = operator.keep_mail("0", "127.0.0.1:0")?;
        let address = ["cheque", "address", "--mailbox", mailbox.address.as_str(), "--prekeys", "150"];
        let first = payee.crashing_at(point).attempt(&address)?;
        let crashed = first.has_crashed();
        if !crashed {
            first.success()?;
        }
        let second = payee.run(&address)?;
        ensure!(second["prekeys"] == 150 && second["new_generation"] == false, "{second}");
        let visitor = Visitor::new(&payee, &mailbox.address)?;
        let mut taken: Vec<u32> = Vec::new();
        while let Ok(prekey) = visitor.take() {
            taken.push(prekey.prekey.id.number);
        }
        ensure!(taken.len() == 150 && taken.is_sorted_by(|one, next| one < next), "{taken:?}");
        Ok(crashed)
    })?;
    ensure!(points >= 4, "only {points} points crashed");
    Ok(())
}
