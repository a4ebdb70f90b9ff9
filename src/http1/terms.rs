//! What a head says of its message's end and of the connection behind it (RFC 9112 §6.3 and
//! §9.3): gathered in one look at its fields, as they were sent.

use http::{Method, StatusCode, Version};

use super::{Decoder, Fault};

/// Gathered field by field; a request's or an answer's.
#[derive(Debug)]
pub struct Terms {
    length: Length,
    closes: bool,
    keeps_alive: bool,
    expects: bool,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Unsaid,
    Bytes(u64),
    Chunked,
    /// Said twice, in two ways, or in one that isn't known (threats 55 to 57, 78, 81).
    InDoubt,
}

/// Where an answer ends, and whether the peer keeps the connection behind it.
#[derive(Debug)]
pub struct Framing {
    pub decoder: Decoder,
    pub keeps: bool,
}

impl Terms {
    pub(super) fn of(fields: &[httparse::Header<'_>]) -> Self {
        let mut terms = Self { length: Length::Unsaid, closes: false, keeps_alive: false, expects: false };
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            // By their lengths first: nearly all fields are none of these.
            match field.name.len() {
                6 if is("expect") => terms.expects = true,
                10 if is("connection") => terms.connection(field.value),
                14 if is("content-length") => terms.length(decimal(field.value).map(Length::Bytes)),
                17 if is("transfer-encoding") => {
                    terms.length(field.value.eq_ignore_ascii_case(b"chunked").then_some(Length::Chunked));
                }
                _ => {}
            }
        }
        terms
    }

    /// Whether nobody else has to see a field. Other options than these two name fields that go
    /// with the connection, too (RFC 9110 §7.6.1).
    pub(super) fn hold_all_of(field: &httparse::Header<'_>) -> bool {
        field.name.len() == 10
            && field.name.eq_ignore_ascii_case("connection")
            && [&b"keep-alive"[..], b"close"].iter().any(|option| field.value.eq_ignore_ascii_case(option))
    }

    fn length(&mut self, said: Option<Length>) {
        self.length = match self.length {
            Length::Unsaid => said.unwrap_or(Length::InDoubt),
            Length::Bytes(_) | Length::Chunked | Length::InDoubt => Length::InDoubt,
        };
    }

    fn connection(&mut self, options: &[u8]) {
        for option in options.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.closes |= option.eq_ignore_ascii_case(b"close");
            self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Where the body ends, if its head says so, and in one way only.
    pub(super) fn decoder(&self, version: Version) -> Result<Option<Decoder>, Fault> {
        match self.length {
            Length::Unsaid => Ok(None),
            Length::Bytes(length) => Ok(Some(Decoder::length(length))),
            Length::Chunked if version != Version::HTTP_10 => Ok(Some(Decoder::chunked())),
            Length::Chunked | Length::InDoubt => Err(Fault::Length),
        }
    }

    /// The peer wants to keep the connection.
    pub(super) fn keeps(&self, version: Version) -> bool {
        !self.closes && (version != Version::HTTP_10 || self.keeps_alive)
    }

    /// The body comes only when it is asked for (RFC 9110 §10.1.1).
    pub(super) fn expects(&self) -> bool {
        self.expects
    }

    /// Of an answer to `method`, which has come.
    pub fn framing(&self, status: StatusCode, version: Version, method: &Method) -> Result<Framing, Fault> {
        let said = self.decoder(version)?;
        let is_bodiless = *method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || status.is_informational();
        let decoder = if is_bodiless { Decoder::none() } else { said.unwrap_or(Decoder::until_close()) };
        Ok(Framing { keeps: self.keeps(version) && !decoder.ends_with_connection(), decoder })
    }
}

/// A length in digits and nothing else; no body is longer than an `i64`, and whoever says so
/// means to have it counted wrong.
fn decimal(digits: &[u8]) -> Option<u64> {
    let digit = |number: i64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    let number = if digits.is_empty() { None } else { digits.iter().try_fold(0, digit) };
    number.and_then(|number| u64::try_from(number).ok())
}
