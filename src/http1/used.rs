//! Heads that have served, to be filled again: that of a dozen fields lies in two pieces of
//! memory, large enough to be slow to get. Each thread keeps a few. What was in them is dropped
//! when they are given back, not when they are used again.

use std::cell::RefCell;

use http::{HeaderMap, Method, Request, Uri, Version, request::Parts};

/// As many as a worker has under way at once, most of the time.
const MOST: usize = 64;

/// Room for fields that is still kept; what is larger was the exception. Names have their room,
/// and the second and further lines of one name theirs.
const LARGEST: usize = 48;

#[derive(Default)]
struct Used {
    maps: Vec<HeaderMap>,
    #[expect(clippy::vec_box, reason = "the box is what is used again")]
    heads: Vec<Box<Parts>>,
}

thread_local! {
    static USED: RefCell<Used> = RefCell::default();
}

/// An empty map, with room for `fields` of them.
pub(super) fn map(fields: usize) -> HeaderMap {
    let used = USED.with_borrow_mut(|used| used.maps.pop());
    match used {
        Some(mut map) => {
            map.reserve(fields);
            map
        }
        None => HeaderMap::with_capacity(fields),
    }
}

/// A request's head with nothing in it; room for `fields`.
pub(super) fn head(fields: usize) -> Box<Parts> {
    let used = USED.with_borrow_mut(|used| used.heads.pop());
    let mut head = used.unwrap_or_else(|| Box::new(Request::new(()).into_parts().0));
    head.headers.reserve(fields);
    head
}

/// Takes an answer's fields that nobody needs any more.
pub fn give_map(mut map: HeaderMap) {
    if map.len().max(map.capacity()) <= LARGEST {
        map.clear();
        USED.with_borrow_mut(|used| {
            if used.maps.len() < MOST {
                used.maps.push(map)
            }
        });
    }
}

/// Takes a request's head that nobody needs any more.
pub fn give_head(mut head: Box<Parts>) {
    if head.headers.len().max(head.headers.capacity()) <= LARGEST {
        head.headers.clear();
        head.extensions.clear();
        (head.method, head.uri, head.version) = (Method::default(), Uri::default(), Version::default());
        USED.with_borrow_mut(|used| {
            if used.heads.len() < MOST {
                used.heads.push(head)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn filled(fields: usize) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(fields);
        map.insert("authorization", HeaderValue::from_static("Bearer of-another"));
        map.append("authorization", HeaderValue::from_static("Bearer twice"));
        map
    }

    #[test]
    fn what_is_used_again_is_empty() {
        let mut given = Request::post("/their/path").body(()).unwrap().into_parts().0;
        (given.headers, given.version) = (filled(8), Version::HTTP_2);
        given.extensions.insert("theirs");
        let given = Box::new(given);
        let place = std::ptr::from_ref(&*given);
        give_head(given);
        let head = head(4);
        assert_eq!(std::ptr::from_ref(&*head), place, "the same again");
        assert!(head.headers.is_empty() && head.extensions.is_empty(), "{head:?}");
        assert_eq!((&head.method, head.uri.path(), head.version), (&Method::GET, "/", Version::HTTP_11));

        give_map(filled(8));
        let map = map(20);
        assert!(map.is_empty() && map.capacity() >= 20 && !map.contains_key("authorization"), "{map:?}");
    }

    #[test]
    fn large_ones_are_not_kept_nor_many() {
        give_map(filled(200));
        assert!(map(0).capacity() < 200);
        (0..2 * MOST).for_each(|_| give_map(filled(8)));
        let kept = (0..2 * MOST).filter(|_| map(0).capacity() > 0).count();
        assert_eq!(kept, MOST);
    }
}
