//! The scrubber: needles, one a line up to an empty one, then the text, cut by the first byte.
//! What comes out is what the definition says of the whole: each byte of each occurrence filled.

#![no_main]

use cupbearer::{
    primitives::{Secret, Trace},
    proxy::scrub::Scrubber,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [size, rest @ ..] = data else { return };
    let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") else { return };
    let (head, text) = (&rest[..end], &rest[end + 2..]);
    let Ok(head) = std::str::from_utf8(head) else { return };
    let needles: Vec<Trace> = head.split('\n').take(4).map(|line| Trace::new(Secret::new(line.to_owned()))).collect();
    let mut expected = text.to_vec();
    for needle in needles.iter().map(|needle| needle.secret().expose().as_bytes()).filter(|needle| !needle.is_empty()) {
        for (start, _) in text.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle) {
            expected[start..start + needle.len()].fill(b'*');
        }
    }
    let longest = needles.iter().map(Trace::len).max().unwrap_or(0);
    let mut scrubber = Scrubber::default();
    let (mut out, mut came) = (Vec::new(), 0);
    // The last chunk may be known to be the last.
    let last = (size % 2 == 1).then(|| text.len().saturating_sub(1) / usize::from(*size).max(1));
    for (number, chunk) in text.chunks(usize::from(*size).max(1)).enumerate() {
        came += chunk.len();
        if last == Some(number) {
            out.extend_from_slice(&scrubber.push_last(&needles, chunk.to_vec().into()));
            assert_eq!((scrubber.holds(), came), (0, out.len()));
            break;
        }
        out.extend_from_slice(&scrubber.push(&needles, chunk.to_vec().into()));
        assert_eq!(scrubber.holds(), came - out.len());
        assert!(scrubber.holds() < longest.max(1));
    }
    out.extend_from_slice(&scrubber.finish());
    assert_eq!(out, expected);
});
