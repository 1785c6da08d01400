//! What commands do to partitions: the rules are those of [`control`], the state keeps their
//! outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Change, Load, State};
use crate::metadata::command::{Applied, Loss, Registration, Rejected};
use crate::metadata::view::{Key, NodeEntry, NodeStatus, TopicEntry};
use crate::placement::{self, NodeLoad};
use crate::replication::control::{self, AlterAnswer, AlterPartition, Standing};
use crate::types::{
    Durability, Incarnation, LeaderEpoch, NodeId, Partition, PartitionEpoch, PartitionRecord,
    Replica, TopicId, TopicSettings, limits,
};

/// The epoch in which a new partition begins.
const FIRST_EPOCH: LeaderEpoch = LeaderEpoch(1);

/// Who is who, after what the command did to nodes.
struct Nodes(Arc<BTreeMap<NodeId, Arc<NodeEntry>>>);

impl Nodes {
    fn is_active(&self, id: NodeId) -> bool {
        let node = self.0.get(&id);
        node.is_some_and(|node| node.status == NodeStatus::Active)
    }

    fn is_live(&self, id: NodeId) -> bool {
        self.0.get(&id).is_some_and(|node| node.status.is_live())
    }

    fn standing(&self, id: NodeId) -> Option<Standing> {
        self.0.get(&id).map(|node| Standing {
            incarnation: node.incarnation,
            unfenced: node.status.is_live(),
            may_join: node.status == NodeStatus::Active,
        })
    }

    /// Gives a partition without a leader one, if any can lead it: one that drains only where
    /// there is no other.
    fn elect(&self, record: &mut PartitionRecord, min: u32) {
        if record.leader.is_some() {
            return;
        }
        let preferred = control::candidate(record, |id| self.is_active(id), None);
        let _ = control::elect(record, min, |id| self.is_live(id), preferred);
    }
}

impl State {
    fn known_nodes(&self) -> Nodes {
        Nodes(self.view.nodes.clone())
    }

