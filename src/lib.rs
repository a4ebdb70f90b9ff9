//! cupbearer: an authenticating egress proxy for AI agents. A request goes in with
//! no credential and arrives with one. `docs/architecture.md` is the map.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod credential;
pub mod demo;
pub mod files;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod launch;
pub mod observe;
pub mod policy;
pub mod primitives;
pub mod proxy;
pub mod route;
pub mod server;
pub mod tls;
pub mod upstream;
