//! The command line.

mod cheques;
mod device;
mod mail;

use std::path::PathBuf;

use bitcoin::Network;
use clap::{Args, Parser, Subcommand, ValueEnum};
use farthing_http::caller::Means;
use farthing_protocol::Msat;

pub use self::device::{DeviceCommand, Limits, OwnerCommand};
use crate::amounts::{AmountArgument, PriceArgument, RouteArgument, SizeArgument};
pub use crate::cli::cheques::{
    AgentArguments, AuthoriseArguments, CancelArguments, CashArguments, ListArguments, PayArguments,
    ReleaseArguments, WriteArguments,
};
pub use crate::cli::mail::{AddressArguments, ChequeCommand, MailboxCommand, ReceiptCommand, ServeArguments};
use crate::config;

/// Sell and buy over one-way payment channels on Bitcoin: no account, no custodian, no Lightning node.
///
/// To see it all on a private chain, run `farthing demo`. To use it: `farthing init`, send some coins to `farthing wallet
/// address`, then `farthing sell FILE --price 100msat/KiB` on one side and `farthing buy URL -o FILE --max-cost 5000sat`
/// on the other. Both need a bitcoind of their network.
///
/// Exit codes: 1 anything else, 2 over --max-cost, 3 a payment or channel failed, 4 somebody cannot be reached.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// The Bitcoin network: regtest, signet, testnet4 or mainnet (also called bitcoin).
    #[arg(long, global = true, value_parser = config::network)]
    pub network: Option<Network>,

    /// Where seeds and channels are kept [default: ~/.farthing].
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,

    /// The configuration [default: FOLDER/farthing.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use real bitcoin although nobody has audited this code.
    #[arg(long, global = true)]
    pub mainnet_unaudited: bool,

    /// Print JSON. It is also what is printed when the output is not a terminal.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to log on standard error, as `tracing` filters are written.
    #[arg(long, global = true, default_value = "warn", value_name = "FILTER")]
    pub log: String,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a seed and a wallet. Next: `farthing wallet address`.
    Init(InitArguments),
    /// The on-chain wallet that pays for channels and receives what they earn.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Sell a file piece by piece over HTTP, or put a price on another server's calls, until stopped. Next: buyers run `farthing buy URL`
    /// or `farthing call URL`; what they paid is in `farthing channels list`.
    Sell(Box<SellArguments>),
    /// Buy a file piece by piece. Next, if it fails: the same command again goes on where it stopped.
    Buy(BuyArguments),
    /// Call an API that asks for a payment with each call, as curl would. Next: more calls go through the same channel; `farthing channels
    /// close` ends it.
    Call(Box<CallArguments>),
    /// Listen on a local address and pay for whatever other programs call through it, until stopped. Next: give your program the
    /// address that it prints as the base URL of the API.
    Proxy(ProxyArguments),
    /// The channels of this data folder.
    #[command(subcommand)]
    Channels(ChannelsCommand),
    /// Hold cheques for writers, and pay them to payees or pass them on, until stopped. Next: writers run `farthing cheque write
    /// --agent URL`.
    Agent(AgentArguments),
    /// Payments to somebody who is offline. Next, to be paid so: `farthing cheque address --mailbox URL`.
    #[command(subcommand)]
    Cheque(ChequeCommand),
    /// Receipts of cheques, which anybody can check.
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Keep sealed mail for payees that are offline, for postage.
    #[command(subcommand)]
    Mailbox(MailboxCommand),
    /// A small device that pays Lightning invoices through a gateway that it need not trust.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// What the owner of devices does, on its own machine.
    #[command(subcommand)]
    Owner(OwnerCommand),
    /// LNGate: run a Lightning node for small devices that need not trust it, or ask one that runs.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Show everything on a private chain, with real processes and a real bitcoind. Next: `farthing init`, to do it yourself.
    Demo(DemoArguments),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// Restore from the BIP39 words read from standard input.
    #[arg(long)]
    pub restore: bool,
    /// The block height from which to look for the restored wallet's coins.
    #[arg(long, default_value_t = 0, requires = "restore", value_name = "HEIGHT")]
    pub birthday: u32,
}

/// What to do with the wallet.
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// Print an address that was never used. Next: send coins to it and wait for a confirmation.
    Address,
    /// Print what the wallet holds. Next: `farthing buy` or `farthing sell`, once something is confirmed.
    Balance,
    /// Send coins. Next: `farthing wallet balance`, where they are pending until a block has them.
    Send {
        /// To whom.
        address: String,
        /// How much, or `all`.
        amount: String,
    },
}

