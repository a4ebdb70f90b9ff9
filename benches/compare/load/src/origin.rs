//! The other end of bulk transfers: `GET /bulk/BYTES` is answered with so many, the body of a `PUT` is thrown away.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Options;
use crate::client::{Failure, Stream};

pub async fn serve(options: &Options) {
    let plain = TcpListener::bind(&options["http"]).await.expect("http");
    let tls = TcpListener::bind(&options["https"]).await.expect("https");
    let acceptor = acceptor(options);
    println!("ready");
    loop {
        tokio::select! {
            accepted = plain.accept() => {
                let (stream, _) = accepted.expect("accept");
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(async move { let _ = connection(BufReader::new(stream)).await; });
            }
            accepted = tls.accept() => {
                let (stream, _) = accepted.expect("accept");
                let _ = stream.set_nodelay(true);
                let acceptor = acceptor.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = connection(stream).await;
                    }
                });
            }
        }
    }
}

fn acceptor(options: &Options) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&options["certificate"]).expect("certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(&options["key"]).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn connection(mut stream: impl Stream) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(256 * 1024);
    let chunk = vec![b'x'; 256 * 1024];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        buffer.drain(..end);
        discard(&mut stream, &mut buffer, &head).await?;
        let bytes: u64 = match head.split_once("/bulk/") {
            Some((_, rest)) => rest.split_ascii_whitespace().next().unwrap_or_default().parse()?,
            None => 2,
        };
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        let mut left = bytes;
        while left > 0 {
            let now = left.min(chunk.len() as u64);
            stream.write_all(&chunk[..usize::try_from(now)?]).await?;
            left -= now;
        }
        stream.flush().await?;
    }
}

/// Reads the request's body: of a known length, or chunked as some proxies send it on.
async fn discard(stream: &mut impl Stream, buffer: &mut Vec<u8>, head: &str) -> Result<(), Failure> {
    if head.contains("\r\nexpect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if head.contains("\r\ntransfer-encoding: chunked") {
        return discard_chunks(stream, buffer).await;
    }
    let Some((_, rest)) = head.split_once("\r\ncontent-length:") else { return Ok(()) };
    let length: u64 = rest.split("\r\n").next().unwrap_or_default().trim().parse()?;
    skip(stream, buffer, length).await
}

async fn discard_chunks(stream: &mut impl Stream, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            if stream.read_buf(buffer).await? == 0 {
                return Err("the request ended within a chunk".into());
            }
        };
        let size = u64::from_str_radix(std::str::from_utf8(&buffer[..end])?.trim(), 16)?;
        buffer.drain(..end + 2);
        skip(stream, buffer, size + 2).await?;
        if size == 0 {
            return Ok(());
        }
    }
}

async fn skip(stream: &mut impl Stream, buffer: &mut Vec<u8>, length: u64) -> Result<(), Failure> {
    let mut left = length;
    loop {
        let now = left.min(buffer.len() as u64);
        left -= now;
        buffer.drain(..usize::try_from(now)?);
        if left == 0 {
            return Ok(());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err("the request ended within its body".into());
        }
    }
}
