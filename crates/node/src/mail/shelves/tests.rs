use bitcoin::Network;
use farthing_protocol::cheque::book::{Book, Effect, Input};
use farthing_protocol::keys::{ChequeKeys, Seed};

use super::*;

/// Some time, in microseconds.
const NOW: u64 = 1_800_000_000_000_000;
const HOUR: u64 = 3_600;
const BLOB: [u8; 7_168] = [5; 7_168];

const BOUNDS: Bounds = Bounds {
    most_boxes: 2,
    most_letters: 3,
    most_prekeys: 5,
    most_bytes: 1 << 20,
    most_keep: 24 * HOUR,
    idle: 30 * DAY,
};

/// A mailbox at a time that the test sets, and an owner whose requests come one microsecond after the other.
struct Scene {
    database: Database,
    bounds: Bounds,
    now: u64,
    requests: u64,
    keys: ChequeKeys,
    _folder: tempfile::TempDir,
}

fn keys(byte: u8) -> ChequeKeys {
    Seed::new([byte; 64], Network::Regtest).cheque_keys()
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("mailbox")).unwrap();
        Self { database, bounds: BOUNDS, now: NOW, requests: 0, keys: keys(1), _folder: folder }
    }

    fn opened() -> Self {
        let mut scene = Self::new();
        let owned = scene.owned();
        scene.stored(|shelves| shelves.open_box(owned)).unwrap();
        scene
    }

    fn owner(&self) -> XOnlyPublicKey {
        self.keys.identity()
    }

    fn owned(&mut self) -> Owned {
        self.requests += 1;
        Owned { identity: self.owner(), time: self.now + self.requests }
    }

    /// One durable write.
    fn stored<T>(&mut self, work: impl FnOnce(&Shelves<'_>) -> Result<T, MailError>) -> Result<T, Refused> {
        let shelves = self.database.shelves(&self.bounds, self.now).unwrap();
        let outcome = match work(&shelves) {
            Ok(done) => Ok(done),
            Err(MailError::Refused(refused)) => Err(refused),
            Err(other) => panic!("{other}"),
        };
        shelves.commit().unwrap();
        outcome
    }

    fn post(&mut self, id: u8, keep: u64) -> Result<Posted, Refused> {
        let (to, expiry) = (self.owner(), self.now / 1_000_000 + keep);
        self.stored(|shelves| shelves.post(&to, &[id; 32], &BLOB, expiry))
    }

    fn fetch(&mut self, after: u64, most: u32) -> Vec<u64> {
        let owned = self.owned();
        let kept = self.stored(|shelves| shelves.fetch(owned, after, most)).unwrap();
        kept.into_iter().map(|kept| kept.cursor).collect()
    }

    fn delete(&mut self, id: u8) {
        let owned = self.owned();
        self.stored(|shelves| shelves.delete(owned, &[id; 32])).unwrap();
    }

    fn sweep(&mut self) {
        let has_more = self.stored(|shelves| Ok(shelves.sweep().unwrap()));
        assert_eq!(has_more, Ok(false));
    }

    fn publish(&mut self, prekeys: &[SignedPrekey]) -> Result<Standing, Refused> {
        let owned = self.owned();
        self.stored(|shelves| shelves.publish(owned, prekeys))
    }

    fn take(&mut self) -> Result<SignedPrekey, Refused> {
        let owner = self.owner();
        self.stored(|shelves| shelves.take(&owner))
    }

    fn prekeys(&self, generation: u16, count: u32) -> Vec<SignedPrekey> {
        let mut entropy = [0; 8];
        entropy[..2].copy_from_slice(&generation.to_be_bytes());
        let issued = Book::new(entropy).handle(&self.keys, Input::Issue(count)).unwrap();
        let (_, effects) = issued.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap();
        let [Effect::Publish(prekeys)] = effects.as_slice() else { panic!("{effects:?}") };
        prekeys.clone()
    }
}

#[test]
fn a_letter_comes_once_until_it_is_deleted_and_never_again() {
    let mut scene = Scene::opened();
    assert_eq!(scene.post(1, HOUR), Ok(Posted::New));
    assert_eq!(scene.post(1, 2 * HOUR), Ok(Posted::Before));
    assert_eq!(scene.post(2, HOUR), Ok(Posted::New));
    assert_eq!((scene.fetch(0, 9), scene.fetch(1, 9), scene.fetch(0, 1)), (vec![1, 2], vec![2], vec![1]));
    scene.delete(1);
    scene.delete(1);
    assert_eq!(scene.fetch(0, 9), [2]);
    assert_eq!(scene.post(1, HOUR), Ok(Posted::Before), "somebody posts again what was delivered");
    assert_eq!(scene.fetch(0, 9), [2]);
    scene.now += HOUR * 1_000_000;
    scene.sweep();
    assert_eq!(scene.post(1, HOUR), Ok(Posted::New), "its hash is forgotten with its expiry");
}

