//! One write for a message in pieces: head and body of a small answer are copied side by
//! side and sent whole, which costs less than the kernel's handling of a list.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// Bytes up to which copying is the cheaper way.
const SMALL: usize = 4096;

thread_local! {
    /// A worker's: what is sent of it was always put there just before.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// Writes `slices`, or a part of them, as `poll_write_vectored` does.
pub fn poll_write_gathered<W: AsyncWrite>(
    to: Pin<&mut W>,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [one] = slices {
        return to.poll_write(cx, one);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > SMALL {
        return to.poll_write_vectored(cx, slices);
    }
    // Taken out, since a stream may write through another one.
    let mut whole = SCRATCH.take();
    slices.iter().for_each(|slice| whole.extend_from_slice(slice));
    let written = to.poll_write(cx, &whole);
    whole.clear();
    SCRATCH.set(whole);
    written
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_their_order_whatever_their_size() {
        for sizes in [vec![0, 3, 0, 4], vec![7], vec![4000, 96], vec![4000, 97], vec![9000, 1], vec![]] {
            let pieces: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let (to, mut from) = tokio::io::duplex(16 * 1024);
            let mut to = pin!(to);
            let written = std::future::poll_fn(|cx| poll_write_gathered(to.as_mut(), cx, &slices)).await.unwrap();
            let mut arrived = vec![0; written];
            from.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, pieces.concat()[..written], "{sizes:?}");
            assert!(written > 0 || sizes.is_empty(), "{sizes:?}");
        }
    }
}
