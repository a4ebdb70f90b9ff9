//! A JSON object (RFC 8259) written field by field. Every request writes one line of two
//! dozen fields, of which nearly none needs escaping. So a field's key is given as it
//! stands in the line, `,"agent":"`: what is known when compiled is copied in one go. A
//! value is looked at once, eight bytes at a time; what needs it, `serde_json` escapes.
//!
//! It is written into room that is there already: nothing looks at each piece whether a buffer
//! has to grow.

use std::{borrow::Cow, mem};

/// Complete after [`end`](Self::end). A value of `None` is `null`.
///
/// The key of a text brings the quote that opens it, which is left out of a `null`'s.
pub(super) struct Object<'o> {
    /// What is left of it. A piece that doesn't fit takes it all, so that the end doesn't fit
    /// either.
    room: &'o mut [u8],
}

impl<'o> Object<'o> {
    /// The first key brings the opening brace.
    pub(super) fn begin(room: &'o mut [u8]) -> Self {
        Self { room }
    }

    /// As it is. To be inlined: then the length of what is copied is known, mostly.
    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.room = put(mem::take(&mut self.room), bytes);
    }

    #[inline]
    pub(super) fn text<const N: usize>(&mut self, key: &[u8; N], value: Option<&str>) {
        self.cleaned_text(key, value, |text| Cow::Borrowed(text));
    }

    /// As [`text`](Self::text); `clean` may replace what isn't visible ASCII.
    #[inline]
    pub(super) fn cleaned_text<const N: usize>(
        &mut self,
        key: &[u8; N],
        value: Option<&str>,
        clean: impl FnOnce(&str) -> Cow<'_, str>,
    ) {
        match value {
            Some(text) if !is_plain(text.as_bytes()) => {
                self.raw(&key[..N - 1]);
                self.room = escaped(mem::take(&mut self.room), &clean(text));
            }
            plain => self.name(key, plain),
        }
    }

    /// Of a type that can't hold anything that would have to be escaped.
    #[inline]
    pub(super) fn name<const N: usize>(&mut self, key: &[u8; N], value: Option<impl AsRef<[u8]>>) {
        match value {
            Some(text) => {
                self.raw(key);
                self.raw(text.as_ref());
                self.raw(b"\"");
            }
            None => {
                self.raw(&key[..N - 1]);
                self.raw(b"null");
            }
        }
    }

    #[inline]
    pub(super) fn number<const N: usize>(&mut self, key: &[u8; N], value: Option<u64>) {
        self.raw(key);
        match value {
            Some(number) => self.room = decimal(mem::take(&mut self.room), number),
            None => self.raw(b"null"),
        }
    }

    #[inline]
    pub(super) fn flag<const N: usize>(&mut self, key: &[u8; N], value: bool) {
        self.raw(key);
        if value { self.raw(b"true") } else { self.raw(b"false") }
    }

    /// How much room is left behind the object and a line feed; `None`: it didn't fit.
    pub(super) fn end(self) -> Option<usize> {
        let (end, rest) = self.room.split_first_chunk_mut()?;
        *end = *b"}\n";
        Some(rest.len())
    }
}

// What is left of the room goes from hand to hand, so that it stays in registers.

#[inline]
fn put<'o>(room: &'o mut [u8], bytes: &[u8]) -> &'o mut [u8] {
    match room.split_at_mut_checked(bytes.len()) {
        Some((place, rest)) => {
            place.copy_from_slice(bytes);
            rest
        }
        None => &mut [],
    }
}

fn decimal(room: &mut [u8], number: u64) -> &mut [u8] {
    if number < 100 {
        return up_to_two_digits(room, number);
    }
    let room = if number < 10_000 {
        up_to_two_digits(room, number / 100)
    } else {
        put(decimal(room, number / 10_000), &two_digits((number / 100 % 100) as u32))
    };
    put(room, &two_digits((number % 100) as u32))
}

#[inline]
fn up_to_two_digits(room: &mut [u8], number: u64) -> &mut [u8] {
    if number < 10 { put(room, &[b'0' + number as u8]) } else { put(room, &two_digits(number as u32)) }
}

