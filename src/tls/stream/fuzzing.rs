//! The door for the fuzz target `records` in `tests/fuzz`; built for it only (`cfg(fuzzing)`).

#![expect(clippy::unwrap_used, reason = "what fails here is a finding")]

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, LazyLock},
    task::Waker,
};

use bytes::Bytes;
use rustls::{
    ClientConfig, ContentType, RootCertStore, ServerConfig,
    client::Resumption,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{super::*, records::MOST_IN_VAIN, *};
use crate::primitives::{Clock, Host, SystemClock};

const HOST: &str = "api.test";
const ANSWER: &[u8] = b"an answer";

/// Both sides' settings; the client's for TLS 1.2 and 1.3.
struct Configs {
    client: [Arc<ClientConfig>; 2],
    server: Arc<ServerConfig>,
}

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root_der().clone()).unwrap();
    let leaves = LeafCache::new(authority, clock, 4).unwrap();
    let client = [&TLS12, &TLS13].map(|version| {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        Arc::new(config)
    });
    Configs { client, server: leaves.server_config(&Host::parse(HOST).unwrap()).unwrap() }
});

/// What a peer sent is all there, in pieces; what it is sent is kept.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    written: Vec<u8>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("all bytes are there, and it waits"),
    }
}

/// Our end of a connection after its handshake, and its peer, who may say anything.
fn ends(is_server: bool, is_tls13: bool) -> (Box<Session>, Box<Session>) {
    let config = Arc::clone(&CONFIGS.client[usize::from(is_tls13)]);
    let (near, far) = tokio::io::duplex(100_000);
    let connecting = connect(config, HOST.try_into().unwrap(), None, near);
    let accepting = accept(Arc::clone(&CONFIGS.server), Bytes::new(), far);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (client, server) = runtime.block_on(async { tokio::try_join!(connecting, accepting) }).unwrap();
    if is_server { (server.session, client.session) } else { (client.session, server.session) }
}

/// What a peer says.
struct Speech {
    wire: Vec<u8>,
    data: Vec<u8>,
    /// Only what nobody may end a connection for.
    is_fair: bool,
    /// Records without data behind each other.
    vain: u8,
}

impl Speech {
    /// `script`: what to say, how much, and with what in it, as often as there is more.
    fn of(peer: &mut Session, mut script: &[u8]) -> Self {
        // What its handshake had still to say goes first.
        let wire = peer.leaving.drain(..).flatten().collect();
        let mut speech = Self { wire, data: Vec::new(), is_fair: true, vain: 0 };
        while let [what, length, rest @ ..] = script {
            let (content, behind) = rest.split_at(rest.len().min(usize::from(*length)));
            script = behind;
            speech.say(peer, what % 8, content);
        }
        speech
    }

    fn say(&mut self, peer: &mut Session, what: u8, content: &[u8]) {
        let start = self.wire.len();
        // Tickets are among those that nobody asked for.
        self.vain = if what == 4 { self.vain.saturating_add(1) } else { 0 };
        let is_too_often = self.vain > MOST_IN_VAIN / 2;
        self.is_fair &= matches!(what, 0 | 1 | 4) && !(content.is_empty() && what < 4) && !is_too_often;
        match what {
            0 => self.say_data(peer, content),
            // Up to 17 KiB.
            1 => self.say_data(peer, &content.repeat(68)),
            2 => self.wire.extend(peer.records.seal_anything(ContentType::Alert, content)),
            3 => self.wire.extend(peer.records.seal_anything(ContentType::Handshake, content)),
            // TLS 1.2 has no such thing.
            4 => self.wire.extend(peer.records.update_key().unwrap_or_default()),
            5 => self.wire.extend_from_slice(content),
            6 => {
                self.wire.extend(peer.records.seal_anything(ContentType::ApplicationData, content));
                // Not in the minor version, which is nothing to anybody (RFC 8446 §5.1).
                let at = usize::from(content.first().copied().unwrap_or_default()) % (self.wire.len() - start);
                self.wire[start + if at == 2 { 3 } else { at }] ^= 1;
            }
            _ => self.wire.extend(peer.records.seal_alert(AlertDescription::CloseNotify).unwrap()),
        }
    }

    fn say_data(&mut self, peer: &mut Session, data: &[u8]) {
        for piece in data.chunks(MOST_IN_RECORD) {
            self.wire.extend(peer.records.seal_anything(ContentType::ApplicationData, piece));
        }
        if data.is_empty() {
            self.wire.extend(peer.records.seal_anything(ContentType::ApplicationData, data));
        }
        self.data.extend_from_slice(data);
    }
}

/// What came of a speech, if it comes in pieces of `piece` bytes and is read in such of `room`.
fn heard(choice: u8, script: &[u8], piece: usize, room: usize) -> (Vec<u8>, Result<(), String>) {
    let (session, mut peer) = ends(choice & 1 == 0, choice & 2 == 0);
    let speech = Speech::of(&mut peer, script);
    let pieces = speech.wire.chunks(piece).map(<[u8]>::to_vec).collect();
    let mut ours = TlsStream { io: Pieces { pieces, written: Vec::new() }, session };
    let (mut got, mut space) = (Vec::new(), vec![0; room]);
    let ended = loop {
        match now(ours.read(&mut space)) {
            Ok(0) => break Ok(()),
            Ok(read) => got.extend_from_slice(&space[..read]),
            Err(error) => break Err(error),
        }
    };
    assert!(speech.data.starts_with(&got), "what was never said");
    let is_cut = matches!(&ended, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof);
    assert!(!speech.is_fair || (is_cut && got == speech.data), "{ended:?}, {} of {}", got.len(), speech.data.len());
    if is_cut || ended.is_ok() {
        // The peer has all keys that it needs to understand an answer.
        now(ours.write_all(ANSWER)).unwrap();
        now(ours.flush()).unwrap();
        assert_eq!(understood(&mut peer, ours.io.written), ANSWER);
    }
    (got, ended.map_err(|error| error.to_string()))
}

fn understood(peer: &mut Session, mut written: Vec<u8>) -> Vec<u8> {
    let (mut data, mut rest) = (Vec::new(), &mut written[..]);
    while let Some((header, length)) = header_of(rest) {
        let (record, behind) = std::mem::take(&mut rest).split_at_mut(HEADER + length);
        rest = behind;
        match peer.records.open(header, &mut record[HEADER..]).unwrap() {
            Opened::Data(piece) => data.extend_from_slice(piece),
            Opened::Nothing | Opened::Reply(_) => {}
            Opened::End => panic!("nobody has said that this was all"),
        }
    }
    assert!(rest.is_empty(), "half a record");
    data
}

/// Of the first three bytes one chooses side and version, one the pieces in which records come, and
/// one the room that they are read into: cuts make no difference, nothing is heard that wasn't said,
/// and whoever only does what TLS allows is heard to the end.
pub fn records(data: &[u8]) {
    let [choice, piece, room, script @ ..] = data else { return };
    let whole = heard(*choice, script, usize::MAX, 64 * 1024);
    let cut = heard(*choice, script, usize::from(*piece).max(1), usize::from(*room).max(1));
    assert_eq!(whole, cut);
}
