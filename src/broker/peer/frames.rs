//! Messages one after another in a body that flows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::cluster::{Body, BodyError, WireError, decode, encode};

/// Bytes of one message in a stream.
const FRAME_BYTES: usize = 96 * 1024 * 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(in crate::broker) enum StreamError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A message is longer than any can be.
    #[error("a message of {0} bytes")]
    TooLong(usize),
}

/// One message, with its length in front.
pub(in crate::broker) fn frame<C: Serialize>(
    control: &C,
    bytes: &[u8],
) -> Result<Bytes, WireError> {
    let message = encode(control, bytes)?;
    let mut framed = BytesMut::with_capacity(message.len() + 4);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    Ok(framed.freeze())
}

/// A body of what is sent into the channel; it ends with the last sender.
pub(in crate::broker) fn body(messages: mpsc::Receiver<Bytes>) -> Body {
    let stream = futures_util::stream::unfold(messages, |mut messages| async {
        let message = messages.recv().await?;
        Some((Ok::<_, BodyError>(Frame::data(message)), messages))
    });
    http_body_util::StreamBody::new(stream).boxed_unsync()
}

/// Takes a body apart again.
pub(in crate::broker) struct Messages<B> {
    body: B,
    buffered: BytesMut,
}

impl<B> Messages<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(in crate::broker) fn new(body: B) -> Self {
        Self {
            body,
            buffered: BytesMut::new(),
        }
    }

    /// The next message; none at the end.
    pub(in crate::broker) async fn next<C: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(C, Bytes)>, StreamError> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(decode(message)?));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(StreamError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffered.extend_from_slice(data);
                    }
                }
            }
        }
    }

    fn complete(&mut self) -> Result<Option<Bytes>, StreamError> {
        let Some(length) = self.buffered.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if FRAME_BYTES < length {
            return Err(StreamError::TooLong(length));
        }
        if self.buffered.len() < 4 + length {
            self.buffered.reserve(4 + length - self.buffered.len());
            return Ok(None);
        }
        self.buffered.advance(4);
        Ok(Some(self.buffered.split_to(length).freeze()))
    }
}
