//! TLS's records once a handshake is over (RFC 8446 §5, RFC 5246 §6.2), without input or output:
//! what is said becomes records, and records what was said, or a reason to end the connection.
//! rustls makes every key, also those that replace others, and opens records and protects those of
//! TLS 1.2; what it would tell its own connection about key updates, tickets and alerts is told
//! here. TLS 1.3's records are protected here, too: where they are sent from, which for large ones
//! spares the dearest of all copies.

use std::{collections::VecDeque, ops::Range};

use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved,
    ProtocolVersion, SupportedCipherSuite,
    client::ClientConnectionData,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
        OutboundChunks, OutboundPlainMessage,
    },
    kernel::KernelConnection,
    server::ServerConnectionData,
};

use super::super::ciphers::{SealingKey, TAG};

/// Of a record, in bytes: its type, its version, its length.
pub(super) const HEADER: usize = 5;

/// Plaintext in a record at most.
pub(super) const MOST_IN_RECORD: usize = 16 * 1024;

/// Room for a record, and for choosing where in it its payload begins.
pub(super) const SLOT: usize = 258 * 64;

/// What the largest record of TLS 1.3 is long.
pub(super) const LARGEST: usize = HEADER + MOST_IN_RECORD + 1 + TAG;

/// Its protected payload at most: TLS 1.2 allows more than TLS 1.3, whose decrypter looks itself.
pub(super) const MOST_PROTECTED: usize = MOST_IN_RECORD + 2048;

/// Of a handshake message in bytes, as rustls has it.
const MOST_IN_MESSAGE: usize = 0xffff;

/// As rustls and BoringSSL have them: warnings in all, and records that bring nothing one behind
/// the other.
const MOST_WARNINGS: u8 = 4;
pub(super) const MOST_IN_VAIN: u8 = 32;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// A `KeyUpdate` that asks for none in return (RFC 8446 §4.6.3).
const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// Both directions of a connection.
pub(super) struct Records {
    sealer: Sealer,
    opener: Opener,
    keys: Keys,
    suite: SupportedCipherSuite,
    /// Of a handshake message whose end hasn't come yet.
    message: Vec<u8>,
    warnings: u8,
    vain: u8,
    /// The peer wants a new key of ours, before whatever is said next.
    owes_update: bool,
}

/// Makes the keys that replace others, and keeps tickets.
pub(super) enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

struct Sealer {
    way: Way,
    sequence: u64,
    /// Records under one key at most.
    limit: u64,
}

/// How records are protected.
#[expect(clippy::large_enum_variant, reason = "the session that it lies in is in a box")]
enum Way {
    Tls13 { key: SealingKey, iv: Iv },
    Tls12(Box<dyn MessageEncrypter>),
}

struct Opener {
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
}

/// Of `parts`, one behind the other, the bytes from `start` to `end`.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) parts: &'a [&'a [u8]],
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened<'a> {
    Data(&'a [u8]),
    /// Something that is done with.
    Nothing,
    /// … but for this, which the peer waits for.
    Reply(Vec<u8>),
    /// `close_notify`: nothing follows.
    End,
}

/// Ends a connection. The peer is told the alert, if it isn't the peer's own.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) alert: Option<AlertDescription>,
    pub(super) error: Error,
}

impl Failed {
    pub(super) fn new(alert: AlertDescription, error: impl Into<Error>) -> Self {
        Self { alert: Some(alert), error: error.into() }
    }

    fn unexpected() -> Self {
        let error = InvalidMessage::UnexpectedMessage("none that may follow a handshake");
        Self::new(AlertDescription::UnexpectedMessage, error)
    }

    fn of_decrypter(error: Error) -> Self {
        let alert = match &error {
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
            _undecryptable => AlertDescription::BadRecordMac,
        };
        Self::new(alert, error)
    }
}

// === impl Keys ===

impl Keys {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(keys) => keys.negotiated_cipher_suite(),
            Self::Server(keys) => keys.negotiated_cipher_suite(),
        }
    }

    fn next_to_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }

    fn next_to_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }
}

// === impl Records ===

impl Records {
    pub(super) fn new(secrets: ExtractedSecrets, keys: Keys) -> Result<Self, Error> {
        let suite = keys.suite();
        Ok(Self {
            sealer: Sealer::new(suite, secrets.tx)?,
            opener: Opener::new(suite, secrets.rx)?,
            keys,
            suite,
            message: Vec::new(),
            warnings: 0,
            vain: 0,
            owes_update: false,
        })
    }

