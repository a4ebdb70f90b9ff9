//! Looks at a stream's first bytes and gives them back: inside a tunnel, is it TLS,
//! clear HTTP (Node's fetch tunnels `http://` too), or neither? At a door without TLS, is it
//! HTTP/2 by prior knowledge (RFC 9113 §3.3)?

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::http1::Peeked;

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Every registered method is shorter.
const LONGEST_METHOD: usize = 20;

/// Read at once.
const MOST_READ: usize = 8 * 1024;

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    Tls,
    /// h1 in clear text.
    ClearHttp,
    /// h2 in clear text, as gRPC clients without TLS speak it.
    ClearH2,
    /// Neither: SSH, garbage.
    Other,
}

/// Reads until it is clear what the stream carries; `None` if it ended before.
pub async fn sniff<IO: AsyncRead + Unpin>(io: &mut Peeked<IO>) -> io::Result<Option<Carried>> {
    loop {
        if let Some(carried) = classify(io.ahead()) {
            return Ok(Some(carried));
        }
        if fill(io).await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether the stream begins with HTTP/2's preface. Waits for as many bytes as that takes to
/// see, which for any h1 client is the first read; where it is h1, its head is already here.
pub async fn is_h2<IO: AsyncRead + Unpin>(io: &mut Peeked<IO>) -> io::Result<bool> {
    loop {
        if io.ahead().starts_with(PREFACE) {
            return Ok(true);
        }
        if !PREFACE.starts_with(io.ahead()) || fill(io).await? == 0 {
            return Ok(false);
        }
    }
}

/// A TLS record of a handshake starts `16 03 0x`; a request line is a method, in
/// capitals by every client, and a space.
fn classify(prefix: &[u8]) -> Option<Carried> {
    match prefix {
        [] | [0x16] | [0x16, 0x03] => None,
        [0x16, 0x03, 0..=4, ..] => Some(Carried::Tls),
        [b'P', b'R', b'I', b' ', ..] if prefix.starts_with(PREFACE) => Some(Carried::ClearH2),
        [b'P', b'R', b'I', b' ', ..] if !PREFACE.starts_with(prefix) => Some(Carried::Other),
        [b'P', b'R', b'I', b' ', ..] => None,
        _ => {
            let method = prefix.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
            match prefix.get(method) {
                None if method < LONGEST_METHOD => None,
                // However it was cut: a longer one isn't waited for.
                Some(b' ') if (1..LONGEST_METHOD).contains(&method) => Some(Carried::ClearHttp),
                _ => Some(Carried::Other),
            }
        }
    }
}

/// Reads ahead; 0 at the end.
async fn fill<IO: AsyncRead + Unpin>(io: &mut Peeked<IO>) -> io::Result<usize> {
    // On the stack: a connection that is silent holds no buffer.
    let (prefix, io) = io.parts_mut();
    poll_fn(|cx| {
        let mut space = [const { MaybeUninit::uninit() }; MOST_READ];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut space))?;
        let read = space.filled();
        *prefix = if prefix.is_empty() { Bytes::copy_from_slice(read) } else { [prefix, read].concat().into() };
        Poll::Ready(Ok(read.len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Context};

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        assert_eq!(classify(b""), None);
        assert_eq!(classify(b"\x16\x03"), None);
        assert_eq!(classify(b"\x16\x03\x01\x02"), Some(Carried::Tls));
        assert_eq!(classify(b"\x16\x02\x01"), Some(Carried::Other));
        assert_eq!(classify(b"GE"), None);
        assert_eq!(classify(b"GET / HTTP/1.1\r\n"), Some(Carried::ClearHttp));
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n"), None);
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(Carried::ClearH2));
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSN"), Some(Carried::Other));
        assert_eq!(classify(b"PRI / HTTP/1.1\r\n"), Some(Carried::Other));
        assert_eq!(classify(b"SSH-2.0-x"), Some(Carried::Other));
        assert_eq!(classify(b"\0\0"), Some(Carried::Other));
        assert_eq!(classify(b" GET"), Some(Carried::Other));
        assert_eq!(classify(&[b'A'; 30]), Some(Carried::Other));
        assert_eq!(classify(b"AAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n"), Some(Carried::Other));
    }

    #[tokio::test]
    async fn what_was_peeked_is_read_again() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut peeked = Peeked::new(Bytes::from_static(b"G"), server);
        client.write_all(b"ET / HTTP/1.1").await.unwrap();
        assert_eq!(sniff(&mut peeked).await.unwrap(), Some(Carried::ClearHttp));
        drop(client);
        let mut all = Vec::new();
        peeked.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn a_preface_is_seen_however_it_is_cut() {
        for (text, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"[..], true),
            (b"PRI * HTTP/1.1\r\n\r\n", false),
            (b"POST / HTTP/1.1\r\n\r\n", false),
            (b"P", false),
            (b"", false),
        ] {
            for cut in 0..=text.len() {
                let (mut client, server) = tokio::io::duplex(64);
                let mut peeked = Peeked::new(Bytes::new(), server);
                let write = async {
                    client.write_all(&text[..cut]).await.unwrap();
                    tokio::task::yield_now().await;
                    client.write_all(&text[cut..]).await.unwrap();
                    drop(client);
                };
                let (found, ()) = tokio::join!(is_h2(&mut peeked), write);
                assert_eq!(found.unwrap(), expected, "{text:?} {cut}");
                let mut all = Vec::new();
                peeked.read_to_end(&mut all).await.unwrap();
                assert_eq!(all, text);
            }
        }
    }

    /// A stream that is read in the pieces it was cut into.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(piece) = self.0.pop_front() {
                buf.put_slice(&piece);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn beginning() -> impl Strategy<Value = Vec<u8>> {
        let known = proptest::sample::select(vec![
            &b""[..],
            b"\x16\x03\x01\x02\x00\x01",
            b"\x16\x03",
            b"GET / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r",
            b"PROPFIND",
        ]);
        (known, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(known, rest)| [known, &rest].concat())
    }

    proptest! {
        /// Nobody gets another verdict by cutting what he says, and nothing of it is lost.
        #[test]
        fn a_verdict_does_not_depend_on_the_cuts(text in beginning(), sizes in proptest::collection::vec(1usize..9, 1..80)) {
            let mut pieces = VecDeque::new();
            let (mut rest, mut sizes) = (&*text, sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                pieces.push_back(piece.to_vec());
                rest = after;
            }
            let whole = (0..=text.len()).find_map(|length| classify(&text[..length]));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut peeked = Peeked::new(Bytes::new(), Pieces(pieces.clone()));
                assert_eq!(sniff(&mut peeked).await.unwrap(), whole);
                let mut other = Peeked::new(Bytes::new(), Pieces(pieces));
                assert_eq!(is_h2(&mut other).await.unwrap(), text.starts_with(PREFACE));
                for mut stream in [peeked, other] {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    assert_eq!(all, text);
                }
            });
        }
    }
}
