//! Scenarios on a real bitcoind, crash injection and benchmarks. Never released.
