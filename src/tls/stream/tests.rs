//! Both sides against rustls's own, over streams that are watched and records that are spoilt.

mod ends;
mod handshakes;

use std::sync::Arc;

use bytes::Bytes;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{records::MOST_IN_VAIN, *};
use ends::{Watched, as_client, as_server, configs, name, only, with_raw_client, with_raw_server};

/// `bytes` bytes both ways at once, in pieces of all sizes.
async fn exchange(
    ours: impl AsyncRead + AsyncWrite + Unpin,
    theirs: impl AsyncRead + AsyncWrite + Unpin,
    bytes: usize,
) {
    async fn one_way(mut from: impl AsyncWrite + Unpin, mut to: impl AsyncRead + Unpin, bytes: usize, seed: usize) {
        let sent: Vec<u8> = (0..bytes).map(|at| (((at ^ seed) * 31) >> 3) as u8).collect();
        let writing = async {
            let (mut rest, mut size) = (&*sent, 1);
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(size));
                from.write_all(piece).await.unwrap();
                from.flush().await.unwrap();
                (rest, size) = (behind, size * 3 % 90_001 + seed);
            }
            from.shutdown().await.unwrap();
        };
        let reading = async {
            let (mut got, mut size) = (Vec::new(), 1);
            loop {
                let mut piece = vec![0; size];
                match to.read(&mut piece).await.unwrap() {
                    0 => return got,
                    read => got.extend_from_slice(&piece[..read]),
                }
                size = size * 5 % 70_001 + seed;
            }
        };
        let ((), got) = tokio::join!(writing, reading);
        assert!(got == sent, "{} of {bytes} bytes", got.len());
    }
    let (our_reading, our_writing) = tokio::io::split(ours);
    let (their_reading, their_writing) = tokio::io::split(theirs);
    tokio::join!(one_way(our_writing, their_reading, bytes, 1), one_way(their_writing, our_reading, bytes, 2));
}

#[tokio::test]
async fn every_suite_of_both_versions_works_from_both_sides() {
    let (config, server) = configs();
    for (version, suites) in [(&TLS13, 0..3), (&TLS12, 0..3)] {
        for suite in suites {
            let config = only(&config, version, suite);
            for room in [300, 100_000] {
                let (theirs, ours) = as_server(Arc::clone(&config), Arc::clone(&server), room).await;
                assert_eq!(theirs.get_ref().1.protocol_version(), Some(version.version));
                exchange(ours, theirs, 300_000).await;
                let (ours, theirs) = as_client(Arc::clone(&config), Arc::clone(&server), room).await;
                exchange(ours, theirs, 300_000).await;
            }
        }
    }
}

#[tokio::test]
async fn tls_within_tls_works() {
    let (config, server) = configs();
    let (theirs, ours) = as_server(Arc::clone(&config), Arc::clone(&server), 100_000).await;
    let inner = TlsConnector::from(config).connect(name(), theirs);
    let (theirs, ours) = tokio::try_join!(inner, accept(server, Bytes::new(), ours)).unwrap();
    exchange(ours, theirs, 200_000).await;
}

#[tokio::test]
async fn a_small_message_costs_one_look_and_one_write() {
    let (config, server) = configs();
    let (mut client, mut ours) = as_server(config, server, 100_000).await;
    ours.flush().await.unwrap();
    let mut read = vec![0; 64 * 1024];
    for size in [1, 1000, 16_000] {
        client.write_all(&vec![7; size]).await.unwrap();
        (ours.io.vain, ours.io.writes) = (0, 0);
        assert_eq!(ours.read(&mut read).await.unwrap(), size);
        assert_eq!(ours.io.vain, 0, "{size} bytes");
        let halves = [IoSlice::new(&read[..size / 2]), IoSlice::new(&read[size / 2..size])];
        assert_eq!(ours.write_vectored(&halves).await.unwrap(), size);
        ours.flush().await.unwrap();
        assert_eq!(ours.io.writes, 1, "{size} bytes");
        client.read_exact(&mut read[..size]).await.unwrap();
        assert!(read[..size].iter().all(|byte| *byte == 7));
    }
    assert!(ours.is_used_up());
}

