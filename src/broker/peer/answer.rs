//! Answering another node.

use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::mpsc;

use super::frames::{body, frame};
use super::watch::tell;
use super::wire::{
    Append, Ask, Bounds, Describe, Fetch, FetchedAt, Greet, Heartbeat, Join, NotLeader,
    PartitionKey, Progress, RAFT, REPLICATE, Report, Resolve, Trim, TrimError, WATCH, Watch,
};
use crate::broker::lifecycle::Inner;
use crate::broker::topics::Topic;
use crate::broker::{Broker, replicate};
use crate::cluster::{Body, Handler, collect, decode, encode, full};
use crate::metadata::RaftRpc;
use crate::partition::{AppendError, AppendRequest, PartitionHandle};
use crate::types::limits;

/// The requests of other nodes, answered by the broker for as long as there is one.
pub(in crate::broker) fn answer(broker: Weak<Inner>) -> Handler {
    Arc::new(move |_, request| {
        let broker = broker.clone();
        Box::pin(async move {
            let Some(inner) = broker.upgrade() else {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "closing");
            };
            let broker = Broker { inner };
            match dispatch(&broker, request).await {
                Ok(response) => response,
                Err(reason) => refuse(StatusCode::BAD_REQUEST, &reason),
            }
        })
    })
}

fn refuse(status: StatusCode, reason: &str) -> Response<Body> {
    let mut response = Response::new(full(reason.to_owned()));
    *response.status_mut() = status;
    response
}

/// Bytes of a request that does not flow: the batches of one append, and their names.
const REQUEST_BYTES: usize = limits::INFLIGHT_PRODUCE_BYTES + 1024 * 1024;

/// Bytes of one answer with records.
const FETCH_BYTES: usize = 16 * 1024 * 1024;

async fn dispatch(broker: &Broker, request: Request<Incoming>) -> Result<Response<Body>, String> {
    let path = request.uri().path().to_owned();
    let incoming = request.into_body();
    if path == REPLICATE {
        return Ok(Response::new(replicate::serve(broker, incoming)));
    }
    let bytes = collect(incoming, REQUEST_BYTES).await;
    let bytes = bytes.map_err(|error| error.to_string())?;
    if let Some(rpc) = path.strip_prefix(RAFT) {
        let rpc = RaftRpc::named(rpc).ok_or("no such raft message")?;
        let answer = broker.inner.store.handle(rpc, bytes).await;
        let answer = answer.map_err(|error| error.to_string())?;
        return Ok(Response::new(full(answer)));
    }
    let answered = match path.as_str() {
        WATCH => return watch(broker, bytes),
        Append::PATH => on(bytes, |ask, batches| append(broker, ask, batches)).await,
        Fetch::PATH => on(bytes, |ask, _| fetch(broker, ask)).await,
        Resolve::PATH => on(bytes, |ask, _| resolve(broker, ask)).await,
        Bounds::PATH => on(bytes, |ask, _| async move { bare(bounds(broker, &ask)) }).await,
        Trim::PATH => on(bytes, |ask, _| async move { bare(trim(broker, ask).await) }).await,
        Describe::PATH => {
            on(bytes, |ask: Describe, _| async move {
                bare(broker.led(&ask.topics).await)
            })
            .await
        }
        Join::PATH => on(bytes, |ask, _| async move { bare(broker.admit(ask).await) }).await,
        Greet::PATH => on(bytes, |_: Greet, _| async move { bare(()) }).await,
        Heartbeat::PATH => on(bytes, |ask, _| async move { bare(broker.heard(&ask)) }).await,
        Report::PATH => on(bytes, |_: Report, _| async { bare(broker.report().await) }).await,
        Progress::PATH => {
            on(bytes, |ask: Progress, _| async move {
                bare(broker.copied(&ask.keys).await)
            })
            .await
        }
        _ => return Ok(refuse(StatusCode::NOT_FOUND, "no such route")),
    };
    Ok(Response::new(full(answered?)))
}

/// Takes a question apart and puts its answer together.
async fn on<A, F>(bytes: Bytes, answer: impl FnOnce(A, Bytes) -> F) -> Result<Bytes, String>
where
    A: Ask,
    F: Future<Output = (A::Answer, Bytes)>,
{
    let (ask, rest) = decode::<A>(bytes).map_err(|error| error.to_string())?;
    let (answer, rest) = answer(ask, rest).await;
    encode(&answer, &rest).map_err(|error| error.to_string())
}

