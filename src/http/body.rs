//! Request bodies: their pace, their size, their share of memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::decode::{Decoder, Encoding};
use super::error::ApiError;
use crate::types::Code;

/// How fast a body must arrive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// In all, this long and a second more for each `bytes_per_second` received.
    Rate {
        grace: Duration,
        bytes_per_second: u64,
    },
    /// Never this long without a byte: for streams that are fed as things happen.
    Pulse(Duration),
}

impl Pace {
    /// Bodies that are sent at once.
    pub(super) const WHOLE: Self = Self::Rate {
        grace: Duration::from_secs(10),
        bytes_per_second: 1024,
    };
    /// Bodies that are sent as their records come into being.
    pub(super) const STREAM: Self = Self::Pulse(Duration::from_secs(300));
}

/// The body did not keep its pace.
#[derive(Debug, thiserror::Error)]
#[error("the request body did not arrive in time")]
pub(super) struct TooSlow;

/// A body that ends in [`TooSlow`] when the client does not keep the pace. Only time in which the
/// server waits for the client counts.
pub(super) struct PacedBody<B> {
    body: B,
    pace: Pace,
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> PacedBody<B> {
    pub(super) fn new(body: B, pace: Pace) -> Self {
        Self {
            body,
            pace,
            received: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            sleep: None,
        }
    }

    fn allowance(&self) -> Duration {
        match self.pace {
            Pace::Rate {
                grace,
                bytes_per_second,
            } => {
                let earned = Duration::from_secs(self.received / bytes_per_second.max(1));
                (grace + earned).saturating_sub(self.waited)
            }
            Pace::Pulse(longest) => longest,
        }
    }
}

impl<B> hyper::body::Body for PacedBody<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(since) = this.waiting_since.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(frame)) = &frame {
                this.received += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.waiting_since.is_none() {
            let now = Instant::now();
            let deadline = now + this.allowance();
            this.waiting_since = Some(now);
            match &mut this.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                none => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        let is_late = this
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if is_late {
            Poll::Ready(Some(Err(TooSlow.into())))
        } else {
            Poll::Pending
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The node's memory for bodies that wait to be appended.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Semaphore>);

/// A share of that memory, given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Joins another share to this one.
    pub(super) fn add(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(more)) => mine.merge(more),
            (mine, more) => *mine = mine.take().or(more),
        }
    }
}

impl Admission {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes a share for `bytes`, now or not at all.
    pub(super) fn try_take(&self, bytes: usize) -> Result<Share, ApiError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.0.clone().try_acquire_many_owned(bytes) {
            Ok(permit) => Ok(Share(Some(permit))),
            Err(_) => Err(ApiError::new(
                Code::Overloaded,
                "too many bytes of other produce requests are being appended; try again shortly",
            )),
        }
    }

    /// Takes a share for `bytes` as soon as there is one.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Share(self.0.clone().acquire_many_owned(bytes).await.ok())
    }
}

/// Why a body could not be read, on the wire's terms.
fn read_error(error: axum::Error) -> ApiError {
    let cause = error.into_inner();
    if cause.downcast_ref::<TooSlow>().is_some() {
        return ApiError::new(Code::RequestTimeout, TooSlow.to_string());
    }
    if let Some(api) = cause.downcast_ref::<ApiError>() {
        return api.clone();
    }
    ApiError::new(
        Code::InvalidBody,
        format!("the request body broke off: {cause}"),
    )
}

/// Reads a body piece by piece, decoded, each piece within its bound.
pub(super) struct Pieces {
    body: Body,
    decoder: Option<Decoder>,
}

impl Pieces {
    /// # Errors
    /// A `Content-Encoding` that is not taken.
    pub(super) fn new(headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let decoder = match Encoding::of(headers)? {
            Encoding::Identity => None,
            other => Some(Decoder::new(other)?),
        };
        Ok(Self { body, decoder })
    }

    /// The next piece; none at the end of the body. Pieces are never empty.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(decoder) = &mut self.decoder
                && let Some(piece) = decoder.next_piece()?
            {
                return Ok(Some(piece));
            }
            let Some(frame) = self.body.frame().await else {
                if let Some(decoder) = &mut self.decoder {
                    decoder.check_complete()?;
                }
                return Ok(None);
            };
            let Ok(data) = frame.map_err(read_error)?.into_data() else {
                continue;
            };
            match &mut self.decoder {
                Some(decoder) => decoder.feed(data),
                None if data.is_empty() => {}
                None => return Ok(Some(data)),
            }
        }
    }
}

/// What `Content-Length` says, if the body is sent with one.
pub(super) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        Code::TooLarge,
        format!("the request body is larger than {limit} bytes"),
    )
}

