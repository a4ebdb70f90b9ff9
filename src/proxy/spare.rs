//! A request's head kept for another attempt, which hardly ever comes. Kept flat: a copy of
//! a `HeaderMap` costs an allocation for the name of each field that isn't a registered
//! one, and SDKs send a dozen of those; this costs one for all.

use http::{HeaderName, HeaderValue, Method, Uri, request::Parts, uri::PathAndQuery};

/// The head as it was given, to be made again.
pub(super) struct Spare {
    method: Method,
    /// All that is the request's of its URI: the rest is the permit's.
    path: Option<PathAndQuery>,
    fields: Box<[u8]>,
}

/// Before each field: the lengths of its name and its value, and whether it is sensitive.
const PREFIX: usize = 2 * LENGTH + 1;
const LENGTH: usize = size_of::<usize>();

impl Spare {
    pub(super) fn of(head: &Parts) -> Self {
        let size = |(name, value): (&HeaderName, &HeaderValue)| PREFIX + name.as_str().len() + value.len();
        let mut fields = Vec::with_capacity(head.headers.iter().map(size).sum());
        for (name, value) in &head.headers {
            let name = name.as_str().as_bytes();
            fields.extend_from_slice(&prefix(name, value));
            fields.extend_from_slice(name);
            fields.extend_from_slice(value.as_bytes());
        }
        let path = head.uri.path_and_query().cloned();
        Self { method: head.method.clone(), path, fields: fields.into_boxed_slice() }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn path(&self) -> &str {
        self.path.as_ref().map_or("/", PathAndQuery::path)
    }

    /// The head again, without extensions.
    pub(super) fn head(&self) -> Parts {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = self.path.clone().map_or_else(Uri::default, Uri::from);
        let mut rest = &*self.fields;
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
            let spare = Spare::of(&head);
            for _ in 0..2 {
                let again = spare.head();
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