#[test]
fn a_box_takes_so_many_letters_until_some_are_deleted_or_expire() {
    let mut scene = Scene::opened();
    for (id, keep) in [(1, HOUR), (2, 2 * HOUR), (3, 2 * HOUR)] {
        assert_eq!(scene.post(id, keep), Ok(Posted::New));
    }
    assert_eq!(scene.post(4, HOUR), Err(Refused::BoxFull(3)));
    assert_eq!(scene.post(3, HOUR), Ok(Posted::Before));
    scene.delete(3);
    assert_eq!(scene.post(4, 2 * HOUR), Ok(Posted::New));
    assert_eq!(scene.post(5, HOUR), Err(Refused::BoxFull(3)));
    scene.now += HOUR * 1_000_000;
    assert_eq!(scene.fetch(0, 9).len(), 2, "what has expired does not come, swept or not");
    assert_eq!(scene.post(5, HOUR), Ok(Posted::New));
    for _ in 0..2 {
        scene.sweep();
    }
    assert_eq!(scene.post(6, HOUR), Err(Refused::BoxFull(3)), "the sweep counts each once");
}

#[test]
fn an_expiry_is_in_the_future_and_not_far() {
    let mut scene = Scene::opened();
    assert_eq!(scene.post(1, 0), Err(Refused::Expired));
    assert_eq!(scene.post(1, BOUNDS.most_keep + 1), Err(Refused::KeptTooLong { most: BOUNDS.most_keep }));
    assert_eq!(scene.post(1, BOUNDS.most_keep), Ok(Posted::New));
    let to = scene.owner();
    for expiry in [0, u64::MAX] {
        assert!(scene.stored(|shelves| shelves.post(&to, &[2; 32], &BLOB, expiry)).is_err());
    }
}

#[test]
fn the_database_does_not_outgrow_its_bound() {
    let mut scene = Scene::opened();
    scene.bounds.most_letters = 1_000;
    let posted = (0..200).take_while(|id| scene.post(*id, HOUR) == Ok(Posted::New)).count();
    assert!((90..130).contains(&posted), "{posted} letters of 7 KiB were posted into 1 MiB");
    assert_eq!(scene.post(200, HOUR), Err(Refused::Full));
    (0..10).for_each(|id| scene.delete(id));
    for id in 200..205 {
        assert_eq!(scene.post(id, HOUR), Ok(Posted::New), "what was deleted makes room");
    }
}

/// Its owner publishes one with each run, before it takes its letters.
#[test]
fn a_full_box_takes_one_prekey_more_also_in_a_full_mailbox() {
    let mut scene = Scene::opened();
    scene.bounds.most_letters = 1_000;
    let prekeys = scene.prekeys(1, 8);
    assert_eq!(scene.publish(&prekeys[..5]).unwrap().unused, 5);
    let posted = (0..200).take_while(|id| scene.post(*id, HOUR) == Ok(Posted::New)).count();
    assert!(posted < 200, "the mailbox is full");
    assert_eq!(scene.publish(&prekeys[5..6]).unwrap().unused, 5);
    assert_eq!(scene.take(), Ok(prekeys[1]), "the first gave up its place");
    // What is refused takes none away.
    assert_eq!(scene.publish(&prekeys[6..7]), Err(Refused::Full));
    assert_eq!((scene.take(), scene.take()), (Ok(prekeys[2]), Ok(prekeys[3])));
}

#[test]
fn boxes_are_so_many_and_an_idle_one_makes_room() {
    let mut scene = Scene::opened();
    for byte in [2, 3] {
        scene.keys = keys(byte);
        let owned = scene.owned();
        let opened = scene.stored(|shelves| shelves.open_box(owned));
        let expected = if byte == 2 { Ok(()) } else { Err(Refused::TooManyBoxes(2)) };
        assert_eq!(opened, expected);
    }
    assert_eq!(scene.post(1, HOUR), Err(Refused::NoBox));
    scene.keys = keys(1);
    scene.now += 20 * DAY * 1_000_000;
    let owned = scene.owned();
    scene.stored(|shelves| shelves.open_box(owned)).unwrap();
    scene.now += 12 * DAY * 1_000_000;
    scene.sweep();
    scene.keys = keys(3);
    let owned = scene.owned();
    assert_eq!(scene.stored(|shelves| shelves.open_box(owned)), Ok(()), "the second was idle for 32 days");
    scene.keys = keys(1);
    assert_eq!(scene.post(1, HOUR), Ok(Posted::New), "the first was asked for 12 days ago");
}

#[test]
fn an_owners_request_counts_once_and_in_order() {
    let mut scene = Scene::opened();
    let owned = scene.owned();
    let fetch = |scene: &mut Scene, time| {
        let owned = Owned { time, ..owned };
        scene.stored(|shelves| shelves.fetch(owned, 0, 9)).map(drop)
    };
    assert_eq!(fetch(&mut scene, owned.time), Ok(()));
    let least = owned.time + 1;
    for time in [owned.time, owned.time - 1, 0, NOW - WINDOW * 1_000_000 - 1, NOW + WINDOW * 1_100_000] {
        assert_eq!(fetch(&mut scene, time), Err(Refused::Stale { least }), "{time}");
    }
    assert_eq!(fetch(&mut scene, u64::MAX), Err(Refused::Stale { least }), "no time shuts the owner out");
    assert_eq!(fetch(&mut scene, least), Ok(()));
    scene.now = NOW - 9 * WINDOW * 1_000_000;
    assert_eq!(fetch(&mut scene, least + 1), Ok(()), "the clock was set back");
}

