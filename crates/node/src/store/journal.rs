//! States that are stored but not in their channels' rows yet.
//!
//! A channel that pays for calls has a new state with each of them. Its row holds the setup as well and lies on a page with
//! one or two others, so to write the rows of many channels is to write nearly as many pages. So a write appends all states
//! that it brings to the journal, as one row; when [`MOST`] bytes have gathered there, the newest state of each channel goes
//! to its own row, and the journal is emptied, in the same transaction as the write that finds it full.
//!
//! **A channel's state** is the newest one in the journal, and the one in its row where the journal has none. Both are read
//! in one transaction. What folds the journal reads it there, and keeps nothing of it in memory: several connections may
//! write, each the states of its own channels.
//!
//! | bytes | of one state in a row of the journal |
//! |---|---|
//! | 32 | channel id |
//! | 4 | length, big-endian |
//! | so many | the state as it is encoded in the channel's row |

use std::collections::HashMap;

use farthing_protocol::ChannelId;
use rusqlite::{Connection, Transaction, params};
use serde::Serialize;

use super::{ENCODING, StoreError};

/// How many bytes may gather.
const MOST: usize = 4 << 20;

/// The states that one write brings, as the journal keeps them.
#[derive(Debug, Default)]
pub(super) struct States(Vec<u8>);

impl States {
    /// And this one.
    pub(super) fn push(&mut self, channel: ChannelId, state: &impl Serialize) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.extend_from_slice(channel.as_bytes());
        let start = bytes.len() + LENGTH;
        bytes.extend_from_slice(&[0; LENGTH]);
        bytes.push(ENCODING);
        let mut bytes = postcard::to_extend(state, bytes).expect("values of ours can be encoded into memory");
        let length = u32::try_from(bytes.len() - start).expect("a state is shorter than 4 GiB");
        bytes[start - LENGTH..start].copy_from_slice(&length.to_be_bytes());
        self.0 = bytes;
    }
}

/// The bytes of a length.
const LENGTH: usize = 4;

/// The states in one row, in their order.
fn read(mut row: &[u8]) -> impl Iterator<Item = Result<(ChannelId, &[u8]), StoreError>> {
    std::iter::from_fn(move || {
        if row.is_empty() {
            return None;
        }
        let mut next = || {
            let (id, rest) = row.split_first_chunk::<32>()?;
            let (length, rest) = rest.split_first_chunk::<LENGTH>()?;
            let (state, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            row = rest;
            Some((ChannelId::from_bytes(*id), state))
        };
        let state = next().ok_or_else(|| StoreError::corrupt("journal", "a state is cut off"));
        if state.is_err() {
            row = &[];
        }
        Some(state)
    })
}

/// The newest state of each channel that has one in the journal.
pub(super) fn newest(connection: &Connection) -> Result<HashMap<ChannelId, Vec<u8>>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT states FROM journal ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut newest = HashMap::new();
    for row in rows {
        for state in read(&row?) {
            let (id, state) = state?;
            newest.insert(id, state.to_vec());
        }
    }
    Ok(newest)
}

/// How full the journal is, as far as this connection knows. Others may have folded it meanwhile: then it folds again too
/// early, which does no harm.
#[derive(Debug, Default)]
pub(super) struct Journal {
    bytes: usize,
}

