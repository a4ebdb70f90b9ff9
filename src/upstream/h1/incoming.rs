//! An answer's body, whichever protocol it comes by.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    super::{h2::Upload, pool::ConnectionGuard, transport::Upgraded},
    Connection, Home,
    detached::{self, Detached},
};
use crate::{
    http1::{Decoded, Decoder, Fault, Outgoing},
    http2::Received,
};

/// Why an answer's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    #[error(transparent)]
    H1(#[from] Fault),
    #[error("the stream broke off")]
    H2(#[from] h2::Error),
}

impl IncomingError {
    /// The request's side broke it off.
    pub fn is_the_requests(&self) -> bool {
        match self {
            Self::H1(fault) => matches!(fault, Fault::Body(_)),
            // Nobody else resets a stream of ours whose answer is still read.
            Self::H2(error) => error.is_reset() && !error.is_remote() && !error.is_library(),
        }
    }
}

/// An answer's body. Its last frame gives the connection back; dropped before that, it ends the
/// exchange at once.
#[derive(Debug)]
pub struct Incoming(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    /// It broke off: whoever asks again must not take what there was for all. Why, where that
    /// wasn't told yet.
    Broken(Option<Box<IncomingError>>),
    /// All that is left, of either protocol.
    Trailers(Box<HeaderMap>),
    H1(Reading),
    Detached(Detached),
    Switched(Box<Connection>),
    H2 {
        body: Received,
        _stream: (ConnectionGuard, Option<Upload>),
    },
}

/// The reading side of an exchange.
pub(super) struct Reading {
    connection: Box<Connection>,
    decoder: Decoder,
    keeps: bool,
    /// Where the connection goes, held by who sent the request.
    home: Option<Arc<dyn Home>>,
    /// When all of it that was read until now was.
    arrived: Option<Instant>,
}

impl Reading {
    pub(super) fn new(connection: Box<Connection>, decoder: Decoder, keeps: bool) -> Self {
        Self { connection, decoder, keeps, home: None, arrived: None }
    }

    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Never an empty frame.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            match self.decoder.decode(&mut self.connection.wire.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            self.arrived = None;
            let ended = match ready!(self.connection.wire.poll_read(cx)) {
                Ok(0) => self.decoder.end_of_connection(),
                Ok(_) => continue,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = ended {
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    pub(super) fn end(self) {
        if self.keeps {
            self.connection.go_home(self.home.as_deref(), self.arrived);
        }
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl Incoming {
    pub(super) fn h1(connection: Box<Connection>, decoder: Decoder, keeps: bool) -> Self {
        let mut incoming = Self(Kind::H1(Reading::new(connection, decoder, keeps)));
        incoming.end_if_done();
        incoming
    }

    /// Shows an h1 connection that isn't free yet the way home, which it would have to look for.
    /// `arrived`: just now.
    pub(in crate::upstream) fn lead_home(&mut self, home: Arc<dyn Home>, arrived: Instant) {
        if let Kind::H1(reading) = &mut self.0 {
            (reading.home, reading.arrived) = (Some(home), Some(arrived));
        }
    }

    pub(super) fn detached<B>(connection: Box<Connection>, decoder: Decoder, upload: Outgoing<B>) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self(Kind::Detached(detached::spawn(Reading::new(connection, decoder, false), upload)))
    }

    pub(super) fn switched(connection: Box<Connection>) -> Self {
        Self(Kind::Switched(connection))
    }

    pub(in crate::upstream) fn h2(body: Received, stream: (ConnectionGuard, Option<Upload>)) -> Self {
        Self(Kind::H2 { body, _stream: stream })
    }

    /// Trailers that were read too early come again: they are the last of a body.
    pub fn put_back(&mut self, trailers: HeaderMap) {
        self.0 = Kind::Trailers(Box::new(trailers));
    }

    /// What broke it off was seen too early, and is told whoever asks next.
    pub fn put_back_error(&mut self, error: IncomingError) {
        self.0 = Kind::Broken(Some(Box::new(error)));
    }

    /// After a 101: what the connection carries now.
    pub fn into_upgraded(self) -> Option<Upgraded> {
        match self.0 {
            Kind::Switched(connection) => {
                let (transport, ahead) = connection.wire.into_parts();
                Some(Upgraded::new(ahead, transport))
            }
            Kind::Empty | Kind::Broken(_) | Kind::Trailers(_) | Kind::H1(_) | Kind::Detached(_) | Kind::H2 { .. } => {
                None
            }
        }
    }

    /// The connection is free as soon as the last byte was read, not only when somebody asks for
    /// what comes after it.
    fn end_if_done(&mut self) {
        if let Kind::H1(reading) = &self.0
            && reading.is_done()
            && let Kind::H1(reading) = std::mem::replace(&mut self.0, Kind::Empty)
        {
            reading.end();
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match &mut self.0 {
            Kind::Empty | Kind::Switched(_) => Poll::Ready(None),
            Kind::Broken(why) => Poll::Ready(Some(Err(why.take().map_or_else(|| Fault::Closed.into(), |why| *why)))),
            Kind::Trailers(trailers) => {
                let trailers = std::mem::take(&mut **trailers);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Kind::H1(reading) => {
                let frame = ready!(reading.poll_frame(cx));
                match &frame {
                    // Closes the connection.
                    Some(Err(_)) => self.0 = Kind::Broken(None),
                    Some(Ok(_)) | None => self.end_if_done(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::Detached(detached) => {
                let frame = ready!(detached.poll_frame(cx));
                if matches!(frame, Some(Err(_))) {
                    self.0 = Kind::Broken(None);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::H2 { body, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if matches!(frame, Some(Err(_))) {
                    self.0 = Kind::Broken(None);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Switched(_) => true,
            Kind::H1(reading) => reading.is_done(),
            Kind::Detached(_) | Kind::Broken(_) | Kind::Trailers(_) => false,
            Kind::H2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty | Kind::Switched(_) => SizeHint::with_exact(0),
            // A body whose length is known is sent without trailers.
            Kind::Broken(_) | Kind::Trailers(_) => SizeHint::default(),
            Kind::H1(reading) => reading.left().map_or(SizeHint::default(), SizeHint::with_exact),
            Kind::Detached(detached) => detached.left().map_or(SizeHint::default(), SizeHint::with_exact),
            Kind::H2 { body, .. } => body.size_hint(),
        }
    }
}
