//! Futures that few requests need, kept out of those that all requests pass through.

use std::pin::Pin;

/// Boxes a future where nobody else has to pay for it. What is boxed is built on the stack: in a
/// function that all requests pass through it would widen the frame by all it holds, tens of KB
/// for a TLS handshake, and each page of a frame is touched in every call.
#[inline(never)]
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}
