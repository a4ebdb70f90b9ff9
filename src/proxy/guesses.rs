//! Wrong keys, counted by where they come from (threat 4). Past the limit they are answered
//! with 429 and lose their connection, and operators are told, once a minute.
//!
//! Right keys of the same place go on being taken, and never come here: many agents may
//! stand behind one address (a host's loopback, a container network's gateway), and none of
//! them may lock the others out. It is their length that keeps keys from being guessed; this
//! keeps guessing from going unnoticed, and from being cheap.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    identity::{Evidence, Unknown},
    observe::Event,
};

use super::{Error, Seat, Shared, seat::TooMany};

/// What a limit is counted in.
const MINUTE: Duration = Duration::from_secs(60);

/// Places that are kept count of at once; those beyond share one count. Some 300 KB.
const MOST_PEERS: usize = 4096;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An IPv4 address, or the /64 of an IPv6 one: whoever has one of those has all of it.
    Address(IpAddr),
    /// The user at the other end of a socket file.
    User(u32),
    /// Nobody can tell, or there are too many to tell apart.
    #[default]
    Other,
}

impl Peer {
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "{address}/64"),
            Self::Address(address @ IpAddr::V4(_)) => address.fmt(f),
            Self::User(user) => write!(f, "user {user}"),
            Self::Other => f.write_str("elsewhere"),
        }
    }
}

/// The wrong keys of the last minute.
#[derive(Debug)]
pub struct Guesses {
    /// In a minute, from one place.
    limit: u32,
    counts: Mutex<HashMap<Peer, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    wrong: u32,
}

/// One wrong key more than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    /// The first one of its minute.
    first: bool,
    /// Until the minute is over.
    rest: Duration,
}

impl Guesses {
    pub fn new(limit: u32) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts a wrong key.
    fn count(&self, peer: Peer, now: Instant) -> Result<(), Over> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |count: &Count| now.saturating_duration_since(count.since) >= MINUTE;
        if counts.len() >= MOST_PEERS && !counts.contains_key(&peer) {
            counts.retain(|_, count| !is_over(count));
        }
        let peer = if counts.len() < MOST_PEERS || counts.contains_key(&peer) { peer } else { Peer::Other };
        let count = counts.entry(peer).or_insert(Count { since: now, wrong: 0 });
        if is_over(count) {
            *count = Count { since: now, wrong: 0 };
        }
        count.wrong = count.wrong.saturating_add(1);
        if count.wrong <= self.limit {
            return Ok(());
        }
        let rest = MINUTE.saturating_sub(now.saturating_duration_since(count.since));
        Err(Over { first: count.wrong == self.limit.saturating_add(1), rest })
    }
}

impl Shared {
    /// Nobody was recognised by `evidence`. Only a key that is nobody's is a guess: none at
    /// all is how git begins, and one in a tunnel was right when the tunnel was opened.
    pub(super) fn stranger(&self, seat: &Seat, evidence: Evidence<'_>, unknown: Unknown) -> Error {
        if unknown != Unknown::Mismatch || matches!(evidence, Evidence::Tunnel(_)) {
            return unknown.into();
        }
        let peer = seat.peer();
        let Err(over) = self.guesses.count(peer, Instant::now()) else { return unknown.into() };
        if over.first {
            let detail = format!("more than {} wrong agent keys in a minute from {peer}", self.guesses.limit);
            tracing::warn!("{detail}");
            self.recorder.event(Event::Alert { kind: "wrong_keys", detail });
        }
        TooMany::WrongKeys { rest: over.rest }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Peer {
        Peer::at(text.parse().unwrap())
    }

    #[test]
    fn each_place_has_a_count_of_its_own_and_a_minute_to_wait_at_most() {
        let guesses = Guesses::new(2);
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(guesses.count(at("192.0.2.1"), start), Ok(()));
        assert_eq!(guesses.count(at("192.0.2.1"), later(10)), Ok(()));
        let rest = |seconds| Duration::from_secs(seconds);
        assert_eq!(guesses.count(at("192.0.2.1"), later(20)), Err(Over { first: true, rest: rest(40) }));
        assert_eq!(guesses.count(at("::ffff:192.0.2.1"), later(59)), Err(Over { first: false, rest: rest(1) }));
        assert_eq!(guesses.count(at("192.0.2.2"), later(59)), Ok(()));
        assert_eq!(guesses.count(at("192.0.2.1"), later(60)), Ok(()), "a minute later");
    }

    #[test]
    fn an_ipv6_network_is_one_place() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(at("::ffff:192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn many_places_take_no_more_memory_and_lose_no_count() {
        let guesses = Guesses::new(1);
        let start = Instant::now();
        let address = |number: usize| Peer::at(IpAddr::V4(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())));
        for number in 0..MOST_PEERS {
            assert_eq!(guesses.count(address(number), start), Ok(()));
        }
        assert!(guesses.count(address(0), start).is_err(), "one that is known keeps its count");
        assert_eq!(guesses.count(address(MOST_PEERS), start), Ok(()));
        assert!(guesses.count(address(MOST_PEERS + 1), start).is_err(), "those beyond share one");
        assert_eq!(guesses.counts.lock().unwrap().len(), MOST_PEERS + 1);
        assert_eq!(guesses.count(address(MOST_PEERS + 1), start + MINUTE), Ok(()));
        assert_eq!(guesses.counts.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
