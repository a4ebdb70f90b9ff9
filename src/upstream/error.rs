//! What goes wrong on the way out, and what to call it (RFC 9209).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::ParentFault;
use crate::{
    http1::Fault,
    http2::Broken,
    observe::{Noted, Record},
};

/// What went wrong on the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the name {host} can't be resolved")]
    Dns { host: String, source: io::Error },
    #[error("the name {host} resolves to no address")]
    NoAddress { host: String },
    /// Every address of the name is one that this route may not reach.
    #[error("{address} is {kind}, which the route doesn't allow")]
    AddressNotAllowed { address: IpAddr, kind: &'static str },
    #[error("can't connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("the parent proxy {0}")]
    Parent(#[source] ParentFault),
    #[error("connecting took longer than {limit:?}")]
    ConnectTimeout { limit: Duration },
    /// The certificate isn't good, or TLS failed otherwise.
    #[error("TLS with {host} failed")]
    Tls { host: String, source: io::Error },
    #[error("no answer within {limit:?}")]
    ResponseTimeout { limit: Duration },
    /// The upstream broke HTTP/2, or the connection, before its answer was complete.
    #[error("the upstream's answer broke off or isn't HTTP")]
    Http2(#[source] Broken),
    /// The same over HTTP/1.1.
    #[error("the upstream's answer broke off or isn't HTTP")]
    Http1(#[source] Fault),
    /// The upstream's answer says in two ways where it ends (RFC 9112 §6.3), so that
    /// whatever came next on the connection could be anybody's.
    #[error("the upstream's answer has a contradictory length")]
    Framing,
}

impl Error {
    /// The error type of `Proxy-Status` (RFC 9209 §2.3).
    pub fn proxy_status(&self) -> &'static str {
        match self {
            Self::Dns { .. } | Self::NoAddress { .. } => "dns_error",
            Self::AddressNotAllowed { .. } => "destination_ip_prohibited",
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "destination_ip_unroutable",
                io::ErrorKind::TimedOut => "connection_timeout",
                _ => "destination_unavailable",
            },
            Self::Parent(ParentFault::Login | ParentFault::Password(_)) => "proxy_configuration_error",
            Self::Parent(_) => "destination_unavailable",
            Self::ConnectTimeout { .. } => "connection_timeout",
            Self::Tls { .. } if self.is_certificate() => "tls_certificate_error",
            Self::Tls { .. } if self.is_alert() => "tls_alert_received",
            Self::Tls { .. } => "tls_protocol_error",
            Self::ResponseTimeout { .. } => "http_response_timeout",
            Self::Http2(broken) if broken.is_broken_off() => "connection_terminated",
            Self::Http2(_) => "http_protocol_error",
            Self::Http1(Fault::TooLarge | Fault::TargetTooLong) => "http_response_header_section_size",
            Self::Http1(Fault::Closed) => "http_response_incomplete",
            Self::Http1(Fault::Io(_) | Fault::Body(_)) => "connection_terminated",
            Self::Http1(Fault::Malformed | Fault::Length) | Self::Framing => "http_protocol_error",
        }
    }

    /// Whether TLS failed over the upstream's certificate: not trusted, not for this
    /// host, not valid now.
    pub fn is_certificate(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        matches!(
            rustls_cause(source),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        )
    }

    /// Whether TLS failed because the upstream said so.
    pub fn is_alert(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        matches!(rustls_cause(source), Some(rustls::Error::AlertReceived(_)))
    }

    /// The same failure once more, for those who waited for the same connection.
    /// `None` where one exchange failed and not the connecting.
    pub(super) fn share(&self) -> Option<Self> {
        Some(match self {
            Self::Dns { host, source } => Self::Dns { host: host.clone(), source: share_io(source) },
            Self::NoAddress { host } => Self::NoAddress { host: host.clone() },
            Self::AddressNotAllowed { address, kind } => Self::AddressNotAllowed { address: *address, kind },
            Self::Connect { address, source } => Self::Connect { address: *address, source: share_io(source) },
            Self::Parent(fault) => Self::Parent(fault.clone()),
            Self::ConnectTimeout { limit } => Self::ConnectTimeout { limit: *limit },
            Self::Tls { host, source } => Self::Tls { host: host.clone(), source: share_io(source) },
            Self::ResponseTimeout { .. } | Self::Http2(_) | Self::Http1(_) | Self::Framing => return None,
        })
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Length => Self::Framing,
            fault => Self::Http1(fault),
        }
    }
}

impl Noted for Error {
    fn note(&self, record: &mut Record) {
        if let Self::Connect { address, .. } = self {
            record.outcome.upstream_addr = Some(*address);
        }
    }
}

fn rustls_cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn share_io(error: &io::Error) -> io::Error {
    match (rustls_cause(error), error.raw_os_error()) {
        (Some(cause), _) => io::Error::new(error.kind(), cause.clone()),
        (None, Some(code)) => io::Error::from_raw_os_error(code),
        (None, None) => io::Error::new(error.kind(), error.to_string()),
    }
}
