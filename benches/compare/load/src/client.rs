//! One connection to a proxy, whatever it takes to get through it, and requests on it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Options, number};

pub type Failure = Box<dyn std::error::Error>;

/// Buffered, so that a look at the socket is taken only for something: tokio-rustls looks again
/// behind all that it gets, but not where its buffer is read.
pub trait Stream: AsyncBufRead + AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncBufRead + AsyncRead + AsyncWrite + Unpin> Stream for T {}

const READ: usize = 4096;

/// Where requests go, and what they look like.
pub struct Target {
    address: String,
    connect: Option<Vec<u8>>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    request: Vec<u8>,
    h2_request: Option<http::Request<()>>,
    head: String,
    pub streams: u64,
}

impl Target {
    pub fn new(options: &Options) -> Self {
        let get = |name: &str| options.get(name).cloned();
        let host = get("host").unwrap_or_else(|| "localhost".to_owned());
        let path = get("path").unwrap_or_else(|| "/small".to_owned());
        let more = get("header").map(|header| format!("{header}\r\n")).unwrap_or_default();
        let proxy = get("proxy_auth").map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
        let streams = number(options, "h2", 0);
        let outer = if options.contains_key("tunnel") { "" } else { proxy.as_str() };
        let head = format!("{path} HTTP/1.1\r\nHost: {host}\r\n{outer}{more}Accept: */*\r\n");
        let connect =
            get("tunnel").map(|to| format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{proxy}\r\n").into_bytes());
        let tls = get("tls").map(|name| {
            let ca = get("ca").expect("ca");
            (connector(&ca, streams > 0), ServerName::try_from(name).expect("a name"))
        });
        let h2_request = (streams > 0).then(|| {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let mut request = http::Request::get(format!("{scheme}://{host}{path}"));
            if let Some((name, value)) = options.get("header").and_then(|header| header.split_once(": ")) {
                request = request.header(name, value);
            }
            request.body(()).expect("a request")
        });
        Self {
            address: get("connect").expect("connect"),
            connect,
            tls,
            request: format!("GET {head}\r\n").into_bytes(),
            h2_request,
            head,
            streams,
        }
    }

    pub async fn connect(&self) -> Result<Wire, Failure> {
        let mut tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        if let Some(connect) = &self.connect {
            tcp.write_all(connect).await?;
            let mut answer = Vec::new();
            loop {
                answer.push(tcp.read_u8().await?);
                if answer.ends_with(b"\r\n\r\n") {
                    break;
                }
            }
            if answer.get(9..12) != Some(b"200") {
                return Err(format!("CONNECT: {}", String::from_utf8_lossy(&answer)).into());
            }
        }
        let stream: Box<dyn Stream> = match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
            None => Box::new(BufReader::with_capacity(READ, tcp)),
        };
        if self.streams == 0 {
            return Ok(Wire::H1(Connection { stream, buffer: Vec::with_capacity(READ), last: 0..0 }));
        }
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(stream)
            .await?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Wire::H2(sender))
    }
}

fn connector(ca: &str, h2: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for file in ca.split(',') {
        for certificate in CertificateDer::pem_file_iter(file).expect("a CA file") {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    TlsConnector::from(Arc::new(config))
}

pub enum Wire {
    H1(Connection),
    H2(SendRequest<Bytes>),
}

impl Wire {
    pub async fn request(&mut self, target: &Target) -> Result<(), Failure> {
        match self {
            Self::H1(connection) => {
                connection.stream.write_all(&target.request).await?;
                connection.answer().await.map(|_| ())
            }
            Self::H2(sender) => {
                let mut sender = sender.clone().ready().await?;
                let request = target.h2_request.clone().ok_or("no h2 request")?;
                let (answer, _) = sender.send_request(request, true)?;
                let answer = answer.await?;
                if answer.status() != 200 {
                    return Err(format!("status {}", answer.status()).into());
                }
                let mut body = answer.into_body();
                while let Some(data) = body.data().await {
                    body.flow_control().release_capacity(data?.len())?;
                }
                Ok(())
            }
        }
    }

    /// One long request, or one with a long answer.
    pub async fn bulk(&mut self, target: &Target, up: u64) -> Result<u64, Failure> {
        let Self::H1(connection) = self else { return Err("bulk is HTTP/1.1".into()) };
        if up == 0 {
            connection.stream.write_all(&target.request).await?;
            return connection.answer().await;
        }
        let head = format!("PUT {}Content-Length: {up}\r\n\r\n", target.head);
        connection.stream.write_all(head.as_bytes()).await?;
        let chunk = vec![b'x'; 256 * 1024];
        let mut left = up;
        while left > 0 {
            let now = left.min(chunk.len() as u64);
            connection.stream.write_all(&chunk[..usize::try_from(now)?]).await?;
            left -= now;
        }
        connection.stream.flush().await?;
        connection.answer().await?;
        Ok(up)
    }

    pub async fn close(self) {
        if let Self::H1(mut connection) = self {
            let _ = connection.stream.shutdown().await;
        }
    }
}

pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Where the head of the last answer ended, and its body.
    last: Range<usize>,
}

impl Connection {
    /// Reads one answer, and gives how long its body was.
    async fn answer(&mut self) -> Result<u64, Failure> {
        // Nearly every answer is as long as the one before it, and here whole.
        let read = self.stream.fill_buf().await?;
        let Range { start: head, end } = self.last;
        if read.len() == end && read.starts_with(b"HTTP/1.1 200") && read[..head].ends_with(b"\r\n\r\n") {
            self.stream.consume(end);
            return Ok((end - head) as u64);
        }
        self.search().await
    }

    async fn search(&mut self) -> Result<u64, Failure> {
        self.buffer.clear();
        let end = loop {
            let from = self.buffer.len().saturating_sub(3);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection ended before an answer".into());
            }
            if let Some(at) = self.buffer[from..].windows(4).position(|window| window == b"\r\n\r\n") {
                break from + at + 4;
            }
        };
        let head = &self.buffer[..end];
        if head.get(9..12) != Some(b"200") {
            return Err(String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(600)]).into());
        }
        let length = content_length(head).ok_or("no Content-Length")?;
        self.last = end..self.buffer.len();
        let mut left = length.saturating_sub((self.buffer.len() - end) as u64);
        if left > 0 {
            self.last = 0..0;
            if length > 1 << 20 && self.buffer.capacity() < 1 << 18 {
                self.buffer.reserve(1 << 18);
            }
            while left > 0 {
                self.buffer.clear();
                let read = self.stream.read_buf(&mut self.buffer).await?;
                if read == 0 {
                    return Err("the connection ended within an answer".into());
                }
                left = left.saturating_sub(read as u64);
            }
        }
        Ok(length)
    }
}

fn content_length(head: &[u8]) -> Option<u64> {
    let line = head
        .split(|&byte| byte == b'\n')
        .find(|line| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length:")))?;
    std::str::from_utf8(&line[15..]).ok()?.trim().parse().ok()
}
