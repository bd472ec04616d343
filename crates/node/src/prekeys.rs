//! The book of a payee of cheques: which prekeys it has issued, and what each was used for, in a database of its own.
//!
//! **What the payee can lose.** Its receipt key, if a prekey were used for two receipts. So each decision reads the stored
//! book and stores the next one in one transaction, whichever process decides, before its effect comes out
//! ([`farthing_protocol::cheque::book`]).
//!
//! The book of a folder that came back from a backup may have forgotten what it used. A seed that is restored by its words
//! has no book, and begins a new generation by itself. A copy of the folder has one, so [`Prekeys::catch_up`] compares it with
//! what the mailbox says was published, and begins a new generation if the mailbox knows more. Whoever is about to use prekeys compares,
//! and publishes one more first: then the mailbox knows more than every copy that was made before. A mailbox that does not take that one has
//! those of another copy ([`Prekeys::confirm`]).

use std::path::Path;

use farthing_protocol::cheque::book::{Book, Effect, Input, Reject};
use farthing_protocol::cheque::prekey::{PrekeyId, SignedPrekey};
use farthing_protocol::keys::ChequeKeys;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::crash;
use crate::entropy;
use crate::store::{self, StoreError};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 1;
const TABLES: &str = "CREATE TABLE book (id INTEGER PRIMARY KEY CHECK (id = 0), book BLOB NOT NULL) STRICT;";

/// Why a book was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// It could not be read or stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The book refused.
    #[error(transparent)]
    Rejected(#[from] Reject),
}

impl From<rusqlite::Error> for BookError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A payee's book with its keys.
pub struct Prekeys {
    connection: Connection,
    keys: ChequeKeys,
}

impl Prekeys {
    /// Opens the book, and begins one when there is none.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn open(path: &Path, keys: ChequeKeys) -> Result<Self, StoreError> {
        Ok(Self { connection: store::connect(path, SCHEMA, &[(0, TABLES)])?, keys })
    }

    /// The payee's keys.
    pub fn keys(&self) -> &ChequeKeys {
        &self.keys
    }

    /// The book as it is stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn book(&mut self) -> Result<Book, BookError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let book = read(&transaction)?;
        transaction.commit()?;
        Ok(book)
    }

    /// Gives the book an input. The effects come out once the next book is stored.
    ///
    /// # Errors
    /// When the book refuses, or the next one cannot be stored. Then nothing changed.
    pub fn handle(&mut self, input: Input) -> Result<Vec<Effect>, BookError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let decided = read(&transaction)?.handle(&self.keys, input)?;
        crash::point();
        let (_, effects) = decided.commit(|next| {
            write(&transaction, next)?;
            transaction.commit().map_err(StoreError::from)
        })?;
        crash::point();
        Ok(effects)
    }

    /// Issues so many prekeys, to be published.
    ///
    /// # Errors
    /// When there are too many, or that they are issued cannot be stored.
    pub fn issue(&mut self, count: u32) -> Result<Vec<SignedPrekey>, BookError> {
        let effects = self.handle(Input::Issue(count))?;
        let issued = effects.into_iter().flat_map(|effect| match effect {
            Effect::Publish(prekeys) => prekeys,
            Effect::Ask(_) | Effect::Cash => Vec::new(),
        });
        Ok(issued.collect())
    }

    /// Compares the book with what its mailbox says: the least number of the generation that was not published there. A book
    /// that has issued fewer comes from a backup, so a new generation begins; whether it did.
    ///
    /// # Errors
    /// When the new book cannot be stored.
    pub fn catch_up(&mut self, published: Option<PrekeyId>) -> Result<bool, BookError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let ours = read(&transaction)?.next();
        let is_old = published
            .is_some_and(|theirs| theirs.generation == ours.generation && theirs.number > ours.number);
        if is_old {
            write(&transaction, &Book::new(entropy::bytes()))?;
        }
        transaction.commit()?;
        Ok(is_old)
    }

    /// Compares the book with what its mailbox answered when a prekey was published there. Anything else than that it has it, and nothing that
    /// this book has not issued by now, is of another copy of the book: so a new generation begins; whether one has begun since.
    ///
    /// # Errors
    /// When the new book cannot be stored.
    pub fn confirm(&mut self, published: PrekeyId, answered: Option<PrekeyId>) -> Result<bool, BookError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let ours = read(&transaction)?.next();
        let is_there = answered.is_some_and(|theirs| {
            theirs.generation == ours.generation
                && theirs.number > published.number
                && theirs.number <= ours.number
        });
        let is_newest = published.generation == ours.generation;
        if is_newest && !is_there {
            write(&transaction, &Book::new(entropy::bytes()))?;
        }
        transaction.commit()?;
        Ok(!is_newest || !is_there)
    }
}

