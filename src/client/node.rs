//! The node itself: state, health, metrics.

use reqwest::Method;

use super::{Client, ClientError};
use crate::api::v1::{Health, Node, Problem};

impl Client {
    /// The node, its load and its storage.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn node(&self) -> Result<Node, ClientError> {
        self.request(Method::GET, "/v1/node").json().await
    }

    /// Whether the process is alive.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn healthz(&self) -> Result<Health, ClientError> {
        self.health("/healthz").await
    }

    /// Whether the node takes and gives records: `Ok` in either case, with what is wrong in it.
    ///
    /// # Errors
    /// Any [`ClientError`] but the answer that it is not ready.
    pub async fn readyz(&self) -> Result<Health, ClientError> {
        self.health("/readyz").await
    }

    /// The same document comes with 200 and with 503; both are answers here, not errors.
    async fn health(&self, path: &str) -> Result<Health, ClientError> {
        let call = self.request(Method::GET, path);
        let (what, timeout) = (call.what, self.options.timeout);
        let broke = |error| ClientError::from_reqwest(&error, &what, self.url(), Some(timeout));
        let response = call.request.timeout(timeout).send().await.map_err(broke)?;
        let status = response.status().as_u16();
        let max = super::PROBLEM_BYTES_MAX;
        let body = super::collect(response, max, &what, self.url(), Some(timeout)).await?;
        if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            let problems = vec![problem.detail];
            return Ok(Health {
                status: problem.code.to_string(),
                problems,
            });
        }
        super::parse(&what, status, &body)
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (_, body) = self.request(Method::GET, "/metrics").answer().await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
