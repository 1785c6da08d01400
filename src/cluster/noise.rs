//! A stream that only holders of the cluster secret can speak on: the Noise protocol, pattern
//! `NNpsk0`, over any byte stream.
//!
//! Both sides prove that they hold the secret and agree on fresh keys, so that who learns the
//! secret later cannot read what was recorded earlier. Frames are `[u16 length][sealed bytes]`,
//! numbered by both sides: one that is changed, repeated, dropped or moved does not open, and ends
//! the connection. An end of the stream is not sealed; what runs on top must know by itself
//! whether it got everything, as HTTP/2 does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use zeroize::Zeroizing;

use super::Refused;
use super::primitives::Primitives;
use super::wire::Hello;

const PROTOCOL: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bound into the handshake: a node that speaks another version does not get through it. The
/// cluster id is not, because a node that joins has none yet; the hellos carry it sealed.
const PROLOGUE: &[u8] = b"pilgrimage peer 1";
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of one message of the handshake.
const HANDSHAKE_BYTES: usize = 1024;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = size_of::<u16>();
/// Sealed bytes of one frame, as many as Noise allows.
const SEALED_BYTES: usize = u16::MAX as usize;
/// Bytes that one frame carries.
const PLAIN_BYTES: usize = SEALED_BYTES - TAG_BYTES;
/// Two frames: while one is incomplete, the rest of it fits behind whatever is in front.
const INCOMING_BYTES: usize = 2 * (LENGTH_BYTES + SEALED_BYTES);

/// Why a handshake failed. Nothing was read or changed because of it.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke; a peer with another secret closes it too.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// The other side holds another secret or speaks another protocol, or the bytes were changed
    /// or replayed.
    #[error("the other side does not prove that it holds the cluster secret")]
    Rejected,
    /// The other side did not answer.
    #[error("the handshake took longer than {} s", PATIENCE.as_secs())]
    TimedOut,
}

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        Self::Rejected
    }
}

/// Opens a sealed stream to whoever listens at the other end, and learns who that is.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn initiate<IO>(
    io: IO,
    key: &Zeroizing<[u8; 32]>,
    own: &Hello,
    refused: Refused,
) -> Result<(NoiseStream<IO>, Hello), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let shake = async {
        let mut io = io;
        let mut state = builder(key)?.build_initiator()?;
        send(&mut io, &mut state, own).await?;
        let peer = receive(&mut io, &mut state).await?;
        let mut stream = NoiseStream::new(io, state.into_transport_mode()?, refused);
        // Only who opened the answer can seal this: it tells the other side that the first
        // message was not a replay.
        stream.confirm().await?;
        Ok((stream, peer))
    };
    patiently(shake).await
}

/// Accepts a sealed stream, and learns who opened it.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn respond<IO>(
    io: IO,
    key: &Zeroizing<[u8; 32]>,
    own: &Hello,
    refused: Refused,
) -> Result<(NoiseStream<IO>, Hello), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let shake = async {
        let mut io = io;
        let mut state = builder(key)?.build_responder()?;
        let peer = receive(&mut io, &mut state).await?;
        send(&mut io, &mut state, own).await?;
        let mut stream = NoiseStream::new(io, state.into_transport_mode()?, refused);
        stream.await_confirmation().await?;
        Ok((stream, peer))
    };
    patiently(shake).await
}

async fn patiently<T>(
    shake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(PATIENCE, shake)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

fn builder(key: &Zeroizing<[u8; 32]>) -> Result<Builder<'_>, snow::Error> {
    Builder::with_resolver(PROTOCOL.parse()?, Box::new(Primitives))
        .prologue(PROLOGUE)?
        .psk(0, key)
}

async fn send<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    state: &mut HandshakeState,
    own: &Hello,
) -> Result<(), HandshakeError> {
    let hello = serde_json::to_vec(own).map_err(io::Error::from)?;
    let mut frame = vec![0; LENGTH_BYTES + HANDSHAKE_BYTES];
    let length = match frame.get_mut(LENGTH_BYTES..) {
        Some(message) => state.write_message(&hello, message)?,
        None => return Err(HandshakeError::Rejected),
    };
    let prefix = u16::try_from(length).map_err(|_| HandshakeError::Rejected)?;
    if let Some(front) = frame.first_chunk_mut() {
        *front = prefix.to_be_bytes();
    }
    frame.truncate(LENGTH_BYTES + length);
    io.write_all(&frame).await?;
    Ok(io.flush().await?)
}

