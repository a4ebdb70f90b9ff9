//! `Proxy-Authorization`