fn bare<T>(answer: T) -> (T, Bytes) {
    (answer, Bytes::new())
}

/// The partition, if it is led here.
fn led(broker: &Broker, key: PartitionKey) -> Result<(Arc<Topic>, PartitionHandle), NotLeader> {
    let topic = broker.topic_by_id(key.topic);
    let place = topic
        .as_ref()
        .and_then(|topic| topic.partitions.get(key.partition.0 as usize));
    let hosted = place.and_then(|place| place.hosted.as_ref());
    match (&topic, hosted) {
        (Some(topic), Some(handle)) if handle.role().leads => Ok((topic.clone(), handle.clone())),
        _ => Err(NotLeader {
            leader: place.and_then(|place| place.record.leader),
            epoch: place
                .map(|place| place.record.leader_epoch)
                .unwrap_or_default(),
        }),
    }
}

async fn append(broker: &Broker, ask: Append, bytes: Bytes) -> (<Append as Ask>::Answer, Bytes) {
    bare(match led(broker, ask.key) {
        Err(not_leader) => Err(not_leader),
        Ok((_, handle)) => {
            let Some(batches) = split(bytes, &ask.lengths) else {
                let partition = handle.name().clone();
                let reason = "the batches are not as long as they say".into();
                return bare(Ok(Err(AppendError::Write { partition, reason })));
            };
            let request = AppendRequest {
                batches,
                expected: ask.expected,
            };
            match broker.append_here(&handle, request, ask.acks).await {
                Err(AppendError::NotLeader { .. }) => Err(NotLeader {
                    leader: None,
                    epoch: handle.role().epoch,
                }),
                appended => Ok(appended),
            }
        }
    })
}

/// The body cut into batches, each to be written into.
fn split(bytes: Bytes, lengths: &[u32]) -> Option<Vec<BytesMut>> {
    let mut rest = BytesMut::from(bytes);
    let mut batches = Vec::with_capacity(lengths.len());
    for length in lengths {
        let length = *length as usize;
        if rest.len() < length {
            return None;
        }
        batches.push(rest.split_to(length));
    }
    rest.is_empty().then_some(batches)
}

async fn fetch(broker: &Broker, ask: Fetch) -> (<Fetch as Ask>::Answer, Bytes) {
    match led(broker, ask.key) {
        Err(not_leader) => bare(Err(not_leader)),
        Ok((_, handle)) => {
            let max_bytes = ask.max_bytes.min(FETCH_BYTES);
            match broker.fetch_here(&handle, ask.from, max_bytes).await {
                Err(not_leader) => bare(Err(not_leader)),
                Ok(Err(error)) => bare(Ok(Err(error))),
                Ok(Ok(fetched)) => {
                    let answer = FetchedAt {
                        next: fetched.next,
                        high_watermark: fetched.high_watermark,
                    };
                    (Ok(Ok(answer)), fetched.batches)
                }
            }
        }
    }
}

async fn resolve(broker: &Broker, ask: Resolve) -> (<Resolve as Ask>::Answer, Bytes) {
    bare(match led(broker, ask.key) {
        Err(not_leader) => Err(not_leader),
        Ok((_, handle)) => broker.resolve_here(&handle, ask.from).await,
    })
}

fn bounds(broker: &Broker, ask: &Bounds) -> <Bounds as Ask>::Answer {
    let (_, handle) = led(broker, ask.key)?;
    let reader = handle.reader();
    Ok((reader.log_start(), reader.high_watermark()))
}

async fn trim(broker: &Broker, ask: Trim) -> <Trim as Ask>::Answer {
    let (_, handle) = led(broker, ask.key)?;
    let end = handle.reader().high_watermark();
    if end < ask.before {
        return Ok(Err(TrimError::BeyondEnd(end)));
    }
    Ok(handle.trim(ask.before).await.map_err(TrimError::Maintain))
}

fn watch(broker: &Broker, bytes: Bytes) -> Result<Response<Body>, String> {
    let (watch, _) = decode::<Watch>(bytes).map_err(|error| error.to_string())?;
    let Some(topic) = broker.topic_by_id(watch.topic) else {
        return Ok(refuse(StatusCode::NOT_FOUND, "no such topic"));
    };
    let word = frame(&(), &[]).map_err(|error| error.to_string())?;
    let (words, messages) = mpsc::channel(2);
    let telling = tell(topic.led.subscribe(), words, word);
    broker.inner.tasks.spawn("watch", telling);
    Ok(Response::new(body(messages)))
}
