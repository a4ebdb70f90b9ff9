//! Pingora as a reverse proxy that injects a fixed `Authorization`.
//!
//!     compare-pingora CERTIFICATE KEY CA LISTEN=KIND=UPSTREAM...
//!
//! KIND: `http-http`, `http-https`, `https-http`, `https-h2` (the agent's leg, then the upstream's).

use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::*;
use pingora::protocols::ALPN;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

struct Reverse {
    upstream: String,
    tls: bool,
    h2: bool,
}

#[async_trait]
impl ProxyHttp for Reverse {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = Box::new(HttpPeer::new(self.upstream.as_str(), self.tls, "localhost".to_owned()));
        if self.h2 {
            peer.options.alpn = ALPN::H2;
        }
        Ok(peer)
    }

    async fn upstream_request_filter(&self, _: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        request.remove_header("x-api-key");
        request.insert_header("authorization", "Bearer fixed")
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("CERTIFICATE KEY CA");
    let (certificate, key, ca) = (next(), next(), next());
    let conf =
        ServerConf { threads: 1, ca_file: Some(ca), upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for argument in arguments {
        let [listen, kind, upstream] =
            argument.split('=').collect::<Vec<_>>().try_into().expect("LISTEN=KIND=UPSTREAM");
        let (agent, to) = kind.split_once('-').expect("KIND");
        let proxy = Reverse { upstream: upstream.to_owned(), tls: to != "http", h2: to == "h2" };
        let mut service = http_proxy_service(&Arc::clone(&server.configuration), proxy);
        if agent == "https" {
            let mut tls = TlsSettings::intermediate(&certificate, &key).expect("a certificate");
            tls.enable_h2();
            service.add_tls_with_settings(listen, None, tls);
        } else {
            service.add_tcp(listen);
        }
        server.add_service(service);
    }
    server.run_forever();
}
