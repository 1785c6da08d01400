//! A connection's socket, with the patience that HTTP itself does not have.
//!
//! hyper bounds the time between two requests; what it cannot tell apart is a client that rests and
//! one that sends its request head a byte at a time, and it does not bound how long a client may
//! leave an answer unread. Both are seen here, at the socket, for every kind of answer.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a connection may take over each thing that it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the first byte of a request head to its last.
    pub(super) head: Duration,
    /// Without a request, from the last answer on; and before the first byte of all.
    pub(super) idle: Duration,
    /// Without taking a byte of an answer that waits to be sent.
    pub(super) unread: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            unread: Duration::from_secs(30),
        }
    }
}

/// Which requests of a connection have begun and which have been answered in full.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicU32,
    answered: AtomicU32,
}

impl Activity {
    /// A request head is complete. The answer is complete when the returned mark is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.begun() != self.answered.load(Ordering::Relaxed)
    }
}

/// Lives as long as the answer to one request.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes of the HTTP/2 preface have come, and nothing else.
    Unknown(usize),
    Http1,
    /// HTTP/2 has keep-alive pings for silent peers, and requests that overlap.
    Http2,
}

/// A socket that gives up on peers that make no progress.
#[derive(Debug)]
pub(super) struct PatientIo<IO> {
    io: IO,
    patience: Patience,
    activity: Arc<Activity>,
    protocol: Protocol,
    opened: Instant,
    /// When the first byte of a request head came, and how many requests had begun before it.
    head: Option<(Instant, u32)>,
    read_timer: Timer,
    write_timer: Timer,
}

/// A sleep that is allocated when first needed and then used again.
#[derive(Debug, Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Whether `deadline` has passed; if not, the task is woken when it has. While the timer stays
    /// armed the first deadline counts.
    fn has_passed(&mut self, deadline: impl FnOnce() -> Instant, cx: &mut Context<'_>) -> bool {
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if !self.armed {
                    sleep.as_mut().reset(deadline());
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(deadline()))),
        };
        self.armed = true;
        sleep.as_mut().poll(cx).is_ready()
    }
}

impl<IO> PatientIo<IO> {
    pub(super) fn new(io: IO, patience: Patience, activity: Arc<Activity>) -> Self {
        Self {
            io,
            patience,
            activity,
            protocol: Protocol::Unknown(0),
            opened: Instant::now(),
            head: None,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    fn on_bytes(&mut self, bytes: &[u8]) {
        self.read_timer.disarm();
        if let Protocol::Unknown(seen) = self.protocol {
            let rest = &H2_PREFACE[seen..];
            let common = rest.len().min(bytes.len());
            self.protocol = if rest[..common] != bytes[..common] {
                Protocol::Http1
            } else if common == rest.len() {
                Protocol::Http2
            } else {
                Protocol::Unknown(seen + common)
            };
        }
        self.forget_complete_head();
        if self.protocol == Protocol::Http2 {
            self.head = None;
        } else if self.head.is_none() && !self.activity.is_busy() {
            self.head = Some((Instant::now(), self.activity.begun()));
        }
    }

    fn forget_complete_head(&mut self) {
        if let Some((_, begun)) = self.head
            && (self.activity.is_busy() || self.activity.begun() != begun)
        {
            self.head = None;
        }
    }

    /// When a peer that sends nothing now has been silent for too long, if that is bounded here.
    fn read_deadline(&mut self) -> Option<Instant> {
        self.forget_complete_head();
        match (self.head, self.protocol) {
            (Some((since, _)), _) => Some(since + self.patience.head),
            (None, Protocol::Unknown(0)) => Some(self.opened + self.patience.idle),
            // Between requests hyper's own timer runs; during one the body's pace is watched.
            (None, _) => None,
        }
    }

    fn after_write<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer.disarm();
            return result;
        }
        let unread = self.patience.unread;
        if self.write_timer.has_passed(|| Instant::now() + unread, cx) {
            return Poll::Ready(Err(timed_out("the peer does not take its answer")));
        }
        Poll::Pending
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<IO: AsyncRead + Unpin> AsyncRead for PatientIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            if before < buf.filled().len() {
                this.on_bytes(&buf.filled()[before..]);
            }
            return Poll::Ready(result);
        }
        match this.read_deadline() {
            None => this.read_timer.disarm(),
            Some(deadline) => {
                if this.read_timer.has_passed(|| deadline, cx) {
                    return Poll::Ready(Err(timed_out("the request head did not arrive in time")));
                }
            }
        }
        Poll::Pending
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PatientIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(60);

    async fn read_to_end(patience: Patience, sent: &[u8], begun: bool) -> io::Result<usize> {
        let (mut peer, io) = duplex(1024);
        let activity = Arc::new(Activity::default());
        let mut io = PatientIo::new(io, patience, activity.clone());
        peer.write_all(sent).await.unwrap();
        let mut buf = [0; 1024];
        let mut total = 0;
        while total < sent.len() {
            total += io.read(&mut buf).await?;
        }
        let _answering = begun.then(|| activity.begin());
        tokio::time::timeout(10 * SHORT, io.read(&mut buf))
            .await
            .unwrap_or(Ok(total))
    }

    #[tokio::test]
    async fn half_a_request_head_is_cut_off_and_half_a_preface_too() {
        let patience = Patience {
            head: SHORT,
            idle: LONG,
            unread: LONG,
        };
        for sent in [&b"GET / HTTP/1.1\r\nHost: x"[..], b"P", &H2_PREFACE[..20]] {
            let error = read_to_end(patience, sent, false).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_speaks_is_cut_off_after_the_idle_time() {
        let patience = Patience {
            head: LONG,
            idle: SHORT,
            unread: LONG,
        };
        let error = read_to_end(patience, b"", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_and_http2_are_left_alone() {
        let patience = Patience {
            head: SHORT,
            idle: SHORT,
            unread: SHORT,
        };
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(
            read_to_end(patience, request, true).await.unwrap(),
            request.len()
        );
        assert_eq!(
            read_to_end(patience, H2_PREFACE, false).await.unwrap(),
            H2_PREFACE.len()
        );
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_in_an_error() {
        let (_peer, io) = duplex(16);
        let patience = Patience {
            head: LONG,
            idle: LONG,
            unread: SHORT,
        };
        let mut io = PatientIo::new(io, patience, Arc::default());
        let error = io.write_all(&[0; 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
