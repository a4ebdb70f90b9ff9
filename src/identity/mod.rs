//! Who asks? Judges the evidence a request shows; knows no connections, addresses or
//! processes, and trusts no field but those that carry a key.
//!
//! ```text
//! Evidence --proxy_auth--> name?, SHA-256 of the key --Registry--> &Agent | Unknown
//! ```

mod key;
mod load;
mod proxy_auth;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    ops::Deref,
    sync::Arc,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, PROXY_AUTHORIZATION},
};

use crate::{
    observe::{Noted, Record},
    primitives::{AgentName, Secret, digest::hex, sha256},
};

pub use key::{NoRandomness, generate_key};
pub use load::Counted;
use load::{Load, What};
use proxy_auth::{Shown, bare_key, credentials, login, only_line};

/// The fields, besides `Proxy-Authorization`, in which a reverse-mode agent may show its
/// key. They are for us and never for the upstream.
pub static REVERSE_FIELDS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// An agent as the config names it.
#[derive(Clone)]
pub struct AgentSettings {
    pub name: AgentName,
    /// SHA-256 of each key that is accepted; two while a key is being rotated.
    pub keys: Vec<[u8; 32]>,
    /// `[agents.anonymous]`: whoever shows no evidence at all.
    pub anonymous: bool,
}

/// An agent whose evidence was found good. Only [`Registry`] makes one, and lends it: all of a
/// request's life lies within the rules that judged it, and no count moves.
#[derive(Debug)]
pub struct Agent {
    name: AgentName,
    anonymous: bool,
    load: Arc<Load>,
}

/// All known agents; immutable, swapped whole on reload.
#[derive(Clone, Default)]
pub struct Registry {
    agents: HashMap<AgentName, Arc<Known>>,
    /// Whose key has this digest; `None` where two agents share it, since a key that
    /// names two agents names none.
    owners: HashMap<[u8; 32], Option<Arc<Known>>, BuildHasherDefault<Leading>>,
    anonymous: Option<Arc<Known>>,
}

/// A digest is as good as random already: its first bytes do for a hash. Only the operator puts
/// any in, so that nobody can make them collide.
#[derive(Clone, Copy, Default)]
struct Leading(u64);

impl Hasher for Leading {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An agent in its two forms, with one load.
#[derive(Debug)]
struct Known {
    settings: AgentSettings,
    /// Recognised by a key …
    keyed: Agent,
    /// … and by nothing.
    keyless: Agent,
}

/// Who was recognised, and by which key.
#[derive(Clone, Copy)]
struct Recognised<'r> {
    known: &'r Known,
    key: Option<[u8; 32]>,
}

impl Deref for Known {
    type Target = AgentSettings;

    fn deref(&self) -> &AgentSettings {
        &self.settings
    }
}

