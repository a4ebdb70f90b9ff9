//! The one form of a path: made again it is the same; and where it isn't said that servers could
//! read it in two ways, a URL parser, which resolves dots and backslashes, changes nothing in it.

#![no_main]

use cupbearer::primitives::CanonicalPath;
use url::Url;

fn decoded(path: &str) -> Vec<u8> {
    let (mut bytes, mut out) = (path.as_bytes(), Vec::new());
    while let [first, rest @ ..] = bytes {
        let digits = rest.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (out.push(byte), bytes = &rest[2..]),
            None => (out.push(*first), bytes = rest),
        };
    }
    out
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(path) = CanonicalPath::parse(text) else { return };
    let again = CanonicalPath::parse(path.as_str()).expect("the form that was made");
    assert_eq!(again, path, "{text:?}");
    assert_eq!(decoded(text), decoded(path.as_str()), "nothing else than spelling changes");
    if !path.is_ambiguous() {
        let url = Url::parse(&format!("http://h{text}")).expect("a URL");
        assert_eq!((url.host_str(), url.query(), url.fragment()), (Some("h"), None, None), "{text:?}");
        assert_eq!(decoded(url.path()), decoded(path.as_str()), "{text:?}");
    }
});
