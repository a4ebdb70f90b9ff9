//! A place of a record that goes round. A name's count is every worker's: to forget a name at one
//! request's end and take it anew at the next one's start would move it twice, and with it a
//! cache line from core to core. So what a cleared place held stays there, out of sight, until
//! another name is set; nearly always the same one is.

use std::fmt;

use crate::primitives::Shared;

/// Whoever looks sees what was set since it was last cleared, or nothing.
pub struct Kept<T> {
    /// Of a request before, unless `is_set`.
    value: Option<T>,
    is_set: bool,
}

impl<T: Shared> Kept<T> {
    pub fn set(&mut self, value: &T) {
        if !self.value.as_ref().is_some_and(|kept| kept.is_same(value)) {
            self.value = Some(value.clone());
        }
        self.is_set = true;
    }

    /// As [`set`](Self::set), or [`clear`](Self::clear) where there is nothing.
    pub fn set_or_clear(&mut self, value: Option<&T>) {
        match value {
            Some(value) => self.set(value),
            None => self.clear(),
        }
    }
}

impl<T> Kept<T> {
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.is_set)
    }

    pub fn clear(&mut self) {
        self.is_set = false;
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { value: None, is_set: false }
    }
}

impl<T> From<Option<T>> for Kept<T> {
    fn from(value: Option<T>) -> Self {
        Self { is_set: value.is_some(), value }
    }
}

impl<T: Clone> Clone for Kept<T> {
    fn clone(&self) -> Self {
        self.get().cloned().into()
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::AgentName;

    fn name(text: &str) -> AgentName {
        AgentName::parse(text).unwrap()
    }

    /// Or a record would tell of another agent's request.
    #[test]
    fn what_was_cleared_is_seen_by_nobody() {
        let mut kept = Kept::from(Some(name("before")));
        kept.clear();
        assert_eq!((kept.get(), &kept, format!("{kept:?}")), (None, &Kept::default(), "None".to_owned()));
        let clone = kept.clone();
        assert!(clone.value.is_none());
        kept.set_or_clear(None);
        assert_eq!(kept.get(), None);
        kept.set(&name("after"));
        assert_eq!((kept.get(), format!("{kept:?}").as_str()), (Some(&name("after")), "Some(\"after\")"));
        assert_ne!(kept, clone);
    }

    #[test]
    fn the_same_name_is_not_counted_again() {
        #[derive(Debug)]
        struct Counted<'a>(&'a std::cell::Cell<u32>, u32);
        impl Clone for Counted<'_> {
            fn clone(&self) -> Self {
                self.0.set(self.0.get() + 1);
                Self(self.0, self.1)
            }
        }
        impl Shared for Counted<'_> {
            fn is_same(&self, other: &Self) -> bool {
                self.1 == other.1
            }
        }
        let clones = std::cell::Cell::new(0);
        let mut kept = Kept::default();
        for (address, expected) in [(7, 1), (7, 1), (8, 2), (8, 2), (7, 3)] {
            kept.set(&Counted(&clones, address));
            assert_eq!((clones.get(), kept.get().map(|value| value.1)), (expected, Some(address)));
            kept.clear();
        }
    }
}
