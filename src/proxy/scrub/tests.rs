//! A stream that is cut anywhere comes out as the whole does.

use proptest::prelude::*;

use memchr::memmem;

use super::*;
use crate::{credential::Injection, primitives::Secret};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";

fn secrets(texts: &[&str]) -> Vec<Trace> {
    texts.iter().map(|text| Trace::new(Secret::new((*text).to_owned()))).collect()
}

/// Of a token behind `Bearer`.
fn traces(token: &str) -> Box<[Trace]> {
    Injection::default().traces(&Secret::new(token.to_owned()))
}

/// All of it, in the chunks that are given.
fn scrub<'a>(needles: &[Trace], chunks: impl IntoIterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let out = scrubbed_in(needles, chunks.clone(), false);
    assert_eq!(scrubbed_in(needles, chunks, true), out, "the end is known to be one, or isn't");
    out
}

/// `whole`: the last chunk is known to be the last.
fn scrubbed_in<'a>(needles: &[Trace], chunks: impl IntoIterator<Item = &'a [u8]>, whole: bool) -> Vec<u8> {
    let mut scrubber = Scrubber::default();
    let longest = needles.iter().map(Trace::len).max().unwrap_or(1);
    let (mut out, mut came) = (Vec::new(), 0);
    let mut chunks = chunks.into_iter().peekable();
    while let Some(chunk) = chunks.next() {
        came += chunk.len();
        if whole && chunks.peek().is_none() {
            out.extend_from_slice(&scrubber.push_last(needles, Bytes::copy_from_slice(chunk)));
            assert_eq!((scrubber.holds(), came), (0, out.len()));
            break;
        }
        out.extend_from_slice(&scrubber.push(needles, Bytes::copy_from_slice(chunk)));
        assert!(came - out.len() < longest, "more is held back than a needle could begin with");
        assert_eq!(scrubber.holds(), came - out.len());
    }
    out.extend_from_slice(&scrubber.finish());
    assert_eq!(scrubber.holds(), 0);
    out
}

/// By definition: each byte of each occurrence is filled.
fn filled(needles: &[Trace], text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    for needle in needles.iter().map(|needle| needle.secret().expose().as_bytes()).filter(|needle| !needle.is_empty()) {
        for (start, window) in text.windows(needle.len()).enumerate() {
            if window == needle {
                out[start..start + needle.len()].fill(b'*');
            }
        }
    }
    out
}

#[test]
fn a_token_is_filled_wherever_the_stream_is_cut() {
    let needles = secrets(&[TOKEN]);
    let text = format!("{{\"a\": \"Bearer {TOKEN}\", \"b\": \"{}\"}}", &TOKEN[..30]);
    let clean = text.replace(TOKEN, &"*".repeat(TOKEN.len()));
    for cut in 0..=text.len() {
        let (one, two) = text.as_bytes().split_at(cut);
        assert_eq!(scrub(&needles, [one, two]), clean.as_bytes(), "cut at {cut}");
    }
    assert_eq!(scrub(&needles, text.as_bytes().chunks(1)), clean.as_bytes());
}

#[test]
fn what_is_no_beginning_of_a_needle_passes_at_once_and_uncopied() {
    let needles = secrets(&[TOKEN]);
    let mut scrubber = Scrubber::default();
    for event in ["data: {\"n\": 1}\n\n", "data: eyJ0eXAi\n\n", ": ping\n\n"] {
        let chunk = Bytes::from_static(event.as_bytes());
        let out = scrubber.push(&needles, chunk.clone());
        assert_eq!(out.as_ptr(), chunk.as_ptr());
        assert_eq!(out, chunk);
    }
    assert_eq!(scrubber.push(&needles, Bytes::from_static(b"data: eyJh")), "data: ");
    assert_eq!(scrubber.push(&needles, Bytes::from_static(b"\n")), "eyJh\n");
    assert!(!scrubber.found());
}

#[test]
fn occurrences_that_overlap_are_filled_to_their_last_byte() {
    let needles = secrets(&["abaaba", "baabx"]);
    for (text, clean) in [("xabaabaabax", "x*********x"), ("abaabx", "a*****"), ("abaabaabx", "*********")] {
        assert_eq!(scrub(&needles, [text.as_bytes()]), clean.as_bytes());
        assert_eq!(scrub(&needles, text.as_bytes().chunks(1)), clean.as_bytes());
    }
}

#[test]
fn stars_cover_what_was_found_and_no_more() {
    let needles = traces("ya29/to+ken/of+an/API==");
    for (spelling, rest) in [
        ("ya29/to+ken/of+an/API", "=="),
        ("ya29/to+ken/of+an/API", ", no padding"),
        ("ya29%2fto%2bken%2fof%2ban%2fAPI", "%3d%3d"),
        ("ya29/to%2Bken/of%2Ban/API", "%3D%3D&state=1"),
        (r"ya29\/to+ken\/of+an\/API", r"==\n"),
        (r"ya29/to\u002Bken/of\u002Ban/API", r"\u003D\u003D"),
        ("ya29/to&#43;ken/of&#43;an/API", "==</pre>"),
        ("ya29&#x2F;to+ken&#x2F;of+an&#x2F;API", "&#x3D;&#x3D;"),
    ] {
        let (text, clean) = (format!("<{spelling}{rest}"), format!("<{}{rest}", "*".repeat(spelling.len())));
        assert_eq!(scrub(&needles, [text.as_bytes()]), clean.as_bytes());
        assert_eq!(scrub(&needles, text.as_bytes().chunks(1)), clean.as_bytes());
    }
    let others = "ya29/to ken/of an/API, ya29%2Fto+ken, ya29&#x2F;to&#43;ken==";
    assert_eq!(scrub(&needles, others.as_bytes().chunks(7)), others.as_bytes());
}

