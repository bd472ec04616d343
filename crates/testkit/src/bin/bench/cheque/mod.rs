//! Cheques: what it costs to be paid while one is offline.
//!
//! | file | measures |
//! |---|---|
//! | [`mailbox`] | letters a second that a mailbox takes and stores, and the disk that one cheque fills there |

mod mailbox;

use serde_json::{Value, json};

use self::mailbox::Mailbox;
use crate::farthing::Folder;
use crate::report::{round, table};

/// Everything that was measured of cheques.
pub struct Report {
    mailbox: Mailbox,
}

/// Measures everything.
pub fn measure() -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    eprintln!("letters that a mailbox takes …");
    let mailbox = mailbox::measure(&folder)?;
    Ok(Report { mailbox })
}

impl Report {
    pub fn to_json(&self) -> Value {
        let Self { mailbox } = self;
        json!({
            "bench": "cheque",
            "mailbox_messages_per_s": round(mailbox.letters_per_s, 0),
            "bytes_stored_per_cheque": round(mailbox.bytes_per_cheque, 0),
            "mailbox_prekeys_per_s": round(mailbox.prekeys_per_s, 0),
            "connections": { "mailbox": mailbox::CONNECTIONS },
            "rounds": { "mailbox": mailbox::ROUNDS },
        })
    }

    pub fn to_table(&self) -> String {
        let Self { mailbox } = self;
        let rows = [
            ("letters a mailbox takes and stores".to_owned(), format!("{:.0} /s", mailbox.letters_per_s), ""),
            ("  prekeys it gives out".to_owned(), format!("{:.0} /s", mailbox.prekeys_per_s), ""),
            ("  its disk for one cheque".to_owned(), format!("{:.0} bytes", mailbox.bytes_per_cheque), ""),
        ];
        table("Cheques", rows)
    }
}