async fn receive<IO: AsyncRead + Unpin>(
    io: &mut IO,
    state: &mut HandshakeState,
) -> Result<Hello, HandshakeError> {
    let length = usize::from(io.read_u16().await?);
    if HANDSHAKE_BYTES < length {
        return Err(HandshakeError::Rejected);
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    let mut hello = vec![0; HANDSHAKE_BYTES];
    let length = state.read_message(&message, &mut hello)?;
    hello.truncate(length);
    serde_json::from_slice(&hello).map_err(|_| HandshakeError::Rejected)
}

/// The stream after the handshake.
pub(super) struct NoiseStream<IO> {
    io: IO,
    keys: TransportState,
    refused: Refused,
    /// Sealed bytes as they came: those of `start..end` are not opened yet.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last frame opened: `read..opened` is not handed out yet.
    plain: Box<[u8]>,
    read: usize,
    opened: usize,
    /// One sealed frame, `written` bytes of which the stream below has taken.
    outgoing: Vec<u8>,
    written: usize,
    /// Where the pieces of a vectored write become one frame.
    gathered: Vec<u8>,
    /// Something did not open: nothing that follows is believed.
    broken: bool,
}

impl<IO> std::fmt::Debug for NoiseStream<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseStream")
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl<IO> NoiseStream<IO> {
    fn new(io: IO, keys: TransportState, refused: Refused) -> Self {
        Self {
            io,
            keys,
            refused,
            incoming: vec![0; INCOMING_BYTES].into(),
            start: 0,
            end: 0,
            plain: vec![0; PLAIN_BYTES].into(),
            read: 0,
            opened: 0,
            outgoing: Vec::new(),
            written: 0,
            gathered: Vec::new(),
            broken: false,
        }
    }

    /// The bytes of the next frame, if it is there whole.
    fn next_frame(&self) -> Option<std::ops::Range<usize>> {
        let waiting = self.incoming.get(self.start..self.end)?;
        let length = usize::from(u16::from_be_bytes(*waiting.first_chunk()?));
        let from = self.start + LENGTH_BYTES;
        (from + length <= self.end).then(|| from..from + length)
    }

    /// Opens the next frame, if it is there whole.
    fn open(&mut self) -> io::Result<bool> {
        let Some(frame) = self.next_frame() else {
            return Ok(false);
        };
        let sealed = self.incoming.get(frame.clone()).unwrap_or_default();
        match self.keys.read_message(sealed, &mut self.plain) {
            Ok(length) => {
                self.read = 0;
                self.opened = length;
                self.start = frame.end;
                if self.start == self.end {
                    (self.start, self.end) = (0, 0);
                }
                Ok(true)
            }
            Err(_) => Err(self.break_off(io::ErrorKind::InvalidData)),
        }
    }

    fn break_off(&mut self, kind: io::ErrorKind) -> io::Error {
        self.broken = true;
        self.refused.frame();
        io::Error::new(kind, "a frame is not what the peer has sealed")
    }

    /// Seals one frame of at most [`PLAIN_BYTES`] and makes it the one to be written.
    fn seal(&mut self, plain: &[u8]) -> io::Result<()> {
        let sealed = plain.len() + TAG_BYTES;
        self.outgoing.resize(LENGTH_BYTES + sealed, 0);
        self.written = 0;
        let kept = match (u16::try_from(sealed), self.outgoing.split_first_chunk_mut()) {
            (Ok(length), Some((front, message))) => {
                *front = length.to_be_bytes();
                self.keys.write_message(plain, message)
            }
            _ => Err(snow::Error::Input),
        };
        if kept == Ok(sealed) {
            return Ok(());
        }
        // Nothing unsealed leaves, whatever went wrong.
        self.outgoing.clear();
        self.broken = true;
        Err(io::Error::other("a frame could not be sealed"))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> NoiseStream<IO> {
    async fn confirm(&mut self) -> Result<(), HandshakeError> {
        self.seal(&[])?;
        // Stays in `outgoing`, to leave together with what is written first.
        Ok(())
    }

    async fn await_confirmation(&mut self) -> Result<(), HandshakeError> {
        loop {
            match self.open() {
                Ok(true) if self.opened == 0 => return Ok(()),
                Ok(false) => {}
                Ok(true) | Err(_) => return Err(HandshakeError::Rejected),
            }
            std::future::poll_fn(|cx| self.poll_fill(cx)).await?;
        }
    }

    /// Reads more sealed bytes; an error when there are none to come.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end == self.incoming.len() {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = self.incoming.get_mut(self.end..).unwrap_or_default();
        let mut buffer = ReadBuf::new(free);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let got = buffer.filled().len();
        if got == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.end += got;
        Poll::Ready(Ok(()))
    }

    /// Writes the sealed frame that waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.written..).filter(|r| !r.is_empty()) {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
        }
        self.outgoing.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One frame waits at most: this is what bounds the memory of a slow connection.
        ready!(self.poll_drain(cx))?;
        let part = plain.get(..PLAIN_BYTES).unwrap_or(plain);
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.seal(part)?;
        // What the stream below does not take at once goes with the next write or flush.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(part.len()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for NoiseStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let waiting = this.plain.get(this.read..this.opened).unwrap_or_default();
            if !waiting.is_empty() || out.remaining() == 0 {
                let part = waiting.len().min(out.remaining());
                out.put_slice(waiting.get(..part).unwrap_or_default());
                this.read += part;
                return Poll::Ready(Ok(()));
            }
            if this.open()? {
                continue;
            }
            match ready!(this.poll_fill(cx)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    if this.start == this.end {
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Ready(Err(this.break_off(io::ErrorKind::UnexpectedEof)));
                }
                filled => filled?,
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NoiseStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plain: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, plain)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // HTTP/2 writes a head of 9 bytes and a payload: one frame for both.
        let mut gathered = std::mem::take(&mut this.gathered);
        gathered.clear();
        for piece in pieces {
            let room = PLAIN_BYTES - gathered.len();
            gathered.extend_from_slice(piece.get(..room).unwrap_or(piece));
            if gathered.len() == PLAIN_BYTES {
                break;
            }
        }
        let sent = this.poll_send(cx, &gathered);
        this.gathered = gathered;
        sent
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
impl<IO: AsyncRead + AsyncWrite + Unpin> NoiseStream<IO> {
    /// Sends all of a frame but its last byte, and ends the stream.
    pub(super) async fn cut(mut self, plain: &[u8]) {
        self.flush().await.unwrap();
        self.seal(plain).unwrap();
        let short = self.outgoing.len() - 1;
        self.io.write_all(&self.outgoing[..short]).await.unwrap();
        self.io.shutdown().await.unwrap();
    }
}
