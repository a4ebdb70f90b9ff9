//! What one line of the audit log looks like (surface: "One record a request").
//! Knows no file. A record is written by the worker that served its request, at its end: then
//! all that it names is at hand, and nothing has to be handed to another thread but text.
//!
//! Threat 109: a line is JSON, so that C0 controls are escaped; what JSON leaves alone but
//! a terminal obeys (C1 controls, DEL, bidirectional marks) is replaced; what an agent
//! or a peer may make long is cut.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use super::{
    Event, Record,
    lane::Lines,
    object::{Object, two_digits},
    record::TokenEvent,
};
use crate::primitives::{AgentName, Authority, CredentialName, Fingerprint, RouteName, digest::Hex};

/// Bytes of a path that the log shows; the rest is replaced by its length.
const PATH_LIMIT: usize = 2048;
/// Bytes of an extension method; every registered one is shorter.
const METHOD_LIMIT: usize = 32;
/// Bytes of free text: an authorization server's words, a reason.
const TEXT_LIMIT: usize = 1024;
/// Bytes that nearly every line has room in; where one hasn't, it is written again.
const ROOM: usize = 768;

/// Writes the lines of records, and remembers what the next one is likely to have in common
/// with the last.
#[derive(Debug)]
pub(super) struct Scribe {
    /// The second of `date`, since 1970.
    second: u64,
    /// Up to the point before the fraction.
    date: [u8; DATE],
    upstream: Option<(SocketAddr, String)>,
}

impl Scribe {
    pub(super) fn new() -> Self {
        Self { second: 0, date: date(0), upstream: None }
    }

    /// Appends one line, with its line feed, for a record that took `duration`.
    pub(super) fn write_record(&mut self, out: &mut Lines, record: &Record, duration: Duration) {
        out.push_with(ROOM, |room| self.fill(room, record, duration));
    }