/// Arguments of `sell`.
#[derive(Debug, Args)]
pub struct SellArguments {
    /// The file.
    #[arg(required_unless_present = "upstream", conflicts_with = "upstream")]
    pub file: Option<PathBuf>,
    /// The server to put a price on: its plain http address.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// The price: 100msat/KiB for a file, 10msat/call for a server; 0 gives it away.
    #[arg(long)]
    pub price: PriceArgument,
    /// Another price for some calls, as `[METHOD ]PATH=AMOUNT`; a path that ends with * fits all that begin so. The first
    /// that fits counts.
    #[arg(long, requires = "upstream", value_name = "ROUTE")]
    pub route: Vec<RouteArgument>,
    /// Let every call through for free, and only log what it would have cost.
    #[arg(long, requires = "upstream")]
    pub shadow: bool,
    /// How many seconds the server may take to begin its answer, and to end a short one. After them the call fails, and costs nothing.
    #[arg(long, requires = "upstream", default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Flat mode: each call is paid by a secret of its own, which opens an output of its own on the chain, in batches of at
    /// most that many calls. What that costs is shown at the start. Without it, calls are paid by words.
    #[arg(long, requires = "upstream", value_name = "OUTPUTS")]
    pub flat: Option<u32>,
    /// Up to which fee rate an output of flat mode must be worth taking, in sat/vB.
    #[arg(long, requires = "flat", default_value_t = 5, value_name = "RATE")]
    pub flat_fee_rate: u32,
    /// Where to listen. For buyers elsewhere, put a server that speaks TLS before it.
    #[arg(long, default_value = "127.0.0.1:8402")]
    pub listen: String,
    /// The size of a piece of the file, a power of two: what a buyer risks at once.
    #[arg(long, default_value = "1MiB")]
    pub piece: SizeArgument,
}

/// What paying for calls may cost.
#[derive(Clone, Copy, Debug, Args)]
pub struct Spending {
    /// The most for one call, for example 1sat. `proxy` pays 2000sat at most unless this says otherwise.
    #[arg(long, value_name = "AMOUNT")]
    pub max_cost: Option<AmountArgument>,
    /// The most that sellers can claim of what this process pays. As the next two, it counts the first payment in a new channel, which pays
    /// for the first calls.
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Option<AmountArgument>,
    /// The same for a day (UTC), by all processes of this data folder.
    #[arg(long, value_name = "AMOUNT")]
    pub day_budget: Option<AmountArgument>,
    /// The same for one seller, over all its channels.
    #[arg(long, value_name = "AMOUNT")]
    pub payee_budget: Option<AmountArgument>,
    /// What a new channel locks to pay from; the fee of its commitment is locked on top, and is at most as much again. What is not
    /// spent comes back when it is closed together; a seller that closes alone keeps the first payment. When it is used up, another
    /// channel follows, within the budgets [default: 20000sat].
    #[arg(long, value_name = "AMOUNT")]
    pub deposit: Option<AmountArgument>,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
}

impl Spending {
    /// The deposit that was named, or the usual one.
    pub fn deposit_or_usual(&self) -> Msat {
        self.deposit.map_or(Means::default().deposit, |deposit| deposit.0)
    }
}

/// Arguments of `call`.
#[derive(Debug, Args)]
pub struct CallArguments {
    /// What to call.
    pub url: String,
    /// The method [default: GET, or POST with -d].
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub request: Option<String>,
    /// A header, as `Name: value`.
    #[arg(short = 'H', long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// The body; @FILE reads it from a file, @- from standard input.
    #[arg(short = 'd', long, value_name = "DATA")]
    pub body: Option<String>,
    /// Where to put the answer's body [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the answer's head too.
    #[arg(short, long)]
    pub include: bool,
    /// Show the price and what would be locked, and stop.
    #[arg(long, conflicts_with = "no_pay")]
    pub dry_run: bool,
    /// Call without paying, and show what comes.
    #[arg(long)]
    pub no_pay: bool,
    /// What it may cost.
    #[command(flatten)]
    pub spending: Spending,
}

/// Arguments of `proxy`.
#[derive(Debug, Args)]
pub struct ProxyArguments {
    /// The address of the API to call, with https.
    pub url: String,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8403")]
    pub listen: String,
    /// What it may cost.
    #[command(flatten)]
    pub spending: Spending,
}

/// Arguments of `buy`.
#[derive(Debug, Args)]
pub struct BuyArguments {
    /// Where the file is sold.
    pub url: String,
    /// Where to put it.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The most to pay for the file, for example 5000sat. On-chain fees come on top and are shown.
    #[arg(long)]
    pub max_cost: AmountArgument,
    /// Show the price and what would be locked, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave the channel open for the next purchase from this seller.
    #[arg(long)]
    pub keep_open: bool,
    /// For how many blocks the channel lives at most. Without it: as long as both sides allow.
    #[arg(long, value_name = "BLOCKS")]
    pub lifetime: Option<u32>,
    /// Fetch at most so much per second, for example 2MiB.
    #[arg(long, value_name = "SIZE")]
    pub limit_rate: Option<SizeArgument>,
    /// Allow plain http to another machine.
    #[arg(long)]
    pub allow_http: bool,
    /// Print each step as a line of JSON.
    #[arg(long)]
    pub events: bool,
}

