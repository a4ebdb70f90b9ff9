//! A door for the fuzz target of challenges in `tests/fuzz`; built for it only.

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};

use super::challenge;

/// `WWW-Authenticate`, a line of the data a line of the field.
pub fn challenges(data: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            fields.append(WWW_AUTHENTICATE, value);
        }
        if let Ok(text) = std::str::from_utf8(line) {
            for challenge in challenge::parse(text) {
                assert!(!challenge.scheme.is_empty() && text.contains(&challenge.scheme));
            }
        }
    }
    for scheme in ["bearer", "dpop"] {
        let first = challenge::complaint(&fields, scheme);
        assert_eq!(first, challenge::complaint(&fields, &scheme.to_uppercase()), "schemes know no case");
    }
}
