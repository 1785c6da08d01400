//! The console routes: brokers by id, messages as plain text.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError};
use crate::api::v1::{BrokerRef, ConsumeMessage, SendMessage, StartBroker};

/// What `/consume` answers in place of a message when there is none.
pub const NO_MESSAGES: &str = "No messages available";

impl Client {
    /// Starts another broker in the node's process. Answers the node's words.
    ///
    /// # Errors
    /// [`ClientError::Console`] with the node's reason; any [`ClientError`].
    pub async fn start_broker(&self, broker: &StartBroker) -> Result<String, ClientError> {
        self.console("/start", broker, Duration::ZERO).await
    }

    /// Stops a broker; its data stays.
    ///
    /// # Errors
    /// [`ClientError::Console`] when no such broker runs there; any [`ClientError`].
    pub async fn stop_broker(&self, id: &str) -> Result<String, ClientError> {
        self.console("/stop", &BrokerRef { id: id.to_owned() }, Duration::ZERO)
            .await
    }

    /// Sends a message through a broker.
    ///
    /// # Errors
    /// [`ClientError::Console`] when no such broker runs there; any [`ClientError`].
    pub async fn send_message(&self, message: &SendMessage) -> Result<String, ClientError> {
        self.console("/send", message, Duration::ZERO).await
    }

    /// The next message by a durable position, or [`NO_MESSAGES`].
    ///
    /// # Errors
    /// [`ClientError::Console`] when no such broker runs there; any [`ClientError`].
    pub async fn consume_message(&self, from: &ConsumeMessage) -> Result<String, ClientError> {
        let wait = Duration::from_millis(from.timeout_ms.unwrap_or(0));
        self.console("/consume", from, wait).await
    }

    /// Whether a broker is up and can write.
    ///
    /// # Errors
    /// [`ClientError::Console`] when no such broker runs there; any [`ClientError`].
    pub async fn broker_status(&self, id: &str) -> Result<bool, ClientError> {
        self.console("/status", &BrokerRef { id: id.to_owned() }, Duration::ZERO)
            .await
    }

    async fn console<T: DeserializeOwned>(
        &self,
        route: &'static str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<T, ClientError> {
        let call = self
            .request(Method::POST, route)
            .with(|request| request.json(body))
            .waiting(wait);
        match call.json().await {
            // These routes say why in a JSON string, not in a problem document.
            Err(ClientError::Unexpected {
                status: 400..=499,
                body,
                ..
            }) => {
                let reason = serde_json::from_str(&body).unwrap_or(body);
                Err(ClientError::Console { route, reason })
            }
            other => other,
        }
    }
}