    /// Before `records` of data: what has to be said first is put into `before`.
    ///
    /// # Errors
    /// Where the key has served and TLS 1.2 has no way to another.
    #[inline]
    pub(super) fn prepare(&mut self, records: usize, before: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        if self.owes_update || !self.sealer.has_room_for(records) {
            before.push_back(self.update_key()?);
        }
        Ok(())
    }

    /// Writes the record of `said` into `slot`, which has [`SLOT`] bytes, and says where.
    #[inline]
    pub(super) fn seal_data(&mut self, said: Said<'_>, slot: &mut [u8]) -> Result<Range<usize>, Error> {
        self.sealer.seal(ContentType::ApplicationData, said, slot)
    }

    /// An alert is said also where nothing else may be.
    pub(super) fn seal_alert(&mut self, alert: AlertDescription) -> Result<Vec<u8>, Error> {
        let is_warning = matches!(alert, AlertDescription::CloseNotify | AlertDescription::NoRenegotiation);
        self.sealer.seal_small(ContentType::Alert, &[if is_warning { 1 } else { 2 }, u8::from(alert)])
    }

    /// Says that another key follows, and takes it.
    #[cold]
    pub(super) fn update_key(&mut self) -> Result<Vec<u8>, Error> {
        if !self.is_tls13() {
            return Err(Error::EncryptError);
        }
        let record = self.sealer.seal_small(ContentType::Handshake, &KEY_UPDATE_MESSAGE)?;
        let next = self.keys.next_to_seal()?;
        let limit = self.sealer.limit;
        self.sealer = Sealer { limit, ..Sealer::new(self.suite, next)? };
        self.owes_update = false;
        Ok(record)
    }

    fn is_tls13(&self) -> bool {
        self.suite.tls13().is_some()
    }

