//! Room that records are read into and opened in, and made in: a thread's, since what lies there is used up or
//! put aside before anybody else reads. So a connection that waits holds none.

use std::cell::RefCell;

use super::records::SLOT;

/// For four of the longest records.
pub(super) const ROOM: usize = 4 * SLOT;

thread_local! {
    /// Several, for TLS within TLS.
    static ROOMS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` a room; what is in it is anybody's.
pub(super) fn lend<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut room = ROOMS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; ROOM].into());
    let given = f(&mut room);
    ROOMS.with_borrow_mut(|rooms| rooms.push(room));
    given
}
