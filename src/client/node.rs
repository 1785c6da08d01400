//! The node itself: state, health, metrics.

use reqwest::Method;

use super::{Client, ClientError};
use crate::api::v1::{Health, Node};

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

    async fn health(&self, path: &str) -> Result<Health, ClientError> {
        match self.request(Method::GET, path).once().json().await {
            Err(ClientError::Problem { problem, .. }) => Ok(Health {
                status: problem.code.to_string(),
                problems: vec![problem.detail],
            }),
            Err(ClientError::Unexpected {
                status: 503, body, ..
            }) => Ok(serde_json::from_str(&body).unwrap_or_else(|_| Health {
                status: "not_ready".into(),
                problems: vec![body],
            })),
            other => other,
        }
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
