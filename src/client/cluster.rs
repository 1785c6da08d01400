//! The cluster: its nodes, its leaders, and what is moved.

use reqwest::Method;

use super::{Client, ClientError};
use crate::api::v1::{Cluster, ClusterNode, Elect, HeldPartitionList, NodeList, Reassign, Replace};
use crate::types::{BrokerId, Partition, TopicName};

impl Client {
    /// The cluster, its nodes, and what is wrong with it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.request(Method::GET, "/v1/cluster").json().await
    }

    /// The nodes, those that are away too.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn nodes(&self) -> Result<NodeList, ClientError> {
        self.request(Method::GET, "/v1/nodes").json().await
    }

    /// A node, its load and its part in the cluster.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn describe_node(&self, node: &BrokerId) -> Result<ClusterNode, ClientError> {
        let path = format!("/v1/nodes/{node}");
        self.request(Method::GET, &path).json().await
    }

    /// The partitions of which a node has a copy: the page after that token.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn held_by(
        &self,
        node: &BrokerId,
        page_token: Option<&str>,
    ) -> Result<HeldPartitionList, ClientError> {
        let path = format!("/v1/nodes/{node}/partitions");
        let call = self.request(Method::GET, &path);
        let query: Vec<_> = page_token
            .map(|token| ("page_token", token))
            .into_iter()
            .collect();
        let call = call.with(|request| request.query(&query));
        call.json().await
    }

    /// Makes a node give everything away (`drain`), or keep what it has.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn drain_node(&self, node: &BrokerId, drain: bool) -> Result<(), ClientError> {
        let method = match drain {
            true => Method::POST,
            false => Method::DELETE,
        };
        let path = format!("/v1/nodes/{node}/drain");
        self.request(method, &path).answer().await.map(drop)
    }

    /// Gives what a node has to another one, or to whichever nodes placement chooses, and has it
    /// forgotten once it holds nothing and is not at work.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn replace_node(
        &self,
        node: &BrokerId,
        by: Option<&BrokerId>,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/nodes/{node}/replacement");
        let by = by.map(ToString::to_string);
        let call = self.request(Method::PUT, &path);
        let call = call.with(|request| request.json(&Replace { by }));
        call.answer().await.map(drop)
    }

    /// Forgets a node that holds no replicas and is not at work.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_node(&self, node: &BrokerId) -> Result<(), ClientError> {
        let path = format!("/v1/nodes/{node}");
        self.request(Method::DELETE, &path).answer().await.map(drop)
    }

    /// Moves a partition's replicas to these nodes; an empty list takes back a move.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn reassign(
        &self,
        topic: &TopicName,
        partition: Partition,
        nodes: &[BrokerId],
    ) -> Result<(), ClientError> {
        let path = format!("/v1/topics/{topic}/partitions/{partition}/replicas");
        if nodes.is_empty() {
            return self.request(Method::DELETE, &path).answer().await.map(drop);
        }
        let nodes = nodes.iter().map(ToString::to_string).collect();
        let call = self.request(Method::PUT, &path);
        let call = call.with(|request| request.json(&Reassign { nodes }));
        call.answer().await.map(drop)
    }

    /// Makes a replica the leader of a partition. `unclean`: of one without a leader, although
    /// acknowledged records may be lost for good.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn elect(
        &self,
        topic: &TopicName,
        partition: Partition,
        node: &BrokerId,
        unclean: bool,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/topics/{topic}/partitions/{partition}/leader");
        let elect = Elect {
            node: node.to_string(),
            unclean,
        };
        let call = self.request(Method::PUT, &path);
        let call = call.with(|request| request.json(&elect));
        call.answer().await.map(drop)
    }
}