/// What a request shows of who sends it.
#[derive(Clone, Copy)]
pub enum Evidence<'a> {
    /// `Proxy-Authorization` of a forward request or a `CONNECT`.
    Proxy(&'a HeaderMap),
    /// Reverse mode: `Proxy-Authorization`, else [`REVERSE_FIELDS`].
    Reverse(&'a HeaderMap),
    /// SOCKS: name and key (RFC 1929); `None` where the agent offers to show nothing.
    Login(Option<(&'a [u8], &'a [u8])>),
    /// Inside a tunnel: who opened it, looked up again for every request.
    Tunnel(&'a TunnelIdentity),
}

/// Who opened a tunnel: enough to ask the current registry again (threats 5, 106).
#[derive(Clone)]
pub struct TunnelIdentity {
    name: AgentName,
    /// The digest that was matched at `CONNECT`; `None` for the anonymous agent.
    key: Option<[u8; 32]>,
}

/// Why nobody was recognised. Always the agent's (or its operator's) to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum Unknown {
    Missing,
    Mismatch,
    Malformed,
    Ambiguous,
}

// === impl Registry ===

impl Registry {
    /// Where two entries have one name the later one counts; `config` refuses that.
    pub fn new(agents: Vec<AgentSettings>) -> Self {
        Self::succeeding(&Self::default(), agents)
    }

    /// For a new config: what an agent has under way goes on counting.
    pub fn succeeding(old: &Self, agents: Vec<AgentSettings>) -> Self {
        let mut registry = Self::default();
        for settings in agents {
            let load = old.agents.get(&settings.name).map(|known| known.keyed.load.clone()).unwrap_or_default();
            registry.agents.insert(settings.name.clone(), Arc::new(Known::new(settings, load)));
        }
        for settings in registry.agents.values() {
            for digest in &settings.keys {
                let owner = registry.owners.entry(*digest).or_insert_with(|| Some(settings.clone()));
                if owner.as_ref().is_some_and(|owner| owner.name != settings.name) {
                    *owner = None;
                }
            }
        }
        registry.anonymous = registry.agents.values().filter(|agent| agent.anonymous).min_by_key(|a| &a.name).cloned();
        registry
    }

    pub fn identify(&self, evidence: Evidence<'_>) -> Result<&Agent, Unknown> {
        self.recognise(evidence).map(Recognised::agent)
    }

    /// And what a tunnel opened with this evidence has to remember.
    pub fn identify_tunnel(&self, evidence: Evidence<'_>) -> Result<(&Agent, TunnelIdentity), Unknown> {
        let tunnel = |who: Recognised<'_>| TunnelIdentity { name: who.known.name.clone(), key: who.key };
        self.recognise(evidence).map(|who| (who.agent(), tunnel(who)))
    }

    pub fn names(&self) -> impl Iterator<Item = &AgentName> {
        self.agents.keys()
    }

    /// Whether `text` is an agent's key.
    pub fn knows(&self, text: &Secret) -> bool {
        self.owners.contains_key(&sha256(text.expose().as_bytes()))
    }

    /// The agent by name, for `explain` and `run`, which need no evidence.
    pub fn named(&self, name: &AgentName) -> Option<&Agent> {
        let known = self.agents.get(name)?;
        Some(if known.anonymous { &known.keyless } else { &known.keyed })
    }

    fn recognise(&self, evidence: Evidence<'_>) -> Result<Recognised<'_>, Unknown> {
        match evidence {
            Evidence::Proxy(fields) => match self.proxy_field(fields)? {
                Some(identity) => Ok(identity),
                None => self.nobody().ok_or(Unknown::Missing),
            },
            Evidence::Reverse(fields) => match self.proxy_field(fields)? {
                Some(identity) => Ok(identity),
                None => self.reverse_fields(fields),
            },
            Evidence::Login(Some((name, key))) => self.owner(&login(name, key)?),
            Evidence::Login(None) => self.nobody().ok_or(Unknown::Missing),
            Evidence::Tunnel(identity) => self.still(identity),
        }
    }

    /// `Proxy-Authorization`, if there is one. A bad key is an error here, never the
    /// anonymous agent: its sender meant to be somebody.
    fn proxy_field(&self, fields: &HeaderMap) -> Result<Option<Recognised<'_>>, Unknown> {
        let Some(value) = only_line(fields, PROXY_AUTHORIZATION)? else { return Ok(None) };
        self.owner(&credentials(value)?).map(Some)
    }

    /// An SDK always sends some "API key". One that matches nobody is its placeholder
    /// where the config lets anonymous agents in: it gains nothing over sending none.
    fn reverse_fields(&self, fields: &HeaderMap) -> Result<Recognised<'_>, Unknown> {
        let mut found: Option<Recognised<'_>> = None;
        let mut failure = Unknown::Missing;
        for (name, value) in REVERSE_FIELDS.iter().zip(only_lines(fields)?) {
            let Some(value) = value else { continue };
            let shown = if name == AUTHORIZATION { credentials(value) } else { bare_key(value.as_bytes()) };
            match (shown.and_then(|shown| self.owner(&shown)), &found) {
                (Ok(other), Some(one)) if one.known.name != other.known.name => return Err(Unknown::Ambiguous),
                (Ok(identity), _) => found = Some(identity),
                (Err(_), _) if failure == Unknown::Mismatch => {}
                (Err(error), _) => failure = error,
            }
        }
        found.or_else(|| self.nobody()).ok_or(failure)
    }

    /// Whose key this is. An unknown name and an unknown key cost the same work as a
    /// wrong key (threat 3): the key is hashed already, and something is compared.
    fn owner(&self, shown: &Shown) -> Result<Recognised<'_>, Unknown> {
        const NOBODY: &[[u8; 32]] = &[[0; 32]];
        let settings = match &shown.name {
            Some(name) => std::str::from_utf8(name).ok().and_then(|name| self.agents.get(name)),
            // A digest of a random key is no secret to be found by timing a look-up.
            None => self.owners.get(&shown.digest).and_then(Option::as_ref),
        };
        let accepted = settings.map_or(NOBODY, |settings| &settings.keys);
        match (is_accepted(accepted, &shown.digest), settings) {
            (true, Some(known)) => Ok(Recognised { known, key: Some(shown.digest) }),
            (true, None) | (false, _) => Err(Unknown::Mismatch),
        }
    }

    /// Whether a tunnel's agent is one of today's, by the same key as then.
    fn still(&self, identity: &TunnelIdentity) -> Result<Recognised<'_>, Unknown> {
        // Nearly always the key is one agent's alone, and cheaper to find than a name.
        if let Some(digest) = &identity.key
            && let Some(Some(known)) = self.owners.get(digest)
            && known.name == identity.name
        {
            return Ok(Recognised { known, key: identity.key });
        }
        let known = self.agents.get(&identity.name).ok_or(Unknown::Mismatch)?;
        let good = match &identity.key {
            Some(digest) => is_accepted(&known.keys, digest),
            None => known.anonymous,
        };
        if good { Ok(Recognised { known, key: identity.key }) } else { Err(Unknown::Mismatch) }
    }

    fn nobody(&self) -> Option<Recognised<'_>> {
        self.anonymous.as_ref().map(|known| Recognised { known, key: None })
    }
}