    /// Opens one record in its place.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        [kind, major, minor, ..]: [u8; HEADER],
        payload: &'a mut [u8],
    ) -> Result<Opened<'a>, Failed> {
        let kind = ContentType::from(kind);
        if self.is_tls13() && kind != ContentType::ApplicationData {
            return Err(Failed::new(AlertDescription::UnexpectedMessage, InvalidMessage::InvalidContentType));
        }
        let version = ProtocolVersion::from(u16::from_be_bytes([major, minor]));
        let sealed = InboundOpaqueMessage::new(kind, version, payload);
        let opened = self.opener.open(sealed).map_err(Failed::of_decrypter)?;
        if opened.typ == ContentType::ApplicationData && !opened.payload.is_empty() && self.message.is_empty() {
            self.vain = 0;
            return Ok(Opened::Data(opened.payload));
        }
        self.hear(opened.typ, opened.payload)
    }

    /// What brings no data.
    #[cold]
    pub(super) fn hear(&mut self, kind: ContentType, payload: &[u8]) -> Result<Opened<'static>, Failed> {
        self.vain += 1;
        if self.vain > MOST_IN_VAIN {
            return Err(Failed::new(AlertDescription::UnexpectedMessage, PeerMisbehaved::TooManyEmptyFragments));
        }
        match kind {
            ContentType::ApplicationData if self.message.is_empty() => Ok(Opened::Nothing),
            ContentType::Handshake => self.hear_handshake(payload),
            ContentType::Alert if self.message.is_empty() => self.hear_alert(payload),
            _other => Err(Failed::unexpected()),
        }
    }

    fn hear_alert(&mut self, payload: &[u8]) -> Result<Opened<'static>, Failed> {
        let [level, description] = *payload else {
            return Err(Failed::new(AlertDescription::DecodeError, InvalidMessage::MissingData("AlertMessagePayload")));
        };
        let description = AlertDescription::from(description);
        let heard = Error::AlertReceived(description);
        match (level, description) {
            (1 | 2, AlertDescription::CloseNotify) => Ok(Opened::End),
            (1, description) => {
                self.warnings += 1;
                if self.warnings > MOST_WARNINGS {
                    let error = PeerMisbehaved::TooManyWarningAlertsReceived;
                    return Err(Failed::new(AlertDescription::UnexpectedMessage, error));
                }
                // TLS 1.3 has no other warning (RFC 8446 §6).
                if self.is_tls13() && description != AlertDescription::UserCanceled {
                    return Err(Failed::new(AlertDescription::DecodeError, heard));
                }
                Ok(Opened::Nothing)
            }
            (2, _) => Err(Failed { alert: None, error: heard }),
            (_unknown, _) => Err(Failed::new(AlertDescription::IllegalParameter, heard)),
        }
    }

    /// Messages may lie in several records, and several in one (RFC 8446 §5.1).
    fn hear_handshake(&mut self, payload: &[u8]) -> Result<Opened<'static>, Failed> {
        if payload.is_empty() {
            return Err(Failed::unexpected());
        }
        let mut reply = Vec::new();
        let mut bytes = std::mem::take(&mut self.message);
        bytes.extend_from_slice(payload);
        let mut used = 0;
        while let [kind, a, b, c, ref behind @ ..] = bytes[used..] {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if !self.may_come(kind) {
                return Err(Failed::unexpected());
            }
            if length > MOST_IN_MESSAGE {
                return Err(Failed::new(AlertDescription::DecodeError, InvalidMessage::HandshakePayloadTooLarge));
            }
            let Some((body, behind)) = behind.split_at_checked(length) else { break };
            if let Opened::Reply(mut record) = self.hear_message(kind, body, behind.is_empty())? {
                reply.append(&mut record);
            }
            used = bytes.len() - behind.len();
        }
        if used < bytes.len() {
            bytes.drain(..used);
            self.message = bytes;
        }
        Ok(if reply.is_empty() { Opened::Nothing } else { Opened::Reply(reply) })
    }

    fn may_come(&self, kind: u8) -> bool {
        match (kind, &self.keys) {
            (KEY_UPDATE, _) | (NEW_SESSION_TICKET, Keys::Client(_)) => self.is_tls13(),
            (HELLO_REQUEST, Keys::Client(_)) | (CLIENT_HELLO, Keys::Server(_)) => !self.is_tls13(),
            _other => false,
        }
    }

    fn hear_message(&mut self, kind: u8, body: &[u8], is_last: bool) -> Result<Opened<'static>, Failed> {
        match (kind, &mut self.keys) {
            (KEY_UPDATE, _) => self.hear_key_update(body, is_last).map(|()| Opened::Nothing),
            (NEW_SESSION_TICKET, Keys::Client(keys)) => keys
                .handle_new_session_ticket(body)
                .map(|()| Opened::Nothing)
                .map_err(|error| Failed::new(AlertDescription::DecodeError, error)),
            // TLS 1.2 would begin again. Some wait for the answer (RFC 5246 §7.4.1.1).
            _hello => {
                self.warnings += 1;
                if self.warnings > MOST_WARNINGS {
                    let error = PeerMisbehaved::TooManyRenegotiationRequests;
                    return Err(Failed::new(AlertDescription::UnexpectedMessage, error));
                }
                let refusal = self.seal_alert(AlertDescription::NoRenegotiation);
                refusal.map(Opened::Reply).map_err(|error| Failed { alert: None, error })
            }
        }
    }

    fn hear_key_update(&mut self, body: &[u8], is_last: bool) -> Result<(), Failed> {
        if !is_last {
            // What lies behind it is protected by the key before (RFC 8446 §5.1).
            return Err(Failed::new(AlertDescription::UnexpectedMessage, PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        match body {
            [0] => {}
            // However many ask, one answer is enough (RFC 8446 §4.6.3).
            [1] => self.owes_update = true,
            _other => return Err(Failed::new(AlertDescription::IllegalParameter, InvalidMessage::InvalidKeyUpdate)),
        }
        let next = self.keys.next_to_open().and_then(|next| Opener::new(self.suite, next));
        self.opener = next.map_err(|error| Failed::new(AlertDescription::InternalError, error))?;
        Ok(())
    }

    #[cfg(fuzzing)]
    pub(super) fn seal_anything(&mut self, kind: ContentType, payload: &[u8]) -> Vec<u8> {
        let mut slot = vec![0; SLOT];
        let said = Said { parts: &[payload], start: 0, end: payload.len() };
        self.sealer.seal(kind, said, &mut slot).map(|place| slot[place].to_vec()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.message.capacity()
    }

    #[cfg(test)]
    pub(super) fn waste(&mut self, records: u8) {
        self.vain = records;
    }

    #[cfg(test)]
    pub(super) fn limit_keys_to(&mut self, records: u64) {
        self.sealer.limit = self.sealer.sequence + records;
    }
}

// === impl Sealer ===

impl Sealer {
    fn new(suite: SupportedCipherSuite, (sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (way, limit) = match suite {
            SupportedCipherSuite::Tls13(suite) => (Way::tls13(secrets)?, suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls12(suite) => {
                let (key, iv) = key_and_iv(secrets)?;
                let (fixed, explicit) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
                let encrypter = suite.aead_alg.encrypter(key, fixed, explicit);
                (Way::Tls12(encrypter), suite.common.confidentiality_limit)
            }
        };
        Ok(Self { way, sequence, limit })
    }

    /// Two more are left for a `KeyUpdate` and an alert.
    fn has_room_for(&self, records: usize) -> bool {
        self.sequence.saturating_add(records as u64 + 2) <= self.limit
    }

    fn seal(&mut self, kind: ContentType, said: Said<'_>, slot: &mut [u8]) -> Result<Range<usize>, Error> {
        if self.sequence >= self.limit {
            return Err(Error::EncryptError);
        }
        let place = match &mut self.way {
            Way::Tls13 { key, iv } => seal_tls13(key, Nonce::new(iv, self.sequence), kind, said, slot)?,
            Way::Tls12(encrypter) => {
                let Said { parts: chunks, start, end } = said;
                let payload = OutboundChunks::Multiple { chunks, start, end };
                let message = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
                let record = encrypter.encrypt(message, self.sequence)?.encode();
                slot[..record.len()].copy_from_slice(&record);
                0..record.len()
            }
        };
        self.sequence += 1;
        Ok(place)
    }

    /// A record that is hardly ever said.
    fn seal_small(&mut self, kind: ContentType, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let mut slot = [0; 256];
        let place = self.seal(kind, Said { parts: &[payload], start: 0, end: payload.len() }, &mut slot)?;
        Ok(slot[place].to_vec())
    }
}

/// RFC 8446 §5.2.
fn seal_tls13(
    key: &SealingKey,
    nonce: Nonce,
    kind: ContentType,
    said: Said<'_>,
    slot: &mut [u8],
) -> Result<Range<usize>, Error> {
    let begin = said.place_in(slot);
    let mut end = begin;
    for piece in said.pieces() {
        slot[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    }
    slot[end] = kind.into();
    end += 1;
    let [high, low] = u16::try_from(end - begin + TAG).map_err(|_| Error::EncryptError)?.to_be_bytes();
    let header = [ContentType::ApplicationData.into(), 3, 3, high, low];
    slot[begin - HEADER..begin].copy_from_slice(&header);
    let (payload, behind) = slot[begin..].split_at_mut(end - begin);
    let tag = behind.first_chunk_mut::<TAG>().ok_or(Error::EncryptError)?;
    key.seal(nonce.0, header, payload, tag)?;
    Ok(begin - HEADER..end + TAG)
}

// === impl Said ===

impl<'a> Said<'a> {
    pub(super) fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut before = 0;
        self.parts.iter().map(move |part| {
            let (start, end) = (self.start.saturating_sub(before), self.end.saturating_sub(before));
            before += part.len();
            &part[start.min(part.len())..end.min(part.len())]
        })
    }

    /// Where the payload begins in `slot`. On CPUs that copy by `rep movsb` a copy that goes to
    /// the same place of another page, or up to 63 bytes behind it, takes ten times as long, and
    /// buffers for bodies begin where pages begin.
    pub(super) fn place_in(self, slot: &[u8]) -> usize {
        const FIRST: usize = 16;
        const STEP: usize = 64;
        const PAGE: usize = 4096;
        let mut before = 0;
        let with_places = self.pieces().map(|piece| {
            before += piece.len();
            (piece, before - piece.len())
        });
        let largest = with_places.max_by_key(|(piece, _)| piece.len()).filter(|(piece, _)| piece.len() >= PAGE / 2);
        let Some((piece, place)) = largest else { return FIRST };
        let ahead = (slot.as_ptr().addr() + FIRST + place).wrapping_sub(piece.as_ptr().addr()) % PAGE;
        if ahead < STEP { FIRST + STEP } else { FIRST }
    }
}

// === impl Way, Opener ===

impl Way {
    fn tls13(secrets: ConnectionTrafficSecrets) -> Result<Self, Error> {
        let key = SealingKey::new(&secrets)?;
        let (_, iv) = key_and_iv(secrets)?;
        Ok(Self::Tls13 { key, iv })
    }
}

impl Opener {
    fn new(suite: SupportedCipherSuite, (sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (key, iv) = key_and_iv(secrets)?;
        let decrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
            }
        };
        Ok(Self { decrypter, sequence })
    }

    fn open<'a>(&mut self, sealed: InboundOpaqueMessage<'a>) -> Result<InboundPlainMessage<'a>, Error> {
        let next = self.sequence.checked_add(1).ok_or(Error::DecryptError)?;
        let opened = self.decrypter.decrypt(sealed, self.sequence)?;
        self.sequence = next;
        Ok(opened)
    }
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _other => Err(Error::General("no suite of ours has such keys".to_owned())),
    }
}
