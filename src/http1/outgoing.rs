//! A body on its way into a wire, with back-pressure: no frame is taken from its source
//! before the one before it was written.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{Coding, Fault, Wire, head::write_field};

/// A frame up to this is copied behind what is to be written before it.
const SMALL: usize = 4 * 1024;
/// … as long as no more than this waits.
const BATCH: usize = 16 * 1024;

#[derive(Debug)]
pub struct Outgoing<B> {
    body: B,
    coding: Coding,
    /// A large frame: it is written from where it is.
    frame: Bytes,
    /// The line end behind a large chunk.
    after: &'static [u8],
    ended: bool,
    /// What came of a body that breaks off is written before that is told.
    patient: bool,
    broken: Option<Fault>,
    /// Something of the body was taken: it can't be sent again from here.
    taken: bool,
    /// Its end was told.
    told: bool,
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(body: B, coding: Coding) -> Self {
        Self {
            ended: coding == Coding::Length(0),
            body,
            coding,
            frame: Bytes::new(),
            after: b"",
            patient: false,
            broken: None,
            taken: false,
            told: false,
        }
    }

    /// An answer whose body breaks off: its reader gets the head and what there was.
    pub fn patient(body: B, coding: Coding) -> Self {
        Self { patient: true, ..Self::new(body, coding) }
    }

    pub fn into_body(self) -> B {
        self.body
    }

    /// The body, if nothing of it was taken yet.
    pub fn into_untouched(self) -> Option<B> {
        (!self.taken).then_some(self.body)
    }

    /// Ready: everything, what waited before it included, was written and flushed.
    pub fn poll<S>(&mut self, cx: &mut Context<'_>, wire: &mut Wire<S>) -> Poll<Result<(), Fault>>
    where
        S: AsyncWrite + Unpin,
    {
        self.poll_telling(cx, wire, |_| ())
    }

    /// The same. `ended`: called once, when the body has ended and before its last frame is
    /// written.
    pub fn poll_telling<S>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire<S>,
        ended: impl Fn(&mut B),
    ) -> Poll<Result<(), Fault>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            let waiting = self.fill(cx, wire)?;
            if self.ended && !std::mem::replace(&mut self.told, true) {
                ended(&mut self.body);
            }
            if wire.unwritten().is_empty() && self.frame.is_empty() && self.after.is_empty() {
                ready!(wire.poll_flush(cx))?;
                if let Some(fault) = self.broken.take() {
                    return Poll::Ready(Err(fault));
                }
                match (self.ended, waiting) {
                    (true, _) => return Poll::Ready(Ok(())),
                    (false, true) => return Poll::Pending,
                    (false, false) => continue,
                }
            }
            ready!(wire.poll_write(cx, &mut self.frame, &mut self.after))?;
        }
    }

    /// Takes what is at hand of the body. True: there was no more.
    fn fill<S>(&mut self, cx: &mut Context<'_>, wire: &mut Wire<S>) -> Result<bool, Fault> {
        while !self.ended && self.frame.is_empty() && self.after.is_empty() && wire.unwritten().len() < BATCH {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Ok(true) };
            self.taken = true;
            match frame {
                None => self.end(&mut wire.out, None)?,
                Some(Err(error)) if self.patient => {
                    (self.broken, self.ended) = (Some(Fault::Body(error.into())), true);
                }
                Some(Err(error)) => return Err(Fault::Body(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data(&mut wire.out, data)?,
                    Err(frame) => self.end(&mut wire.out, frame.into_trailers().ok().as_ref())?,
                },
            }
        }
        Ok(false)
    }

    fn data(&mut self, out: &mut Vec<u8>, data: Bytes) -> Result<(), Fault> {
        // An empty chunk would be the last.
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.coding {
            Coding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Fault::Length)?;
                self.ended = *left == 0;
            }
            Coding::Chunked => {
                out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.after = b"\r\n";
            }
            Coding::UntilClose => {}
        }
        if data.len() <= SMALL {
            out.extend_from_slice(&data);
            out.extend_from_slice(std::mem::take(&mut self.after));
        } else {
            self.frame = data;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), Fault> {
        match self.coding {
            Coding::Length(0) | Coding::UntilClose => {}
            // What the peer got isn't whole, and it must not believe that it is.
            Coding::Length(_) => return Err(Fault::Length),
            Coding::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    write_field(out, name, value);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        self.ended = true;
        Ok(())
    }
}
