//! What the names of a head's fields are to a proxy, settled in one look at each: a head has a
//! dozen fields, and forty names may not pass or have to be asked for.

use http::{HeaderMap, HeaderName};

/// What a field's name is; one of these, or some together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u32);

/// The marks of all fields of a head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    any: u32,
    /// More than one field has this mark.
    twice: u32,
    /// Which of the first names have one: most have none.
    at: u64,
    names: usize,
}

impl Mark {
    /// Hop-by-hop, besides those that `Connection` names (RFC 9110 §7.6.1).
    pub(super) const HOP_BY_HOP: Self = Self::bit(0);
    /// What an agent could use to pretend a path or an identity (threat 6); a route never
    /// needs it on the way out. `x-forwarded-` has no end of them: `-for`, `-host`, `-user` ….
    pub(super) const SPOOFABLE: Self = Self::bit(1);
    /// By which some servers let a request change its method or path after the rules have
    /// looked at it (threat 67).
    pub(super) const OVERRIDE: Self = Self::bit(2);
    /// `Connection` must not name these: removing one changes what the request means or who it
    /// comes from (threats 12 and 13).
    pub(super) const PROTECTED: Self = Self::bit(3);
    /// Of an answer: would lead the agent around the proxy (threat 84).
    pub(super) const ALTERNATIVE: Self = Self::bit(4);
    /// Of an answer: this proxy's to send (RFC 9110 §11.7.3).
    pub(super) const OURS: Self = Self::bit(5);
    /// In which an agent may show its key to a reverse listener.
    pub(super) const AGENT_KEY: Self = Self::bit(6);
    /// A proof of the agent's own would be about a token that isn't sent.
    pub(super) const DPOP: Self = Self::bit(7);
    /// By which an agent says in which form it takes an answer.
    pub(super) const FORM: Self = Self::bit(8);
    pub(super) const CONNECTION: Self = Self::bit(9);
    pub(super) const TE: Self = Self::bit(10);
    pub(super) const TRANSFER_ENCODING: Self = Self::bit(11);
    pub(super) const CONTENT_LENGTH: Self = Self::bit(12);
    pub(super) const UPGRADE: Self = Self::bit(13);
    pub(super) const HOST: Self = Self::bit(14);
    pub(super) const EXPECT: Self = Self::bit(15);
    pub(super) const VIA: Self = Self::bit(16);
    pub(super) const PROXY_STATUS: Self = Self::bit(17);
    pub(super) const TRAILER: Self = Self::bit(18);

    const NONE: Self = Self(0);