fn read(transaction: &Transaction<'_>) -> Result<Book, StoreError> {
    let stored: Option<Vec<u8>> =
        transaction.query_row("SELECT book FROM book", [], |row| row.get(0)).optional()?;
    match stored {
        Some(book) => store::decode("book of prekeys", &book),
        None => {
            let book = Book::new(entropy::bytes());
            write(transaction, &book)?;
            Ok(book)
        }
    }
}

fn write(transaction: &Transaction<'_>, book: &Book) -> Result<(), StoreError> {
    transaction.execute("INSERT OR REPLACE INTO book VALUES (0, ?1)", [store::encode(book)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use farthing_protocol::cheque::prekey::Generation;
    use farthing_protocol::keys::Seed;

    use super::*;

    fn open(path: &Path) -> Prekeys {
        Prekeys::open(path, Seed::new([1; 64], Network::Regtest).cheque_keys()).unwrap()
    }

    #[test]
    fn no_number_is_issued_twice_by_whichever_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prekeys");
        let (mut one, mut other) = (open(&path), open(&path));
        let mut issued: Vec<PrekeyId> = Vec::new();
        for book in [&mut one, &mut other, &mut open(&path)] {
            issued.extend(book.issue(3).unwrap().iter().map(|prekey| prekey.prekey.id));
        }
        let numbers: Vec<u32> = issued.iter().map(|id| id.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(issued.iter().all(|id| id.generation == issued[0].generation));
        assert_eq!(one.book().unwrap().unused(), 9);
    }

    #[test]
    fn a_folder_from_a_backup_is_noticed_by_what_the_mailbox_knows() {
        let folder = tempfile::tempdir().unwrap();
        let [path, backup] = ["prekeys", "backup"].map(|name| folder.path().join(name));
        open(&path).issue(2).unwrap();
        std::fs::copy(&path, &backup).unwrap();
        let mut book = open(&path);
        book.issue(1).unwrap();
        let published = Some(book.book().unwrap().next());
        assert!(!book.catch_up(published).unwrap(), "nothing was lost");
        assert!(!book.catch_up(None).unwrap(), "the mailbox lost it");

        let mut restored = open(&backup);
        let old = restored.book().unwrap().next();
        assert!(restored.catch_up(published).unwrap());
        let new = restored.book().unwrap().next();
        assert!(new.generation != old.generation && new.number == 0);
        assert!(!restored.catch_up(published).unwrap(), "once");
    }

    /// The mailbox has the generation that began when the same copy came back before.
    #[test]
    fn a_folder_from_a_backup_is_noticed_when_it_comes_back_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = open(&folder.path().join("prekeys"));
        let publish = |book: &mut Prekeys| book.issue(1).unwrap()[0].prekey.id;
        let next = |book: &mut Prekeys| Some(book.book().unwrap().next());

        let published = publish(&mut book);
        let answered = next(&mut book);
        assert!(!book.confirm(published, answered).unwrap());
        publish(&mut book);
        let answered = next(&mut book);
        assert!(!book.confirm(published, answered).unwrap(), "another process has published more");

        let another = PrekeyId { generation: Generation::from_entropy([7; 8]), number: 9 };
        assert!(!book.catch_up(Some(another)).unwrap(), "of another generation this says nothing");
        let answers: [fn(PrekeyId) -> Option<PrekeyId>; 4] = [
            |published| Some(PrekeyId { generation: Generation::from_entropy([7; 8]), ..published }),
            Some,
            |published| Some(PrekeyId { number: published.number + 2, ..published }),
            |_published| None,
        ];
        for (index, answer) in answers.into_iter().enumerate() {
            let published = publish(&mut book);
            assert!(book.confirm(published, answer(published)).unwrap(), "{index}");
            let begun = book.book().unwrap().next();
            assert!(begun.generation != published.generation && begun.number == 0, "{index}");
            assert!(book.confirm(published, answer(published)).unwrap(), "another process begins again");
            assert_eq!(book.book().unwrap().next(), begun, "and does so once");
        }
    }
}