/// The only line of each of [`REVERSE_FIELDS`], in one look at all fields; see [`only_line`].
fn only_lines(fields: &HeaderMap) -> Result<[Option<&HeaderValue>; REVERSE_FIELDS.len()], Unknown> {
    let mut lines = [None; REVERSE_FIELDS.len()];
    for (name, value) in fields {
        let at = REVERSE_FIELDS.iter().position(|field| field == name);
        if at.is_some_and(|at| lines[at].replace(value).is_some()) {
            return Err(Unknown::Ambiguous);
        }
    }
    Ok(lines)
}

/// Compares with all of them, whichever fits, each in constant time.
fn is_accepted(accepted: &[[u8; 32]], digest: &[u8; 32]) -> bool {
    accepted.iter().fold(false, |found, key| found | verify_slices_are_equal(key, digest).is_ok())
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.agents.values()).finish()
    }
}

// === impl AgentSettings ===

impl fmt::Debug for AgentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSettings")
            .field("name", &self.name)
            .field("keys", &self.keys.iter().map(short).collect::<Vec<_>>())
            .field("anonymous", &self.anonymous)
            .finish()
    }
}

/// Enough of a digest to tell two keys apart.
fn short(digest: &[u8; 32]) -> String {
    format!("{}…", hex(&digest[..4]))
}

// === impl Known, Recognised ===

impl Known {
    fn new(settings: AgentSettings, load: Arc<Load>) -> Self {
        let agent = |anonymous| Agent { name: settings.name.clone(), anonymous, load: load.clone() };
        Self { keyed: agent(false), keyless: agent(true), settings }
    }
}

impl<'r> Recognised<'r> {
    fn agent(self) -> &'r Agent {
        if self.key.is_some() { &self.known.keyed } else { &self.known.keyless }
    }
}

// === impl Agent ===

impl Agent {
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// Counts a request among those under way; `None`: `most` are already.
    pub fn begin_request(&self, most: usize) -> Option<Counted> {
        self.load.take(What::Request, most)
    }

    /// Counts a connection; `None`: there are `most` already.
    pub fn begin_connection(&self, most: usize) -> Option<Counted> {
        self.load.take(What::Connection, most)
    }

    /// Nothing was shown that names an agent.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: AgentName) -> Self {
        Self { name, anonymous: false, load: Arc::default() }
    }
}

impl Noted for Agent {
    fn note(&self, record: &mut Record) {
        record.agent.set(&self.name);
    }
}

// === impl Evidence ===

/// Never the fields: the key is among them.
impl fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(_) => f.write_str("Proxy"),
            Self::Reverse(_) => f.write_str("Reverse"),
            Self::Login(_) => f.write_str("Login"),
            Self::Tunnel(identity) => f.debug_tuple("Tunnel").field(identity).finish(),
        }
    }
}

// === impl TunnelIdentity ===

impl fmt::Debug for TunnelIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelIdentity").field("name", &self.name).field("key", &self.key.as_ref().map(short)).finish()
    }
}

// === impl Unknown ===

impl Unknown {
    /// For the record: never what was sent.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no agent key was sent",
            Self::Mismatch => "the agent key isn't known",
            Self::Malformed => "the agent key can't be read",
            Self::Ambiguous => "more than one agent key was sent",
        }
    }
}

impl Noted for Unknown {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = None;
        record.decision.reason = match self {
            Self::Missing => "agent_key_missing",
            Self::Mismatch => "agent_key_unknown",
            Self::Malformed => "agent_key_malformed",
            Self::Ambiguous => "agent_key_ambiguous",
        }
        .into();
    }
}
