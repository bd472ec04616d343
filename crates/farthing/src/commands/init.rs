//! `farthing init`.

use std::io::{IsTerminal as _, stdin};

use farthing_node::home::Home;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::InitArguments;
use crate::config::Context;

/// Makes the data folder. The words are shown once, and only to a terminal or to who asks for JSON.
pub fn run(context: &Context, arguments: &InitArguments) -> anyhow::Result<()> {
    if arguments.restore {
        if stdin().is_terminal() {
            eprintln!("Type the BIP39 words, separated by spaces:");
        }
        let mut words = Zeroizing::new(String::new());
        stdin().read_line(&mut words)?;
        let home = Home::restore(context.data(), context.network(), words.trim(), arguments.birthday)?;
        let folder = home.path().display().to_string();
        let line = format!(
            "The wallet is restored in {folder}. It looks for its coins from block {} on.\nNext: farthing wallet balance",
            arguments.birthday
        );
        return context.output.say(&json!({ "folder": folder, "network": context.network() }), &line);
    }
    let (home, words) = Home::init(context.data(), context.network())?;
    let folder = home.path().display().to_string();
    let line = format!(
        "A new {} wallet is in {folder}.\n\nWrite these words down. They bring back the wallet; open channels also need \
         the folder:\n\n    {}\n\nNext: farthing wallet address",
        context.network(),
        words.as_str()
    );
    let value = json!({ "folder": folder, "network": context.network(), "words": words.as_str() });
    context.output.say(&value, &line)
}
