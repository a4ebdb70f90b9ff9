//! A request's head for another attempt, which hardly ever comes. Over HTTP/1.1 it comes back
//! when the answer is there. h2 takes it for good: there a copy is kept, and kept flat, since a
//! copy of a `HeaderMap` costs an allocation for the name of each field that isn't a registered
//! one, and SDKs send a dozen of those; this costs one for all.

use std::sync::OnceLock;

use http::{HeaderName, HeaderValue, Method, Uri, header::EXPECT, request::Parts, uri::PathAndQuery};

use crate::credential::Lease;

use super::marks::{Mark, Marks};

/// A request as it was before anything was put in for an attempt.
pub(super) struct Original {
    method: Method,
    /// All that is the request's of its URI: the rest is the permit's.
    path: Option<PathAndQuery>,
    /// False: no token that could be refused, and a method that may count twice.
    may_repeat: bool,
    /// The agent itself waits for `100 Continue`.
    expects: bool,
    /// Where it went over h2.
    copy: OnceLock<Spare>,
}

impl Original {
    pub(super) fn of(head: &Parts, marks: Marks, has_credential: bool) -> Self {
        Self {
            method: head.method.clone(),
            path: head.uri.path_and_query().cloned(),
            may_repeat: has_credential || head.method.is_idempotent(),
            expects: marks.has(Mark::EXPECT),
            copy: OnceLock::new(),
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn path(&self) -> &str {
        self.path.as_ref().map_or("/", PathAndQuery::path)
    }

    /// Before h2 takes the head that goes with `lease`.
    pub(super) fn keep(&self, head: &Parts, lease: &Lease) {
        if self.may_repeat {
            self.copy.get_or_init(|| Spare::of(head, |name| self.is_put_in(name, lease)));
        }
    }

    /// The head again. `sent`: as it went with `lease`, where it came back.
    pub(super) fn again(&self, sent: Option<Box<Parts>>, lease: &Lease) -> Option<Box<Parts>> {
        if !self.may_repeat {
            return None;
        }
        let Some(mut head) = sent else { return self.copy.get().map(|copy| Box::new(copy.head(self))) };
        let put_in: Vec<_> = head.headers.keys().filter(|name| self.is_put_in(name, lease)).cloned().collect();
        for name in put_in {
            head.headers.remove(name);
        }
        Some(head)
    }

    /// Each attempt has its own token, proof and expectation.
    fn is_put_in(&self, name: &HeaderName, lease: &Lease) -> bool {
        lease.puts_in(name) || (*name == EXPECT && !self.expects)
    }
}

/// The fields as they were.
struct Spare(Box<[u8]>);

/// Before each field: the lengths of its name and its value, and whether it is sensitive.
const PREFIX: usize = 2 * LENGTH + 1;
const LENGTH: usize = size_of::<usize>();

impl Spare {
    /// But for those that were `put_in`: no token is copied.
    fn of(head: &Parts, put_in: impl Fn(&HeaderName) -> bool) -> Self {
        let kept = || head.headers.iter().filter(|(name, _)| !put_in(name));
        let size = |(name, value): (&HeaderName, &HeaderValue)| PREFIX + name.as_str().len() + value.len();
        let mut fields = Vec::with_capacity(kept().map(size).sum());
        for (name, value) in kept() {
            let name = name.as_str().as_bytes();
            fields.extend_from_slice(&prefix(name, value));
            fields.extend_from_slice(name);
            fields.extend_from_slice(value.as_bytes());
        }
        Self(fields.into_boxed_slice())
    }

    /// The head again, without extensions.
    fn head(&self, original: &Original) -> Parts {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = original.method.clone();
        head.uri = original.path.clone().map_or_else(Uri::default, Uri::from);
        let mut rest = &*self.0;
        while let Some((name, value)) = next_field(&mut rest) {
            head.headers.append(name, value);
        }
        head
    }
}

fn prefix(name: &[u8], value: &HeaderValue) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..LENGTH].copy_from_slice(&name.len().to_ne_bytes());
    prefix[LENGTH..2 * LENGTH].copy_from_slice(&value.len().to_ne_bytes());
    prefix[2 * LENGTH] = u8::from(value.is_sensitive());
    prefix
}

fn next_field(rest: &mut &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (name_length, after) = rest.split_first_chunk()?;
    let (value_length, after) = after.split_first_chunk()?;
    let (sensitive, after) = after.split_first()?;
    let (name, after) = after.split_at_checked(usize::from_ne_bytes(*name_length))?;
    let (value, after) = after.split_at_checked(usize::from_ne_bytes(*value_length))?;
    *rest = after;
    let mut value = HeaderValue::from_bytes(value).ok()?;
    value.set_sensitive(*sensitive != 0);
    Some((HeaderName::from_bytes(name).ok()?, value))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Request};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever can have been parsed comes out as it went in.
        #[test]
        fn a_head_is_made_again_as_it_was(
            fields in proptest::collection::vec(("[a-z][a-z0-9_-]{0,20}", "[ -~\u{80}-\u{ff}]{0,40}", any::<bool>()), 0..24),
        ) {
            let mut request = Request::post("/v1/a?b=c").body(()).unwrap();
            for (name, value, sensitive) in &fields {
                let mut value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                value.set_sensitive(*sensitive);
                request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
            let (head, ()) = request.into_parts();
            let original = Original::of(&head, Marks::of(&head.headers), true);
            original.keep(&head, &Lease::none());
            for _ in 0..2 {
                let again = original.again(None, &Lease::none()).unwrap();
                prop_assert_eq!(&again.method, &head.method);
                prop_assert_eq!(&again.uri, &head.uri);
                let list = |headers: &HeaderMap| -> Vec<_> {
                    let field = |(name, value): (&HeaderName, &HeaderValue)| {
                        (name.clone(), value.as_bytes().to_vec(), value.is_sensitive())
                    };
                    headers.iter().map(field).collect()
                };
                prop_assert_eq!(list(&again.headers), list(&head.headers));
            }
        }
    }
}
