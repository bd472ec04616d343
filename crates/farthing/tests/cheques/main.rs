//! Cheques through the driver, on a real bitcoind; and every story again with crashes.

mod carriers;
mod collusion;
mod crashes;
mod endings;
mod reverse;
mod routes;
