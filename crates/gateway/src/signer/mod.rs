//! The joint signer of a channel, as LDK sees it: it never waits. It takes an order to the desk and answers `Err(())`; when the device has
//! done its part, LDK is told to ask again (`signer_unblocked`) and finds the answer on the desk.
//!
//! | file | does |
//! |---|---|
//! | [`provider`] | gives LDK a signer for each channel, and new channels their keys out of a pool |
//! | [`joint`] | the signer of one channel |
//! | [`desk`] | orders and answers of one channel |

pub mod desk;
pub mod joint;
pub mod provider;
