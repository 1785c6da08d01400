//! Speaks to a node over its public HTTP interface (layer 4): what the command line, the tests and
//! other programs use.
//!
//! ```no_run
//! # async fn example() -> Result<(), pilgrimage::client::ClientError> {
//! use pilgrimage::client::{Client, ProduceOptions, Publish, Read};
//!
//! let client = Client::new("http://localhost:8080")?;
//! let topic = "greetings".parse().unwrap();
//! client.publish(&topic, &Publish::new("hello"), &ProduceOptions::default()).await?;
//! let page = client.read(&topic, None, &Read::default()).await?;
//! assert_eq!(page.records.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Repeating.** A request that certainly had no effect (no connection was made, or the node
//! answered that it *refused*) is repeated when the node calls it retryable; so are reads that broke
//! half-way, from where they broke. A write whose outcome is unknown is repeated only if the node
//! knows a repetition when it sees one: see [`Idempotency`]. Otherwise the caller gets the error
//! and decides.
//!
//! **Bounds.** Every request has a deadline except those that stream: an upload of lines may take as
//! long as its source, a follower may wait for ever. Answers, lines and batches beyond the
//! protocol's bounds are errors, not memory.

mod brokers;
mod cluster;
mod error;
mod node;
mod position;
mod producer;
mod read;
mod records;
mod stream;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;

pub use crate::types::Acks;
pub use brokers::NO_MESSAGES;
pub use error::ClientError;
pub use position::{InvalidPosition, Next, Start};
pub use producer::Producer;
pub use read::{RawRecord, Read};
pub use records::{Idempotency, ProduceOptions, Publish};
pub use stream::{Batches, Follow, ReadBatches};
pub use topics::{Creation, ListTopics};

use crate::api::v1;
use crate::types::Outcome;

/// Greatest answer that is held in memory: the largest page a node gives, with every byte escaped.
const ANSWER_BYTES_MAX: usize = 6 * crate::types::limits::READ_BYTES_MAX;
/// Greatest error answer that is looked at.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;
/// Longest pause between two tries, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// First pause between two tries; doubles from try to try.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// How patiently a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Time for a connection to come about.
    pub connect_timeout: Duration,
    /// Time for a whole request and its answer; waiting that the request itself asks for comes on top.
    pub timeout: Duration,
    /// Longest silence of a node while it streams an answer that has an end.
    pub stall_timeout: Duration,
    /// How often a request is tried in all, where repeating it is safe; at least 1.
    pub attempts: u32,
    /// How long a follower tries to get back to a node that went away.
    pub patience: Duration,
    /// Whether to speak HTTP/2 from the first byte instead of HTTP/1.1.
    pub http2: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            attempts: 3,
            patience: Duration::from_secs(60),
            http2: false,
        }
    }
}

/// A node as seen from outside. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    options: Arc<ClientOptions>,
}

impl Client {
    /// A client of the node at `url` (`http://host:port`, or `host:port`). Connects on first use.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `url` cannot be a node's address.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::with_options(url, ClientOptions::default())
    }

    /// The same with other patience.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `url` cannot be a node's address.
    pub fn with_options(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let base = check_address(url)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("pilgrimage/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // A node that vanished without a word is noticed by followers too, who may rightly
            // hear nothing for hours.
            .tcp_keepalive(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none());
        if options.http2 {
            http = http
                .http2_prior_knowledge()
                .http2_initial_stream_window_size(4 * 1024 * 1024)
                .http2_initial_connection_window_size(16 * 1024 * 1024);
        }
        let http = http.build().map_err(|error| ClientError::Address {
            url: url.to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self {
            http,
            base: base.into(),
            options: Arc::new(options),
        })
    }

    /// The node's address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.base
    }

    fn request(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            client: self,
            what: format!("{method} {path}"),
            safe: method == Method::GET,
            uncertain: false,
            timeout: Some(self.options.timeout),
            attempts: self.options.attempts.max(1),
            request: self.http.request(method, format!("{}{path}", self.base)),
        }
    }
}

