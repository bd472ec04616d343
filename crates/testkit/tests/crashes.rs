//! The stories of these files again, in which each side dies before each of its saves and again right after it, and starts anew from what
//! it has stored (`common` does that): every one of them ends as it does without, to the satoshi.
#![expect(clippy::duplicate_mod, reason = "each of these files is a test of its own as well")]

#[path = "cpfp.rs"]
mod cpfp;
#[path = "endings.rs"]
mod endings;
#[path = "flat.rs"]
mod flat;
#[path = "openings.rs"]
mod openings;
#[path = "reorg.rs"]
mod reorg;
#[path = "rungs.rs"]
mod rungs;
