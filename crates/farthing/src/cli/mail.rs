//! The command line of cheques, their receipts, and mailboxes.

use clap::{Args, Subcommand};
use secp256k1::XOnlyPublicKey;

use crate::amounts::{AmountArgument, PostageArgument};
use crate::cli::Spending;
use crate::cli::cheques::{
    AuthoriseArguments, CancelArguments, CashArguments, ListArguments, PayArguments, ReleaseArguments,
    WriteArguments,
};

/// What to do with cheques.
#[derive(Debug, Subcommand)]
pub enum ChequeCommand {
    /// Print the address that payers write cheques to, with a QR code on a terminal, and publish prekeys at its mailbox. Next:
    /// give it to payers over a way they trust, and run this again now and then, since each cheque uses a prekey up.
    Address(Box<AddressArguments>),
    /// Write a cheque to somebody who may be offline, and switch off: the agent pays it, also days later. Next: `farthing cheque
    /// list`, where the receipt is once it was cashed.
    Write(Box<WriteArguments>),
    /// Cash the cheques that wait at the mailbox. Next: run it again until nothing waits; `farthing channels list` shows what came, and
    /// `farthing channels close` takes it to the chain.
    Cash(CashArguments),
    /// The cheques that were written, with their receipts, and those that came. Next: `farthing receipt verify` checks a receipt.
    List(ListArguments),
    /// Take a cheque back that was not cashed. It counts when the agent has said so. Next, if it has not: run this again until it has.
    Cancel(CancelArguments),
    /// Print the key by which a payee authorises you to pay it while it is offline. Next: give it to the payee, who runs `farthing
    /// cheque authorise`.
    Payer,
    /// Let a payer pay you while you are offline, and print the invitation that it needs. Until it has paid, has given the
    /// invitation back, or it ends, your channel takes nothing else. Next: `farthing cheque cash` when you are back.
    Authorise(AuthoriseArguments),
    /// Pay a payee that is offline, as it has invited you to: you buy its agent's signature. Next: until the agent
    /// has answered, run this again now and then: if it takes the price silently, you have to tell the payee.
    Pay(Box<PayArguments>),
    /// Give an invitation back under which you have paid nothing, and never will. Next: the payee's channel is free for another invitation
    /// with its next `farthing cheque cash`; for cheques too, unless the agent had made you an offer: then when that invitation would have ended.
    Release(Box<ReleaseArguments>),
}

/// Arguments of `cheque address`.
#[derive(Debug, Args)]
pub struct AddressArguments {
    /// The mailbox that keeps the mail, for example `https://mail.example` (default: `mailbox` of `cheque` in the configuration).
    #[arg(long, value_name = "URL")]
    pub mailbox: Option<String>,
    /// How many prekeys the mailbox is to hold: so many cheques can be written before the next refill [default: 100].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub prekeys: Option<u32>,
    /// What opening the box may cost, at a mailbox that asks for it.
    #[command(flatten)]
    pub spending: Spending,
}

/// What to do with receipts.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt, and show who was paid how much, for what and when. Fails for one that is forged or damaged. Next: compare
    /// the payee's key with the one that you know, or have `--payee` do it.
    Verify {
        /// The receipt, which begins with farthingreceipt1; or - to read it from standard input.
        receipt: String,
        /// The payee's receipt key, as `farthing cheque address` shows it to the payee: fails when another payee signed.
        #[arg(long, value_name = "KEY")]
        payee: Option<XOnlyPublicKey>,
    },
}

/// What to do as a mailbox.
#[derive(Debug, Subcommand)]
pub enum MailboxCommand {
    /// Keep letters and prekeys until stopped. Next: payees run `farthing cheque address --mailbox URL`.
    Serve(ServeArguments),
}

/// Arguments of `mailbox serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The postage of a letter, and of a prekey that is given out: 100msat/message. What payees ask for is free.
    #[arg(long)]
    pub price: PostageArgument,
    /// What opening a box costs, once for each payee.
    #[arg(long, default_value = "0msat", value_name = "AMOUNT")]
    pub box_price: AmountArgument,
    /// Allow a price of 0 on other networks than regtest: anybody can then fill boxes and use prekeys up.
    #[arg(long)]
    pub free: bool,
    /// Where to listen. For people elsewhere, put a server that speaks TLS before it, which hands on the Host header.
    #[arg(long, default_value = "127.0.0.1:8407")]
    pub listen: String,
}