/// Brings an address into the form `http://host:port[/path]`.
fn check_address(url: &str) -> Result<String, ClientError> {
    let refuse = |why: &str| ClientError::Address {
        url: url.to_owned(),
        why: why.to_owned(),
    };
    let with_scheme = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed = Url::parse(&with_scheme).map_err(|error| refuse(&error.to_string()))?;
    match parsed.scheme() {
        "http" => {}
        "https" => {
            return Err(refuse(
                "this client does not speak TLS; put a proxy in front or use http://",
            ));
        }
        _ => return Err(refuse("it must begin with http://")),
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refuse("it must not carry a user or password"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(refuse("it must not have a query or fragment"));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// One request being put together.
#[derive(Debug)]
struct Call<'a> {
    client: &'a Client,
    what: String,
    safe: bool,
    /// A try before this may have had its effect, which the refusal of another does not undo.
    uncertain: bool,
    timeout: Option<Duration>,
    attempts: u32,
    request: RequestBuilder,
}

impl Call<'_> {
    fn with(mut self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        self.request = change(self.request);
        self
    }

    /// Sends it under an idempotency key, if there is one: then it may be repeated.
    fn under(self, key: Option<String>) -> Self {
        match key {
            None => self,
            Some(key) => self
                .repeatable(true)
                .with(|request| request.header(v1::HEADER_IDEMPOTENCY_KEY, key)),
        }
    }

    /// Whether it may be repeated although its outcome is unknown.
    fn repeatable(mut self, may: bool) -> Self {
        self.safe |= may;
        self
    }

    /// Gives the node this much longer, because the request asks it to wait.
    fn waiting(mut self, wait: Duration) -> Self {
        self.timeout = self.timeout.map(|timeout| timeout + wait);
        self
    }

    /// Takes the deadline off: the answer is a stream that is watched on its own.
    fn unbounded(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// For a body that can be read only once.
    fn once(mut self) -> Self {
        self.attempts = 1;
        self
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let what = self.what.clone();
        let (status, body) = self.answer().await?;
        parse(&what, status, &body)
    }

    /// Status and whole body of an answer that is not an error.
    async fn answer(mut self) -> Result<(u16, Bytes), ClientError> {
        let (what, timeout, base) = (self.what.clone(), self.timeout, self.client.base.clone());
        loop {
            let again = self.once_more();
            let response = self.send().await?;
            let status = response.status().as_u16();
            match collect(response, ANSWER_BYTES_MAX, &what, &base, timeout).await {
                Ok(body) => return Ok((status, body)),
                // An answer that breaks off tells as little as one that never came.
                Err(error) => match again.filter(|_| error.worth_repeating(true)) {
                    Some(again) => self = again,
                    None => return Err(error),
                },
            }
        }
    }

    /// The same call with a try less, if it may be repeated after its outcome is unknown.
    fn once_more(&self) -> Option<Self> {
        if !self.safe || self.attempts <= 1 {
            return None;
        }
        Some(Self {
            client: self.client,
            what: self.what.clone(),
            safe: true,
            uncertain: true,
            timeout: self.timeout,
            attempts: self.attempts - 1,
            request: self.request.try_clone()?,
        })
    }

    /// An answer that is not an error, its body still to come.
    async fn send(self) -> Result<Response, ClientError> {
        let mut pause = PAUSE_MIN;
        let mut left = self.attempts;
        let mut uncertain = self.uncertain;
        loop {
            left -= 1;
            let request = if left == 0 {
                None
            } else {
                self.request.try_clone()
            };
            let Some(request) = request else {
                let Self {
                    client,
                    what,
                    timeout,
                    request,
                    ..
                } = self;
                return attempt(client, request, &what, timeout)
                    .await
                    .map_err(|(error, _)| error.after(uncertain));
            };
            match attempt(self.client, request, &self.what, self.timeout).await {
                Ok(response) => return Ok(response),
                Err((error, _)) if !error.worth_repeating(self.safe) => {
                    return Err(error.after(uncertain));
                }
                Err((error, retry_after)) => {
                    uncertain |= error.outcome() == Outcome::Unknown;
                    tokio::time::sleep(retry_after.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
    }
}

/// Sends once. An error comes with the pause that the node asked for.
async fn attempt(
    client: &Client,
    request: RequestBuilder,
    what: &str,
    timeout: Option<Duration>,
) -> Result<Response, (ClientError, Option<Duration>)> {
    let request = match timeout {
        Some(timeout) => request.timeout(timeout),
        None => request,
    };
    let response = request.send().await.map_err(|error| {
        (
            ClientError::from_reqwest(&error, what, &client.base, timeout),
            None,
        )
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    let retry_after = response
        .headers()
        .get(reqwest::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let status = response.status().as_u16();
    let error = match collect(response, PROBLEM_BYTES_MAX, what, &client.base, timeout).await {
        Ok(body) => match serde_json::from_slice::<v1::Problem>(&body) {
            Ok(problem) => ClientError::Problem {
                what: what.to_owned(),
                problem: Box::new(problem),
            },
            Err(_) => unexpected(what, status, &body),
        },
        Err(error) => error,
    };
    Err((error, retry_after))
}

async fn collect(
    mut response: Response,
    max: usize,
    what: &str,
    url: &str,
    timeout: Option<Duration>,
) -> Result<Bytes, ClientError> {
    let broke = |error: reqwest::Error| ClientError::from_reqwest(&error, what, url, timeout);
    let too_large = |status| ClientError::Unexpected {
        what: what.to_owned(),
        status,
        body: format!("the answer is larger than {max} bytes"),
    };
    let status = response.status().as_u16();
    if response
        .content_length()
        .is_some_and(|len| max as u64 <= len)
    {
        return Err(too_large(status));
    }
    let Some(first) = response.chunk().await.map_err(broke)? else {
        return Ok(Bytes::new());
    };
    let Some(second) = response.chunk().await.map_err(broke)? else {
        return Ok(first);
    };
    let mut body = Vec::with_capacity(first.len() + second.len());
    body.extend_from_slice(&first);
    body.extend_from_slice(&second);
    while let Some(chunk) = response.chunk().await.map_err(broke)? {
        if max < body.len() + chunk.len() {
            return Err(too_large(status));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn parse<T: DeserializeOwned>(what: &str, status: u16, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Unexpected {
        what: what.to_owned(),
        status,
        body: format!("{error}: {}", beginning(body)),
    })
}

fn unexpected(what: &str, status: u16, body: &[u8]) -> ClientError {
    ClientError::Unexpected {
        what: what.to_owned(),
        status,
        body: beginning(body),
    }
}

/// The first words of an answer, fit to be shown on a terminal.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
    let shown: String = text
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if shown.is_empty() {
        "(no body)".into()
    } else {
        shown
    }
}

#[cfg(test)]
mod tests;