#[tokio::test]
async fn what_came_together_is_read_together_and_what_has_no_room_stays() {
    let (config, server) = configs();
    let (mut client, mut ours) = as_server(config, server, 100_000).await;
    for piece in 0..3 {
        client.write_all(&[piece; 100]).await.unwrap();
    }
    let mut read = vec![0; 64 * 1024];
    assert_eq!(ours.read(&mut read).await.unwrap(), 300);
    assert!(read[..300].chunks(100).enumerate().all(|(at, piece)| piece == [at as u8; 100]));
    client.write_all(b"little room").await.unwrap();
    assert_eq!(ours.read(&mut read[..6]).await.unwrap(), 6);
    assert!(!ours.is_used_up());
    assert_eq!(ours.read(&mut read[6..]).await.unwrap(), 5);
    assert!(ours.is_used_up() && &read[..11] == b"little room");
    for piece in [b"one", b"two"] {
        client.write_all(piece).await.unwrap();
    }
    assert_eq!(ours.read(&mut read[..5]).await.unwrap(), 3, "the second one comes whole");
    assert!(!ours.is_used_up());
    assert_eq!(ours.read(&mut read[3..]).await.unwrap(), 3);
    assert!(ours.is_used_up() && &read[..6] == b"onetwo");
}

/// A connection that waits holds no memory for what comes or has left.
#[tokio::test]
async fn nothing_is_kept_between_messages() {
    let (config, server) = configs();
    let (mut client, mut ours) = as_server(config, server, 100_000).await;
    client.write_all(&[7; 60_000]).await.unwrap();
    let mut read = vec![0; 60_000];
    ours.read_exact(&mut read).await.unwrap();
    ours.write_all(&read).await.unwrap();
    ours.flush().await.unwrap();
    let Session { ahead, plain, leaving, records, .. } = &*ours.session;
    assert_eq!((ahead.capacity(), plain.capacity(), leaving.len()), (0, 0, 0));
    assert!(leaving.capacity() <= MOST_PIECES);
    assert_eq!(records.kept(), 0);
}

#[tokio::test]
async fn an_end_that_was_told_is_one_and_one_that_was_not_is_an_error() {
    let (config, server) = configs();
    for is_told in [true, false] {
        let (mut client, mut ours) = as_server(Arc::clone(&config), Arc::clone(&server), 100_000).await;
        client.write_all(&[7; 5000]).await.unwrap();
        if is_told {
            client.shutdown().await.unwrap();
        }
        drop(client);
        let mut read = vec![0; 8192];
        assert_eq!(ours.read(&mut read).await.unwrap(), 5000, "what came before arrives");
        for _ in 0..2 {
            let end = ours.read(&mut read).await.map_err(|error| error.kind());
            let expected = if is_told { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof) };
            assert_eq!(end, expected);
        }
        assert_eq!(ours.is_used_up(), !is_told);
    }
}