impl Journal {
    /// Looks how full it is.
    pub(super) fn open(connection: &Connection) -> Result<Self, StoreError> {
        let bytes: i64 =
            connection
                .query_row("SELECT coalesce(sum(length(states)), 0) FROM journal", [], |row| row.get(0))?;
        Ok(Self { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    /// Adds what a write brings; where there is no room, all that has gathered goes to the rows of its channels. Gives what is
    /// to be taken note of once the transaction is committed.
    pub(super) fn append(&self, transaction: &Transaction<'_>, states: &States) -> Result<Self, StoreError> {
        let States(bytes) = states;
        if bytes.is_empty() {
            return Ok(Self { bytes: self.bytes });
        }
        transaction.prepare_cached("INSERT INTO journal (states) VALUES (?1)")?.execute([bytes])?;
        let gathered = self.bytes.saturating_add(bytes.len());
        if gathered <= MOST {
            return Ok(Self { bytes: gathered });
        }
        fold(transaction)
    }
}

/// Moves all that has gathered to the rows of its channels. Gives what is to be taken note of once the transaction is
/// committed.
pub(super) fn fold(transaction: &Transaction<'_>) -> Result<Journal, StoreError> {
    let mut update = transaction.prepare_cached("UPDATE channels SET state = ?2 WHERE id = ?1")?;
    for (id, state) in newest(transaction)? {
        let changed = update.execute(params![id.as_bytes(), state])?;
        if changed != 1 {
            return Err(rusqlite::Error::StatementChangedRows(changed).into());
        }
    }
    transaction.execute("DELETE FROM journal", [])?;
    Ok(Journal::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(super::super::TABLES).unwrap();
        for index in 0..3_u8 {
            let id = [index; 32];
            let row = params![id, [index], [0_u8; 0]];
            connection.execute("INSERT INTO channels VALUES (?1, 0, ?2, ?3, ?3, ?3, 0)", row).unwrap();
        }
        connection
    }

    fn id(index: u8) -> ChannelId {
        ChannelId::from_bytes([index; 32])
    }

    fn row(connection: &Connection, index: u8) -> Vec<u8> {
        connection
            .query_row("SELECT state FROM channels WHERE id = ?1", [[index; 32]], |row| row.get(0))
            .unwrap()
    }

    fn write(connection: &mut Connection, journal: &Journal, states: &[(u8, &[u8])]) -> Journal {
        let mut brought = States::default();
        states.iter().for_each(|(index, state)| brought.push(id(*index), state));
        let transaction = connection.transaction().unwrap();
        let next = journal.append(&transaction, &brought).unwrap();
        transaction.commit().unwrap();
        next
    }

    fn encoded(state: &[u8]) -> Vec<u8> {
        super::super::encode(&state)
    }

    #[test]
    fn the_newest_state_counts_wherever_it_is_and_a_full_journal_goes_to_the_rows() {
        let mut connection = database();
        let long = vec![7; MOST / 3];
        let journal = write(&mut connection, &Journal::default(), &[(0, b"a"), (1, b"b")]);
        let journal = write(&mut connection, &journal, &[(1, &long)]);
        let gathered = newest(&connection).unwrap();
        assert_eq!(gathered.len(), 2);
        assert_eq!((&gathered[&id(0)], &gathered[&id(1)]), (&encoded(b"a"), &encoded(&long)));
        assert!(row(&connection, 1).is_empty(), "nothing is in the rows yet");
        assert_eq!(Journal::open(&connection).unwrap().bytes, journal.bytes);
        let journal = write(&mut connection, &journal, &[(2, &long)]);
        let journal = write(&mut connection, &journal, &[(0, &long), (1, b"c")]);
        assert_eq!(journal.bytes, 0);
        assert!(newest(&connection).unwrap().is_empty());
        assert_eq!(row(&connection, 0), encoded(&long));
        assert_eq!(row(&connection, 1), encoded(b"c"));
        assert_eq!(row(&connection, 2), encoded(&long));
    }

    #[test]
    fn of_two_connections_that_fold_none_brings_an_old_state_back() {
        let mut connection = database();
        let long = vec![7; MOST + 1];
        let other = write(&mut connection, &Journal::default(), &[(0, b"old")]);
        let found = Journal::open(&connection).unwrap();
        let mine = write(&mut connection, &found, &[(0, b"new")]);
        let mine = write(&mut connection, &mine, &[(1, &long)]);
        assert_eq!((mine.bytes, row(&connection, 0)), (0, encoded(b"new")));
        write(&mut connection, &other, &[(2, &long)]);
        assert_eq!(row(&connection, 0), encoded(b"new"));
    }

    #[test]
    fn a_write_that_is_not_committed_leaves_nothing_and_a_cut_row_is_no_state() {
        let mut connection = database();
        let mut states = States::default();
        states.push(id(0), &vec![7_u8; MOST + 1]);
        let transaction = connection.transaction().unwrap();
        assert_eq!(Journal::default().append(&transaction, &states).unwrap().bytes, 0);
        drop(transaction);
        assert!(newest(&connection).unwrap().is_empty() && row(&connection, 0).is_empty());
        for cut in [1, 31, 35, 36, 40] {
            connection.execute("DELETE FROM journal", []).unwrap();
            connection.execute("INSERT INTO journal (states) VALUES (?1)", [&states.0[..cut]]).unwrap();
            assert!(matches!(newest(&connection), Err(StoreError::Corrupt { .. })), "{cut}");
        }
    }
}
