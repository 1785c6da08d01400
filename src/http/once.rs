//! How a request says that it is sent again: `Idempotency-Key`, or a producer's sequence; and the
//! producers themselves.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use utoipa::IntoParams;

use super::App;
use super::error::ApiError;
use crate::api::v1::{
    HEADER_IDEMPOTENCY_KEY, HEADER_PRODUCER_EPOCH, HEADER_PRODUCER_ID, HEADER_PRODUCER_SEQUENCE,
    HEADER_REPLAYED, NewProducer, Problem, ProducerStamp,
};
use crate::broker::Once;
use crate::record::Producer;

/// How a request says that it is sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes headers that `once` reads")]
pub(super) struct OnceHeaders {
    /// A key that belongs to this request alone, 1 to 255 characters: what is sent again under it
    /// within a day is not appended again.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
    /// The id of an idempotent producer.
    #[param(rename = "Pilgrimage-Producer-Id")]
    producer_id: Option<u64>,
    /// Its epoch; absent = 0.
    #[param(rename = "Pilgrimage-Producer-Epoch")]
    producer_epoch: Option<u16>,
    /// How many records it sent to the partition before.
    #[param(rename = "Pilgrimage-Producer-Sequence")]
    producer_sequence: Option<u32>,
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let invalid = || ApiError::invalid(format!("{name} is given once, in visible ASCII"));
    if values.next().is_some() {
        return Err(invalid());
    }
    let value = value.to_str().map_err(|_| invalid())?;
    Ok(Some(value.trim().to_owned()))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, ApiError> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let number = text.parse();
    let number = number.map_err(|_| ApiError::invalid(format!("{name} is not a number in bounds")));
    number.map(Some)
}

/// What the headers say, and `stamp` if the body says it.
pub(super) fn once(headers: &HeaderMap, stamp: Option<ProducerStamp>) -> Result<Once, ApiError> {
    let key = text(headers, HEADER_IDEMPOTENCY_KEY)?;
    let id = number(headers, HEADER_PRODUCER_ID)?;
    let epoch = number(headers, HEADER_PRODUCER_EPOCH)?;
    let sequence = number(headers, HEADER_PRODUCER_SEQUENCE)?;
    let in_headers = match (id, epoch, sequence) {
        (None, None, None) => None,
        (Some(id), epoch, Some(sequence)) => Some(ProducerStamp {
            id,
            epoch: epoch.unwrap_or(0),
            sequence,
        }),
        _ => {
            return Err(ApiError::invalid(format!(
                "{HEADER_PRODUCER_ID} and {HEADER_PRODUCER_SEQUENCE} go together"
            )));
        }
    };
    match (key, in_headers, stamp) {
        (None, None, None) => Ok(Once::No),
        // A quoted string, as the IETF's draft has it, or the bare words that people write.
        (Some(key), None, None) => {
            let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
            Ok(Once::Key(quoted.unwrap_or(&key).to_owned()))
        }
        (None, Some(stamp), None) | (None, None, Some(stamp)) => Ok(Once::Sequence(Producer {
            id: stamp.id,
            epoch: stamp.epoch,
            base_sequence: stamp.sequence,
        })),
        _ => Err(ApiError::invalid(
            "give an idempotency key or a producer's sequence, and that once",
        )),
    }
}

/// Says that the answer is that of an earlier request.
pub(super) fn put_replayed(response: &mut Response, replayed: bool) {
    if replayed {
        let name = HeaderName::from_static(HEADER_REPLAYED);
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert(name, value);
    }
}

/// Gives an identity to a producer that counts what it sends, so that nothing is appended twice.
///
/// It begins in epoch 0, and in each partition with sequence 0: each record counts one further.
#[utoipa::path(post, path = "/v1/producers", tag = "Records",
    responses(
        (status = 200, body = NewProducer),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn new_producer(
    State(app): State<Arc<App>>,
) -> Result<axum::Json<NewProducer>, ApiError> {
    let producer = app.broker.new_producer().await?;
    Ok(axum::Json(NewProducer {
        id: producer.id,
        epoch: producer.epoch,
    }))
}
