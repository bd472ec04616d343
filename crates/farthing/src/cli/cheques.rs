//! The command line of writing and cashing cheques, and of agents.

use std::path::PathBuf;

use clap::Args;
use secp256k1::XOnlyPublicKey;

use crate::amounts::AmountArgument;
use crate::cli::Spending;

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// Where to listen. For people elsewhere, put a server that speaks TLS before it.
    #[arg(long, default_value = "127.0.0.1:8405")]
    pub listen: String,
    /// A node that cheques can be passed on to: another agent's address. A channel to it is opened when there is none.
    #[arg(long, value_name = "URL")]
    pub towards: Vec<String>,
    /// What a channel to such a node locks.
    #[arg(long, default_value = "100000sat", value_name = "AMOUNT")]
    pub towards_capacity: AmountArgument,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

/// Arguments of `cheque write`.
#[derive(Debug, Args)]
pub struct WriteArguments {
    /// The payee's address, which begins with farthing1.
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// What the payee gets, for example 5000sat. In a new channel, the first must be large enough to be claimed on chain.
    #[arg(long)]
    pub amount: AmountArgument,
    /// What for. It stands on the receipt.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub memo: String,
    /// The agent that pays the payee while you are off: its address (default: `agent` of `cheque` in the configuration).
    #[arg(long, value_name = "URL")]
    pub agent: Option<String>,
    /// How many nodes may want their fee, the agent among them: one more than the payee will name with `cheque cash --via`.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub hops: u32,
    /// The most that all of them together may want, beside the amount. The payee names them later, and what it does not use stays with the
    /// agent.
    #[arg(long, default_value = "100sat", value_name = "AMOUNT")]
    pub max_fee: AmountArgument,
    /// For how many blocks a new channel to the agent lives at most [default: as long as both allow].
    #[arg(long, value_name = "BLOCKS")]
    pub lifetime: Option<u32>,
    /// What the mailbox may cost, and what a new channel locks.
    #[command(flatten)]
    pub spending: Spending,
}

/// Arguments of `cheque cash`.
#[derive(Debug, Args)]
pub struct CashArguments {
    /// The mailbox to look into (default: `mailbox` of `cheque` in the configuration).
    #[arg(long, value_name = "URL")]
    pub mailbox: Option<String>,
    /// A node between the agent and you, so that neither learns who pays whom: its address. The agent must have a channel to it. Several
    /// are given in their order from the agent; each must have a channel to the next, and you are paid by the last.
    #[arg(long, value_name = "URL")]
    pub via: Vec<String>,
    /// How long to wait for the funding of a new channel, in seconds. When it is not in a block by then, run this again.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

/// Arguments of `cheque list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Do not ask the agents for receipts.
    #[arg(long)]
    pub offline: bool,
    /// Where to put each receipt as a file of its own, named for its cheque.
    #[arg(long, value_name = "FOLDER")]
    pub receipts: Option<PathBuf>,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

/// Arguments of `cheque cancel`.
#[derive(Debug, Args)]
pub struct CancelArguments {
    /// The cheque, or the beginning of its name, as `farthing cheque list` shows it.
    pub cheque: String,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

/// Arguments of `cheque authorise`.
#[derive(Debug, Args)]
pub struct AuthoriseArguments {
    /// Who may pay: the key that `farthing cheque payer` shows to the payer.
    #[arg(long, value_name = "KEY")]
    pub to_payer: XOnlyPublicKey,
    /// What the payer may add to your channel, for example 5000sat. In a new channel, the first must be large enough to be
    /// claimed on chain.
    #[arg(long)]
    pub amount: AmountArgument,
    /// What for.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub memo: String,
    /// The agent that pays you: its address (default: `agent` of `cheque` in the configuration). A channel from it is opened when none
    /// is free.
    #[arg(long, value_name = "URL")]
    pub agent: Option<String>,
    /// For how many blocks the payer may pay, and the channel takes nothing else [default: as long as the channel allows].
    #[arg(long, value_name = "BLOCKS")]
    pub blocks: Option<u32>,
    /// The mailbox that your payer writes to (default: `mailbox` of `cheque` in the configuration).
    #[arg(long, value_name = "URL")]
    pub mailbox: Option<String>,
    /// How long to wait for the funding of a new channel, in seconds. When it is not in a block by then, run this again.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

/// Arguments of `cheque pay`.
#[derive(Debug, Args)]
pub struct PayArguments {
    /// The payee's invitation, which begins with farthingpay1. Without it, everything that was begun is looked after.
    pub invitation: Option<String>,
    /// The most that the agent may want for it, beside the amount.
    #[arg(long, default_value = "100sat", value_name = "AMOUNT")]
    pub max_fee: AmountArgument,
    /// How long to wait for the agent, in seconds. When it has not answered by then, run this again.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
    /// For how many blocks a new channel to the agent lives at most [default: as long as both and the invitation allow].
    #[arg(long, value_name = "BLOCKS")]
    pub lifetime: Option<u32>,
    /// What the mailbox may cost, and what a new channel locks.
    #[command(flatten)]
    pub spending: Spending,
}

/// Arguments of `cheque release`.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// The payee's invitation, which begins with farthingpay1.
    pub invitation: String,
    /// What the mailbox may cost.
    #[command(flatten)]
    pub spending: Spending,
}
