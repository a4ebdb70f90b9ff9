//! What a tunnel carries, in chunks of the first byte's size: cuts make no difference, no byte is
//! lost, and TLS and HTTP are what begins like them.

#![no_main]

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use cupbearer::{
    http1::Peeked,
    server::peek::{Carried, sniff},
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// A stream whose bytes are all there, in chunks.
struct Chunks(VecDeque<Vec<u8>>);

impl AsyncRead for Chunks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut chunk) = self.0.pop_front() {
            let rest = chunk.split_off(chunk.len().min(into.remaining()));
            into.put_slice(&chunk);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("all bytes are there, and it waits"),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [size, sent @ ..] = data else { return };
    let mut carried = Vec::new();
    for size in [usize::from(*size).max(1), sent.len().max(1)] {
        let chunks = Chunks(sent.chunks(size).map(<[u8]>::to_vec).collect());
        let mut stream = Peeked::new(Default::default(), chunks);
        carried.push(now(sniff(&mut stream)).unwrap());
        let mut read = Vec::new();
        now(stream.read_to_end(&mut read)).unwrap();
        assert_eq!(read, sent);
    }
    assert_eq!(carried[0], carried[1]);
    let method = sent.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match carried[0] {
        Some(Carried::Tls) => assert!(matches!(sent, [0x16, 3, 0..=4, ..])),
        Some(Carried::ClearHttp) => assert!(method > 0 && sent[method] == b' '),
        Some(Carried::ClearH2) => assert!(sent.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Some(Carried::Other) => assert!(!sent.is_empty()),
        None => assert!(sent.len() < 24),
    }
});
