//! The room that all connections share: how many may be open, and which goes when there is none for
//! one more.
//!
//! A connection takes one of `RERANKER_MAX_CONNECTIONS` places with its first request and keeps it
//! to its end. Beside the places there is room for connections that have not asked yet and for
//! those that are refused, so that nobody who is silent takes a place, and probes are answered
//! while all places are taken.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::activity::{Activity, Sparable};

/// The room of a server.
pub(super) struct Room {
    /// Connections that may ask.
    places: usize,
    /// Connections that may be open, those that ask among them.
    capacity: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    guests: HashMap<u64, Guest>,
    next_id: u64,
    places_taken: usize,
}

struct Guest {
    activity: Arc<Activity>,
    has_place: bool,
}

impl Room {
    pub(super) fn new(places: usize, beside: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            capacity: places.saturating_add(beside),
            open: Mutex::default(),
        })
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in; if the room is full, the one that can best be spared goes. None if
    /// none can.
    pub(super) fn enter(self: &Arc<Self>, activity: &Arc<Activity>) -> Option<Seat> {
        let mut open = self.open();
        if open.guests.len() >= self.capacity && !open.spare(|_| true) {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        let activity = Arc::clone(activity);
        let guest = Guest {
            activity,
            has_place: false,
        };
        open.guests.insert(id, guest);
        drop(open);
        let room = Arc::clone(self);
        Some(Seat { room, id })
    }
}

impl Open {
    /// Ends the connection that can best be spared of those that match.
    fn spare(&mut self, matches: impl Fn(&Guest) -> bool) -> bool {
        let now = Instant::now();
        let matching = self.guests.iter().filter(|(_, guest)| matches(guest));
        let sparable = matching.filter_map(|(&id, guest)| {
            let sparable: Sparable = guest.activity.sparable(now)?;
            Some((sparable, id))
        });
        let Some((_, id)) = sparable.min() else {
            return false;
        };
        if let Some(guest) = self.remove(id) {
            guest.activity.dismiss();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Guest> {
        let guest = self.guests.remove(&id)?;
        self.places_taken -= usize::from(guest.has_place);
        Some(guest)
    }
}

/// What an open connection has of the room; free again when this is dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    id: u64,
}

impl Seat {
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// Whether the connection has a place, now or already: an idle one may have to make way.
    pub(super) fn take_place(&self) -> bool {
        let mut open = self.room.open();
        match open.guests.get(&self.id) {
            None => return false,
            Some(guest) if guest.has_place => return true,
            Some(_) => {}
        }
        if open.places_taken >= self.room.places && !open.spare(|guest| guest.has_place) {
            return false;
        }
        open.places_taken += 1;
        if let Some(guest) = open.guests.get_mut(&self.id) {
            guest.has_place = true;
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.open().remove(self.id);
    }
}
