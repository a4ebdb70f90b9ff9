//! Who asks? Judges the evidence a request shows; knows no connections.
//!
//! An agent is who holds its key, never where a connection comes from (threat 10). Keys
//! are 256 random bits, of which we keep the SHA-256 only.

mod proxy_auth;

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, PROXY_AUTHORIZATION},
};

use crate::{
    observe::{Noted, Record},
    primitives::{AgentName, Fingerprint, Secret, sha256},
};

use proxy_auth::Presented;

/// Where an SDK puts what it takes for its API key, besides `Authorization`.
static KEY_FIELDS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// An agent as the config names it.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    pub name: AgentName,
    /// SHA-256 of each key that is accepted; two while a key is being rotated.
    pub keys: Vec<[u8; 32]>,
    /// `[agents.anonymous]`: whoever shows no evidence at all.
    pub anonymous: bool,
}

/// An agent whose evidence was found good. Only [`Registry`] makes one.
#[derive(Clone, Debug)]
pub struct Agent {
    name: AgentName,
    anonymous: bool,
}

impl Agent {
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: AgentName) -> Self {
        Self { name, anonymous: false }
    }
}

impl Noted for Agent {
    fn note(&self, record: &mut Record) {
        record.agent = Some(self.name.clone());
    }
}

/// The fields in which an agent's key may stand in reverse mode, besides
/// `Proxy-Authorization`; none of them is forwarded with it.
pub fn reverse_fields() -> impl Iterator<Item = &'static HeaderName> {
    std::iter::once(&AUTHORIZATION).chain(&KEY_FIELDS)
}

/// A new key, and the hash of it that the config holds.
///
/// # Errors
/// The machine gives no random bytes.
pub fn generate_key() -> Result<(Secret, [u8; 32]), NoRandomness> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| NoRandomness)?;
    let key = Secret::new(format!("cup_{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())));
    let hash = sha256(key.expose().as_bytes());
    Ok((key, hash))
}

/// The machine gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine gives no random bytes")]
pub struct NoRandomness;

// === impl Evidence ===

/// What a request shows of who sends it.
#[derive(Clone, Copy, Debug)]
pub enum Evidence<'a> {
    /// `Proxy-Authorization` of a forward request or a `CONNECT`.
    Proxy(&'a HeaderMap),
    /// Reverse mode: `Proxy-Authorization`, else `Authorization`, `x-api-key`, `api-key`,
    /// `x-goog-api-key`.
    Reverse(&'a HeaderMap),
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

impl fmt::Debug for TunnelIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.map(|key| Fingerprint::of(&key));
        f.debug_struct("TunnelIdentity").field("name", &self.name).field("key", &key).finish()
    }
}

/// Why nobody was recognised. All read the same to the agent (threat 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no agent key was sent")]
    Missing,
    #[error("the agent key isn't known")]
    Mismatch,
    #[error("the agent key can't be read")]
    Malformed,
    #[error("more than one agent key was sent")]
    Ambiguous,
}

impl Noted for Unknown {
    fn note(&self, record: &mut Record) {
        record.decision.reason = match self {
            Self::Missing => "agent_key_missing",
            Self::Mismatch => "agent_key_unknown",
            Self::Malformed => "agent_key_malformed",
            Self::Ambiguous => "agent_key_ambiguous",
        }
        .into();
    }
}

// === impl Registry ===

/// All known agents; immutable, swapped whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    agents: HashMap<AgentName, Arc<AgentSettings>>,
    /// By the digest of each accepted key. A digest tells nothing about its key, so how
    /// long a look-up takes doesn't either.
    by_key: HashMap<[u8; 32], AgentName>,
    anonymous: Option<AgentName>,
}

impl Registry {
    pub fn new(agents: Vec<AgentSettings>) -> Self {
        let mut registry = Self::default();
        for agent in agents {
            registry.by_key.extend(agent.keys.iter().map(|key| (*key, agent.name.clone())));
            if agent.anonymous {
                registry.anonymous = Some(agent.name.clone());
            }
            registry.agents.insert(agent.name.clone(), Arc::new(agent));
        }
        registry
    }

    /// # Errors
    /// Why nobody is recognised. What was shown and is wrong never counts as nothing shown.
    pub fn identify(&self, evidence: Evidence<'_>) -> Result<Agent, Unknown> {
        self.identify_tunnel(evidence).map(|(agent, _)| agent)
    }

