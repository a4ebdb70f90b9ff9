//! What it costs to look an answer's body through for the token: text without it, in chunks
//! of the size that connections are read in. The yardstick is what TLS costs, 1 to 3 GiB/s.

use bytes::Bytes;
use cupbearer::{
    primitives::{Secret, Trace},
    proxy::scrub::Scrubber,
};
use divan::{Bencher, black_box, counter::BytesCount};

fn main() {
    divan::main();
}

/// A JWT of the usual length, and the spellings of a key with a slash in it.
fn needles() -> Vec<Trace> {
    let jwt = format!("eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.{}", "eyJpc3MiOiJodHRwczov".repeat(40));
    [jwt, "AKIA/abcdef+0123456789==".to_owned(), "AKIA%2Fabcdef%2B0123456789%3D%3D".to_owned()]
        .map(|text| Trace::new(Secret::new(text)))
        .into()
}

/// JSON as APIs send it, with the beginnings of other JWTs.
fn text(length: usize) -> Bytes {
    let line = r#"{"id": "ord_8f2e", "state": "shipped", "note": "eyJhbGciOi is no token", "total": 12.50}, "#;
    line.bytes().cycle().take(length).collect()
}

#[divan::bench(args = [(1, 1024), (1, 16384), (3, 16384), (1, 65536)])]
fn text_without_a_token(bencher: Bencher<'_, '_>, (spellings, chunk): (usize, usize)) {
    let (needles, text) = (needles(), text(chunk));
    bencher.counter(BytesCount::new(chunk)).bench_local(|| {
        let mut scrubber = Scrubber::default();
        black_box(scrubber.push(&needles[..spellings], black_box(text.clone())))
    });
}