#[cold]
fn escaped<'o>(room: &'o mut [u8], text: &str) -> &'o mut [u8] {
    put(room, &serde_json::to_vec(text).unwrap_or_else(|_| b"null".to_vec()))
}

/// Whether these are visible ASCII characters and spaces that stand for themselves in JSON.
pub(super) fn is_plain(text: &[u8]) -> bool {
    match text.last_chunk() {
        // What is behind the last whole word, together with bytes that were seen already.
        Some(last) => is_plain_word(*last) && text.as_chunks().0.iter().copied().all(is_plain_word),
        None => text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')),
    }
}

/// All eight bytes at once. A borrow from a lower byte can only make a word look worse where
/// that byte is an exception itself.
fn is_plain_word(bytes: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_ne_bytes(bytes);
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let controls = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
    let above = word | word.wrapping_add(ONES);
    let quotes = has_zero(word ^ (ONES * u64::from(b'"')));
    let backslashes = has_zero(word ^ (ONES * u64::from(b'\\')));
    (controls | above | quotes | backslashes) & HIGH == 0
}

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// A number below 100 in two digits.
pub(super) fn two_digits(number: u32) -> [u8; 2] {
    PAIRS[(number % 100) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\"b\\c\u{1}\n\u{7f}é\u{2028}";

    /// How much room is left behind it.
    fn write(room: &mut [u8]) -> Option<usize> {
        let mut object = Object::begin(room);
        object.text(br#"{"text":""#, Some(HOSTILE));
        object.text(br#","plain":""#, Some("as it is, and longer than a word"));
        object.text(br#","none":""#, None);
        object.cleaned_text(br#","cleaned":""#, Some("\u{7f}"), |_| "\"".into());
        object.cleaned_text(br#","clean":""#, Some("clean"), |_| "not asked".into());
        object.name(br#","name":""#, Some("orders"));
        object.name(br#","nameless":""#, None::<&str>);
        object.raw(br#","written":"by hand""#);
        object.number(br#","number":"#, Some(7));
        object.number(br#","nothing":"#, None);
        object.flag(br#","yes":"#, true);
        object.flag(br#","no":"#, false);
        object.end()
    }

    #[test]
    fn it_is_the_json_that_a_library_would_write() {
        let mut room = vec![b'!'; 1000];
        let left = write(&mut room).unwrap();
        let (object, rest) = room.split_at(1000 - left);
        let expected = serde_json::json!({
            "text": HOSTILE, "plain": "as it is, and longer than a word", "none": null, "cleaned": "\"",
            "clean": "clean", "name": "orders", "nameless": null, "written": "by hand", "number": 7,
            "nothing": null, "yes": true, "no": false,
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(object).unwrap(), expected);
        assert!(object.ends_with(b"}\n") && rest.iter().all(|byte| *byte == b'!'));
    }

    #[test]
    fn without_enough_room_there_is_none() {
        let enough = 1000 - write(&mut [0; 1000]).unwrap();
        for room in 0..enough {
            assert_eq!(write(&mut vec![0; room]), None, "{room} of {enough}");
        }
        assert_eq!(write(&mut vec![0; enough]), Some(0));
    }

    #[test]
    fn numbers_are_written_as_the_formatter_would() {
        let mut edges = vec![0, u64::MAX];
        for power in 0..20 {
            let power = 10_u64.pow(power);
            edges.extend([power - 1, power, power + 1, power + power / 3]);
        }
        for number in edges {
            let mut room = [0; 20];
            let left = decimal(&mut room, number).len();
            assert_eq!(std::str::from_utf8(&room[..20 - left]).unwrap(), number.to_string());
        }
    }

    #[test]
    fn every_byte_is_judged_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let plain = (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
            for len in 1..=19 {
                for at in 0..len {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    assert_eq!(is_plain(&text), plain, "{byte} at {at} of {len}");
                }
            }
        }
        assert!(is_plain(b""));
    }
}
