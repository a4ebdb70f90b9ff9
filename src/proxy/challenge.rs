//! `WWW-Authenticate` (RFC 9110 §11.6.1): a list of challenges over one or several
//! lines, each with a token68 or parameters, commas also inside quotes.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// One challenge. Names are compared without regard to case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

/// What the upstream says of the token that it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// It is no longer good (RFC 6750 §3.1).
    InvalidToken,
    /// It is good, and not for this (RFC 6750 §3.1): these scopes are wanted, where the
    /// upstream names them.
    InsufficientScope(Vec<String>),
    /// The proof wants the server's nonce (RFC 9449 §9).
    UseDpopNonce,
    /// The human behind it has to authenticate in another way, or anew (RFC 9470 §3).
    InsufficientAuthentication { acr_values: Option<String>, max_age: Option<String> },
}

/// The complaint of an answer, in challenges of `scheme` (`bearer`, `dpop`).
pub(super) fn complaint(headers: &HeaderMap, scheme: &str) -> Option<Complaint> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
    let mut ours = lines.flat_map(parse).filter(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
    ours.find_map(|challenge| match challenge.parameter("error")? {
        "invalid_token" => Some(Complaint::InvalidToken),
        "use_dpop_nonce" => Some(Complaint::UseDpopNonce),
        "insufficient_scope" => {
            let scopes = challenge.parameter("scope").unwrap_or_default();
            Some(Complaint::InsufficientScope(
                scopes.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
            ))
        }
        "insufficient_user_authentication" => {
            let text = |name| challenge.parameter(name).map(str::to_owned);
            Some(Complaint::InsufficientAuthentication { acr_values: text("acr_values"), max_age: text("max_age") })
        }
        _ => None,
    })
}

/// Reads as many challenges of a line as are well-formed.
pub(super) fn parse(line: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let Some((word, after)) = token(rest) else { return challenges };
        let gap = after.trim_start_matches([' ', '\t']);
        if let Some(value) = gap.strip_prefix('=') {
            let value = value.trim_start_matches([' ', '\t']);
            let Some((value, after)) = parameter_value(value) else { return challenges };
            let Some(challenge) = challenges.last_mut() else { return challenges };
            challenge.parameters.push((word.to_owned(), value));
            rest = after;
        } else {
            challenges.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
            rest = skip_token68(after);
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// `Negotiate dG9rZW4=`: a token68 stands directly behind the scheme and isn't a
/// parameter, which would have something behind its `=`.
fn skip_token68(after: &str) -> &str {
    let text = after.trim_start_matches([' ', '\t']);
    let token68 = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let end = text.bytes().position(|byte| !token68(byte)).unwrap_or(text.len());
    let rest = text[end..].trim_start_matches('=').trim_start_matches([' ', '\t']);
    if end > 0 && (rest.is_empty() || rest.starts_with(',')) { rest } else { after }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(line: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse(line).into_iter().map(|challenge| (challenge.scheme, challenge.parameters)).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn challenges_are_told_apart() {
        let bearer = |parameters: &[(&str, &str)]| ("Bearer".to_owned(), pairs(parameters));
        assert_eq!(read("Bearer"), [bearer(&[])]);
        assert_eq!(
            read(r#"Bearer realm="x", error="invalid_token""#),
            [bearer(&[("realm", "x"), ("error", "invalid_token")])]
        );
        assert_eq!(
            read(r#"Negotiate dG9rZW4=, Basic realm="a, b=\"c\"", Bearer error=invalid_token"#),
            [
                ("Negotiate".to_owned(), vec![]),
                ("Basic".to_owned(), pairs(&[("realm", r#"a, b="c""#)])),
                bearer(&[("error", "invalid_token")]),
            ]
        );
        assert_eq!(read(r#", ,Bearer , realm = "x" ,,"#), [bearer(&[("realm", "x")])]);
        assert_eq!(read("NTLM, Bearer"), [("NTLM".to_owned(), vec![]), bearer(&[])]);
        assert_eq!(read(r#"Bearer realm="open"#), [bearer(&[])]);
        assert_eq!(read("=x"), []);
    }

    #[test]
    fn complaints_are_told_apart() {
        let of = |scheme: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
            }
            complaint(&headers, scheme)
        };
        let invalid = Some(Complaint::InvalidToken);
        assert_eq!(of("bearer", &[r#"Bearer error="invalid_token""#]), invalid);
        assert_eq!(of("bearer", &["Basic", r#"bearer ERROR="invalid_token", realm=x"#]), invalid);
        assert_eq!(of("bearer", &[r#"DPoP error="x", Bearer realm="a", error="invalid_token""#]), invalid);
        assert_eq!(
            of("dpop", &[r#"Bearer error="invalid_token", DPoP error="use_dpop_nonce""#]),
            Some(Complaint::UseDpopNonce)
        );
        for nothing in ["Bearer", "", r#"Basic realm="Bearer error=invalid_token""#, r#"DPoP error="invalid_token""#] {
            assert_eq!(of("bearer", &[nothing]), None, "{nothing}");
        }
        let scopes =
            |scopes: &[&str]| Some(Complaint::InsufficientScope(scopes.iter().map(|&s| s.to_owned()).collect()));
        assert_eq!(of("bearer", &[r#"Bearer error="insufficient_scope", scope="a  b""#]), scopes(&["a", "b"]));
        assert_eq!(of("bearer", &["Bearer error=insufficient_scope"]), scopes(&[]));
        let stronger = r#"Bearer error="insufficient_user_authentication", acr_values="gold silver", max_age=5"#;
        let wanted = Complaint::InsufficientAuthentication {
            acr_values: Some("gold silver".to_owned()),
            max_age: Some("5".to_owned()),
        };
        assert_eq!(of("bearer", &[stronger]), Some(wanted));
    }
}