/// Reads a whole body of at most `limit` bytes (decoded). A body of one frame is not copied.
pub(super) async fn read_whole(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, ApiError> {
    read_admitted(headers, body, limit, None)
        .await
        .map(|(bytes, _)| bytes)
}

/// Reads a whole body of at most `limit` bytes (decoded) and takes memory for it, before it is read
/// where its length is known and as it comes in where it is not.
pub(super) async fn read_admitted(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    admission: Option<&Admission>,
) -> Result<(Bytes, Share), ApiError> {
    let announced = announced_length(headers);
    if announced.is_some_and(|length| limit as u64 <= length && length != limit as u64) {
        return Err(too_large(limit));
    }
    let mut pieces = Pieces::new(headers, body)?;
    let mut share = Share::default();
    let mut admitted = 0;
    if let (Some(admission), Some(length)) = (admission, announced) {
        admitted = usize::try_from(length).unwrap_or(limit);
        share = admission.try_take(admitted)?;
    }
    let Some(first) = pieces.next().await? else {
        return Ok((Bytes::new(), share));
    };
    let mut whole = Whole::One(first);
    loop {
        let length = whole.len();
        if limit < length {
            return Err(too_large(limit));
        }
        if let Some(admission) = admission
            && admitted < length
        {
            share.add(admission.try_take(length - admitted)?);
            admitted = length;
        }
        match pieces.next().await? {
            None => return Ok((whole.into_bytes(), share)),
            Some(piece) => {
                let expected = announced.map_or(0, |length| usize::try_from(length).unwrap_or(0));
                whole.push(&piece, expected.min(limit));
            }
        }
    }
}

enum Whole {
    One(Bytes),
    Many(BytesMut),
}

impl Whole {
    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, piece: &[u8], expected: usize) {
        if let Self::One(first) = self {
            // Trusts the announced length only as far as bytes have really come in.
            let room = expected.min(16 * (first.len() + piece.len()));
            let mut many = BytesMut::with_capacity(room.max(first.len() + piece.len()));
            many.extend_from_slice(first);
            *self = Self::Many(many);
        }
        if let Self::Many(many) = self {
            many.extend_from_slice(piece);
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    fn paced(parts: &'static [&'static str], then_hangs: bool, pace: Pace) -> Body {
        let frames = stream::iter(parts)
            .map(|part| Ok::<_, axum::BoxError>(Frame::data(Bytes::from_static(part.as_bytes()))));
        let hang = stream::pending().take(usize::from(then_hangs));
        let body = http_body_util::StreamBody::new(frames.chain(hang));
        Body::new(PacedBody::new(body, pace))
    }

    async fn read(body: Body, limit: usize) -> Result<Bytes, Code> {
        let whole = read_whole(&HeaderMap::new(), body, limit).await;
        whole.map_err(|error| error.code())
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up_and_a_whole_one_is_read() {
        for pace in [
            Pace::Pulse(SHORT),
            Pace::Rate {
                grace: SHORT,
                bytes_per_second: 1_000_000,
            },
        ] {
            assert_eq!(
                read(paced(&["half"], true, pace), 100).await,
                Err(Code::RequestTimeout)
            );
            assert_eq!(
                read(paced(&["wh", "", "ole"], false, pace), 5).await,
                Ok("whole".into())
            );
            assert_eq!(
                read(paced(&["wh", "ole!"], true, pace), 5).await,
                Err(Code::TooLarge)
            );
        }
    }

    #[tokio::test]
    async fn time_is_earned_by_bytes_and_only_waiting_spends_it() {
        let pace = Pace::Rate {
            grace: SHORT,
            bytes_per_second: 10,
        };
        let mut body = PacedBody::new(Body::empty(), pace);
        body.received = 25;
        assert_eq!(body.allowance(), SHORT + Duration::from_secs(2));
        body.waited = SHORT + Duration::from_secs(1);
        assert_eq!(body.allowance(), Duration::from_secs(1));
        body.waited = Duration::from_secs(60);
        assert_eq!(body.allowance(), Duration::ZERO);
    }

    #[tokio::test]
    async fn memory_is_taken_as_a_body_grows_and_given_back_with_it() {
        let admission = Admission::new(10);
        let body = paced(&["12345", "67890"], false, Pace::WHOLE);
        let (bytes, share) = read_admitted(&HeaderMap::new(), body, 100, Some(&admission))
            .await
            .unwrap();
        assert_eq!((bytes.len(), admission.0.available_permits()), (10, 0));
        drop(share);
        assert_eq!(admission.0.available_permits(), 10);
        let body = paced(&["12345", "678901"], false, Pace::WHOLE);
        let refused = read_admitted(&HeaderMap::new(), body, 100, Some(&admission)).await;
        assert_eq!(refused.unwrap_err().code(), Code::Overloaded);
        assert_eq!(admission.0.available_permits(), 10);
    }
}
