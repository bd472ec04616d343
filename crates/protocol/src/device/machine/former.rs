//! The device's states as they were written while every payment of a day had an entry ([`FormerPayments`]).

use serde::Deserialize;

use super::super::account::{Account, BridgeSide, HolderSide};
use super::super::payments::FormerPayments;
use super::super::policy::{Policy, Tip};
use super::{Closing, Open, Opening, State};

/// As they are read. They become [`State`]s.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FormerState(Stage);

/// In the order of [`State`], which names the fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
enum Stage {
    Opening(FormerAccount),
    Open(FormerAccount),
    Closing { account: FormerAccount, is_alone: bool, is_banned: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct FormerAccount {
    policy: Policy,
    tip: Tip,
    payments: FormerPayments,
    holder: HolderSide,
    bridge: BridgeSide,
}

impl From<FormerState> for State {
    fn from(FormerState(stage): FormerState) -> Self {
        match stage {
            Stage::Opening(account) => Self::Opening(Opening { account: account.into() }),
            Stage::Open(account) => Self::Open(Open { account: account.into() }),
            Stage::Closing { account, is_alone, is_banned } => {
                Self::Closing(Closing { account: account.into(), is_alone, is_banned })
            }
        }
    }
}

impl From<FormerAccount> for Account {
    fn from(FormerAccount { policy, tip, payments, holder, bridge }: FormerAccount) -> Self {
        Self { policy, tip, payments: payments.into(), holder, bridge }
    }
}
