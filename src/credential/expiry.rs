//! How long a token lives and when to replace it (A9-A11). Expiry is a duration from the
//! start of the request on the monotonic clock; wall time is only compared with a JWT's own
//! dates. A token is never judged by what it holds: reading it is a guess about its life.

use std::time::Duration;

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;

/// No token is kept longer than this, whatever its server says.
const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The shortest life that is believed: with less, each request would fetch a token.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// For a life of zero or less, which no server can mean: long enough to use what was
/// got and to keep a busy agent from asking without pause.
const SENSELESS_LIFE: Duration = Duration::from_secs(5);

/// The life of a token, from the start of its request.
///
/// `expires_in` (a number or a numeric string) counts first, then the JWT's `exp`, then
/// `default_ttl`. `unix_now` is the wall time at the start of the request.
pub(crate) fn life(expires_in: Option<&Value>, token: &str, unix_now: u64, default_ttl: Duration) -> Duration {
    if let Some(seconds) = expires_in.and_then(number) {
        return clamp(seconds);
    }
    match jwt_dates(token) {
        Some(dates) => clamp(dates.life(unix_now)),
        None => default_ttl.clamp(MIN_LIFE, MAX_LIFE),
    }
}

/// A life that the server gave as a moment.
pub(crate) fn bounded(left: Duration) -> Duration {
    clamp(left.as_secs_f64())
}

/// What is left of a JWT by its own dates; `None`: it is no JWT, or names no end.
pub(crate) fn jwt_life(token: &str, unix_now: u64) -> Option<Duration> {
    jwt_dates(token).map(|dates| clamp(dates.life(unix_now)))
}

fn clamp(seconds: f64) -> Duration {
    if seconds <= 0.0 {
        return SENSELESS_LIFE;
    }
    Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFE).clamp(MIN_LIFE, MAX_LIFE)
}

/// A JSON number, or a string that is one; not NaN.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|number| !number.is_nan())
}

struct JwtDates {
    exp: f64,
    iat: Option<f64>,
}

impl JwtDates {
    /// From our clock to `exp`, and no longer than from `iat` to `exp`, should our clock be slow.
    fn life(&self, unix_now: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double exactly for ages to come")]
        let left = self.exp - unix_now as f64;
        match self.iat {
            Some(iat) if iat < self.exp => left.min(self.exp - iat),
            Some(_) | None => left,
        }
    }
}

/// The dates of a signed JWT: three parts, of which the first two are JSON objects. `None` for
/// anything else: opaque tokens, JWE (five parts), `ghs_1_a.b.c`.
fn jwt_dates(token: &str) -> Option<JwtDates> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    json_part(header)?.get("alg")?;
    let claims = json_part(claims)?;
    let exp = number(claims.get("exp")?)?;
    Some(JwtDates { exp, iat: claims.get("iat").and_then(number) })
}

fn json_part(part: &str) -> Option<Value> {
    const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&base64::alphabet::URL_SAFE, TOLERANT);
    let value: Value = serde_json::from_slice(&engine.decode(part).ok()?).ok()?;
    value.is_object().then_some(value)
}

/// When a token is to be replaced and until when it is used, both from the start of its
/// request. `chance` is a random number from 0 to 1.
pub(crate) fn window(life: Duration, chance: f64) -> Window {
    let base = (life / 10).min(Duration::from_secs(300)).max(Duration::from_secs(30));
    let jitter = base.min(life / 2).mul_f64(0.2 * chance.clamp(0.0, 1.0));
    let half = life / 2;
    // A short life has no room for more margin than half of it: there jitter shortens it.
    let margin = if base + jitter <= half { base + jitter } else { half.saturating_sub(jitter) };
    let last = life / 20;
    Window { refresh: life.saturating_sub(margin), usable: life.saturating_sub(last.min(Duration::from_secs(1))) }
}

