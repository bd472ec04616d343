//! The tests of modules that need nothing of LDK's. They are compiled here once more without the rest: a test build of the library would
//! compile LDK once more, which takes minutes.
#![allow(dead_code, reason = "the library uses them")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

// What these modules find in `crate`.
use farthing_gateway::{caller, ldk, operator, records, shelf};

#[path = "../src/arrears.rs"]
mod arrears;
#[path = "../src/bans.rs"]
mod bans;
#[path = "../src/books.rs"]
mod books;
#[path = "../src/ldk/broadcaster.rs"]
mod broadcaster;
#[path = "../src/ldk/dial.rs"]
mod dial;
#[path = "../src/ends.rs"]
mod ends;
#[path = "../src/ldk/fees.rs"]
mod fees;
#[path = "../src/ldk/gossip.rs"]
mod gossip;
#[path = "../src/greeting.rs"]
mod greeting;
#[path = "../src/headers.rs"]
mod headers;
#[path = "../src/ledger.rs"]
mod ledger;
#[path = "../src/spending.rs"]
mod spending;
#[path = "../src/sweeps.rs"]
mod sweeps;
