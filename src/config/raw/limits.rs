//! `[limits]`: one table in the file, four rooms' settings here. Every limit has a default.

use std::time::Duration;

use crate::{credential, proxy, server, upstream};

use super::super::document::Section;

pub(in crate::config) struct Limits {
    pub(in crate::config) server: server::Limits,
    pub(in crate::config) drain: Duration,
    pub(in crate::config) proxy: proxy::Settings,
    pub(in crate::config) upstream: upstream::Settings,
    /// Of routes that name none.
    pub(in crate::config) response_timeout: Duration,
    /// `resolve` is filled in later.
    pub(in crate::config) tokens: credential::Settings,
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            server: server::Limits {
                request_head: 64 << 10,
                request_fields: 100,
                connections: 10_000,
                head_timeout: seconds(60),
                handshake_timeout: seconds(10),
                tunnel_idle_timeout: seconds(600),
                tunnel_timeout: seconds(24 * 3600),
                h2_streams: 100,
                h2_resets: 20,
                h2_errors: 100,
                leaf_cache: 1000,
            },
            drain: seconds(30),
            proxy: proxy::Settings {
                replay_limit: 64 << 10,
                continue_timeout: seconds(1),
                request_idle_timeout: seconds(30),
                // Long: a model may think for minutes between two bytes.
                idle_timeout: seconds(600),
                total_timeout: seconds(24 * 3600),
                request_target: 16 << 10,
                request_fields: 100,
                agent_requests: 5000,
                agent_connections: 1000,
                // Nobody mistypes five times a second; thirty bits of a key would still take years.
                wrong_keys: 300,
            },
            upstream: upstream::Settings {
                connect_timeout: seconds(10),
                idle_timeout: seconds(60),
                max_idle: 256,
                max_streams: 100,
            },
            response_timeout: seconds(300),
            tokens: credential::Settings {
                exchange_timeout: seconds(10),
                lease_timeout: seconds(30),
                storm_guard: seconds(10),
                resolve: Vec::new(),
                transient: false,
                parent: None,
            },
        }
    }
}

pub(in crate::config) fn limits(section: Option<Section<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut section) = section else { return limits };
    let read = &mut section;
    let server = &mut limits.server;
    // A request line alone may have 8,000 bytes (RFC 9112 §3).
    set(&mut server.request_head, read.size("request_head", 8 << 10..=16 << 20));
    set(&mut server.request_fields, count(read, "request_fields", 1..=10_000));
    set(&mut server.connections, count(read, "connections", 1..=1_000_000));
    set(&mut server.head_timeout, read.duration("head_timeout"));
    set(&mut server.handshake_timeout, read.duration("handshake_timeout"));
    set(&mut server.tunnel_idle_timeout, read.duration("tunnel_idle_timeout"));
    set(&mut server.tunnel_timeout, read.duration("tunnel_timeout"));
    set(&mut server.h2_streams, read.count("h2_streams", 1..=10_000).and_then(|count| u32::try_from(count).ok()));
    set(&mut server.h2_resets, count(read, "h2_resets", 1..=100_000));
    set(&mut server.h2_errors, count(read, "h2_errors", 1..=100_000));
    set(&mut server.leaf_cache, count(read, "leaf_cache", 1..=1_000_000));
    set(&mut limits.drain, read.duration_or_zero("drain").map(|length| length.value));
    limits.proxy.request_fields = server.request_fields;
    set(&mut limits.proxy.request_target, read.size("request_target", 256..=64 << 10));
    set(&mut limits.proxy.agent_requests, count(read, "requests_per_agent", 1..=1_000_000));
    set(&mut limits.proxy.agent_connections, count(read, "connections_per_agent", 1..=1_000_000));
    let wrong_keys = read.count("wrong_keys_per_peer", 1..=1_000_000);
    set(&mut limits.proxy.wrong_keys, wrong_keys.and_then(|count| u32::try_from(count).ok()));
    set(&mut limits.proxy.total_timeout, read.duration("request_timeout"));
    set(&mut limits.proxy.replay_limit, read.size("replay", 0..=64 << 20));
    set(&mut limits.proxy.continue_timeout, read.duration("continue_timeout"));
    set(&mut limits.proxy.request_idle_timeout, read.duration("request_idle_timeout"));
    set(&mut limits.proxy.idle_timeout, read.duration("body_idle_timeout"));
    set(&mut limits.upstream.connect_timeout, read.duration("connect_timeout"));
    set(&mut limits.upstream.idle_timeout, read.duration("upstream_idle_timeout"));
    set(&mut limits.upstream.max_idle, count(read, "upstream_idle_connections", 0..=100_000));
    set(&mut limits.upstream.max_streams, count(read, "upstream_streams", 1..=10_000));
    set(&mut limits.response_timeout, read.duration("response_timeout"));
    set(&mut limits.tokens.exchange_timeout, read.duration("token_exchange_timeout"));
    set(&mut limits.tokens.lease_timeout, read.duration("token_wait"));
    set(&mut limits.tokens.storm_guard, read.duration_or_zero("token_storm_guard").map(|length| length.value));
    section.finish();
    limits
}

fn count(section: &mut Section<'_>, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<usize> {
    section.count(key, range).and_then(|count| usize::try_from(count).ok())
}

fn set<T>(limit: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *limit = value;
    }
}
