//! A JSON object (RFC 8259) written field by field. Every request writes one line of
//! two dozen fields, of which nearly none needs escaping: names never do, and a value is
//! looked at once. What does need it, `serde_json` escapes.

use std::{fmt::Display, io::Write, net::SocketAddr};

/// Appends to a buffer; complete after [`end`](Self::end). A value of `None` is `null`.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    separator: u8,
}

impl<'o> Object<'o> {
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    pub(super) fn text(&mut self, name: &'static str, value: Option<&str>) {
        self.name(name);
        match value {
            Some(text) => string(self.out, text),
            None => self.null(),
        }
    }

    /// As its `Display`, without a string in between where nothing has to be escaped.
    pub(super) fn shown(&mut self, name: &'static str, value: Option<impl Display>) {
        self.name(name);
        let Some(value) = value else { return self.null() };
        self.out.push(b'"');
        let start = self.out.len();
        // Writing to memory can't fail.
        let _ = write!(self.out, "{value}");
        if self.out[start..].iter().copied().all(stands_for_itself) {
            return self.out.push(b'"');
        }
        let text = self.out.split_off(start);
        self.out.pop();
        string(self.out, &String::from_utf8_lossy(&text));
    }

    pub(super) fn number(&mut self, name: &'static str, value: Option<u64>) {
        self.name(name);
        match value {
            Some(number) => decimal(self.out, number),
            None => self.null(),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(super) fn address(&mut self, name: &'static str, value: Option<SocketAddr>) {
        let Some(SocketAddr::V4(address)) = value else { return self.shown(name, value) };
        self.name(name);
        for (octet, before) in address.ip().octets().into_iter().zip(*b"\"...") {
            self.out.push(before);
            decimal(self.out, octet.into());
        }
        self.out.push(b':');
        decimal(self.out, address.port().into());
        self.out.push(b'"');
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// `name` is a word of the contract: letters and underscores.
    fn name(&mut self, name: &'static str) {
        self.out.push(std::mem::replace(&mut self.separator, b','));
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(stands_for_itself) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    let start = out.len();
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

fn stands_for_itself(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[first..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_json_that_a_library_would_write() {
        let hostile = "a\"b\\c\u{1}\n\u{7f}é\u{2028}";
        let mut out = b"before ".to_vec();
        let mut object = Object::begin(&mut out);
        object.text("text", Some(hostile));
        object.shown("shown", Some(format_args!("{hostile}{}", 7)));
        object.text("none", None);
        object.number("least", Some(0));
        object.number("most", Some(u64::MAX));
        object.flag("yes", true);
        object.address("v4", Some(([203, 0, 113, 70], 65_535).into()));
        object.address("v6", "[2001:db8::1]:443".parse().ok());
        object.address("nowhere", None);
        object.end();
        let expected = serde_json::json!({
            "text": hostile, "shown": format!("{hostile}7"), "none": null, "least": 0, "most": u64::MAX, "yes": true,
            "v4": "203.0.113.70:65535", "v6": "[2001:db8::1]:443", "nowhere": null,
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out[7..]).unwrap(), expected);
    }
}
