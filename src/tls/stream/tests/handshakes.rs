//! How a handshake ends, and what lies behind its end.

use std::sync::Arc;

use bytes::Bytes;
use rustls::{
    ClientConnection, ServerConfig,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{
    super::*,
    ends::{Raw, Watched, configs, name, only, with_raw_client},
};

/// What comes with a handshake's last flight is heard behind it.
#[tokio::test]
async fn a_request_that_comes_with_the_handshakes_end_is_not_lost() {
    let (config, server) = configs();
    for version in [&TLS13, &TLS12] {
        for (is_ended, size) in [(false, 10), (true, 10), (false, 40_000), (true, 40_000)] {
            let (near, far) = tokio::io::duplex(100_000);
            let session = ClientConnection::new(only(&config, version, 0), name()).unwrap();
            let mut raw = Raw::new(session, near);
            let shaking = async {
                while raw.session.is_handshaking() {
                    let said = raw.said();
                    if !said.is_empty() {
                        raw.io.write_all(&said).await.unwrap();
                    }
                    raw.hear().await.unwrap();
                }
                // In TLS 1.3 the client's last flight hasn't left yet.
                io::Write::write_all(&mut raw.session.writer(), &vec![7; size]).unwrap();
                if is_ended {
                    raw.session.send_close_notify();
                }
                let said = raw.said();
                for piece in said.chunks(said.len().div_ceil(3)) {
                    raw.io.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (ours, ()) = tokio::join!(accept(Arc::clone(&server), Bytes::new(), Watched::new(far)), shaking);
            let mut ours = ours.unwrap();
            let mut got = vec![0; size];
            ours.read_exact(&mut got).await.unwrap();
            assert!(got.iter().all(|byte| *byte == 7));
            if is_ended {
                assert_eq!(ours.read(&mut got).await.unwrap(), 0);
            }
            ours.write_all(b"answer").await.unwrap();
            raw.hear().await.unwrap();
            assert_eq!(raw.heard(), b"answer");
        }
    }
}

/// The handshake's own alert arrives also where it is protected already.
#[tokio::test]
async fn a_peer_hears_why_its_handshake_failed() {
    let (config, server) = configs();
    let (near, far) = tokio::io::duplex(100_000);
    let handshake = tokio::spawn(accept(server, Bytes::new(), Watched::new(far)));
    let mut raw = Raw::new(ClientConnection::new(config, name()).unwrap(), near);
    let mut said = raw.said();
    raw.io.write_all(&said).await.unwrap();
    while raw.session.is_handshaking() {
        raw.hear().await.unwrap();
    }
    said = raw.said();
    *said.last_mut().unwrap() ^= 1;
    raw.io.write_all(&said).await.unwrap();
    let error = handshake.await.unwrap().unwrap_err();
    assert!(error.get_ref().unwrap().is::<rustls::Error>());
    let told = raw.hear().await.unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[tokio::test]
async fn a_handshake_that_asks_for_another_host_fails() {
    let (config, server) = configs();
    let (near, far) = tokio::io::duplex(100_000);
    let client = TlsConnector::from(config).connect("other.test".try_into().unwrap(), near);
    let (client, ours) = tokio::join!(client, accept(server, Bytes::new(), Watched::new(far)));
    assert!(client.is_err());
    let error = ours.unwrap_err();
    assert!(error.to_string().contains("server name"), "{error}");
}

#[tokio::test]
async fn a_handshake_that_breaks_off_is_an_end() {
    let (config, server) = configs();
    let session = ClientConnection::new(config, name()).unwrap();
    let mut hello = Raw::new(session, tokio::io::duplex(1).0);
    let hello = hello.said();
    for length in [0, 1, 100, hello.len()] {
        let (mut near, far) = tokio::io::duplex(100_000);
        near.write_all(&hello[..length]).await.unwrap();
        near.shutdown().await.unwrap();
        let error = accept(Arc::clone(&server), Bytes::new(), Watched::new(far)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "after {length} bytes");
    }
    // What was read ahead counts.
    let (mut near, far) = tokio::io::duplex(100_000);
    near.write_all(&hello[100..]).await.unwrap();
    let ahead = Bytes::copy_from_slice(&hello[..100]);
    let handshake = tokio::spawn(accept(server, ahead, Watched::new(far)));
    let mut answer = vec![0; 5];
    near.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[0], 0x16);
    handshake.abort();
}

/// A message in as many records as it has bytes would be kept as a gigabyte.
#[tokio::test]
async fn a_handshake_in_crumbs_is_given_up() {
    let (_, server) = configs();
    let (mut near, far) = tokio::io::duplex(1_000_000);
    let handshake = tokio::spawn(accept(server, Bytes::new(), Watched::new(far)));
    // ClientHello, of which each record brings a byte.
    let hello = [&[1, 0, 0xff, 0xf0][..], &[0; 70_000]].concat();
    for byte in hello {
        if near.write_all(&[0x16, 3, 1, 0, 1, byte]).await.is_err() {
            break;
        }
    }
    let error = handshake.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("HandshakePayloadTooLarge"), "{error}");
}

/// … and what lies behind a handshake's end isn't looked at with its keys, nor lost.
#[tokio::test]
async fn keys_are_updated_also_right_behind_the_handshake() {
    let (config, server) = configs();
    for is_split in [false, true] {
        let (near, far) = tokio::io::duplex(100_000);
        let mut raw = Raw::new(ClientConnection::new(Arc::clone(&config), name()).unwrap(), near);
        let shaking = async {
            while raw.session.is_handshaking() {
                let said = raw.said();
                raw.io.write_all(&said).await.unwrap();
                raw.hear().await.unwrap();
            }
            raw.session.refresh_traffic_keys().unwrap();
            io::Write::write_all(&mut raw.session.writer(), b"question").unwrap();
            let said = raw.said();
            let (first, rest) = said.split_at(if is_split { said.len() - 35 } else { said.len() });
            raw.io.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            raw.io.write_all(rest).await.unwrap();
        };
        let (ours, ()) = tokio::join!(accept(Arc::clone(&server), Bytes::new(), Watched::new(far)), shaking);
        let mut ours = ours.unwrap();
        let mut read = [0; 100];
        assert_eq!(ours.read(&mut read).await.unwrap(), 8);
        ours.write_all(b"answer").await.unwrap();
        raw.hear().await.unwrap();
        assert_eq!(raw.heard(), b"answer");
    }
}

/// How a client begins that would send data at once, and doesn't know that `server` takes none.
async fn early_hello(server: &ServerConfig) -> Vec<u8> {
    let mut config = (*only(&configs().0, &TLS13, 0)).clone();
    config.enable_early_data = true;
    let allows = ServerConfig::builder_with_provider(crate::tls::provider()).with_safe_default_protocol_versions();
    let mut allows = allows.unwrap().with_no_client_auth().with_cert_resolver(server.cert_resolver.clone());
    (allows.max_early_data_size, allows.enable_secret_extraction) = (16_384, true);
    let config = Arc::new(config);
    let (mut raw, mut ours) = with_raw_client(Arc::clone(&config), Arc::new(allows)).await;
    ours.flush().await.unwrap();
    raw.hear().await.unwrap();
    let mut session = ClientConnection::new(config, name()).unwrap();
    assert!(session.early_data().is_some());
    let (io, _) = tokio::io::duplex(1);
    Raw::new(session, io).said()
}

/// Data before the handshake's end that is refused is skipped, as much of it as rustls allows;
/// records that hold none of it would be skipped for ever.
#[tokio::test]
async fn early_data_that_is_refused_is_skipped_once() {
    let (_, server) = configs();
    let hello = early_hello(&server).await;
    for (early, goes_on) in [(vec![&[7; 700][..]; 8], true), (vec![&[]; 20_000], false)] {
        let (mut near, far) = tokio::io::duplex(1_000_000);
        let handshake = tokio::spawn(accept(Arc::clone(&server), Bytes::new(), Watched::new(far)));
        let mut said = hello.clone();
        for data in early {
            said.extend([0x17, 3, 3, (data.len() >> 8) as u8, data.len() as u8]);
            said.extend(data);
        }
        near.write_all(&said).await.unwrap();
        if goes_on {
            let mut answer = [0; 5];
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[0], 0x16, "the server's flight");
            tokio::task::yield_now().await;
            assert!(!handshake.is_finished());
            handshake.abort();
        } else {
            let error = handshake.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("InvalidEmptyPayload"), "{error}");
        }
    }
}

/// A server may speak behind its flight, before the client has ended the handshake.
#[tokio::test]
async fn what_a_server_says_with_its_flight_is_not_lost() {
    let (config, server) = configs();
    let mut server = (*server).clone();
    server.send_half_rtt_data = true;
    let (near, far) = tokio::io::duplex(100_000);
    let mut raw = Raw::new(rustls::ServerConnection::new(Arc::new(server)).unwrap(), far);
    let speaking = async {
        raw.hear().await.unwrap();
        io::Write::write_all(&mut raw.session.writer(), b"at once").unwrap();
        raw.say().await;
        raw.hear().await.unwrap();
    };
    let (ours, ()) = tokio::join!(connect(config, name(), None, Watched::new(near)), speaking);
    let mut read = [0; 100];
    assert_eq!(ours.unwrap().read(&mut read).await.unwrap(), 7);
    assert_eq!(&read[..7], b"at once");
}