    const fn bit(at: u32) -> Self {
        Self(1 << at)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is one of `marks`, or some of it is.
    pub(super) const fn is(self, marks: Self) -> bool {
        self.0 & marks.0 != 0
    }

    pub(super) fn of(name: &HeaderName) -> Self {
        let name = name.as_str();
        match Self::registered(name) {
            Self::NONE if name.starts_with("x-forwarded-") => Self::SPOOFABLE,
            Self::NONE if name.contains('_') => Self::of_underscored(name),
            marks => marks,
        }
    }

    /// By their lengths first, which most names share with two or three of these.
    fn registered(name: &str) -> Self {
        match (name.len(), name) {
            (2, "te") => Self::HOP_BY_HOP.and(Self::TE),
            (3, "via") => Self::VIA,
            (4, "dpop") => Self::DPOP,
            (4, "host") => Self::PROTECTED.and(Self::HOST),
            (5, "range") => Self::FORM,
            (6, "cookie") => Self::PROTECTED,
            (6, "expect") => Self::PROTECTED.and(Self::EXPECT),
            (7, "alt-svc") => Self::ALTERNATIVE,
            (7, "api-key") => Self::AGENT_KEY,
            (7, "trailer") => Self::TRAILER,
            (7, "upgrade") => Self::HOP_BY_HOP.and(Self::UPGRADE),
            (7, "x-agent") => Self::SPOOFABLE,
            (8, "alt-used") => Self::ALTERNATIVE,
            (9, "client-ip" | "forwarded" | "x-real-ip") => Self::SPOOFABLE,
            (9, "x-api-key") => Self::AGENT_KEY,
            (10, "connection") => Self::HOP_BY_HOP.and(Self::CONNECTION),
            (10, "keep-alive") => Self::HOP_BY_HOP,
            (11, "x-client-ip") => Self::SPOOFABLE,
            (12, "proxy-status") => Self::PROXY_STATUS,
            (13, "authorization") => Self::PROTECTED.and(Self::AGENT_KEY),
            (13, "x-http-method" | "x-rewrite-url") => Self::OVERRIDE,
            (14, "content-length") => Self::PROTECTED.and(Self::CONTENT_LENGTH),
            (14, "http2-settings") => Self::HOP_BY_HOP,
            (14, "true-client-ip") => Self::SPOOFABLE,
            (14, "x-goog-api-key") => Self::AGENT_KEY,
            (14, "x-original-url") => Self::OVERRIDE,
            (15, "accept-encoding") => Self::FORM,
            (16, "proxy-connection") => Self::HOP_BY_HOP,
            (17, "transfer-encoding") => Self::HOP_BY_HOP.and(Self::TRANSFER_ENCODING),
            (17, "x-cupbearer-error") => Self::OURS,
            (17, "x-method-override") => Self::OVERRIDE,
            (18, "proxy-authenticate") => Self::HOP_BY_HOP,
            (19, "proxy-authorization") => Self::HOP_BY_HOP,
            (19, "x-cluster-client-ip") => Self::SPOOFABLE,
            (22, "x-http-method-override") => Self::OVERRIDE,
            (24, "sec-websocket-extensions") => Self::FORM,
            (25, "proxy-authentication-info") => Self::OURS,
            _ => Self::NONE,
        }
    }

    /// Servers that turn fields into variables (`HTTP_X_FORWARDED_FOR`) can't tell
    /// `x_forwarded_for` from what it imitates.
    fn of_underscored(name: &str) -> Self {
        const IMITATED: Mark =
            Mark::HOP_BY_HOP.and(Mark::SPOOFABLE).and(Mark::OVERRIDE).and(Mark::PROTECTED).and(Mark::FORM);
        let imitated = name.replace('_', "-");
        match Self::registered(&imitated) {
            _ if imitated.starts_with("x-forwarded-") => Self::SPOOFABLE,
            mark if mark.is(IMITATED) => Self::SPOOFABLE,
            // It goes where what it imitates goes, and stays where that stays.
            mark if mark.is(Self::AGENT_KEY) => Self::AGENT_KEY,
            _ => Self::NONE,
        }
    }
}

impl Marks {
    pub fn of(fields: &HeaderMap) -> Self {
        let mut marks = Self { names: fields.keys_len(), ..Self::default() };
        for (at, name) in fields.keys().enumerate() {
            let mark = Mark::of(name);
            marks.add(mark);
            marks.at |= if at < 64 && mark != Mark::NONE { 1 << at } else { 0 };
        }
        if fields.len() > fields.keys_len() {
            let lines = |name| fields.get_all(name).iter().count();
            fields.keys().filter(|name| lines(*name) > 1).for_each(|name| marks.add(Mark::of(name)));
        }
        marks
    }

    fn add(&mut self, mark: Mark) {
        self.twice |= self.any & mark.0;
        self.any |= mark.0;
    }

    /// Whether a field has one of `marks`.
    pub(super) const fn has(self, marks: Mark) -> bool {
        self.any & marks.0 != 0
    }

    /// Whether more than one field has one of `marks`.
    pub(super) const fn has_two(self, marks: Mark) -> bool {
        self.twice & marks.0 != 0
    }

