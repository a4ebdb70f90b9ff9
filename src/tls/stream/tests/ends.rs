//! The two ends of a connection: one of them ours, the other rustls's.

use std::sync::Arc;

use bytes::Bytes;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::CryptoProvider,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::super::*;
use crate::{
    primitives::{Clock, Host, SystemClock},
    tls::{CertificateAuthority, LeafCache, client::upstream_config, provider},
};

const HOST: &str = "api.test";

/// Settings for both sides that know each other.
pub(super) fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root_der().clone()).unwrap();
    let leaves = LeafCache::new(authority, clock, 4).unwrap();
    (upstream_config(roots), leaves.server_config(&Host::parse(HOST).unwrap()).unwrap())
}

/// The client's settings with one version and one suite.
pub(super) fn only(
    config: &ClientConfig,
    version: &'static SupportedProtocolVersion,
    suite: usize,
) -> Arc<ClientConfig> {
    let suites: Vec<_> = provider().cipher_suites.iter().filter(|suite| suite.version() == version).copied().collect();
    let provider = CryptoProvider { cipher_suites: vec![suites[suite]], ..(*provider()).clone() };
    let builder = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[version]).unwrap();
    let mut only = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(config.crypto_provider().clone())))
        .with_no_client_auth();
    only.enable_secret_extraction = true;
    Arc::new(only)
}

/// These tests are about records.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A stream that counts what it is asked in vain, and what is written to it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) io: DuplexStream,
    pub(super) vain: usize,
    pub(super) writes: usize,
    pub(super) vain_writes: usize,
}

impl Watched {
    pub(super) fn new(io: DuplexStream) -> Self {
        Self { io, vain: 0, writes: 0, vain_writes: 0 }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.vain += usize::from(read.is_pending());
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.writes += usize::from(written.is_ready());
        self.vain_writes += usize::from(written.is_pending());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub(super) type Ours = TlsStream<Watched>;

pub(super) fn name() -> rustls::pki_types::ServerName<'static> {
    HOST.try_into().unwrap()
}

/// rustls's client, and our server.
pub(super) async fn as_server(
    config: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    room: usize,
) -> (client::TlsStream<DuplexStream>, Ours) {
    let (near, far) = tokio::io::duplex(room);
    let client = TlsConnector::from(config).connect(name(), near);
    tokio::try_join!(client, accept(server, Bytes::new(), Watched::new(far))).unwrap()
}

/// Our client, and rustls's server.
pub(super) async fn as_client(
    config: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    room: usize,
) -> (Ours, server::TlsStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(room);
    let server = TlsAcceptor::from(server).accept(far);
    tokio::try_join!(connect(config, name(), None, Watched::new(near)), server).unwrap()
}

/// rustls without a stream, so that a test may do to its records what it likes.
pub(super) struct Raw<C> {
    pub(super) session: C,
    pub(super) io: DuplexStream,
    /// Opened, and not yet taken.
    text: Vec<u8>,
}

impl<C> Raw<C> {
    pub(super) fn new(session: C, io: DuplexStream) -> Self {
        Self { session, io, text: Vec::new() }
    }
}

impl<D: rustls::SideData, C: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>> Raw<C> {
    /// What it has to say.
    pub(super) fn said(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut said).unwrap();
        }
        said
    }

    pub(super) async fn say(&mut self) {
        let said = self.said();
        self.io.write_all(&said).await.unwrap();
    }

    pub(super) async fn hear(&mut self) -> Result<(), rustls::Error> {
        let mut heard = vec![0; 100_000];
        let length = self.io.read(&mut heard).await.unwrap();
        let mut heard = &heard[..length];
        while !heard.is_empty() {
            self.session.read_tls(&mut heard).unwrap();
            self.session.process_new_packets()?;
            let _ = io::Read::read_to_end(&mut self.session.reader(), &mut self.text);
        }
        Ok(())
    }

    pub(super) async fn shake_hands(&mut self) {
        while self.session.is_handshaking() {
            if self.session.wants_write() { self.say().await } else { self.hear().await.unwrap() }
        }
        self.say().await;
    }

    pub(super) fn heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }
}

pub(super) async fn with_raw_client(
    config: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Raw<ClientConnection>, Ours) {
    let (near, far) = tokio::io::duplex(100_000);
    let mut raw = Raw::new(ClientConnection::new(config, name()).unwrap(), near);
    let (ours, ()) = tokio::join!(accept(server, Bytes::new(), Watched::new(far)), raw.shake_hands());
    (raw, ours.unwrap())
}

pub(super) async fn with_raw_server(
    config: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Ours, Raw<ServerConnection>) {
    let (near, far) = tokio::io::duplex(100_000);
    let mut raw = Raw::new(ServerConnection::new(server).unwrap(), far);
    let (ours, ()) = tokio::join!(connect(config, name(), None, Watched::new(near)), raw.shake_hands());
    (ours.unwrap(), raw)
}