    /// Places for the replicas of `count` new partitions: on the active nodes, by what they carry.
    pub(super) fn places(
        &self,
        settings: &TopicSettings,
        count: u32,
    ) -> Result<Vec<Vec<NodeId>>, Rejected> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let active = self
            .view
            .nodes()
            .filter(|node| node.status == NodeStatus::Active);
        let nodes: Vec<NodeLoad> = active
            .map(|node| {
                let load = self.load.get(&node.id).copied().unwrap_or_default();
                NodeLoad {
                    id: node.id,
                    rack: node.rack.clone(),
                    partitions: load.replicas,
                    leaders: load.leaders,
                }
            })
            .collect();
        if nodes.is_empty() {
            return Err(Rejected::NoNodes);
        }
        Ok(placement::assign(
            &nodes,
            settings.replication_factor,
            count,
        ))
    }

    /// Makes the partitions `first`, `first + 1`, ... of a topic.
    pub(super) fn add_partitions(
        &mut self,
        topic: TopicId,
        first: u32,
        places: Vec<Vec<NodeId>>,
        changes: &mut Vec<Change>,
    ) {
        let (nodes, generation) = (self.known_nodes(), self.number());
        for (partition, place) in (first..).map(Partition).zip(places) {
            let replicas: Vec<Replica> = place
                .into_iter()
                .map(|node| Replica { node, generation })
                .collect();
            let record = control::create(&replicas, FIRST_EPOCH, |id| nodes.is_live(id));
            self.put_partition((topic, partition), record, changes);
        }
    }

    /// Forgets the partitions of a topic; returns the nodes that held replicas. Their rows go
    /// with the topic's.
    pub(super) fn remove_partitions(&mut self, topic: TopicId) -> BTreeSet<NodeId> {
        let partitions = self.view.partitions_of(topic);
        let partitions: Vec<Partition> = partitions.map(|(partition, _)| partition).collect();
        let mut holders = BTreeSet::new();
        for partition in partitions {
            let records = Arc::make_mut(&mut self.view.partitions);
            if let Some(record) = records.remove(&(topic, partition)) {
                holders.extend(record.replicas.iter().map(|replica| replica.node));
                self.count(&record, |count| *count -= 1);
            }
        }
        holders
    }

    /// The first node of a directory of before there were clusters gets its partitions. It may
    /// lead them once it is active, in a later epoch than any in their logs.
    pub(super) fn adopt_partitions(&mut self, id: NodeId, changes: &mut Vec<Change>) {
        let epoch = LeaderEpoch(self.solo_epoch.0.saturating_add(1));
        let generation = self.number();
        let topics: Vec<Arc<TopicEntry>> = self.view.topics().cloned().collect();
        for topic in topics {
            for partition in (0..topic.settings.partitions).map(Partition) {
                let key = (topic.id, partition);
                if self.view.partitions.contains_key(&key) {
                    continue;
                }
                let replica = Replica {
                    node: id,
                    generation,
                };
                let record = control::create(&[replica], epoch, |_| false);
                self.put_partition(key, record, changes);
            }
        }
        self.solo_epoch = LeaderEpoch(0);
    }

    /// A node was fenced (N5).
    pub(super) fn fence_partitions(&mut self, id: NodeId, changes: &mut Vec<Change>) {
        let nodes = self.known_nodes();
        self.edit_partitions(id, changes, |_, topic, record| {
            let min = topic.settings.min_insync_replicas;
            let _ = control::fence(record, id, min, |other| nodes.is_active(other));
            nodes.elect(record, min);
            let _ = control::finish_reassign(record, min, |other| nodes.is_live(other));
        });
    }

    /// A node that registers may have lost what it had promised to hold (N3).
    pub(super) fn drop_eligibility(&mut self, asked: &Registration, changes: &mut Vec<Change>) {
        if asked.clean && asked.loss == Loss::None {
            return;
        }
        let lost: BTreeSet<Key> = match &asked.loss {
            Loss::None | Loss::All => BTreeSet::new(),
            Loss::Some(lost) => lost.iter().copied().collect(),
        };
        let (nodes, id) = (self.known_nodes(), asked.id);
        self.edit_partitions(id, changes, |key, topic, record| {
            // The only copy has no other to stand back for: offline, it would save nothing.
            let unsynced =
                topic.settings.durability == Durability::Replicated && 1 < record.replicas.len();
            if asked.loss == Loss::All || lost.contains(&key) || (!asked.clean && unsynced) {
                let min = topic.settings.min_insync_replicas;
                let _ = control::drop_eligibility(record, id, min, |other| nodes.is_live(other));
            }
        });
    }

    /// A node went to work (N6).
    pub(super) fn unfence_partitions(&mut self, id: NodeId, changes: &mut Vec<Change>) {
        let nodes = self.known_nodes();
        self.edit_partitions(id, changes, |_, topic, record| {
            let min = topic.settings.min_insync_replicas;
            nodes.elect(record, min);
            let _ = control::finish_reassign(record, min, |other| nodes.is_live(other));
        });
    }

    /// A node leads nothing any more that another in-sync replica can lead.
    pub(super) fn hand_over(&mut self, id: NodeId, changes: &mut Vec<Change>) {
        let nodes = self.known_nodes();
        self.edit_partitions(id, changes, |_, _, record| {
            if record.leader == Some(id)
                && let Some(to) = control::candidate(record, |other| nodes.is_active(other), None)
            {
                let _ = control::move_leader(record, to);
            }
        });
    }

    /// The minimum of in-sync replicas of a topic has changed (I6).
    pub(super) fn min_insync_changed(&mut self, topic: &TopicEntry, changes: &mut Vec<Change>) {
        let partitions = self.view.partitions_of(topic.id);
        let partitions: Vec<_> = partitions
            .map(|(partition, record)| (partition, PartitionRecord::clone(record)))
            .collect();
        let min = topic.settings.min_insync_replicas;
        for (partition, mut record) in partitions {
            let _ = control::min_changed(&mut record, min);
            self.put_partition((topic.id, partition), record, changes);
        }
    }

    pub(super) fn alter_partition(
        &mut self,
        key: Key,
        alter: &AlterPartition,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let (mut record, min) = self.partition_at(key)?;
        let nodes = self.known_nodes();
        let answer = control::alter(&mut record, alter, min, |id| nodes.standing(id));
        if let AlterAnswer::Stale { .. } = answer {
            return Ok(Applied::PartitionAltered(answer, Arc::new(record)));
        }
        let _ = control::finish_reassign(&mut record, min, |id| nodes.is_live(id));
        let record = self.put_partition(key, record, changes);
        Ok(Applied::PartitionAltered(answer, record))
    }

    /// D1. The only complete replica goes on: it has records to read, and nobody else has.
    pub(super) fn resign_replica(
        &mut self,
        key: Key,
        id: NodeId,
        incarnation: Incarnation,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        self.registered(id, incarnation)?;
        let (mut record, min) = self.partition_at(key)?;
        if record.replica(id).is_none() {
            return Err(Rejected::NoReplica { id });
        }
        let nodes = self.known_nodes();
        let mut without = record.clone();
        without.isr.remove(&id);
        without.elr.remove(&id);
        if control::candidate(&without, |other| nodes.is_live(other), None).is_some() {
            let _ = control::drop_eligibility(&mut record, id, min, |other| nodes.is_live(other));
            let _ = control::finish_reassign(&mut record, min, |other| nodes.is_live(other));
        }
        Ok(self.changed(key, record, changes))
    }

    pub(super) fn move_leader(
        &mut self,
        key: Key,
        to: NodeId,
        decided_on: PartitionEpoch,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let (mut record, _) = self.partition_as(key, decided_on)?;
        self.check_active(to)?;
        if !record.isr.contains(&to) {
            return Err(Rejected::NotInSync { id: to });
        }
        let _ = control::move_leader(&mut record, to);
        Ok(self.changed(key, record, changes))
    }

    pub(super) fn reassign(
        &mut self,
        key: Key,
        replicas: &[NodeId],
        decided_on: PartitionEpoch,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let (mut record, min) = self.partition_as(key, decided_on)?;
        if limits::REPLICATION_FACTOR as usize <= replicas.len().saturating_sub(1) {
            return Err(Rejected::TooManyReplicas {
                max: limits::REPLICATION_FACTOR,
            });
        }
        // With fewer, nothing could be acknowledged any more.
        if replicas.len() < min.max(1) as usize && !replicas.is_empty() {
            return Err(control::ReassignRefused::BelowMinInsync { min }.into());
        }
        for id in replicas {
            if record.replica(*id).is_none() {
                self.check_active(*id)?;
            }
        }
        control::begin_reassign(&mut record, replicas, self.number()).map(drop)?;
        let nodes = self.known_nodes();
        let _ = control::finish_reassign(&mut record, min, |id| nodes.is_live(id));
        Ok(self.changed(key, record, changes))
    }

    pub(super) fn cancel_reassign(
        &mut self,
        key: Key,
        decided_on: PartitionEpoch,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let (mut record, min) = self.partition_as(key, decided_on)?;
        let nodes = self.known_nodes();
        control::cancel_reassign(&mut record, min, |id| nodes.is_live(id)).map(drop)?;
        Ok(self.changed(key, record, changes))
    }

    pub(super) fn elect_unclean(
        &mut self,
        key: Key,
        leader: NodeId,
        decided_on: PartitionEpoch,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let (mut record, min) = self.partition_as(key, decided_on)?;
        self.check_active(leader)?;
        if let Some(leader) = record.leader {
            return Err(Rejected::HasLeader { leader });
        }
        if record.replica(leader).is_none() {
            return Err(Rejected::NoReplica { id: leader });
        }
        let _ = control::elect_unclean(&mut record, leader);
        let nodes = self.known_nodes();
        let _ = control::finish_reassign(&mut record, min, |id| nodes.is_live(id));
        Ok(self.changed(key, record, changes))
    }

    fn check_active(&self, id: NodeId) -> Result<(), Rejected> {
        match self.view.node(id).map(|node| node.status) {
            Some(NodeStatus::Active) => Ok(()),
            Some(status) => Err(Rejected::NodeNotActive { id, status }),
            None => Err(Rejected::NodeNotFound { id }),
        }
    }

    /// A partition's record, to be changed, and its topic's minimum of in-sync replicas.
    fn partition_at(&self, (topic, partition): Key) -> Result<(PartitionRecord, u32), Rejected> {
        let topic = self
            .view
            .topic_by_id(topic)
            .ok_or(Rejected::TopicNotFound)?;
        let record = self.view.partition(topic.id, partition);
        let missing = Rejected::PartitionNotFound {
            partition,
            partitions: topic.settings.partitions,
        };
        let record = PartitionRecord::clone(record.ok_or(missing)?);
        Ok((record, topic.settings.min_insync_replicas))
    }

    /// As above, if the record is still the one on which something was decided (M6).
    fn partition_as(
        &self,
        key: Key,
        decided_on: PartitionEpoch,
    ) -> Result<(PartitionRecord, u32), Rejected> {
        let (record, min) = self.partition_at(key)?;
        let current = record.partition_epoch;
        if current != decided_on {
            return Err(Rejected::StalePartition { current });
        }
        Ok((record, min))
    }

    fn changed(&mut self, key: Key, record: PartitionRecord, changes: &mut Vec<Change>) -> Applied {
        Applied::PartitionChanged(self.put_partition(key, record, changes))
    }

    /// Lets `edit` change the records of all partitions that have a replica on `node`.
    fn edit_partitions(
        &mut self,
        node: NodeId,
        changes: &mut Vec<Change>,
        edit: impl Fn(Key, &TopicEntry, &mut PartitionRecord),
    ) {
        let mut edited = Vec::new();
        for (key, before) in self.view.partitions.entries() {
            let Some(topic) = self.view.topic_by_id(key.0) else {
                continue;
            };
            if before.replica(node).is_none() {
                continue;
            }
            let mut record = PartitionRecord::clone(before);
            edit(*key, topic, &mut record);
            if record != **before {
                edited.push((*key, record));
            }
        }
        for (key, record) in edited {
            self.put_partition(key, record, changes);
        }
    }

    fn put_partition(
        &mut self,
        key: Key,
        record: PartitionRecord,
        changes: &mut Vec<Change>,
    ) -> Arc<PartitionRecord> {
        let record = Arc::new(record);
        self.insert_partition(key, record.clone());
        changes.push(Change::PutPartition(key, record.clone()));
        record
    }

    fn insert_partition(&mut self, key: Key, record: Arc<PartitionRecord>) {
        self.count(&record, |count| *count += 1);
        let before = Arc::make_mut(&mut self.view.partitions).insert(key, record);
        if let Some(before) = before {
            self.count(&before, |count| *count -= 1);
        }
    }

    /// Adds a partition's record, unless its topic has no such partition or it is there already:
    /// then returns false.
    pub(in crate::metadata) fn add_partition(
        &mut self,
        key: Key,
        record: Arc<PartitionRecord>,
    ) -> bool {
        let topic = self.view.topic_by_id(key.0);
        let exists = topic.is_some_and(|topic| key.1.0 < topic.settings.partitions);
        if !exists || self.view.partitions.contains_key(&key) {
            return false;
        }
        self.insert_partition(key, record);
        true
    }

    /// Counts what a record puts on nodes, or takes it off them.
    fn count(&mut self, record: &PartitionRecord, by: impl Fn(&mut u64)) {
        for replica in &record.replicas {
            by(&mut self.load.entry(replica.node).or_default().replicas);
        }
        if let Some(leader) = record.leader {
            by(&mut self.load.entry(leader).or_default().leaders);
        }
        let mentioned = record.replicas.iter().map(|replica| replica.node);
        for id in mentioned.chain(record.leader) {
            if self.load.get(&id) == Some(&Load::default()) {
                self.load.remove(&id);
            }
        }
    }
}
