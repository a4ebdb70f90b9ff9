//! HTTP/2's streams (RFC 9113) as messages: the h2 crate does the frames, the windows and the
//! header compression. Knows neither agents nor upstreams.
//!
//! ```text
//! RecvStream -> Received: a body as it comes, its window opened by whoever reads it
//! Sending -> SendStream: a body on its way, a frame taken when there is room for the one before
//! Duplex: both, behind CONNECT
//! KeepAlive: whether the peer is still there
//! ```

mod duplex;
mod keep_alive;
mod received;
mod sending;
mod small;

pub use duplex::Duplex;
pub use keep_alive::KeepAlive;
pub use received::Received;
pub use sending::{Broken, Plain, Sending};
