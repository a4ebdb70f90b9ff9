//! Values whose clones share their memory, told apart without a look at what they say.

/// Cheap to clone, but not free: a clone moves a count that all workers share.
pub trait Shared: Clone {
    /// Whether both lie in the same memory. Those that lie apart may be equal all the same.
    fn is_same(&self, other: &Self) -> bool;
}