/// What to do with channels.
#[derive(Debug, Subcommand)]
pub enum ChannelsCommand {
    /// List all channels. Next: `farthing channels show CHANNEL`, with the beginning of a name.
    List,
    /// Show one channel. Next: `farthing channels close CHANNEL`, when nothing more is to be bought or sold in it.
    Show {
        /// The channel, or the beginning of its name.
        channel: String,
    },
    /// Close a channel: as a buyer together with the seller, as a seller with the newest commitment. Next: `farthing wallet balance`,
    /// once it is in a block. If the seller cannot be reached: `farthing channels refund`, after the expiry.
    Close {
        /// The channel, or the beginning of its name.
        channel: String,
    },
    /// Take back, as a buyer, what channels hold whose expiry has passed. Next: `farthing wallet balance`, once it is in a block.
    Refund {
        /// Only this channel, or the beginning of its name.
        channel: Option<String>,
    },
}

/// What to do with a gateway.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Serve devices until stopped. Next: give owners of devices the address that it prints, for `farthing device enroll`.
    Run(GatewayRunArguments),
    /// Show what the gateway that runs here does. Next, while it has no channel: `farthing gateway open-channel`.
    Status,
    /// List the devices that are enrolled. Next: `farthing gateway channels`.
    Devices,
    /// List their channels. Next: `farthing gateway payments`.
    Channels,
    /// List their payments. Next, for what one owes: `farthing gateway devices`.
    Payments,
    /// Open a channel of the ordinary node, which earns the service fee, and pay for it from this wallet. It needs channels that lead
    /// on to payees, and some that lead from the bridge to it: those the other side opens, or somebody spends through yours. Next:
    /// `farthing gateway status`, until it is usable.
    OpenChannel {
        /// With whom, as KEY@HOST:PORT.
        node: String,
        /// What it is to hold.
        capacity: AmountArgument,
        /// Do not tell the network of it.
        #[arg(long)]
        private: bool,
    },
    /// Close the ordinary node's channels with a node. What they leave comes to this wallet, after the other side's delay has passed if
    /// it was closed alone. Next: `farthing gateway status`, until nothing is to be swept, then `farthing wallet balance`.
    CloseChannel {
        /// With whom, as KEY or KEY@HOST:PORT.
        node: String,
        /// Close alone: the node is gone, or does not answer.
        #[arg(long)]
        force: bool,
    },
    /// Enforce a policy that an owner signed, on all of its devices: for an owner who cannot reach its device any more.
    /// Next: `farthing gateway payments` shows what is still under way.
    Policy {
        /// What `farthing owner policy` gave.
        policy: PathBuf,
    },
}

/// Arguments of `gateway run`.
#[derive(Debug, Args)]
pub struct GatewayRunArguments {
    /// Where to listen for devices.
    #[arg(long, default_value = "127.0.0.1:8404")]
    pub listen: String,
    /// The Lightning node at the other end of devices' channels, as KEY@HOST:PORT [default: `bridge` in the configuration].
    #[arg(long, value_name = "NODE")]
    pub bridge: Option<String>,
}

/// What the demo shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Play {
    /// A file is sold piece by piece, with a signature for each.
    Channel,
    /// Calls are sold, with a secret for each.
    Lightspeed,
    /// A cheque is written, and cashed while its writer is off.
    Cheque,
    /// Devices pay invoices of a Lightning node through a gateway.
    Gateway,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// What to show.
    #[arg(default_value = "channel", value_enum)]
    pub what: Play,
    /// The file that `channel` sells [default: this program].
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// How many calls `lightspeed` makes in one channel. With fewer than 20,000 there would be no rung to close with.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(20_000..=10_000_000))]
    pub calls: u64,
    /// How many tolls each of the three cars of `gateway` pays.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub tolls: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_two_arguments_have_one_name() {
        Cli::command().debug_assert();
    }

    /// A newcomer who reads the help of a command learns what comes after it.
    #[test]
    fn every_command_says_what_to_do_next() {
        fn silent(command: &clap::Command, name: &str, found: &mut Vec<String>) {
            let name = format!("{name} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|below| silent(below, &name, found));
                return;
            }
            let said = [command.get_about(), command.get_long_about()].into_iter().flatten();
            if !said.into_iter().any(|text| text.to_string().contains("Next")) {
                found.push(name);
            }
        }
        let mut found = Vec::new();
        silent(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "nothing is said about what comes next by {found:#?}");
    }
}