#[tokio::test]
async fn who_was_told_the_end_may_still_be_answered() {
    let (config, server) = configs();
    let (mut client, mut ours) = as_server(config, server, 100_000).await;
    client.shutdown().await.unwrap();
    let mut text = String::new();
    assert_eq!(ours.read_to_string(&mut text).await.unwrap(), 0);
    ours.write_all(b"still there").await.unwrap();
    ours.shutdown().await.unwrap();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still there");
    assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn tickets_leave_with_the_first_answer_or_a_flush() {
    let (config, server) = configs();
    for is_flushed in [false, true] {
        let (mut raw, mut ours) = with_raw_client(Arc::clone(&config), Arc::clone(&server)).await;
        let before = ours.io.writes;
        assert_eq!(raw.session.tls13_tickets_received(), 0);
        if is_flushed {
            ours.flush().await.unwrap();
        } else {
            ours.write_all(b"answer").await.unwrap();
        }
        assert_eq!(ours.io.writes, before + 1);
        raw.hear().await.unwrap();
        assert_eq!(raw.session.tls13_tickets_received(), 1);
        assert_eq!(raw.heard().is_empty(), is_flushed);
        ours.write_all(b"more").await.unwrap();
        raw.hear().await.unwrap();
        assert_eq!(raw.heard(), b"more");
    }
}

/// RFC 8446 §4.6.3.
#[tokio::test]
async fn keys_are_updated_when_the_peer_asks() {
    let (config, server) = configs();
    let mut read = vec![0; 1000];
    let (mut raw, mut ours) = with_raw_client(config, server).await;
    for round in 0..40 {
        raw.session.refresh_traffic_keys().unwrap();
        io::Write::write_all(&mut raw.session.writer(), b"question").unwrap();
        raw.say().await;
        assert_eq!(ours.read(&mut read).await.unwrap(), 8, "round {round}");
        ours.write_all(b"answer").await.unwrap();
        raw.hear().await.unwrap();
        assert_eq!(raw.heard(), b"answer", "round {round}");
    }
    // Asked for ever and given nothing to read.
    let ended = loop {
        if raw.session.refresh_traffic_keys().is_err() {
            panic!("the client gave up");
        }
        raw.say().await;
        let reading = tokio::time::timeout(std::time::Duration::ZERO, ours.read(&mut read));
        if let Ok(Err(error)) = reading.await {
            break error;
        }
    };
    assert!(ended.to_string().contains("TooManyEmptyFragments"), "{ended}");
}

/// AES-GCM's limit on records under one key (RFC 8446 §5.5).
#[tokio::test]
async fn a_key_that_has_served_is_replaced_or_the_connection_ends() {
    let (config, server) = configs();
    for side in ["server", "client"] {
        let mut text = Vec::new();
        if side == "server" {
            let (mut raw, mut ours) = with_raw_client(Arc::clone(&config), Arc::clone(&server)).await;
            for round in 0..10_u8 {
                ours.session.records.limit_keys_to(5 + u64::from(round % 3));
                ours.write_all(&[round; 40_000]).await.unwrap();
                ours.flush().await.unwrap();
                raw.hear().await.unwrap();
                text.extend(raw.heard());
            }
        } else {
            let (mut ours, mut raw) = with_raw_server(Arc::clone(&config), Arc::clone(&server)).await;
            for round in 0..10_u8 {
                ours.session.records.limit_keys_to(5 + u64::from(round % 3));
                ours.write_all(&[round; 40_000]).await.unwrap();
                ours.flush().await.unwrap();
                raw.hear().await.unwrap();
                text.extend(raw.heard());
            }
        }
        assert!(
            text.len() == 400_000 && text.chunks(40_000).enumerate().all(|(at, piece)| piece == [at as u8; 40_000])
        );
    }
    let (mut raw, mut ours) = with_raw_client(only(&config, &TLS12, 0), server).await;
    ours.session.records.limit_keys_to(4);
    for _ in 0..2 {
        ours.write_all(b"fine").await.unwrap();
    }
    assert!(ours.write_all(b"one too many").await.is_err());
    ours.shutdown().await.unwrap();
    raw.hear().await.unwrap();
    assert_eq!(raw.heard(), b"finefine", "and the end was told");
}

#[tokio::test]
async fn a_client_keeps_the_tickets_that_come_later() {
    let (config, server) = configs();
    let config = crate::tls::client::with_own_sessions(&config);
    let (mut ours, mut raw) = with_raw_server(Arc::clone(&config), Arc::clone(&server)).await;
    io::Write::write_all(&mut raw.session.writer(), b"answer").unwrap();
    raw.say().await;
    let mut read = [0; 10];
    assert_eq!(ours.read(&mut read).await.unwrap(), 6);
    let (_, raw) = with_raw_server(config, server).await;
    assert_eq!(raw.session.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
}

/// A record that was spoilt on its way, and what its sender hears of it.
#[tokio::test]
async fn a_spoilt_record_ends_the_connection_and_its_sender_hears_why() {
    let (config, server) = configs();
    for version in [&TLS13, &TLS12] {
        for at in [0, 1, 3, 5, 20, usize::MAX] {
            let (mut raw, mut ours) = with_raw_client(only(&config, version, 0), Arc::clone(&server)).await;
            io::Write::write_all(&mut raw.session.writer(), b"first").unwrap();
            raw.say().await;
            io::Write::write_all(&mut raw.session.writer(), b"never seen").unwrap();
            let mut said = raw.said();
            let at = at.min(said.len() - 1);
            said[at] ^= 0x5a;
            raw.io.write_all(&said).await.unwrap();
            let mut read = vec![0; 100];
            assert_eq!(ours.read(&mut read).await.unwrap(), 5, "what came before");
            let error = ours.read(&mut read).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{version:?}, byte {at}: {error}");
            assert!(error.get_ref().unwrap().is::<rustls::Error>());
            assert!(ours.read(&mut read).await.is_err(), "and no more");
            assert!(ours.write(b"no").await.is_err());
            assert!(!ours.is_used_up());
            let told = loop {
                if let Err(error) = raw.hear().await {
                    break error;
                }
            };
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "{version:?}, byte {at}: {told}");
        }
    }
}

/// Nobody writes in clear once there are keys.
#[tokio::test]
async fn records_in_clear_are_refused() {
    let (config, server) = configs();
    for version in [&TLS13, &TLS12] {
        for record in [
            &b"\x15\x03\x03\x00\x02\x01\x00"[..],
            b"\x17\x03\x03\x00\x04data",
            b"\x14\x03\x03\x00\x01\x01",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let (mut raw, mut ours) = with_raw_client(only(&config, version, 0), Arc::clone(&server)).await;
            raw.io.write_all(record).await.unwrap();
            let error = ours.read(&mut [0; 100]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{record:?}");
        }
    }
}

#[tokio::test]
async fn records_without_data_have_an_end() {
    let (config, server) = configs();
    let (mut raw, mut ours) = with_raw_client(config, server).await;
    let mut read = [0; 100];
    for _ in 0..3 {
        ours.session.records.waste(MOST_IN_VAIN);
        io::Write::write_all(&mut raw.session.writer(), b"data").unwrap();
        raw.say().await;
        assert_eq!(ours.read(&mut read).await.unwrap(), 4, "data makes good");
    }
    ours.session.records.waste(MOST_IN_VAIN);
    raw.session.refresh_traffic_keys().unwrap();
    raw.say().await;
    let error = ours.read(&mut read).await.unwrap_err();
    assert!(error.to_string().contains("TooManyEmptyFragments"), "{error}");
}

fn records_of(ours: &mut TlsStream<Watched>) -> &mut Records {
    &mut ours.session.records
}

/// TLS 1.2's client that would begin again hears at once that it can't (RFC 5746 §4.5).
#[tokio::test]
async fn renegotiation_is_refused_at_once() {
    let (config, server) = configs();
    let (mut raw, mut ours) = with_raw_client(only(&config, &TLS12, 0), server).await;
    let Ok(Opened::Reply(alert)) = records_of(&mut ours).hear(rustls::ContentType::Handshake, &[1, 0, 0, 0]) else {
        panic!("not refused");
    };
    ours.session.leaving.push_back(alert);
    // Two in one record are answered one by one.
    let Ok(Opened::Reply(two)) = records_of(&mut ours).hear(rustls::ContentType::Handshake, &[1, 0, 0, 0, 1, 0, 0, 0])
    else {
        panic!("not refused");
    };
    ours.session.leaving.push_back(two);
    ours.write_all(b"and on").await.unwrap();
    ours.flush().await.unwrap();
    raw.hear().await.unwrap();
    assert_eq!(raw.heard(), b"and on", "no record is missing");
    let records = &mut ours.session.records;
    assert!(records.hear(rustls::ContentType::Handshake, &[0, 0, 0, 0]).is_err(), "that is a server's");
    assert!(records.hear(rustls::ContentType::Handshake, &[24, 0, 0, 1, 0]).is_err(), "that is TLS 1.3's");
}

#[tokio::test]
async fn messages_are_put_together_from_their_records() {
    let (config, server) = configs();
    let (_raw, mut ours) = with_raw_client(Arc::clone(&config), Arc::clone(&server)).await;
    let records = &mut ours.session.records;
    for byte in [24, 0, 0, 1] {
        assert_eq!(records.hear(rustls::ContentType::Handshake, &[byte]).unwrap(), Opened::Nothing);
    }
    assert!(records.hear(rustls::ContentType::Alert, &[1, 0]).is_err(), "nothing goes between");
    assert_eq!(records.hear(rustls::ContentType::Handshake, &[0]).unwrap(), Opened::Nothing);
    assert_eq!(records.kept(), 0);
    for (message, reason) in [
        (&[][..], "empty"),
        (&[4, 0, 0, 1, 0], "a server gets no ticket"),
        (&[24, 1, 0, 0], "too long"),
        (&[24, 0, 0, 1, 2], "no such request"),
        (&[24, 0, 0, 2, 0, 0], "too long"),
        (&[24, 0, 0, 1, 0, 24], "behind a key's end"),
    ] {
        let (_raw, mut ours) = with_raw_client(Arc::clone(&config), Arc::clone(&server)).await;
        assert!(ours.session.records.hear(rustls::ContentType::Handshake, message).is_err(), "{reason}");
    }
}

/// A large payload never lies where copying to it is slow, whatever it is copied from.
#[test]
fn records_are_put_where_copying_is_fast() {
    let slot = vec![0; SLOT];
    let body = vec![0; 3 * 4096 + MOST_IN_RECORD];
    for at in 0..2 * 4096 {
        let parts: [&[u8]; 3] = [b"head", &body[at..at + MOST_IN_RECORD - 4], b""];
        let place = Said { parts: &parts, start: 0, end: MOST_IN_RECORD }.place_in(&slot);
        let ahead = slot[place + 4..].as_ptr().addr().wrapping_sub(parts[1].as_ptr().addr()) % 4096;
        assert!(ahead >= 64, "{at}: {ahead}");
        assert!(HEADER <= place && place - HEADER + LARGEST <= SLOT, "{at}: {place}");
    }
}

#[test]
fn what_is_said_is_taken_from_its_parts() {
    let parts: [&[u8]; 4] = [b"one", b"", b"two", b"three"];
    let all = b"onetwothree";
    for start in 0..=all.len() {
        for end in start..=all.len() {
            let pieces: Vec<_> = Said { parts: &parts, start, end }.pieces().collect();
            assert_eq!(pieces.concat(), all[start..end], "{start}..{end}");
        }
    }
}

/// Reading and writing may be two tasks', and a socket calls one of them only.
#[tokio::test]
async fn who_reads_leaves_the_writers_waker_alone() {
    let (config, server) = configs();
    let (mut client, mut ours) = as_server(config, server, 2000).await;
    let mut noop = Context::from_waker(std::task::Waker::noop());
    while Pin::new(&mut ours).poll_write(&mut noop, &[7; 1000]).is_ready() {}
    client.write_all(b"question").await.unwrap();
    client.flush().await.unwrap();
    let looks = ours.io.vain_writes;
    let mut read = [0; 100];
    assert_eq!(ours.read(&mut read).await.unwrap(), 8);
    assert_eq!(ours.io.vain_writes, looks);
}
