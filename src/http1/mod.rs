//! HTTP/1.1's messages (RFC 9112), for both sides of the proxy: heads are read and written,
//! bodies delimited. Nothing is repaired: what two parsers could read in two ways is a
//! [`Fault`], and that costs the connection. Knows neither agents nor upstreams.
//!
//! ```text
//! Wire: a stream with what was read ahead and what is to be written
//!   head::read_request, read_answer: Lines -> parse -> Terms -> Decoder: what of it is body
//!   head::write_request, write_answer -> Outgoing: a body on its way into the wire
//! ```

pub mod decode;
mod gather;
pub mod head;
mod lent;
mod lines;
mod outgoing;
mod parse;
mod peeked;
mod received;
mod terms;
#[cfg(test)]
mod tests;
pub mod used;
mod wire;

use std::io;

pub use decode::{Decoded, Decoder};
pub use gather::poll_write_gathered;
pub use lent::{Line, Received};
pub use outgoing::Outgoing;
pub use peeked::Peeked;
pub use received::{Arrived, Receiver};
pub use terms::{Framing, Terms};
pub use wire::Wire;

/// Bytes of a head, and of trailers, where nobody wants less.
pub const MAX_HEAD: usize = 64 * 1024;

/// How a body that is to be sent is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// There is none, or one of that many bytes.
    Length(u64),
    Chunked,
    /// For a peer that knows no chunks: by the connection's end.
    UntilClose,
}

/// Why a message can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the connection ended before the message did")]
    Closed,
    #[error("it isn't HTTP/1.1")]
    Malformed,
    #[error("a head is larger than is taken")]
    TooLarge,
    /// RFC 9110 §4.1.
    #[error("the request's target is longer than is taken")]
    TargetTooLong,
    /// RFC 9112 §6.3.
    #[error("the length of a message is contradictory")]
    Length,
    /// Its source's side of it.
    #[error("the body broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}