/// See [`window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) refresh: Duration,
    /// A little before the end, so that no token expires on its way.
    pub(crate) usable: Duration,
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DEFAULT: Duration = Duration::from_secs(600);

    fn jwt(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({"alg": "RS256"})), part(claims))
    }

    fn seconds(expires_in: Option<Value>, token: &str) -> u64 {
        life(expires_in.as_ref(), token, NOW, DEFAULT).as_secs()
    }

    /// A7 and threat 95.
    #[test]
    fn odd_lives_have_a_defined_meaning() {
        let table = [
            (json!(3600), 3600),
            (json!("3600"), 3600),
            (json!(" 3600.9 "), 3600),
            (json!(59.9), 59),
            (json!(0), 5),
            (json!(-1), 5),
            (json!("-1e400"), 5),
            (json!(0.001), 1),
            (json!(1e30), 30 * 86400),
            (json!("1e30"), 30 * 86400),
            (json!("inf"), 30 * 86400),
            (json!(u64::MAX), 30 * 86400),
            (json!("NaN"), 600),
            (json!("soon"), 600),
            (json!(true), 600),
            (json!([3600]), 600),
            (json!(null), 600),
        ];
        for (value, wanted) in table {
            assert_eq!(seconds(Some(value.clone()), "opaque"), wanted, "{value}");
        }
        assert_eq!(life(None, "opaque", NOW, Duration::ZERO), MIN_LIFE);
        assert_eq!(life(None, "opaque", NOW, Duration::MAX), MAX_LIFE);
    }

    /// A9: token shapes, of which only the signed JWT is read.
    #[test]
    fn only_a_jwt_has_a_date() {
        let good = jwt(&json!({"exp": NOW + 100}));
        let dated = json!({"exp": NOW + 100}).to_string();
        let parts: Vec<&str> = good.split('.').collect();
        let table = [
            (good.clone(), 100),
            (jwt(&json!({"exp": NOW as f64 + 100.5})), 100),
            (jwt(&json!({"exp": (NOW + 100).to_string()})), 100),
            (jwt(&json!({"exp": NOW - 100})), 5),
            (jwt(&json!({"exp": NOW + 100_000, "iat": NOW + 99_000})), 1000),
            (jwt(&json!({"exp": NOW + 100, "iat": NOW + 200})), 100),
            (jwt(&json!({"exp": 1e300})), 30 * 86400),
            (jwt(&json!({"sub": "x"})), 600),
            (jwt(&json!({"exp": {}})), 600),
            (jwt(&json!(["exp"])), 600),
            (format!("ghs_123_{good}"), 600),
            (format!("{good}.d.e"), 600),
            (format!("{}.{}", parts[0], parts[1]), 600),
            (format!("x.{}.y", parts[1]), 600),
            ("a.b.c".to_owned(), 600),
            ("...".to_owned(), 600),
            ("opaque".to_owned(), 600),
            (format!("{}.{}.x", URL_SAFE.encode(r#"{"alg":"RS"}"#), URL_SAFE.encode(dated)), 100),
        ];
        for (token, wanted) in table {
            assert_eq!(seconds(None, &token), wanted, "{token}");
        }
        assert_eq!(seconds(Some(json!(7)), &good), 7, "`expires_in` counts first");
    }

    /// A11.
    #[test]
    fn the_margin_scales_with_the_life() {
        let margin = |life: u64, chance| {
            let life = Duration::from_secs(life);
            (life - window(life, chance).refresh).as_secs_f64()
        };
        assert!((margin(86400, 0.0) - 300.0).abs() < 0.001);
        assert!((margin(86400, 1.0) - 360.0).abs() < 0.001);
        assert!((margin(1200, 0.0) - 120.0).abs() < 0.001);
        assert!((margin(100, 0.0) - 30.0).abs() < 0.001);
        assert!((margin(5, 0.0) - 2.5).abs() < 0.001);
        assert!((margin(5, 1.0) - 2.0).abs() < 0.001);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_arithmetic(number in any::<f64>(), text in ".*", chance in any::<f64>()) {
            for value in [json!(number), json!(text)] {
                let life = life(Some(&value), &text, NOW, DEFAULT);
                prop_assert!(life >= MIN_LIFE && life <= MAX_LIFE);
                let window = window(life, chance);
                prop_assert!(window.refresh >= life / 2 && window.refresh <= window.usable && window.usable <= life);
            }
        }
    }
}
