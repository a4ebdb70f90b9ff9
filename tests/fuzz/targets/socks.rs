//! Messages of SOCKS: each is wanted to its last byte and no further, and a host is one that every
//! other door would read alike.

#![no_main]

use cupbearer::{
    primitives::Authority,
    server::socks::message::{Login, Offer, Parsed, Request},
};

fn whole<T>(data: &[u8], parse: impl Fn(&[u8]) -> Parsed<T>) {
    let Ok(Some((_, used))) = parse(data) else { return };
    assert!(matches!(parse(&data[..used]), Ok(Some((_, again))) if again == used));
    for length in 0..used {
        assert!(matches!(parse(&data[..length]), Ok(None)), "{length} of {used}");
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    whole(data, Offer::parse);
    whole(data, Login::parse);
    whole(data, Request::parse);
    if let Ok(Some((Request(authority), _))) = Request::parse(data) {
        assert_eq!(Authority::parse(&authority.to_string(), None).as_ref(), Ok(&authority));
    }
});
