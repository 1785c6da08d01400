//! What people may ask of the cluster.

use std::sync::Arc;

use super::ClusterError;
use crate::broker::topics::Topic;
use crate::broker::{Broker, TopicError};
use crate::metadata::{Applied, ApplyError, Command};
use crate::partition;
use crate::types::{BrokerId, NodeId, Partition, PartitionRecord, TopicId, TopicName};

impl Broker {
    /// Makes a node give everything away, or keep what it has.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn drain_node(&self, name: &BrokerId, drain: bool) -> Result<(), ClusterError> {
        let id = self.node_named(name)?;
        self.change(match drain {
            true => Command::DrainNode { id },
            false => Command::UndrainNode { id },
        })
        .await?;
        Ok(())
    }

    /// Forgets a node that holds nothing and is not at work.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn remove_node(&self, name: &BrokerId) -> Result<(), ClusterError> {
        let id = self.node_named(name)?;
        self.change(Command::RemoveNode { id }).await?;
        // The controller sends it nothing any more. Elsewhere that is found out in time.
        if let Err(error) = self.inner.store.remove_learner(id).await {
            tracing::debug!(error = partition::chain(&error), "a node that is removed");
        }
        Ok(())
    }

    /// Gives what a node has to another one, or to whichever nodes placement chooses, and forgets
    /// it once it holds nothing and is not at work (PROTOCOL N8). A node whose name another one
    /// has taken is addressed by its number; without a `by`, the older of two of that name is
    /// replaced by the newer one.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn replace_node(
        &self,
        name: &BrokerId,
        by: Option<&BrokerId>,
    ) -> Result<(), ClusterError> {
        let mut id = self.node_named(name)?;
        let mut by = by.map(|by| self.node_named(by)).transpose()?;
        let older = {
            let view = self.inner.store.view();
            let view = view.borrow();
            let namesakes = view
                .nodes()
                .filter(|node| node.name == *name && node.id != id);
            let newest = namesakes.max_by_key(|node| node.incarnation);
            newest.map(|node| node.id)
        };
        if let Some(older) = older.filter(|_| by.is_none_or(|by| by == id)) {
            by = Some(id);
            id = older;
        }
        self.change(Command::ReplaceNode { id, by }).await?;
        Ok(())
    }

    /// Moves a partition's replicas to these nodes, the first of them preferred as leader.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn reassign(
        &self,
        topic: &TopicName,
        partition: Partition,
        nodes: &[BrokerId],
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let nodes: Result<Vec<NodeId>, _> =
            nodes.iter().map(|node| self.node_named(node)).collect();
        let replicas = nodes?;
        self.change_partition(topic, partition, |topic, partition, record| {
            Command::Reassign {
                topic,
                partition,
                replicas: replicas.clone(),
                partition_epoch: record.partition_epoch,
            }
        })
        .await
    }

    /// Takes back a move of replicas that is under way.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn cancel_reassign(
        &self,
        topic: &TopicName,
        partition: Partition,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        self.change_partition(topic, partition, |topic, partition, record| {
            Command::CancelReassign {
                topic,
                partition,
                partition_epoch: record.partition_epoch,
            }
        })
        .await
    }

    /// Moves leadership to an in-sync replica; with `unclean`, to any replica of a partition that
    /// nobody leads, giving up what only others have (PROTOCOL E3).
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn elect(
        &self,
        topic: &TopicName,
        partition: Partition,
        node: &BrokerId,
        unclean: bool,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let node = self.node_named(node)?;
        self.change_partition(topic, partition, |topic, partition, record| {
            let partition_epoch = record.partition_epoch;
            match unclean {
                false => Command::MoveLeader {
                    topic,
                    partition,
                    to: node,
                    partition_epoch,
                },
                true => Command::ElectUnclean {
                    topic,
                    partition,
                    leader: node,
                    partition_epoch,
                },
            }
        })
        .await
    }

    async fn change_partition(
        &self,
        topic: &TopicName,
        partition: Partition,
        command: impl Fn(TopicId, Partition, &PartitionRecord) -> Command,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let found = self.existing_topic(topic).map_err(|error| match error {
            TopicError::Closing => ClusterError::Apply(ApplyError::Closed(crate::metadata::Closed)),
            _ => ClusterError::TopicNotFound(topic.clone()),
        })?;
        let record = |topic: &Topic| topic.place(partition).map(|place| place.record.clone());
        let command = command(found.entry.id, partition, &*record(&found)?);
        match self.change(command).await? {
            Applied::PartitionChanged(record) | Applied::PartitionAltered(_, record) => Ok(record),
            _ => Ok(record(&self.existing_topic(topic).unwrap_or(found))?),
        }
    }
}
