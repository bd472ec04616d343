//! Keys for channels to come, and points for those that are there.

use farthing_protocol::device::wire::{Answer, MOST_POINTS, Request};

use super::{Clerk, ClerkError};
use crate::caller::CallError;
use crate::channels::AddKeysError;
use crate::records::{ChannelRecord, Stage};
use crate::signer::desk::Desk;

/// So many keys and channels of a device are kept, as the device itself does.
const MOST_CHANNELS: usize = 256;

impl Clerk {
    /// Keys for channels to come, with their first points.
    pub(super) async fn keep_keys_ready(&mut self) -> Result<bool, ClerkError> {
        let ready = {
            let books = self.gateway.books();
            let is_ready =
                |record: &&ChannelRecord| record.device == self.device && record.stage == Stage::Ready;
            let all = books.devices.get(&self.device).map_or(0, |record| record.channels.len());
            if all >= MOST_CHANNELS {
                return Ok(false);
            }
            books.channels.values().filter(is_ready).count()
        };
        if ready >= self.gateway.settings.keys_ready {
            return Ok(false);
        }
        let (keys, share) = self.caller.generate_key().await?;
        let channel = keys.channel;
        self.gateway.add_keys(self.device, keys, share).map_err(|error| match error {
            AddKeysError::Shelf(error) => ClerkError::Shelf(error),
            AddKeysError::Known => ClerkError::Wrong("its keys a name that other keys have"),
        })?;
        let desk = self.gateway.desk(&channel).ok_or(ClerkError::NoTerms)?;
        self.more_points(&desk).await?;
        Ok(true)
    }

    pub(super) async fn more_points(&self, desk: &Desk) -> Result<(), ClerkError> {
        let (from, _) = desk.points_left();
        let request = Request::Points { from, count: MOST_POINTS };
        match self.caller.ask(desk.channel(), request).await? {
            Answer::Points(points) if points.len() == usize::from(MOST_POINTS) => {
                Ok(desk.add_points(from, &points)?)
            }
            _other => Err(CallError::OutOfTurn.into()),
        }
    }
}