#[test]
fn what_was_released_is_no_secret_and_its_rest_is_filled() {
    let needles = secrets(&[TOKEN]);
    let mut scrubber = Scrubber::default();
    let push = |scrubber: &mut Scrubber, text: &str| scrubber.push(&needles, Bytes::copy_from_slice(text.as_bytes()));
    assert_eq!(push(&mut scrubber, "one"), "on");
    assert_eq!((scrubber.release(3), scrubber.release(3), scrubber.holds()), ("e".into(), "".into(), 0));
    assert_eq!(push(&mut scrubber, "y"), "");
    assert_eq!(scrubber.release(3), "y");
    assert_eq!(push(&mut scrubber, "x, e"), "x, ");
    assert_eq!(scrubber.release(3), "e");
    assert_eq!(push(&mut scrubber, &TOKEN[1..9]), "");
    assert_eq!((scrubber.release(3), scrubber.holds()), ("".into(), 8), "too much of it");
    assert_eq!(push(&mut scrubber, &TOKEN[9..]), "*".repeat(TOKEN.len() - 1));
    assert_eq!(push(&mut scrubber, "e"), "");
    assert_eq!(scrubber.finish(), "e");
    assert_eq!(scrubber.finish(), "");
}

#[test]
fn drop_by_drop_no_more_of_a_needle_passes() {
    let needles = secrets(&[TOKEN]);
    for size in 1..=3 {
        let mut scrubber = Scrubber::default();
        let mut out = Vec::new();
        for piece in TOKEN.as_bytes().chunks(size) {
            out.extend_from_slice(&scrubber.push(&needles, Bytes::copy_from_slice(piece)));
            out.extend_from_slice(&scrubber.release(3));
        }
        assert!(out.len() == TOKEN.len() && scrubber.found(), "{out:?}");
        let passed = out.iter().position(|byte| *byte == b'*').unwrap();
        assert!(passed <= 3 && out[passed..].iter().all(|byte| *byte == b'*'), "{out:?}");
    }
}

#[test]
fn fields_are_filled_in_values_and_go_where_it_is_their_name() {
    let needles = secrets(&["t0ken-of-this-lease", "dDBrZW4tb2Y="]);
    let mut fields = HeaderMap::new();
    fields.append("location", HeaderValue::from_static("/next?access_token=t0ken-of-this-lease&x=1"));
    fields.append("set-cookie", HeaderValue::from_static("plain"));
    fields.append("set-cookie", HeaderValue::from_static("a=dDBrZW4tb2Y=,dDBrZW4tb2Y="));
    fields.append("x-t0ken-of-this-lease", HeaderValue::from_static("1"));
    assert!(scrub_fields(&needles, &mut fields));
    assert_eq!(fields["location"], "/next?access_token=*******************&x=1");
    let cookies: Vec<_> = fields.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["plain", "a=************,************"]);
    assert_eq!(fields.len(), 3);
    assert!(!scrub_fields(&needles, &mut fields));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However the stream is cut, what comes out is what the definition says of the whole. Two
    /// letters only, so that needles repeat themselves and overlap.
    #[test]
    fn cuts_make_no_difference(
        needles in proptest::collection::vec("[ab]{1,20}", 0..4),
        text in "[ab]{0,120}",
        cuts in proptest::collection::vec(0usize..120, 0..12),
    ) {
        let needles = needles.into_iter().map(Secret::new).map(Trace::new).collect::<Vec<_>>();
        let text = text.as_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
        prop_assert_eq!(scrub(&needles, chunks), filled(&needles, text));
    }

    /// The same with a token's own length and alphabet, put into text once or twice.
    #[test]
    fn tokens_are_found_in_text(
        token in "[A-Za-z0-9_.-]{16,80}",
        around in proptest::collection::vec("[ -~]{0,40}", 3),
        cut in 1usize..60,
    ) {
        let needles = secrets(&[&token]);
        let text = around.join(&token);
        let out = scrub(&needles, text.as_bytes().chunks(cut));
        prop_assert_eq!(&out, &filled(&needles, text.as_bytes()));
        prop_assert!(memmem::find(&out, token.as_bytes()).is_none());
    }
    /// The traces of one token begin alike and hold each other: each spelling goes all the same,
    /// wherever the stream is cut, and the padding stays.
    #[test]
    fn each_spelling_of_a_token_is_filled(
        token in "[A-Za-z0-9+/]{16,40}",
        padding in "={0,2}",
        order in proptest::collection::vec(0usize..40, 0..6),
        around in "[ -~]{0,10}",
        cut in 1usize..60,
    ) {
        let needles = traces(&format!("{token}{padding}"));
        let texts: Vec<_> = needles.iter().map(|needle| needle.secret().expose()).collect();
        let sent: String = order.iter().map(|at| format!("{around}{}{padding}", texts[at % texts.len()])).collect();
        let out = scrub(&needles, sent.as_bytes().chunks(cut));
        prop_assert_eq!(&out, &filled(&needles, sent.as_bytes()));
        for text in texts {
            prop_assert!(memmem::find(&out, text.as_bytes()).is_none());
        }
    }
}