#[test]
fn a_prekey_is_given_once_and_not_taken_back_in() {
    let mut scene = Scene::opened();
    let prekeys = scene.prekeys(1, 8);
    assert_eq!(scene.take(), Err(Refused::NoPrekeys));
    assert_eq!(scene.publish(&prekeys[..4]).unwrap().unused, 4);
    assert_eq!(scene.publish(&prekeys[..4]).unwrap().unused, 4, "again");
    assert_eq!((scene.take(), scene.take()), (Ok(prekeys[0]), Ok(prekeys[1])));
    let standing = scene.publish(&prekeys[..4]).unwrap();
    assert_eq!((standing.unused, standing.next.unwrap().number), (2, 4), "what was given is not new");
    assert_eq!(
        scene.publish(&prekeys[4..]),
        Err(Refused::TooManyPrekeys { most: 5, room: 3 }),
        "a box has room for so many"
    );
    let mut reversed = prekeys[4..7].to_vec();
    reversed.extend_from_slice(&prekeys[4..7]);
    reversed.reverse();
    assert_eq!(scene.publish(&reversed).unwrap().unused, 5);
    assert_eq!(scene.publish(&prekeys[6..8]).unwrap().unused, 5, "one more takes the place of the first");
    let rest: Vec<SignedPrekey> = std::iter::from_fn(|| scene.take().ok()).collect();
    assert_eq!(rest, prekeys[3..8]);
    assert_eq!(scene.take(), Err(Refused::NoPrekeys));
}

#[test]
fn another_generation_takes_the_place_of_the_one_before() {
    let mut scene = Scene::opened();
    let (old, new) = (scene.prekeys(1, 5), scene.prekeys(2, 5));
    scene.publish(&old[..3]).unwrap();
    assert_eq!(scene.take(), Ok(old[0]));
    assert_eq!(scene.publish(&[old[3], new[0]]), Err(Refused::MixedGenerations));
    assert_eq!(scene.publish(&new).unwrap().unused, 5);
    assert_eq!(scene.take(), Ok(new[0]));
    // By an old copy of the owner's: it is told that another is in its place.
    let standing = scene.publish(&old).unwrap();
    assert_eq!((standing.unused, standing.next.unwrap().generation), (4, new[0].prekey.id.generation));
    assert_eq!(scene.take(), Ok(new[1]));
    for generation in 3..=256 {
        let prekeys = scene.prekeys(generation, 1);
        assert!(scene.publish(&prekeys).is_ok(), "{generation}");
    }
    let prekeys = scene.prekeys(257, 1);
    assert_eq!(scene.publish(&prekeys), Err(Refused::TooManyGenerations));
}

/// Whatever number a box was told to have published: its order fails at most, and nobody else's.
#[test]
fn what_cannot_be_stored_of_one_order_fails_no_other() {
    let mut scene = Scene::opened();
    let mut last = scene.prekeys(7, 1)[0];
    last.prekey.id.number = u32::MAX;
    assert!(scene.publish(&[last]).is_ok());
    let owned = scene.owned();
    assert_eq!(scene.stored(|shelves| shelves.standing(owned)).unwrap().unused, 1);

    let (owner, expiry) = (scene.owner(), scene.now / 1_000_000 + HOUR);
    let shelves = scene.database.shelves(&scene.bounds, scene.now).unwrap();
    let failed = shelves.alone(|shelves| {
        shelves.post(&owner, &[1; 32], &BLOB, expiry)?;
        Err::<(), _>(MailError::from(rusqlite::Error::InvalidQuery))
    });
    assert!(matches!(failed, Ok(Err(MailError::Store(_)))), "{failed:?}");
    shelves.alone(|shelves| shelves.post(&owner, &[2; 32], &BLOB, expiry)).unwrap().unwrap();
    let refused = shelves.alone(|shelves| shelves.post(&owner, &[3; 32], &BLOB, 0)).unwrap();
    assert!(matches!(refused, Err(MailError::Refused(Refused::Expired))), "{refused:?}");
    shelves.commit().unwrap();
    assert_eq!(scene.fetch(0, 9).len(), 1, "the second is kept, and nothing of the first");
}

#[test]
fn nothing_of_a_write_that_is_not_committed_stays() {
    let mut scene = Scene::opened();
    let prekeys = scene.prekeys(1, 1);
    scene.publish(&prekeys).unwrap();
    let (owner, expiry) = (scene.owner(), scene.now / 1_000_000 + HOUR);
    let shelves = scene.database.shelves(&scene.bounds, scene.now).unwrap();
    shelves.take(&owner).unwrap();
    shelves.post(&owner, &[1; 32], &BLOB, expiry).unwrap();
    drop(shelves);
    assert_eq!((scene.fetch(0, 9).len(), scene.take()), (0, Ok(prekeys[0])));
}
