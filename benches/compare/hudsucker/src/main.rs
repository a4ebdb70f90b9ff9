//! hudsucker as an intercepting proxy that injects a fixed `Authorization`.
//!
//!     compare-hudsucker LISTEN CA-CERTIFICATE CA-KEY

use std::sync::Arc;

use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::Request;
use hudsucker::hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::rustls::crypto::aws_lc_rs;
use hudsucker::rustls::{ClientConfig, RootCertStore};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;

const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

#[derive(Clone)]
struct Inject;

impl HttpHandler for Inject {
    async fn handle_request(&mut self, _: &HttpContext, mut request: Request<Body>) -> RequestOrResponse {
        let headers = request.headers_mut();
        headers.remove(PROXY_AUTHORIZATION);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer fixed"));
        request.into()
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let is_single = arguments.get(3).is_some_and(|runtime| runtime == "current-thread");
    arguments.truncate(3);
    let mut runtime = if is_single { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let arguments = arguments.try_into().expect("three arguments");
    runtime.enable_all().build().expect("a runtime").block_on(serve(arguments));
}

async fn serve([listen, certificate, key]: [String; 3]) {
    let certificate_pem = std::fs::read_to_string(&certificate).expect("the CA's certificate");
    let key = KeyPair::from_pem(&std::fs::read_to_string(key).expect("the CA's key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).expect("a CA");

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).expect("PEM")).expect("a root");
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);

    // TCP_NODELAY is worth five times in handshakes, and hudsucker doesn't set it: what a
    // listening socket has, those that it accepts have too.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    socket.bind(&listen.parse::<std::net::SocketAddr>().expect("an address").into()).expect("bind");
    socket.listen(4096).expect("listen");
    let listener = tokio::net::TcpListener::from_std(socket.into()).expect("a listener");

    Proxy::builder()
        .with_listener(listener)
        .with_ca(RcgenAuthority::new(issuer, 1_000, aws_lc_rs::default_provider()))
        .with_http_connector(connector)
        .with_http_handler(Inject)
        .build()
        .expect("a proxy")
        .start()
        .await
        .expect("the proxy");
}
