//! Which tabs the books are to store: a list that they are told of once a write, not once a call.

use std::sync::MutexGuard;

use farthing_protocol::ChannelId;

use super::{Durability, Live, Tabs};
use crate::books::Books;
use crate::machine::Payee;

/// The tabs that the books are to draw, each once.
#[derive(Debug, Default)]
pub(super) struct Asked {
    channels: Vec<ChannelId>,
    /// The books were told, and have not drawn all of them yet.
    told: bool,
    /// How many calls wait for it.
    calls: usize,
}

impl Asked {
    /// The books are told, unless they know. Whether whoever asks has to do it.
    fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

impl Tabs {
    /// Has the books store every tab that is newer than the stored one, with [`Durability::Batch`].
    pub fn store_all(&self, books: &Books<Payee>) {
        let mut asked = self.asked();
        let tells = !asked.channels.is_empty() && asked.tell();
        drop(asked);
        if tells {
            books.fold();
        }
    }

    /// A tab is newer than what was drawn last. With [`Durability::Batch`] it is drawn soon.
    pub(super) fn changed(&self, live: &mut Live, channel: ChannelId) {
        live.dirty = true;
        match self.durability {
            Durability::Batch(_) if !std::mem::replace(&mut live.asked, true) => {
                self.asked().channels.push(channel);
            }
            Durability::Batch(_) | Durability::Call => {}
        }
    }

    /// A tab is to be drawn now. Whether the books are still to be told.
    pub(super) fn ask(&self, live: &mut Live, channel: ChannelId) -> bool {
        let mut asked = self.asked();
        asked.calls += 1;
        if !std::mem::replace(&mut live.asked, true) {
            asked.channels.push(channel);
        }
        asked.tell()
    }

    /// How many calls wait to be drawn.
    pub(super) fn waiting(&self) -> usize {
        self.asked().calls
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no holder of this lock panics")
    }

    /// The oldest of the list, at most so many, and whether there are more.
    pub(super) fn draw_list(&self, most: usize) -> (Vec<ChannelId>, bool) {
        let mut asked = self.asked();
        asked.calls = 0;
        if asked.channels.len() > most {
            let rest = asked.channels.split_off(most);
            return (std::mem::replace(&mut asked.channels, rest), true);
        }
        asked.told = false;
        (std::mem::take(&mut asked.channels), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_are_told_once_and_draw_more_tabs_than_one_write_takes_by_and_by() {
        let tabs = Tabs::new(1, Durability::Call, usize::MAX);
        let ids: Vec<ChannelId> = (0..5).map(|index| ChannelId::from_bytes([index; 32])).collect();
        let ask = |id: &ChannelId| {
            let mut asked = tabs.asked();
            asked.channels.push(*id);
            asked.tell()
        };
        let told: Vec<bool> = ids.iter().map(ask).collect();
        assert_eq!(told, [true, false, false, false, false]);
        assert_eq!(tabs.draw_list(2), (ids[..2].to_vec(), true));
        assert!(!ask(&ids[0]), "the books come back for the rest without being told");
        assert_eq!(tabs.draw_list(2), (ids[2..4].to_vec(), true));
        assert_eq!(tabs.draw_list(2), (vec![ids[4], ids[0]], false));
        assert!(ask(&ids[1]), "what comes later is told again");
    }
}