    /// Removes the fields that have one of `marks` from those that these are the marks of; some
    /// of them may have been removed since, but none added.
    pub(super) fn remove(self, marks: Mark, fields: &mut HeaderMap) {
        if !self.has(marks) {
            return;
        }
        let mut at = if fields.keys_len() == self.names && self.names <= 64 { self.at } else { u64::MAX };
        // Beyond the first ones first: removing one puts the last into its place.
        while let Some(name) = fields.keys().skip(64).find(|name| Mark::of(name).is(marks)).cloned() {
            fields.remove(name);
        }
        // From the end, so that what comes into a place was looked at before.
        while let Some(last) = at.checked_ilog2() {
            at ^= 1 << last;
            if let Some(name) = fields.keys().nth(last as usize).filter(|name| Mark::of(name).is(marks)).cloned() {
                fields.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn every_name_is_known_by_its_length() {
        for name in [
            "te",
            "via",
            "dpop",
            "host",
            "range",
            "cookie",
            "expect",
            "alt-svc",
            "api-key",
            "trailer",
            "upgrade",
            "x-agent",
            "alt-used",
            "client-ip",
            "forwarded",
            "x-real-ip",
            "x-api-key",
            "connection",
            "keep-alive",
            "x-client-ip",
            "proxy-status",
            "authorization",
            "x-http-method",
            "x-rewrite-url",
            "content-length",
            "http2-settings",
            "true-client-ip",
            "x-goog-api-key",
            "x-original-url",
            "accept-encoding",
            "proxy-connection",
            "transfer-encoding",
            "x-cupbearer-error",
            "x-method-override",
            "proxy-authenticate",
            "proxy-authorization",
            "x-cluster-client-ip",
            "x-http-method-override",
            "sec-websocket-extensions",
            "proxy-authentication-info",
            "x-forwarded-user",
            "x_real_ip",
            "x_api_key",
        ] {
            assert_ne!(Mark::of(&HeaderName::from_static(name)), Mark::NONE, "{name}");
        }
        for name in ["accept", "user-agent", "mcp-session-id", "my_own", "x-mine", "content-type"] {
            assert_eq!(Mark::of(&HeaderName::from_static(name)), Mark::NONE, "{name}");
        }
        for name in &crate::identity::REVERSE_FIELDS {
            assert!(Mark::of(name).is(Mark::AGENT_KEY), "{name}");
        }
        for name in ["sec_websocket_extensions", "accept_encoding", "x_http_method"] {
            assert_eq!(Mark::of(&HeaderName::from_static(name)), Mark::SPOOFABLE, "{name}");
        }
        for name in ["x_api_key", "api_key", "x-goog_api_key"] {
            assert_eq!(Mark::of(&HeaderName::from_static(name)), Mark::AGENT_KEY, "{name}");
        }
    }

    #[test]
    fn two_fields_of_one_name_are_two() {
        let mut fields = HeaderMap::new();
        fields.append("host", HeaderValue::from_static("a"));
        fields.append("content-length", HeaderValue::from_static("1"));
        assert!(Marks::of(&fields).has(Mark::HOST) && !Marks::of(&fields).has_two(Mark::HOST));
        fields.append("host", HeaderValue::from_static("a"));
        let marks = Marks::of(&fields);
        assert!(marks.has_two(Mark::HOST) && !marks.has_two(Mark::CONTENT_LENGTH) && !marks.has(Mark::TE));
    }
    #[test]
    fn all_that_is_unwanted_goes_wherever_it_stands() {
        let many = |marked: &[usize]| -> HeaderMap {
            let name = |at: usize| if marked.contains(&at) { format!("x-forwarded-{at}") } else { format!("x-{at}") };
            let field = |at| (HeaderName::try_from(name(at)).unwrap(), HeaderValue::from_static("x"));
            (0..90).map(field).collect()
        };
        for marked in [vec![], vec![0], vec![89], vec![0, 1, 2, 88, 89], vec![63, 64, 65], (0..90).collect()] {
            let mut fields = many(&marked);
            let marks = Marks::of(&fields);
            marks.remove(Mark::SPOOFABLE, &mut fields);
            assert_eq!(fields.len(), 90 - marked.len(), "{marked:?}");
            assert!(!Marks::of(&fields).has(Mark::SPOOFABLE), "{marked:?}");
            let mut few: HeaderMap = many(&marked).into_iter().take(40).filter_map(|(n, v)| Some((n?, v))).collect();
            let marks = Marks::of(&few);
            few.remove("x-7");
            marks.remove(Mark::SPOOFABLE, &mut few);
            assert!(!Marks::of(&few).has(Mark::SPOOFABLE), "{marked:?}, and one was removed before");
        }
    }
}
