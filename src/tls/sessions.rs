//! Sessions that a client may resume, each of them once. TLS 1.3 wants that for its tickets
//! (RFC 8446 §C.4). In TLS 1.2 a session whose resumption fails is forgotten by it: rustls keeps
//! it again when a handshake has ended well.

use rustls::{
    NamedGroup,
    client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

#[derive(Debug)]
pub(super) struct OnceSessions(ClientSessionMemoryCache);

impl OnceSessions {
    /// For about `size` of them.
    pub(super) fn new(size: usize) -> Self {
        Self(ClientSessionMemoryCache::new(size))
    }
}

impl ClientSessionStore for OnceSessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let session = self.0.tls12_session(server)?;
        self.0.remove_tls12_session(&server.to_owned());
        Some(session)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(server)
    }
}
