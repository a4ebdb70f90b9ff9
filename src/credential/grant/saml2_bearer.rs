//! A SAML 2.0 assertion is the grant (RFC 7522 §2.1). The assertion is made elsewhere; here
//! it is encoded and its end is respected.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    credential::{Source, error::SettingsError, request::TokenRequest},
    primitives::Secret,
};

/// The grant type of the RFC.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:saml2-bearer";

/// Where the assertion comes from: XML, or XML that is base64url-encoded already.
#[derive(Clone, Debug)]
pub struct Saml2Bearer {
    pub assertion: Source,
}

/// `given`: the assertion as its source has it.
pub(super) fn fill(request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
    request.set_secret("assertion", &encoded(super::only(given)?))
}

/// base64url without padding or line breaks (RFC 7522 §2.1).
fn encoded(assertion: &Secret) -> Secret {
    let text = assertion.expose().trim();
    if text.starts_with('<') {
        return Secret::new(URL_SAFE_NO_PAD.encode(text));
    }
    let plain = |char: char| match char {
        '+' => Some('-'),
        '/' => Some('_'),
        '=' => None,
        char if char.is_whitespace() => None,
        char => Some(char),
    };
    Secret::new(text.chars().filter_map(plain).collect())
}

/// How long the assertion is still good: up to the earliest `NotOnOrAfter` in it. `None`: it
/// names none, or can't be read; the server will judge.
pub(crate) fn time_left(assertion: &Secret, now: SystemTime) -> Option<Duration> {
    let decoded = URL_SAFE_NO_PAD.decode(encoded(assertion).expose()).ok()?;
    let xml = zeroize::Zeroizing::new(String::from_utf8(decoded).ok()?);
    let ends = xml.split("NotOnOrAfter").skip(1).filter_map(|rest| {
        let value = rest.trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let text = value.get(1..)?.split(quote).next()?;
        OffsetDateTime::parse(text, &Rfc3339).ok()
    });
    let end = SystemTime::from(ends.min()?);
    Some(end.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<saml:Assertion><saml:SubjectConfirmationData NotOnOrAfter="2027-01-15T08:00:10Z" Recipient="x"/><saml:Conditions NotOnOrAfter = '2027-01-15T08:01:00.5Z'/>ü</saml:Assertion>"#;

    /// E7: base64url, neither padding nor line breaks, whichever way the source has it.
    #[test]
    fn the_assertion_is_encoded_once() {
        let plain = URL_SAFE_NO_PAD.encode(XML);
        let of = |text: &str| encoded(&Secret::new(text.to_owned())).expose().to_owned();
        assert_eq!(of(XML), plain);
        assert_eq!(of(&format!("\n{XML}\n")), plain);
        let standard = base64::engine::general_purpose::STANDARD.encode(XML);
        let folded: String =
            standard.as_bytes().chunks(76).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect();
        assert_eq!(of(&folded), plain);
        assert_eq!(of(&plain), plain);
    }

    #[test]
    fn the_earliest_end_counts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let left = |text: &str| time_left(&Secret::new(text.to_owned()), now);
        assert_eq!(left(XML), Some(Duration::from_secs(10)));
        assert_eq!(left(&XML.replace("2027-01-15T08:00:10Z", "2020-01-01T00:00:00Z")), Some(Duration::ZERO));
        assert_eq!(left("<saml:Assertion/>"), None);
        assert_eq!(left("<a NotOnOrAfter=\"soon\" NotOnOrAfter=>"), None);
        assert_eq!(left("no assertion"), None);
    }
}
