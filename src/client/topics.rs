//! Topics: create, describe, alter, list, delete, trim.

use reqwest::Method;

use super::{Client, ClientError};
use crate::api::v1::{PartitionList, Topic, TopicList, TopicSummary, Trimmed};
use crate::types::{Offset, Partition, TopicName, TopicPatch, limits};

/// What a creation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// The topic is new.
    Created(Topic),
    /// A topic of that name and these settings was there already.
    Existed(Topic),
}

/// Which topics to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListTopics {
    /// Only names that begin with this.
    pub prefix: Option<String>,
    /// Topics per page.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub page_token: Option<String>,
}

fn path(topic: &TopicName) -> String {
    format!("/v1/topics/{topic}")
}

impl Client {
    /// Creates a topic; what `settings` leaves out gets the node's defaults.
    ///
    /// # Errors
    /// `topic_exists` when one of that name has other settings; any [`ClientError`].
    pub async fn create_topic(
        &self,
        topic: &TopicName,
        settings: &TopicPatch,
    ) -> Result<Creation, ClientError> {
        let call = self
            .request(Method::PUT, &path(topic))
            .with(|request| request.json(settings));
        let what = call.what.clone();
        let (status, body) = call.answer().await?;
        let topic = super::parse(&what, status, &body)?;
        Ok(if status == 201 {
            Creation::Created(topic)
        } else {
            Creation::Existed(topic)
        })
    }

    /// A topic and its effective settings.
    ///
    /// # Errors
    /// `topic_not_found`; any [`ClientError`].
    pub async fn topic(&self, topic: &TopicName) -> Result<Topic, ClientError> {
        self.request(Method::GET, &path(topic)).json().await
    }

    /// One page of topics, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn topics(&self, list: &ListTopics) -> Result<TopicList, ClientError> {
        let mut query = Vec::new();
        if let Some(prefix) = &list.prefix {
            query.push(("prefix", prefix.clone()));
        }
        if let Some(limit) = list.limit {
            query.push(("limit", limit.to_string()));
        }
        if let Some(token) = &list.page_token {
            query.push(("page_token", token.clone()));
        }
        self.request(Method::GET, "/v1/topics")
            .with(|request| request.query(&query))
            .json()
            .await
    }

    /// All topics whose names begin with `prefix`, page by page. At most [`limits::TOPICS_PER_NODE`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn all_topics(&self, prefix: Option<&str>) -> Result<Vec<TopicSummary>, ClientError> {
        let mut all = Vec::new();
        let mut list = ListTopics {
            prefix: prefix.map(str::to_owned),
            limit: Some(limits::PAGE_MAX),
            page_token: None,
        };
        while all.len() < limits::TOPICS_PER_NODE {
            let page = self.topics(&list).await?;
            all.extend(page.topics);
            list.page_token = page.next_page_token;
            if list.page_token.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// Changes what `patch` names.
    ///
    /// # Errors
    /// `topic_not_found`, `invalid_settings`; any [`ClientError`].
    pub async fn alter_topic(
        &self,
        topic: &TopicName,
        patch: &TopicPatch,
    ) -> Result<Topic, ClientError> {
        self.request(Method::PATCH, &path(topic))
            .with(|request| request.json(patch))
            .json()
            .await
    }

    /// Deletes a topic and all its records.
    ///
    /// # Errors
    /// `topic_not_found`; any [`ClientError`].
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), ClientError> {
        self.request(Method::DELETE, &path(topic))
            .answer()
            .await
            .map(drop)
    }

    /// The partitions of a topic.
    ///
    /// # Errors
    /// `topic_not_found`; any [`ClientError`].
    pub async fn partitions(&self, topic: &TopicName) -> Result<PartitionList, ClientError> {
        self.request(Method::GET, &format!("{}/partitions", path(topic)))
            .json()
            .await
    }

    /// Deletes all records of a partition below `before`.
    ///
    /// # Errors
    /// `offset_out_of_range` when `before` lies beyond the end; any [`ClientError`].
    pub async fn trim(
        &self,
        topic: &TopicName,
        partition: Partition,
        before: Offset,
    ) -> Result<Trimmed, ClientError> {
        self.request(
            Method::DELETE,
            &format!("{}/partitions/{partition}/records", path(topic)),
        )
        .with(|request| request.query(&[("before", before.0)]))
        .json()
        .await
    }
}
