//! What two nodes say to each other before other layers' messages begin, and the frame in which
//! those messages carry a JSON part and raw bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::{BrokerId, Incarnation, NodeId};

/// Where a node says who it is; answered by this layer.
pub(super) const PROBE_PATH: &str = "/cluster/probe";
/// The sender's cluster id; absent while it has none.
pub(super) const CLUSTER_HEADER: &str = "pilgrimage-cluster";
/// The sender's node id.
pub(super) const NODE_HEADER: &str = "pilgrimage-node";
/// The sender's incarnation.
pub(super) const INCARNATION_HEADER: &str = "pilgrimage-incarnation";
/// The node that the sender means to speak to.
pub(super) const TO_HEADER: &str = "pilgrimage-to";

/// Bytes of the JSON part of a frame.
const CONTROL_BYTES: usize = 8 * 1024 * 1024;
const LENGTH_BYTES: usize = size_of::<u32>();

/// Who a process is: sent by both sides of a handshake, and the answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster that the node belongs to; none before it has joined one.
    pub cluster: Option<Uuid>,
    /// The node.
    pub node: NodeId,
    /// The process's registration with the cluster (PROTOCOL N2); zero before it has one.
    pub incarnation: Incarnation,
    /// What people call the node.
    pub name: BrokerId,
}

impl Hello {
    /// Whether the two may be of one cluster: a node without one may join any.
    pub(super) fn may_join(&self, cluster: Option<Uuid>) -> bool {
        match (self.cluster, cluster) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        }
    }
}

/// Why a node does not take a request, before anything looked at its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "refused")]
pub enum Refusal {
    /// The two nodes belong to different clusters.
    #[error("the node belongs to cluster {cluster}, and the sender does not")]
    OtherCluster {
        /// The receiver's cluster.
        cluster: Uuid,
    },
    /// The request was meant for another node than the one that got it.
    #[error("the request is for another node; here is node {node} ({name})")]
    OtherNode {
        /// The receiver.
        node: NodeId,
        /// What people call it.
        name: BrokerId,
    },
    /// The headers that every request carries are missing, malformed, or not those of the node
    /// that opened the connection.
    #[error("the request does not say as it must who sends it: {header}")]
    Unsigned {
        /// The header at fault.
        header: String,
    },
}

/// A body that is sent, or answered with.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body could not be produced or read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The connection or the other side gave up before the end.
    #[error("the body ended early: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// The body that consists of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Reads a body to its end, but no more than `limit` bytes of it.
///
/// # Errors
/// [`BodyError`]; nothing of the body is kept then.
pub async fn collect<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { limit }),
        Err(error) => Err(BodyError::Broken(error)),
    }
}

/// Why a message could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The JSON part is longer than 8 MiB.
    #[error("the control part has {0} bytes, at most {CONTROL_BYTES} are allowed")]
    ControlTooLarge(usize),
    /// Fewer bytes than the length in front announces.
    #[error("the message is cut off")]
    Truncated,
    /// The JSON part is not of the type expected.
    #[error("the control part is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// A message: `[u32 length of control, big-endian][control as JSON][bytes]`.
///
/// # Errors
/// When the control part is too large or cannot be written as JSON.
pub fn encode<C: Serialize>(control: &C, bytes: &[u8]) -> Result<Bytes, WireError> {
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + 512 + bytes.len());
    frame.put_u32(0);
    let mut writer = frame.writer();
    serde_json::to_writer(&mut writer, control)?;
    let mut frame = writer.into_inner();
    let control_bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(control_bytes)
        .ok()
        .filter(|_| control_bytes <= CONTROL_BYTES)
        .ok_or(WireError::ControlTooLarge(control_bytes))?;
    if let Some(front) = frame.first_chunk_mut() {
        *front = length.to_be_bytes();
    }
    frame.put_slice(bytes);
    Ok(frame.freeze())
}

/// Takes apart what [`encode`] made. The bytes are those of `frame`, not a copy.
///
/// # Errors
/// When it is not such a message.
pub fn decode<C: DeserializeOwned>(mut frame: Bytes) -> Result<(C, Bytes), WireError> {
    let length = frame.try_get_u32().map_err(|_| WireError::Truncated)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if CONTROL_BYTES < length {
        return Err(WireError::ControlTooLarge(length));
    }
    if frame.len() < length {
        return Err(WireError::Truncated);
    }
    let control = frame.split_to(length);
    Ok((serde_json::from_slice(&control)?, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            cluster: Some(Uuid::from_u128(7)),
            node: NodeId(3),
            incarnation: Incarnation(9),
            name: "three".try_into().unwrap(),
        }
    }

    #[test]
    fn a_message_comes_out_as_it_went_in_and_never_cut_off() {
        let frame = encode(&hello(), b"raw bytes").unwrap();
        let (control, bytes) = decode::<Hello>(frame.clone()).unwrap();
        assert_eq!((control, &bytes[..]), (hello(), b"raw bytes".as_slice()));
        let whole = frame.len() - b"raw bytes".len();
        for end in 0..whole {
            assert!(matches!(
                decode::<Hello>(frame.slice(..end)),
                Err(WireError::Truncated)
            ));
        }
    }

    #[test]
    fn a_control_part_too_large_is_refused_on_both_sides() {
        let large = "x".repeat(CONTROL_BYTES);
        assert!(matches!(
            encode(&large, b""),
            Err(WireError::ControlTooLarge(_))
        ));
        let announced = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, b'{', b'}']);
        assert!(matches!(
            decode::<Hello>(announced),
            Err(WireError::ControlTooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Hello>(Bytes::from(bytes.clone()));
            let mut framed = BytesMut::new();
            framed.put_u32(u32::try_from(bytes.len() / 2).unwrap());
            framed.put_slice(&bytes);
            let _ = decode::<Hello>(framed.freeze());
        }
    }
}
