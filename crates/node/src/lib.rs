//! Runs the state machines of `farthing-protocol` in the world: keeps their states, watches the chain, carries out
//! their effects.
//!
//! | part | does |
//! |---|---|
//! | [`home`] | the data folder: seed, lock, database |
//! | [`store`] | SQLite: what is stored, and how |
//! | [`books`] | one thread that runs every machine of one role and stores each batch of decisions in one durable write |
//! | [`machine`] | what the books need to know of a machine, and how its setup is stored |
//! | [`tabs`] | the accounts of payers that pay for calls, in memory, stored by the books |
//! | [`by_channel`] | maps by channel id |
//! | [`explain`] | what terms of flat mode mean before anything is locked |
//! | [`wallet`] | the on-chain wallet (BIP86), persisted in the same database |
//! | [`watch`] | looks at the chain and tells the machines |
//! | [`publish`] | brings a commitment into a block, with a child that pays for it where needed |
//! | [`spread`] | brings the outputs of a batch of calls into a block, in flat mode |
//! | [`device`] | runs LNGate's device |
//! | [`owner`] | the store of the owner of such devices, which closes their channels when they are gone |
//! | [`cabinet`] | what LNGate's gateway stores: values by place, with group commit |
//! | [`seats`] | how many connections a server takes |
//! | [`link`] | what device and gateway say to each other, encrypted |
//! | [`seller`], [`buyer`] | what a program that sells or buys uses |
//! | [`cheques`] | what a program that writes, passes on or cashes cheques uses |
//! | [`mail`] | a mailbox's letters and prekeys, in a database of their own |
//! | [`prekeys`] | the book of a payee of cheques |
//! | [`start`] | why a seller or a buyer does not start |
//! | [`entropy`] | randomness from the operating system |
//! | [`crash`] | places where a test may kill the process |
//! | `full_disk` | a disk that is full for a while, in stories |
//!
//! The rule that everything here serves: **nothing is sent, served, signed or broadcast before the state behind it is
//! stored.** Only [`books`] commits transitions; effects come out of nowhere else.

pub mod books;
pub mod buyer;
pub mod by_channel;
pub mod cabinet;
pub mod cheques;
pub mod crash;
pub mod device;
pub mod entropy;
pub mod explain;
#[cfg(feature = "crash-points")]
pub mod full_disk;
pub mod home;
pub mod link;
pub mod machine;
pub mod mail;
pub mod owner;
pub mod prekeys;
pub mod publish;
pub mod seats;
pub mod seller;
pub mod spread;
pub mod start;
pub mod store;
pub mod tabs;
mod waiting;
pub mod wallet;
pub mod watch;
