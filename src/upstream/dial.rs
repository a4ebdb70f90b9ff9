//! An address to a byte stream. A trait, so that the whole proxy runs over
//! in-memory streams in a test.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use tokio::{io::DuplexStream, net::TcpStream};

/// Opens streams.
pub trait Dial: std::fmt::Debug + Send + Sync {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;
}

/// What a dial gives: an enum and not a box, since every byte passes through it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// TCP with `TCP_NODELAY`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, _address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>> {
        todo!()
    }
}
