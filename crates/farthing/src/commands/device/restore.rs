//! `farthing device restore`.

use std::path::Path;

use anyhow::{Context as _, ensure};
use farthing_node::device::{Backup, Device, DeviceHome};
use farthing_node::link::GatewayAddress;
use serde_json::json;

use super::files;
use crate::config::Context;

/// Makes this machine the device of a backup. It has none of the channels of before, so it can publish none of their states.
pub fn run(context: &Context, backup: &Path) -> anyhow::Result<()> {
    let backup: Backup = files::read(backup)?;
    let (secret, enrolled) = backup.restored()?;
    let network = context.network();
    ensure!(enrolled.enrolment.network == network, "the backup is for {}", enrolled.enrolment.network);
    let _address: GatewayAddress = enrolled.gateway.parse().context("the backup's gateway")?;
    let store = backup.store.as_deref().map(str::parse::<GatewayAddress>).transpose();
    let store = store.context("the store of the owner's in the backup")?;
    let home = DeviceHome::of(context.data(), network);
    let _lock = home.restore(&secret)?;
    Device::enrol_with(secret, home.store()?, &enrolled, store.as_ref())?;
    let name = enrolled.name;
    let close = match store {
        Some(_) => format!("the owner closes them by `farthing owner force-close {name}`"),
        None => format!(
            "when their bridges close them, the owner finds the money by `farthing owner sweep {name}`"
        ),
    };
    let line = format!(
        "This is the device \"{name}\" again. Its channels of before do not come back: {close}. Give it the newest policy: \
         farthing device policy FILE"
    );
    context.output.say(&json!({ "name": name, "restored": true }), &line)
}
