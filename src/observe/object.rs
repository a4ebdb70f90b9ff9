//! A JSON object (RFC 8259) written field by field. Every request writes one line of two
//! dozen fields, of which nearly none needs escaping. So a field's key is given as it
//! stands in the line, `,"agent":`: what is known when compiled is copied in one go. A
//! value is looked at once, eight bytes at a time; what needs it, `serde_json` escapes.

/// Appends to a buffer; complete after [`end`](Self::end). A value of `None` is `null`.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Object<'o> {
    /// The first key brings the opening brace.
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(super) fn text<const N: usize>(&mut self, key: &[u8; N], value: Option<&str>) {
        self.out.extend_from_slice(key);
        match value {
            Some(text) if is_plain(text.as_bytes()) => quoted(self.out, text),
            Some(text) => escaped(self.out, text),
            None => null(self.out),
        }
    }

    /// Of a type that can't hold anything that would have to be escaped.
    pub(super) fn name<const N: usize>(&mut self, key: &[u8; N], value: Option<&str>) {
        self.out.extend_from_slice(key);
        match value {
            Some(text) => quoted(self.out, text),
            None => null(self.out),
        }
    }

    /// `value` appends what needs no escaping.
    pub(super) fn written<const N: usize>(&mut self, key: &[u8; N], value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(key);
        self.out.push(b'"');
        value(self.out);
        self.out.push(b'"');
    }

    pub(super) fn number<const N: usize>(&mut self, key: &[u8; N], value: Option<u64>) {
        self.out.extend_from_slice(key);
        match value {
            Some(number) => decimal(self.out, number),
            None => null(self.out),
        }
    }

    pub(super) fn flag<const N: usize>(&mut self, key: &[u8; N], value: bool) {
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

fn quoted(out: &mut Vec<u8>, plain: &str) {
    out.push(b'"');
    out.extend_from_slice(plain.as_bytes());
    out.push(b'"');
}

#[cold]
fn escaped(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.truncate(start);
        null(out);
    }
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

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let mut digits = [0; 20];
    let mut first = digits.len();
    while number >= 10 {
        first -= 2;
        digits[first..first + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if number > 0 {
        first -= 1;
        digits[first] = b'0' + number as u8;
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_json_that_a_library_would_write() {
        let hostile = "a\"b\\c\u{1}\n\u{7f}é\u{2028}";
        let mut out = b"before ".to_vec();
        let mut object = Object::begin(&mut out);
        object.text(br#"{"text":"#, Some(hostile));
        object.text(br#","plain":"#, Some("as it is, and longer than a word"));
        object.text(br#","none":"#, None);
        object.name(br#","name":"#, Some("orders"));
        object.name(br#","nameless":"#, None);
        object.written(br#","written":"#, |out| out.extend_from_slice(b"by hand"));
        object.number(br#","number":"#, Some(7));
        object.number(br#","nothing":"#, None);
        object.flag(br#","yes":"#, true);
        object.flag(br#","no":"#, false);
        object.end();
        let expected = serde_json::json!({
            "text": hostile, "plain": "as it is, and longer than a word", "none": null, "name": "orders",
            "nameless": null, "written": "by hand", "number": 7, "nothing": null, "yes": true, "no": false,
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out[7..]).unwrap(), expected);
    }

    #[test]
    fn numbers_are_written_as_the_formatter_would() {
        let mut edges = vec![0, u64::MAX];
        for power in 0..20 {
            let power = 10_u64.pow(power);
            edges.extend([power - 1, power, power + 1, power + power / 3]);
        }
        for number in edges {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
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
