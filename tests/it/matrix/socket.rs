//! As much of RFC 6455 as an echo takes.

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scripted::Io;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;

const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x3c];

/// §4.2.2.
pub fn accept(key: &str) -> String {
    let both = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes());
    BASE64_STANDARD.encode(digest)
}

/// A client masks, a server doesn't (§5.1).
pub async fn send(io: &mut (impl Io + ?Sized), (opcode, payload): (u8, &[u8]), masked: bool) {
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(bit | length as u8),
        length @ 126..65_536 => {
            frame.push(bit | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(bit | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    io.write_all(&frame).await.unwrap();
    io.flush().await.unwrap();
}

/// A whole message in one frame: opcode, payload, and whether it was masked.
pub async fn receive(io: &mut (impl Io + ?Sized)) -> (u8, Vec<u8>, bool) {
    let mut head = [0; 2];
    io.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0] & 0xf0, 0x80, "one frame a message, and nothing reserved");
    let masked = head[1] & 0x80 != 0;
    let length = match head[1] & 0x7f {
        126 => u64::from(io.read_u16().await.unwrap()),
        127 => io.read_u64().await.unwrap(),
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if masked {
        io.read_exact(&mut mask).await.unwrap();
    }
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    io.read_exact(&mut payload).await.unwrap();
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    (head[0] & 0x0f, payload, masked)
}

/// The server's side, until the client closes.
pub async fn echo(mut io: impl Io) {
    loop {
        let (opcode, payload, masked) = receive(&mut io).await;
        assert!(masked);
        send(&mut io, (opcode, &payload), false).await;
        if opcode == CLOSE {
            io.shutdown().await.unwrap();
            return;
        }
    }
}
