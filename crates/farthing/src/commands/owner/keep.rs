//! `farthing owner keep` and `farthing owner force-close`: the store on the owner's own machine, and what it is for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use farthing_node::link::{PublicKey, StaticKey};
use farthing_node::owner::close::Closing;
use farthing_node::owner::{Known, OwnerStoreHome, serve};
use farthing_protocol::device::keys::DeviceSecret;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Owned, read};
use crate::commands::device::alone::conclude;
use crate::commands::device::files;
use crate::commands::sell;
use crate::config::Context;

/// Keeps what devices bring until it is told to stop.
pub async fn run(context: &Context, listen: &str) -> anyhow::Result<()> {
    let folder = context.home()?.path().join("owner");
    let home = OwnerStoreHome::make(context.data(), context.network())?;
    let (key, store) = (home.key()?, home.store()?);
    let public = key.public().to_lower_hex_string();
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let value = json!({ "address": format!("{public}@{address}") });
    let line = format!(
        "Devices' newest states are kept at\n\n    {public}@{address}\n\nA device that is enrolled with it (farthing device enroll … --store \
         {public}@HOST:PORT) pays nothing while this does not run. Should such a device be lost, or its gateway refuse: farthing owner \
         force-close NAME -o FILE.\nNever put {} into a backup: an old copy of it would give channels away. Stop with Ctrl-C.",
        home.path().display()
    );
    context.output.say(&value, &line)?;
    // Looked up anew for each connection: a device may be adopted meanwhile.
    let known = move |peer: &PublicKey| match known(&folder, peer) {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!("the owner's devices cannot be read: {error:#}");
            None
        }
    };
    tokio::select! {
        () = serve(listener, key, store, known) => Ok(()),
        () = sell::stopped() => Ok(()),
    }
}

/// Which of the owner's devices has this key on links.
fn known(folder: &Path, peer: &PublicKey) -> anyhow::Result<Option<Known>> {
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // One file that cannot be read is one device that cannot pay.
        let found = files::read::<Owned>(&path).and_then(|owned| Ok((secret(&owned)?, owned)));
        let (secret, owned) = match found {
            Ok((Some(secret), owned)) => (secret, owned),
            Ok((None, _)) => continue,
            Err(error) => {
                tracing::warn!("a device of the owner's is passed over: {error:#}");
                continue;
            }
        };
        if StaticKey::new(*secret.link()).public() == *peer {
            return Ok(Some(Known { name: owned.card.name, enrolment: owned.card.enrolment }));
        }
    }
    Ok(None)
}

/// The device's secret; `None` before it was adopted.
fn secret(owned: &Owned) -> anyhow::Result<Option<DeviceSecret>> {
    let Some(secret) = &owned.backup else { return Ok(None) };
    let bytes = <[u8; 32]>::from_hex(secret).context("the backup's secret is not 32 bytes in hex")?;
    Ok(Some(DeviceSecret::new(bytes)))
}

/// Closes, or goes on with closings. *Closing* is stored first: from then on the device gets no acknowledgement.
pub fn force_close(context: &Context, name: &str, output: &Path) -> anyhow::Result<()> {
    let (_, owned) = read(context, name)?;
    let secret = secret(&owned)?
        .with_context(|| format!("{name} is not adopted: run `farthing owner adopt {name} BACKUP` first"))?;
    let enrolment = owned.card.enrolment.clone();
    let policy =
        owned.card.policy.clone().verify(&enrolment.owner).context("the stored policy is not ours")?;
    let chain = context.chain()?;
    let mut store = OwnerStoreHome::make(context.data(), context.network())?.store()?;
    let to_close = store.close(name)?;
    ensure!(
        !to_close.is_empty(),
        "no state of {name} is kept here: it was enrolled without --store, or opened no channel. Its bridge's closing pays the \
         owner: farthing owner sweep {name}"
    );
    let closing = |to_close| Closing::new(to_close, &secret, enrolment.clone(), policy.clone());
    let mut all = to_close.into_iter().map(closing).collect::<Result<Vec<_>, _>>()?;
    let closings = all.iter_mut().map(|closing| (closing.channel(), closing.close(&chain)));
    conclude(context, &chain, output, name, closings)
}
