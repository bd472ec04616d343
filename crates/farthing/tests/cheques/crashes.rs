//! The stories of this folder again, in which everybody dies before each of its saves and again right after it, and starts anew from what
//! it has stored (`carriers` does that): every one of them ends as it does without, to the satoshi.
#![expect(clippy::duplicate_mod, reason = "each of these files is told without crashes as well")]

#[path = "carriers/mod.rs"]
mod carriers;
#[path = "collusion.rs"]
mod collusion;
#[path = "endings.rs"]
mod endings;
#[path = "reverse.rs"]
mod reverse;
#[path = "routes.rs"]
mod routes;
