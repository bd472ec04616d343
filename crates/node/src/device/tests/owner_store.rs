//! A device that waits for its owner's store. The store has its own disk; after every request both are started anew from their files.

use farthing_protocol::device::kept::NotKept;

use super::*;
use crate::owner::close::Closing;
use crate::owner::store::{KeepError, ToClose};

impl World {
    /// A channel that is open, of a device that waits.
    fn open_waiting(is_thorough: bool) -> Self {
        let address = format!("{}@127.0.0.1:1", "00".repeat(32)).parse().unwrap();
        Self { is_thorough, ..Self::new_with(Some(&address)) }.opened()
    }

    fn approve_toll(&mut self) -> (Htlc, Preimage) {
        let (invoice, preimage) = invoice();
        let (channel, tip) = (self.channel, self.device().headers().tip());
        self.device().give(channel, Input::Approve { invoice, source: Source::Direct, tip }).unwrap();
        (htlc(&preimage), preimage)
    }

    /// What the owner would publish from its store: this closes the store.
    fn published_by_owner(&mut self) -> Publication {
        let ToClose { kept, hashes } = self.owner_store.as_mut().unwrap().close("car").unwrap().remove(0);
        let secret = self.home.secret().unwrap();
        let policy = enrolled().policy.verify(&enrolled().enrolment.owner).unwrap();
        let to_close = ToClose { kept, hashes };
        let mut closing = Closing::new(to_close, &secret, enrolled().enrolment, policy).unwrap();
        let effects = crate::device::alone::Closable::give(&mut closing, Input::CloseAlone).unwrap();
        let Some(Effect::Publish(publication)) = effects.into_iter().next() else { panic!("a publication") };
        *publication
    }

    fn owner_files_with(&self, forms: &[Vec<u8>]) -> BTreeSet<String> {
        let folder = self.owner_home();
        forms.iter().flat_map(|form| files_with(folder.path(), form)).collect()
    }
}

/// `World::assert_kept` looks at every secret on its way.
#[test]
fn opens_and_pays_with_a_crash_of_device_and_store_before_and_after_every_save() {
    let mut world = World::open_waiting(true);
    assert_eq!(world.kept, Some(CommitmentNumber::FIRST), "before the funding may be signed");
    let (htlc, preimage) = world.approve_toll();
    world.restart();
    world.pay(htlc, preimage);
    // A keep has four places: before and after its save, after erasing, and before the acknowledgement leaves.
    assert!(world.crashes > 100, "{}", world.crashes);
    let own = world.publication();
    assert_eq!(world.published_by_owner(), own, "the owner has what the device has");
}

#[test]
fn with_a_payment_under_way_the_owner_publishes_what_the_device_would() {
    let mut world = World::open_waiting(false);
    let (htlc, _) = world.approve_toll();
    world.sign_bridge(&[], add(htlc));
    let to_close = world.owner_store.as_mut().unwrap().close("car").unwrap();
    assert_eq!(to_close.len(), 1);
    assert_eq!(to_close[0].hashes, [htlc.payment_hash], "kept before the bridge's commitment was signed");

    let mut world = World::open_waiting(false);
    world.approve_toll();
    world.sign_bridge(&[], add(htlc));
    world.bridge_revokes();
    world.validate_holder(&[], add(htlc));
    world.revoke();
    let own = world.publication();
    assert_eq!(own.htlc_timeouts.len(), 1);
    assert_eq!(world.published_by_owner(), own);
}

#[test]
fn a_revoked_commitments_signatures_are_in_no_file_of_the_store_when_its_secret_leaves() {
    let mut world = World::open_waiting(false);
    let old = signatures(&mut world);
    assert_ne!(world.owner_files_with(&old), BTreeSet::new(), "else this test would show nothing");
    let dearer = |contents: &mut Contents| contents.fee_rate = FeeRate::from_sat_per_kwu(2_000);
    world.sign_bridge(&[], dearer);
    world.bridge_revokes();
    world.validate_holder(&[], dearer);
    assert_ne!(world.owner_files_with(&old), BTreeSet::new(), "it can still be published");
    world.revoke();
    // Nothing was closed in good order: that would empty the log.
    assert_eq!(world.owner_files_with(&old), BTreeSet::new());
    let new = signatures(&mut world);
    assert_ne!(world.owner_files_with(&new), BTreeSet::new());
}

#[test]
fn a_store_that_closes_acknowledges_nothing_and_gives_the_same_again() {
    let mut world = World::open_waiting(false);
    let first = world.published_by_owner();
    let channel = world.channel;
    let kept = world.device().to_keep(channel).unwrap();
    let store = world.owner_store.as_mut().unwrap();
    let refused = store.keep("car", &enrolled().enrolment, kept.clone());
    assert!(matches!(refused, Err(KeepError::Rule(NotKept::Closing))), "{refused:?}");
    // Of another device it is another channel.
    store.keep("bus", &enrolled().enrolment, kept).unwrap();
    world.owner_store = Some(world.owner_home().store().unwrap());
    assert_eq!(world.published_by_owner(), first);
}

#[test]
fn nothing_is_acknowledged_while_the_stores_log_cannot_be_emptied() {
    let mut world = World::open_waiting(false);
    let (channel, home) = (world.channel, world.owner_home());
    let kept = world.device().to_keep(channel).unwrap();
    let store = world.owner_store.as_mut().unwrap();
    store.patience(std::time::Duration::from_millis(50));
    // Somebody else reads, and has not finished.
    let reader = rusqlite::Connection::open(home.path().join("store.sqlite")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count: u32 = reader.query_row("SELECT count(*) FROM channels", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    // A row of its own: what is the same as before is not written, and leaves nothing to be erased.
    let refused = store.keep("bus", &enrolled().enrolment, kept.clone());
    assert!(matches!(refused, Err(KeepError::Store(_))), "{refused:?}");
    reader.execute_batch("COMMIT").unwrap();
    store.keep("bus", &enrolled().enrolment, kept).unwrap();
}

/// A device could fill the disk of its owner's machine.
#[test]
fn a_device_has_so_many_channels_in_the_store_and_no_more() {
    let mut world = World::open_waiting(false);
    let (_, life) = world.device().lives().next().unwrap();
    // The same channel under many names: nothing else is wrong with any of them.
    let named = |number: usize| {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&number.to_be_bytes());
        life.state().account().to_keep(ChannelKeysId(name), &life.setup().terms).unwrap()
    };
    let (channels, one_more): (Vec<Kept>, Kept) =
        ((0..MOST_CHANNELS).map(named).collect(), named(MOST_CHANNELS));
    let (store, enrolment) = (world.owner_store.as_mut().unwrap(), enrolled().enrolment);
    for kept in &channels {
        store.keep("bus", &enrolment, kept.clone()).unwrap();
    }
    let refused = store.keep("bus", &enrolment, one_more.clone()).unwrap_err();
    assert!(matches!(refused, KeepError::TooMany), "{refused:?}");
    assert!(refused.to_string().starts_with("store-channels: "), "{refused}");
    // Those that are there go on, and other devices have their own.
    store.keep("bus", &enrolment, channels[0].clone()).unwrap();
    store.keep("car", &enrolment, one_more).unwrap();
    assert_eq!(store.close("bus").unwrap().len(), MOST_CHANNELS);
}
