//! What goes between device and owner by hand.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use bitcoin::{Amount, OutPoint, ScriptBuf};
use farthing_protocol::device::owner::Claim;
use farthing_protocol::device::setup::FundingStatement;
use farthing_protocol::device::wire::ChannelKeysId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Device to owner: what the wallet is to pay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FundingRequest {
    pub channel: ChannelKeysId,
    pub script: ScriptBuf,
    pub capacity: Amount,
}

/// Owner to device: where the funding will be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Funding {
    pub channel: ChannelKeysId,
    pub outpoint: OutPoint,
    /// The transaction without signatures, as a PSBT in hex.
    pub psbt: String,
}

/// Device to owner: the funding may be signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Statement {
    pub channel: ChannelKeysId,
    pub statement: FundingStatement,
}

/// Device to owner: what a closing left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub channel: ChannelKeysId,
    pub claims: Vec<Claim>,
}

/// Reads such a file.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not the right file", path.display()))
}

/// Writes such a file, for its owner alone: whole, or the one before stays.
pub fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok::<_, anyhow::Error>(())
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}