    /// The fields are in the order of the surface contract; `prev` and `hash` come with the
    /// chain. Returns how much room is left; `None`: there wasn't enough.
    fn fill(&mut self, room: &mut [u8], record: &Record, duration: Duration) -> Option<usize> {
        let Record { asked, decision, outcome, traffic, .. } = record;
        let (authority, token) = (asked.authority.get(), record.token.as_ref());
        let path = asked.path.as_ref().map(|path| cut(path.as_str(), PATH_LIMIT));
        let reason = Some(decision.reason.as_ref()).filter(|text| !text.is_empty());
        let reason = reason.map(|text| cut(text, TEXT_LIMIT));
        let method = asked.method.as_ref().map(|method| cut(method.as_str(), METHOD_LIMIT));
        let fingerprint = token.map(|token| token.fingerprint.hex());
        let (second, micro) = since_epoch(record.time);
        let mut line = Object::begin(room);
        line.raw(br#"{"time":""#);
        line.raw(self.date(second));
        line.raw(&fraction(micro));
        line.raw(br#"","request_id":""#);
        record.id.write_with(|digits| line.raw(digits));
        line.name(br#"","agent":""#, record.agent.get().map(AgentName::as_str));
        line.name(br#","subject":null,"listener":""#, Some(record.listener.as_str()));
        // A token (RFC 9110 §9.1): it has no character that JSON escapes.
        line.name(br#","method":""#, method.as_deref());
        line.name(br#","host":""#, authority.map(Authority::host_str));
        line.number(br#","port":"#, authority.map(|authority| authority.port().into()));
        line.text(br#","path":""#, path.as_deref());
        line.name(br#","protocol":""#, Some(asked.protocol.as_str()));
        line.name(br#","route":""#, decision.route.get().map(RouteName::as_str));
        match decision.allowed {
            Some(true) => line.raw(br#","decision":"allow""#),
            Some(false) => line.raw(br#","decision":"deny""#),
            None => line.raw(br#","decision":null"#),
        }
        line.cleaned_text(br#","reason":""#, reason.as_deref(), clean);
        line.name(br#","credential":""#, record.credential.get().map(CredentialName::as_str));
        line.name(br#","token_fingerprint":""#, fingerprint.as_ref().map(Hex::as_bytes));
        line.number(br#","token_generation":"#, token.map(|token| token.generation));
        line.number(br#","token_wait_us":"#, token.map(|token| micros(token.wait)));
        line.name(br#","upstream_addr":""#, outcome.upstream_addr.map(|address| self.address(address)));
        line.number(br#","status":"#, outcome.status.map(u64::from));
        line.number(br#","bytes_in":"#, Some(traffic.from_agent()));
        line.number(br#","bytes_out":"#, Some(traffic.to_agent()));
        line.number(br#","duration_us":"#, Some(micros(duration)));
        line.flag(br#","retried":"#, outcome.retried);
        line.text(br#","error":""#, outcome.error);
        line.end()
    }

    /// As [`Rfc3339`] shows it, up to the point before the fraction.
    fn date(&mut self, second: u64) -> &[u8; DATE] {
        if second != self.second {
            (self.second, self.date) = (second, date(second));
        }
        &self.date
    }

    fn address(&mut self, address: SocketAddr) -> &str {
        if self.upstream.as_ref().is_none_or(|(known, _)| *known != address) {
            self.upstream = None;
        }
        &self.upstream.get_or_insert_with(|| (address, address.to_string())).1
    }
}

/// Appends one line, with its line feed, for an event that happened at `time`.
pub(super) fn write_event(out: &mut Vec<u8>, event: &Event, time: SystemTime) {
    write_line(out, &EventLine { time: Shown(Rfc3339(time)), fact: Fact::from(event) });
}

fn write_line(out: &mut Vec<u8>, line: &impl Serialize) {
    let start = out.len();
    // Writing to memory can't fail, and no field has a map with odd keys; should that ever
    // change, no half line may stay behind.
    if serde_json::to_writer(&mut *out, line).is_err() {
        out.truncate(start);
        out.extend_from_slice(br#"{"event":"alert.record_unserializable"}"#);
    }
    out.push(b'\n');
}

// === Events ===

struct EventLine<'a> {
    time: Shown<Rfc3339>,
    fact: Fact<'a>,
}

/// `event` carries the name; the other fields depend on it.
enum Fact<'a> {
    Token {
        event: &'static str,
        token: &'a TokenEvent,
    },
    TokenFailed(TokenFailed<'a>),
    /// A login, or the end of a token or a login.
    Held {
        event: &'static str,
        credential: &'a str,
        grant: Option<&'static str>,
        held: Held,
    },
    ConfigReloaded {
        accepted: bool,
        detail: Cow<'a, str>,
    },
    Alert {
        kind: &'static str,
        detail: Cow<'a, str>,
    },
}

/// What became of a token.
enum Held {
    Is(Fingerprint),
    WasRevoked(bool),
}

struct TokenFailed<'a> {
    credential: &'a str,
    grant: &'static str,
    error: &'static str,
    detail: Cow<'a, str>,
    duration: Duration,
    retry_in: Option<Duration>,
}

impl<'a> From<&'a Event> for Fact<'a> {
    fn from(event: &'a Event) -> Self {
        match event {
            Event::TokenIssued(token) => Self::Token { event: "token.issued", token },
            Event::TokenRefreshed(token) => Self::Token { event: "token.refreshed", token },
            Event::TokenFailed { credential, grant, error, detail, duration, retry_in } => {
                Self::TokenFailed(TokenFailed {
                    credential: credential.as_str(),
                    grant,
                    error,
                    detail: free_text(detail),
                    duration: *duration,
                    retry_in: *retry_in,
                })
            }
            Event::TokenLoaded(token) => Self::Token { event: "token.loaded", token },
            Event::TokenRevoked { credential, fingerprint } => Self::Held {
                event: "token.revoked",
                credential: credential.as_str(),
                grant: None,
                held: Held::Is(*fingerprint),
            },
            Event::Login { credential, grant, fingerprint } => Self::Held {
                event: "login",
                credential: credential.as_str(),
                grant: Some(grant),
                held: Held::Is(*fingerprint),
            },
            Event::Logout { credential, revoked } => Self::Held {
                event: "logout",
                credential: credential.as_str(),
                grant: None,
                held: Held::WasRevoked(*revoked),
            },
            Event::ConfigReloaded { accepted, detail } => {
                Self::ConfigReloaded { accepted: *accepted, detail: free_text(detail) }
            }
            Event::Alert { kind, detail } => Self::Alert { kind, detail: free_text(detail) },
        }
    }
}

impl Serialize for EventLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &self.time)?;
        match &self.fact {
            Fact::Token { event, token } => {
                map.serialize_entry("event", event)?;
                map.serialize_entry("credential", token.credential.as_str())?;
                map.serialize_entry("grant", token.grant)?;
                map.serialize_entry("token_fingerprint", &Shown(token.fingerprint))?;
                map.serialize_entry("token_generation", &token.generation)?;
                map.serialize_entry("expires_at", &Shown(Rfc3339(token.expires_at)))?;
                map.serialize_entry("duration_us", &micros(token.duration))?;
            }
            Fact::TokenFailed(failed) => {
                map.serialize_entry("event", "token.failed")?;
                map.serialize_entry("credential", failed.credential)?;
                map.serialize_entry("grant", failed.grant)?;
                map.serialize_entry("error", failed.error)?;
                map.serialize_entry("detail", &failed.detail)?;
                map.serialize_entry("duration_us", &micros(failed.duration))?;
                map.serialize_entry("retry_in_us", &failed.retry_in.map(micros))?;
            }
            Fact::Held { event, credential, grant, held } => {
                map.serialize_entry("event", event)?;
                map.serialize_entry("credential", credential)?;
                if let Some(grant) = grant {
                    map.serialize_entry("grant", grant)?;
                }
                match held {
                    Held::Is(fingerprint) => map.serialize_entry("token_fingerprint", &Shown(fingerprint))?,
                    Held::WasRevoked(revoked) => map.serialize_entry("revoked", revoked)?,
                }
            }
            Fact::ConfigReloaded { accepted, detail } => {
                map.serialize_entry("event", "config.reloaded")?;
                map.serialize_entry("accepted", accepted)?;
                map.serialize_entry("detail", detail)?;
            }
            Fact::Alert { kind, detail } => {
                map.serialize_entry("event", &Shown(format_args!("alert.{kind}")))?;
                map.serialize_entry("detail", detail)?;
            }
        }
        map.end()
    }
}

// === Values ===

/// Serializes as its `Display`, without a string in between.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// RFC 3339 in UTC, always with six digits of a second, so that lines sort as text.
struct Rfc3339(SystemTime);

impl Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (second, micro) = since_epoch(self.0);
        f.write_str(std::str::from_utf8(&date(second)).unwrap_or_default())?;
        f.write_str(std::str::from_utf8(&fraction(micro)).unwrap_or_default())
    }
}

/// Seconds and microseconds since 1970. A clock before 1970 or after 9999 is broken; its lines
/// say 1970.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() < YEAR_10000 => (since.as_secs(), since.subsec_micros()),
        Ok(_) | Err(_) => (0, 0),
    }
}

/// In seconds since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// Bytes of a date and a time of day, with the point behind its second.
const DATE: usize = 20;

fn date(second: u64) -> [u8; DATE] {
    let time = i64::try_from(second)
        .ok()
        .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let year = u32::try_from(year).unwrap_or(0);
    let mut text = *b"0000-00-00T00:00:00.";
    text[0..2].copy_from_slice(&two_digits(year / 100));
    text[2..4].copy_from_slice(&two_digits(year));
    for (at, number) in [(5, u8::from(month)), (8, day), (11, hour), (14, minute), (17, second)] {
        text[at..at + 2].copy_from_slice(&two_digits(number.into()));
    }
    text
}

fn fraction(micro: u32) -> [u8; 7] {
    let mut text = *b"000000Z";
    text[0..2].copy_from_slice(&two_digits(micro / 10_000));
    text[2..4].copy_from_slice(&two_digits(micro / 100));
    text[4..6].copy_from_slice(&two_digits(micro));
    text
}

/// Whole microseconds; more than 584,000 years are shown as that.
fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

/// Cuts at a character's edge and says how long it was. The ellipsis can't stand in a
/// path or a method, so a cut one can't be mistaken for one that was sent like this.
fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(limit)];
    Cow::Owned(format!("{kept}…({} bytes)", text.len()))
}

/// Text that came from elsewhere: cut, and without characters that act on a terminal.
fn free_text(text: &str) -> Cow<'_, str> {
    match cut(text, TEXT_LIMIT) {
        Cow::Borrowed(text) => clean(text),
        Cow::Owned(text) => Cow::Owned(clean(&text).into_owned()),
    }
}

fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts_unseen) {
        return Cow::Borrowed(text);
    }
    let seen = |character| if acts_unseen(character) { char::REPLACEMENT_CHARACTER } else { character };
    Cow::Owned(text.chars().map(seen).collect())
}

/// What JSON doesn't escape, but a terminal or an editor acts on.
pub(super) fn acts_unseen(character: char) -> bool {
    matches!(character,
        '\u{7f}'..='\u{9f}'
        | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use http::Method;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        observe::{Asked, Decision, Kept, Outcome, TokenUse, Traffic, object::is_plain, record::Protocol},
        primitives::{
            AgentName, Authority, CanonicalPath, CredentialName, Fingerprint, ListenerName, RequestIds, RouteName,
        },
    };

    /// 2026-11-23T22:24:05.000042Z.
    pub(in crate::observe) fn moment() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(1_795_472_645, 42_999)
    }

    /// An allowed request with a token that upstream answered with 200.
    pub(crate) fn record() -> Record {
        let traffic = Arc::new(Traffic::default());
        traffic.add_from_agent(17);
        traffic.add_to_agent(4096);
        Record {
            id: RequestIds::new(0xabc).next(),
            time: moment(),
            started: Instant::now(),
            listener: ListenerName::parse("proxy").unwrap(),
            asked: Asked {
                method: Some(Method::GET),
                authority: Authority::parse("orders.example.com:443", None).ok().into(),
                path: CanonicalPath::parse("/v1/orders").ok(),
                protocol: Protocol::Http2,
            },
            agent: AgentName::parse("researcher").ok().into(),
            decision: Decision {
                allowed: Some(true),
                route: RouteName::parse("orders-read").ok().into(),
                reason: "matched".into(),
            },
            credential: CredentialName::parse("orders").ok().into(),
            token: Some(TokenUse {
                fingerprint: Fingerprint::of(b"abc"),
                generation: 3,
                wait: Duration::from_micros(1500),
            }),
            outcome: Outcome {
                upstream_addr: "203.0.113.7:443".parse().ok(),
                upstream_time: Some(Duration::from_millis(20)),
                status: Some(200),
                retried: false,
                error: None,
            },
            traffic,
        }
    }

    /// A request that was refused before anything was known of it.
    pub(in crate::observe) fn refused() -> Record {
        Record {
            asked: Asked {
                method: Some(Method::CONNECT),
                authority: Kept::default(),
                path: None,
                protocol: Protocol::Http11,
            },
            agent: Kept::default(),
            decision: Decision::default(),
            credential: Kept::default(),
            token: None,
            outcome: Outcome { status: Some(407), error: Some("agent_unknown"), ..Outcome::default() },
            traffic: Arc::default(),
            ..record()
        }
    }

    pub(in crate::observe) fn token_event() -> TokenEvent {
        TokenEvent {
            credential: CredentialName::parse("orders").unwrap(),
            grant: "client_credentials",
            fingerprint: Fingerprint::of(b"abc"),
            generation: 3,
            expires_at: moment() + Duration::from_secs(3600),
            duration: Duration::from_millis(80),
        }
    }

    pub(in crate::observe) fn failed(detail: &str) -> Event {
        Event::TokenFailed {
            credential: CredentialName::parse("orders").unwrap(),
            grant: "client_credentials",
            error: "invalid_client",
            detail: detail.to_owned(),
            duration: Duration::from_millis(5),
            retry_in: Some(Duration::from_secs(2)),
        }
    }

    fn write(scribe: &mut Scribe, out: &mut Lines, record: &Record) {
        scribe.write_record(out, record, Duration::from_micros(23_001));
    }

    fn line(record: &Record) -> String {
        let mut out = Lines::default();
        write(&mut Scribe::new(), &mut out, record);
        String::from_utf8(out.text().to_vec()).unwrap()
    }

    fn event_line(event: &Event) -> String {
        let mut out = Vec::new();
        write_event(&mut out, event, moment());
        String::from_utf8(out).unwrap()
    }

    fn parsed(line: &str) -> serde_json::Value {
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.ends_with('\n'));
        assert!(!line.trim_end_matches('\n').chars().any(|c| c.is_control() || acts_unseen(c)), "{line:?}");
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_record_is_one_line_in_the_contracts_order() {
        assert_eq!(
            line(&record()),
            concat!(
                r#"{"time":"2026-11-23T22:24:05.000042Z","request_id":"0000000000000abc00000001","agent":"researcher","#,
                r#""subject":null,"listener":"proxy","method":"GET","host":"orders.example.com","port":443,"#,
                r#""path":"/v1/orders","protocol":"h2","route":"orders-read","decision":"allow","reason":"matched","#,
                r#""credential":"orders","token_fingerprint":"ba7816bf8f01cfea","token_generation":3,"#,
                r#""token_wait_us":1500,"upstream_addr":"203.0.113.7:443","status":200,"bytes_in":17,"#,
                r#""bytes_out":4096,"duration_us":23001,"retried":false,"error":null}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_line_knows_nothing_of_the_one_before() {
        let mut other = record();
        other.time += Duration::from_secs(86_400);
        other.outcome.upstream_addr = "[2001:db8::1]:8443".parse().ok();
        let mut scribe = Scribe::new();
        let mut together = Lines::default();
        let mut alone = String::new();
        for record in [&record(), &record(), &other, &refused(), &record(), &other] {
            write(&mut scribe, &mut together, record);
            alone.push_str(&line(record));
        }
        assert_eq!(std::str::from_utf8(together.text()).unwrap(), alone);
        assert!(alone.contains(r#""time":"2026-11-24T22:24:05.000042Z""#), "{alone}");
        assert!(alone.contains(r#""upstream_addr":"[2001:db8::1]:8443""#), "{alone}");
    }

    #[test]
    fn what_never_became_known_is_null() {
        let line = parsed(&line(&refused()));
        for field in [
            "agent",
            "host",
            "port",
            "path",
            "route",
            "decision",
            "reason",
            "credential",
            "token_fingerprint",
            "token_generation",
            "token_wait_us",
            "upstream_addr",
        ] {
            assert_eq!(line.get(field), Some(&serde_json::Value::Null), "{field}");
        }
        assert_eq!(line["error"], "agent_unknown");
        assert_eq!(line["status"], 407);
    }

    #[test]
    fn what_was_no_request_has_no_method() {
        let mut unreadable = refused();
        unreadable.asked.method = None;
        assert_eq!(parsed(&line(&unreadable)).get("method"), Some(&serde_json::Value::Null));
    }

    #[test]
    fn no_method_needs_escaping() {
        let methods: Vec<_> = (0..=u8::MAX).filter_map(|byte| Method::from_bytes(&[byte]).ok()).collect();
        assert!(methods.len() > 60);
        assert!(methods.iter().all(|method| is_plain(method.as_str().as_bytes())), "{methods:?}");
    }

    #[test]
    fn a_denial_says_so() {
        let decision = Decision { allowed: Some(false), reason: "host_not_allowed".into(), ..Decision::default() };
        let line = parsed(&line(&Record { decision, ..record() }));
        assert_eq!(line["decision"], "deny");
        assert_eq!(line["reason"], "host_not_allowed");
    }

    #[test]
    fn events_are_lines_of_the_same_log() {
        assert_eq!(
            event_line(&Event::TokenIssued(token_event())),
            concat!(
                r#"{"time":"2026-11-23T22:24:05.000042Z","event":"token.issued","credential":"orders","#,
                r#""grant":"client_credentials","token_fingerprint":"ba7816bf8f01cfea","token_generation":3,"#,
                r#""expires_at":"2026-11-23T23:24:05.000042Z","duration_us":80000}"#,
                "\n"
            )
        );
        assert_eq!(
            event_line(&failed("no such client")),
            concat!(
                r#"{"time":"2026-11-23T22:24:05.000042Z","event":"token.failed","credential":"orders","#,
                r#""grant":"client_credentials","error":"invalid_client","detail":"no such client","#,
                r#""duration_us":5000,"retry_in_us":2000000}"#,
                "\n"
            )
        );
        let names = [
            (Event::TokenRefreshed(token_event()), "token.refreshed"),
            (Event::ConfigReloaded { accepted: false, detail: "line 3".to_owned() }, "config.reloaded"),
            (Event::Alert { kind: "audit_dropped", detail: String::new() }, "alert.audit_dropped"),
        ];
        for (event, name) in names {
            assert_eq!(parsed(&event_line(&event))["event"], name);
        }
    }

    /// Threat 109.
    #[test]
    fn no_text_forges_a_line_or_drives_a_terminal() {
        let hostile = "x\"}\r\n{\"event\":\"token.issued\"}\u{1b}[2J\u{9b}31m\u{7f}\0\u{202e}\u{2028}";
        let failed = parsed(&event_line(&failed(hostile)));
        assert_eq!(failed["event"], "token.failed");
        assert_eq!(
            failed["detail"],
            "x\"}\r\n{\"event\":\"token.issued\"}\u{1b}[2J\u{fffd}31m\u{fffd}\0\u{fffd}\u{fffd}"
        );
        let decision = Decision { reason: hostile.to_owned().into(), ..Decision::default() };
        assert_eq!(parsed(&line(&Record { decision, ..record() }))["status"], 200);
    }

    #[test]
    fn what_is_too_long_is_cut_and_marked() {
        let mut long = record();
        long.asked.path = CanonicalPath::parse(&format!("/{}", "a".repeat(5000))).ok();
        long.asked.method = Method::from_bytes("M".repeat(500).as_bytes()).ok();
        let line = parsed(&line(&long));
        assert_eq!(line["path"], format!("/{}…(5001 bytes)", "a".repeat(2047)));
        assert_eq!(line["method"], format!("{}…(500 bytes)", "M".repeat(32)));
        let mut fits = record();
        fits.asked.path = CanonicalPath::parse(&format!("/{}", "a".repeat(2047))).ok();
        assert_eq!(parsed(&super::tests::line(&fits))["path"].as_str().map(str::len), Some(2048));
        let detail = "é".repeat(600);
        assert_eq!(parsed(&event_line(&failed(&detail)))["detail"], format!("{}…(1200 bytes)", "é".repeat(512)));
    }

    #[test]
    fn a_broken_clock_breaks_no_line() {
        let shown = |time| {
            let text = parsed(&line(&Record { time, ..record() }))["time"].as_str().unwrap().to_owned();
            assert_eq!(Rfc3339(time).to_string(), text);
            text
        };
        assert_eq!(shown(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
        assert_eq!(shown(far), "1970-01-01T00:00:00.000000Z");
        let leap = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_800);
        assert_eq!(shown(leap), "2024-02-29T00:00:00.000000Z");
    }
}
