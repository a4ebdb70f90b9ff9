//! What a head says of its message's end and of the connection behind it (RFC 9112 §6.3 and
//! §9.3): gathered in one look at its fields, as they were sent.

use http::{
    HeaderName, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
};

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
    pub(super) fn unsaid() -> Self {
        Self { length: Length::Unsaid, closes: false, keeps_alive: false, expects: false }
    }

    /// Takes note of a field. True: nobody else has to see it. Other options than these two name
    /// fields that go with the connection, too (RFC 9110 §7.6.1).
    pub(super) fn note(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        if *name == CONNECTION {
            return self.connection(value);
        }
        if *name == CONTENT_LENGTH {
            self.length(decimal(value).map(Length::Bytes));
        } else if *name == TRANSFER_ENCODING {
            self.length(value.eq_ignore_ascii_case(b"chunked").then_some(Length::Chunked));
        } else if *name == EXPECT {
            self.expects = true;
        }
        false
    }

    fn length(&mut self, said: Option<Length>) {
        self.length = match self.length {
            Length::Unsaid => said.unwrap_or(Length::InDoubt),
            Length::Bytes(_) | Length::Chunked | Length::InDoubt => Length::InDoubt,
        };
    }

    /// True: there is nothing else in it.
    fn connection(&mut self, options: &[u8]) -> bool {
        // Nearly always so.
        if matches!(options, b"keep-alive" | b"Keep-Alive") {
            self.keeps_alive = true;
            return true;
        }
        for option in options.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.closes |= option.eq_ignore_ascii_case(b"close");
            self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        [&b"keep-alive"[..], b"close"].iter().any(|option| options.eq_ignore_ascii_case(option))
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
    const MOST: u64 = i64::MAX as u64;
    let mut number = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || number > MOST / 10 {
            return None;
        }
        number = number * 10 + u64::from(digit);
    }
    (number <= MOST && !digits.is_empty()).then_some(number)
}
