//! The command line of a device, and of its owner.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::amounts::AmountArgument;

/// What to do with this machine's device. A device is set up once, in this order: `farthing owner card` on the owner's machine,
/// `farthing device enroll`, `farthing owner adopt`; then `device open`, `owner fund`, `device fund`, `owner release`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Make this machine a device of that gateway. Next: give the backup to the owner, for `farthing owner adopt`.
    Enroll {
        /// The gateway, as its operator gives it: KEY@HOST:PORT.
        gateway: String,
        /// The owner's card.
        #[arg(long, value_name = "FILE")]
        owner: PathBuf,
        /// Where to put what brings the device's keys back. Secret: it is for the owner alone.
        #[arg(long, value_name = "FILE")]
        backup: PathBuf,
        /// The word by which the gateway's operator lets devices in.
        #[arg(long, default_value = "", value_name = "WORD")]
        invitation: String,
        /// The owner's store, as `farthing owner keep` prints it: KEY@HOST:PORT. The device then always waits for it: it pays nothing
        /// that the owner could not close without the device.
        #[arg(long, value_name = "STORE")]
        store: Option<String>,
    },
    /// Make this machine a lost device again, from the owner's backup. Channels of before do not come back: the owner closes them from its
    /// store (`farthing owner force-close`), or their bridges close them, and `farthing owner sweep` finds the money. Next: `farthing device open`.
    Restore {
        /// What `farthing device enroll` gave.
        backup: PathBuf,
    },
    /// Ask the gateway for a channel. Next: `farthing owner fund`.
    Open {
        /// What it is to hold.
        capacity: AmountArgument,
        /// Where to put what the owner's wallet is to pay.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Have the first states signed for the funding that the owner's wallet prepared. Next: `farthing owner release`.
    Fund {
        /// What `farthing owner fund` gave.
        funding: PathBuf,
        /// Where to put the device's statement that the funding may be signed.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Pay an invoice. Next, if it takes too long: `farthing device run` goes on with it, and `farthing device status` shows what came of it.
    Pay {
        /// BOLT 11; or `-` to read one from each line of standard input, and pay them one after the other.
        invoice: String,
        /// The invoice came through the gateway, which could have put in its own: pay only payees whom the owner listed.
        #[arg(long)]
        relayed: bool,
        /// How long to wait for the outcome of a payment. One that takes longer goes on when the device is connected again.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        patience: u64,
    },
    /// Stay connected, until stopped: payments that were cut short go on. Next: `farthing device status`.
    Run,
    /// Show channels, limits and payments. Asks nobody. Next: `farthing device pay`, or `farthing device open` while there is no channel.
    Status,
    /// Take a policy that the owner signed, and give it to the gateway. Next: `farthing device status` shows the limits in force.
    Policy {
        /// What `farthing owner policy` gave.
        policy: PathBuf,
    },
    /// Close together with the bridge: at once, and the money goes to the owner's address. Next, if nobody answers: `farthing device
    /// force-close`.
    Close {
        /// How long to wait.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        patience: u64,
    },
    /// Close without the gateway, through a bitcoind of yours. The same command again brings further what is not in the chain yet.
    /// Next: `farthing owner sweep`.
    ForceClose {
        /// Where to put what the owner may then claim.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// What the owner of devices does, on its own machine, with the wallet of `farthing init`.
#[derive(Debug, Subcommand)]
pub enum OwnerCommand {
    /// Make a card for a new device. Next: `farthing device enroll` on the device.
    Card {
        /// What to call the device.
        name: String,
        /// Limits.
        #[command(flatten)]
        limits: Limits,
        /// What a channel may hold at most.
        #[arg(long, default_value = "1000000sat", value_name = "AMOUNT")]
        most_capacity: AmountArgument,
        /// How many blocks the bridge must wait for its money when it closes alone: longer than the device is ever away.
        #[arg(long, default_value_t = 720, value_name = "BLOCKS")]
        least_bridge_delay: u16,
        /// Where to put the card.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Keep a device's backup, and from now on know its key. Next: `farthing device open` on the device.
    Adopt {
        /// The device.
        name: String,
        /// The backup that `farthing device enroll` made.
        backup: PathBuf,
    },
    /// Sign another policy. Next: `farthing device policy` on the device.
    Policy {
        /// The device.
        name: String,
        /// Limits.
        #[command(flatten)]
        limits: Limits,
        /// Where to put the policy.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Prepare the transaction that funds a channel, without signing it. Next: `farthing device fund` on the device.
    Fund {
        /// The device.
        name: String,
        /// What `farthing device open` gave.
        request: PathBuf,
        /// Where to put the funding.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Sign and send the funding, if the device says that it could close the channel alone. Next: `farthing device pay` on the
    /// device, once the funding is deep enough.
    Release {
        /// The device.
        name: String,
        /// What `farthing owner fund` gave.
        funding: PathBuf,
        /// What `farthing device fund` gave.
        statement: PathBuf,
    },
    /// Take back a funding that was not released: its coins are free again, and the channel is never funded. Next:
    /// `farthing device open` on the device, for another one.
    GiveUp {
        /// What `farthing owner fund` gave.
        funding: PathBuf,
    },
    /// Keep devices' newest states, so that their channels can be closed when they are gone. Devices that were enrolled with `--store` wait for
    /// it: it must run where they can reach it. Never put what it keeps (`owner-store/`) into a backup. Next:
    /// `farthing device enroll --store` with the address that it prints.
    Keep {
        /// Where to listen for devices.
        #[arg(long, default_value = "127.0.0.1:8406", value_name = "ADDRESS")]
        listen: String,
    },
    /// Close a device's channels without it and without its gateway, from what `farthing owner keep` has kept. Run it again until nothing waits.
    /// Next: `farthing owner sweep`.
    ForceClose {
        /// The device.
        name: String,
        /// Where to put what the owner may then claim.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Bring what a closing left to the wallet. Next: `farthing wallet balance`, once it is in a block.
    Sweep {
        /// The device.
        name: String,
        /// What `farthing device force-close` or `farthing owner force-close` gave. Without it, the chain is searched for what bridges' closings paid the owner.
        claims: Option<PathBuf>,
    },
}

/// What a device may pay. Amounts include routing and service fees.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// For one payment, and for all that are under way at once.
    #[arg(long, default_value = "50000sat", value_name = "AMOUNT")]
    pub per_payment: AmountArgument,
    /// In any hour.
    #[arg(long, default_value = "200000sat", value_name = "AMOUNT")]
    pub per_hour: AmountArgument,
    /// In any 24 hours.
    #[arg(long, default_value = "1000000sat", value_name = "AMOUNT")]
    pub per_day: AmountArgument,
    /// A node that may be paid; without any, every node may be whose invoice did not come through the gateway.
    #[arg(long, value_name = "NODE")]
    pub payee: Vec<bitcoin::secp256k1::PublicKey>,
    /// What routing and service may cost, in millionths of the amount.
    #[arg(long, default_value_t = 60_000, value_name = "PPM")]
    pub fee_ppm: u32,
    /// What routing and service may cost on top.
    #[arg(long, default_value = "10sat", value_name = "AMOUNT")]
    pub fee_base: AmountArgument,
    /// The least and the most that a commitment pays to miners, in sat/kw (250 are 1 sat/vB).
    #[arg(long, default_value_t = 253, value_name = "RATE")]
    pub least_fee_rate: u64,
    /// See there.
    #[arg(long, default_value_t = 25_000, value_name = "RATE")]
    pub most_fee_rate: u64,
    /// How many blocks money may be stuck.
    #[arg(long, default_value_t = 2_016, value_name = "BLOCKS")]
    pub most_expiry_delta: u32,
    /// Stop: pay nothing new.
    #[arg(long)]
    pub paused: bool,
}