    /// Also what a tunnel opened with this evidence has to remember.
    ///
    /// # Errors
    /// As [`Registry::identify`].
    pub fn identify_tunnel(&self, evidence: Evidence<'_>) -> Result<(Agent, TunnelIdentity), Unknown> {
        match evidence {
            Evidence::Proxy(fields) => match proxy_auth::credentials(fields, &PROXY_AUTHORIZATION)? {
                Some(presented) => self.matching(&presented),
                None => self.nobody(),
            },
            Evidence::Reverse(fields) => self.identify_reverse(fields),
            Evidence::Tunnel(identity) => self.still_known(identity),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &AgentName> {
        self.agents.keys()
    }

    /// The agent by name, for `explain`, which needs no evidence.
    pub fn named(&self, name: &AgentName) -> Option<Agent> {
        self.agents.get(name).map(|agent| Agent { name: agent.name.clone(), anonymous: agent.anonymous })
    }

    /// An SDK puts its key where it likes; several places may name one agent, not two.
    fn identify_reverse(&self, fields: &HeaderMap) -> Result<(Agent, TunnelIdentity), Unknown> {
        if let Some(presented) = proxy_auth::credentials(fields, &PROXY_AUTHORIZATION)? {
            return self.matching(&presented);
        }
        let mut shown = false;
        let mut found: Option<(Agent, TunnelIdentity)> = None;
        let places = std::iter::once(proxy_auth::credentials(fields, &AUTHORIZATION))
            .chain(KEY_FIELDS.iter().map(|field| proxy_auth::bare(fields, field)));
        for presented in places {
            let presented = match presented {
                Ok(None) => continue,
                Ok(Some(presented)) => presented,
                Err(Unknown::Ambiguous) => return Err(Unknown::Ambiguous),
                // Another scheme's `Authorization` may be meant for the upstream.
                Err(_) => {
                    shown = true;
                    continue;
                }
            };
            shown = true;
            match (self.matching(&presented), &found) {
                (Ok((agent, _)), Some((other, _))) if agent.name != other.name => return Err(Unknown::Ambiguous),
                (Ok(matched), _) => found = Some(matched),
                (Err(_), _) => {}
            }
        }
        match found {
            Some(found) => Ok(found),
            // What matches nobody is the SDK's placeholder: the anonymous agent may do no
            // more than who shows nothing.
            None if self.anonymous.is_some() || !shown => self.nobody(),
            None => Err(Unknown::Mismatch),
        }
    }

    fn matching(&self, presented: &Presented) -> Result<(Agent, TunnelIdentity), Unknown> {
        let owner = self.by_key.get(&presented.key);
        let named = presented.name.as_deref().or(owner.map(AgentName::as_str));
        let agent = named.and_then(|name| self.agents.get(name));
        // The same work whether or not the agent exists (threat 3).
        const NOBODY: &[[u8; 32]] = &[[0; 32]];
        let keys = agent.map_or(NOBODY, |agent| &agent.keys);
        let matches = keys.iter().filter(|key| verify_slices_are_equal(*key, &presented.key).is_ok()).count();
        match agent.filter(|_| matches > 0) {
            Some(agent) => {
                let identity = TunnelIdentity { name: agent.name.clone(), key: Some(presented.key) };
                Ok((Agent { name: agent.name.clone(), anonymous: false }, identity))
            }
            None => Err(Unknown::Mismatch),
        }
    }

    fn nobody(&self) -> Result<(Agent, TunnelIdentity), Unknown> {
        let name = self.anonymous.clone().ok_or(Unknown::Missing)?;
        Ok((Agent { name: name.clone(), anonymous: true }, TunnelIdentity { name, key: None }))
    }

    /// A key that was withdrawn ends the tunnels it opened with their next request.
    fn still_known(&self, identity: &TunnelIdentity) -> Result<(Agent, TunnelIdentity), Unknown> {
        let agent = self.agents.get(&identity.name).ok_or(Unknown::Mismatch)?;
        let known = match &identity.key {
            Some(key) => agent.keys.contains(key),
            None => agent.anonymous,
        };
        if !known {
            return Err(Unknown::Mismatch);
        }
        Ok((Agent { name: agent.name.clone(), anonymous: identity.key.is_none() }, identity.clone()))
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;

    use super::*;

    const KEY: &str = "cup_0123456789abcdef0123456789abcdef";

    fn registry(anonymous: bool) -> Registry {
        let agent = |name: &str, key: Option<&str>| AgentSettings {
            name: AgentName::parse(name).unwrap(),
            keys: key.map(|key| sha256(key.as_bytes())).into_iter().collect(),
            anonymous: key.is_none(),
        };
        let mut agents = vec![agent("researcher", Some(KEY)), agent("writer", Some("other-key"))];
        agents.extend(anonymous.then(|| agent("anonymous", None)));
        Registry::new(agents)
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        fields
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    fn who(registry: &Registry, evidence: Evidence<'_>) -> Result<String, Unknown> {
        registry.identify(evidence).map(|agent| agent.name().to_string())
    }

    #[test]
    fn a_key_names_its_agent_in_every_spelling() {
        let registry = registry(false);
        let values = [
            basic(&format!("researcher:{KEY}")),
            basic(&format!(":{KEY}")),
            format!("Bearer {KEY}"),
            format!("bearer  {KEY} "),
            basic(&format!("researcher:{KEY}")).replace("Basic", "BASIC"),
        ];
        for value in values {
            let fields = fields(&[("proxy-authorization", &value)]);
            assert_eq!(who(&registry, Evidence::Proxy(&fields)).as_deref(), Ok("researcher"), "{value}");
        }
    }

    /// Threats 1 and 2.
    #[test]
    fn what_is_nearly_a_key_is_none() {
        let registry = registry(true);
        let proxy = |value: &str| who(&registry, Evidence::Proxy(&fields(&[("proxy-authorization", value)])));
        for key in [&KEY[..KEY.len() - 1], &format!("{KEY}x"), &format!("{KEY}\0"), &KEY.to_uppercase(), "x"] {
            assert_eq!(proxy(&basic(&format!("researcher:{key}"))), Err(Unknown::Mismatch), "{key:?}");
        }
        assert_eq!(proxy(&basic(&format!("writer:{KEY}"))), Err(Unknown::Mismatch));
        assert_eq!(proxy(&basic(&format!("nobody:{KEY}"))), Err(Unknown::Mismatch));
        for value in ["", "Basic", "Basic !!!", &basic("no-colon"), &basic("researcher:"), "Digest x=y", KEY] {
            assert_eq!(proxy(value), Err(Unknown::Malformed), "{value}");
        }
        let good = basic(&format!("researcher:{KEY}"));
        let twice = fields(&[("proxy-authorization", &good), ("proxy-authorization", &good)]);
        assert_eq!(who(&registry, Evidence::Proxy(&twice)), Err(Unknown::Ambiguous));
    }

    #[test]
    fn nobody_is_somebody_only_where_the_config_says_so() {
        let nothing = HeaderMap::new();
        assert_eq!(who(&registry(false), Evidence::Proxy(&nothing)), Err(Unknown::Missing));
        assert_eq!(who(&registry(true), Evidence::Proxy(&nothing)).as_deref(), Ok("anonymous"));
        // In proxy mode `Authorization` is the upstream's business.
        let upstreams = fields(&[("authorization", &format!("Bearer {KEY}"))]);
        assert_eq!(who(&registry(false), Evidence::Proxy(&upstreams)), Err(Unknown::Missing));
    }

    #[test]
    fn in_reverse_mode_the_key_stands_where_the_sdk_puts_it() {
        let known = registry(false);
        for (name, value) in [
            ("authorization", format!("Bearer {KEY}")),
            ("authorization", basic(&format!("researcher:{KEY}"))),
            ("x-api-key", KEY.to_owned()),
            ("api-key", KEY.to_owned()),
            ("x-goog-api-key", KEY.to_owned()),
        ] {
            let fields = fields(&[(name, &value)]);
            assert_eq!(who(&known, Evidence::Reverse(&fields)).as_deref(), Ok("researcher"), "{name}");
        }
        let two = fields(&[("x-api-key", KEY), ("api-key", "other-key")]);
        assert_eq!(who(&known, Evidence::Reverse(&two)), Err(Unknown::Ambiguous));
        let wrong = fields(&[("x-api-key", "sk-placeholder")]);
        assert_eq!(who(&known, Evidence::Reverse(&wrong)), Err(Unknown::Mismatch));
        assert_eq!(who(&known, Evidence::Reverse(&HeaderMap::new())), Err(Unknown::Missing));
        assert_eq!(who(&registry(true), Evidence::Reverse(&wrong)).as_deref(), Ok("anonymous"));
    }

    /// Threats 5 and 106.
    #[test]
    fn a_withdrawn_key_ends_its_tunnels() {
        let fields = fields(&[("proxy-authorization", &format!("Bearer {KEY}"))]);
        let (_, identity) = registry(false).identify_tunnel(Evidence::Proxy(&fields)).unwrap();
        assert_eq!(who(&registry(false), Evidence::Tunnel(&identity)).as_deref(), Ok("researcher"));
        assert_eq!(who(&Registry::default(), Evidence::Tunnel(&identity)), Err(Unknown::Mismatch));
        let (_, anonymous) = registry(true).identify_tunnel(Evidence::Proxy(&HeaderMap::new())).unwrap();
        assert_eq!(who(&registry(false), Evidence::Tunnel(&anonymous)), Err(Unknown::Mismatch));
        assert!(!format!("{identity:?}").contains(&crate::primitives::digest::hex(&sha256(KEY.as_bytes()))));
    }

    #[test]
    fn a_generated_key_is_long_and_its_hash_fits() {
        let (key, hash) = generate_key().unwrap();
        assert!(key.expose().starts_with("cup_") && key.expose().len() == 47, "{}", key.expose().len());
        assert_eq!(sha256(key.expose().as_bytes()), hash);
    }
}
