//! What is looked through, and what is asked for.

use std::task::Waker;

use super::*;

#[test]
fn what_a_human_could_read_is_looked_through() {
    let is_text = |kinds: &[&'static str]| {
        let fields = kinds.iter().map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind)));
        Look::at(&fields.collect(), &[]).is_text
    };
    for text in [
        "text/plain",
        "Text/Event-Stream; charset=utf-8",
        "application/json",
        "application/problem+json",
        "application/x-ndjson",
        "image/svg+xml",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/x-javascript",
        "application/x-yaml; charset=utf-8",
        "Application/X-YML",
        "application/yml",
        "application/x-sh",
        "application/sql",
        "application/http",
        "application/x-jsonlines",
        "application/json5",
        "application/csp-report",
        "nonsense",
        "",
    ] {
        assert!(is_text(&[text]), "{text}");
    }
    for other in [
        "application/octet-stream",
        "image/png",
        "application/grpc",
        "application/zip",
        "application/x-tar",
        "application/x-x-sh",
        "image/x-sql",
        "video/mp4",
    ] {
        assert!(!is_text(&[other]), "{other}");
    }
    assert!(is_text(&[]));
    assert!(is_text(&["image/png", "image/png"]));
}

#[test]
fn an_upstream_is_asked_for_nothing_else_than_gzip() {
    let asked = |asks: &[(HeaderName, &'static str)]| {
        let mut fields: HeaderMap =
            asks.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        prefer_readable(&mut fields);
        let values: Vec<_> = fields.get_all(ACCEPT_ENCODING).iter().map(|value| value.to_str().unwrap()).collect();
        values.join("|")
    };
    let accepts = |value| asked(&[(ACCEPT_ENCODING, value)]);
    assert_eq!(accepts("gzip, deflate, br, zstd"), "gzip");
    assert_eq!(accepts("br;q=1.0, GZIP;q=0.8"), "gzip");
    assert_eq!(accepts("gzip;q=0.0, br"), "identity");
    assert_eq!(accepts("gzip; Q=0.001"), "gzip");
    assert_eq!(accepts("*"), "identity");
    assert_eq!(accepts(""), "identity");
    assert_eq!(asked(&[]), "");
    assert_eq!(asked(&[(ACCEPT_ENCODING, "br"), (ACCEPT_ENCODING, "gzip")]), "gzip");
    assert_eq!(asked(&[(ACCEPT_ENCODING, "gzip"), (RANGE, "bytes=0-9")]), "identity");
    assert_eq!(asked(&[(RANGE, "bytes=0-9")]), "identity");
}

/// A digest is mostly known at the end only, and sent behind the body.
#[test]
fn trailers_about_coded_bytes_go_where_the_coding_does() {
    let left = |coding: Option<Coding>| {
        let names = ["content-digest", "repr-digest", "digest", "content-md5", "grpc-status"];
        let fields = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let mut came = Some(Frame::trailers(HeaderMap::from_iter(fields)));
        let mut work = Work { is_text: true, decoder: coding.map(Decoder::new), ..Work::default() };
        let source = |_: &mut Context<'_>| Poll::Ready(came.take().map(|frame| Ok(Came { frame, is_last: true })));
        let Poll::Ready(Some(Ok(frame))) = work.poll(&mut Context::from_waker(Waker::noop()), source) else {
            unreachable!("trailers came")
        };
        let trailers = frame.into_trailers().unwrap();
        (trailers.len(), trailers.contains_key("grpc-status"))
    };
    assert_eq!(left(Some(Coding::Gzip)), (1, true));
    assert_eq!(left(None), (5, true));
}

/// Of an answer that was screened nothing is left for the next one.
#[test]
fn a_screen_that_is_used_again_is_as_good_as_new() {
    let spare = || SPARE.with_borrow(|spare| spare.len());
    let mut work = Box::new(Work { told: true, all_came: true, passed: true, is_text: true, ..Work::default() });
    work.input = Bytes::from_static(b"of another's answer");
    work.trailers = Some(HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("of-another"))]));
    work.scrubber.push_last(&[], Bytes::from_static(b"and more"));
    work.decoder = Some(Decoder::new(Coding::Gzip));
    drop(Screen(Some(work)));
    assert_eq!(spare(), 1);
    let again = SPARE.with_borrow_mut(Vec::pop).unwrap();
    assert_eq!(format!("{again:?}"), format!("{:?}", Work::default()));
    (0..2 * MOST_SPARE).map(|_| Screen(Some(Box::default()))).collect::<Vec<_>>().clear();
    assert_eq!(spare(), MOST_SPARE);
}
