//! The replication core's simulation under the real state machine of the metadata, its commands, and
//! placement, in place of the rules themselves.

use super::*;
use crate::placement::{self, Node, Placed, Role};
use crate::replication::Standing;
use crate::replication::tests::sim::controller::{self as sim, Act, Acted, Constitution, index};
use crate::replication::tests::sim::survives_under;

const TOPIC: TopicId = TopicId(Uuid::from_u128(1));

#[derive(Debug)]
struct Machine(State);

impl Machine {
    /// Nodes at work, and a topic whose copies placement has put on them.
    fn new(like: &sim::State) -> Self {
        let mut machine = Self(State::default());
        let nodes = like.nodes.len() as u32;
        for n in 1..=nodes {
            machine.apply(&register(n, n.into())).unwrap();
            let node = machine.0.view.node(NodeId(n)).unwrap().clone();
            machine.apply(&activate(n, node.incarnation.0)).unwrap();
        }
        let settings = TopicSettings {
            partitions: like.records.len() as u32,
            replication_factor: nodes,
            min_insync_replicas: like.min,
            durability: like.durability,
            ..TopicSettings::default()
        };
        let create = Command::CreateTopic {
            name: name("simulated"),
            id: TOPIC,
            settings,
            at: Timestamp(1),
        };
        machine.apply(&create).unwrap();
        machine
    }

    fn apply(&mut self, command: &Command) -> Result<Applied, Rejected> {
        self.0.apply(command, &mut Vec::new())
    }

    fn record(&self, partition: Partition) -> PartitionRecord {
        let record = self.0.view.partition(TOPIC, partition).unwrap();
        PartitionRecord::clone(record)
    }

    /// What placement would do next.
    fn planned(&self) -> Option<Command> {
        let view = &self.0.view;
        let role = |node: &NodeEntry| match node.status.is_live() {
            true => Role::Open,
            false => Role::Away,
        };
        let nodes: Vec<Node> = view
            .nodes()
            .map(|node| Node {
                id: node.id,
                rack: node.rack.clone(),
                role: role(node),
            })
            .collect();
        let settings = &view.topic_by_id(TOPIC)?.settings;
        let placed: Vec<Placed<'_, Partition>> = view
            .partitions_of(TOPIC)
            .map(|(key, record)| Placed {
                key,
                record,
                replication_factor: settings.replication_factor,
                min_insync: settings.min_insync_replicas,
            })
            .collect();
        let planned = placement::rebalance(&nodes, &placed, 1)
            .into_iter()
            .next()?;
        Some(Command::Reassign {
            topic: TOPIC,
            partition: planned.key,
            replicas: planned.replicas,
            partition_epoch: self.record(planned.key).partition_epoch,
        })
    }

    fn command(&self, act: &Act) -> Option<Command> {
        let topic = TOPIC;
        let incarnation = |node: NodeId| self.0.view.node(node).unwrap().incarnation;
        Some(match act.clone() {
            Act::Fence(id) => Command::FenceNode {
                id,
                incarnation: incarnation(id),
            },
            Act::Unfence(id) => Command::ActivateNode {
                id,
                incarnation: incarnation(id),
            },
            Act::Register {
                node,
                process,
                lossy,
            } => Command::RegisterNode(Registration {
                clean: !lossy,
                ..registration(node.0, u128::from(process) + 1_000)
            }),
            Act::Alter { partition, request } => Command::AlterPartition {
                topic,
                partition,
                alter: request,
            },
            Act::MoveLeader { partition, to } => Command::MoveLeader {
                topic,
                partition,
                to,
                partition_epoch: self.record(partition).partition_epoch,
            },
            Act::Reassign { partition, target } => {
                let record = self.record(partition);
                let partition_epoch = record.partition_epoch;
                match record.adding.is_empty() && record.removing.is_empty() {
                    true => Command::Reassign {
                        topic,
                        partition,
                        replicas: target,
                        partition_epoch,
                    },
                    false => Command::CancelReassign {
                        topic,
                        partition,
                        partition_epoch,
                    },
                }
            }
            Act::Rebalance => self.planned()?,
            Act::SetMin(min) => alter(
                "simulated",
                TopicPatch {
                    min_insync_replicas: Some(min),
                    ..TopicPatch::default()
                },
            ),
        })
    }
}

impl Constitution for Machine {
    fn act(&mut self, act: &Act) -> Acted {
        let Some(command) = self.command(act) else {
            return Acted::default();
        };
        let answer = match self.apply(&command) {
            Ok(Applied::PartitionAltered(answer, _)) => Some(answer),
            _ => None,
        };
        Acted {
            answer,
            planned: matches!(act, Act::Rebalance),
        }
    }

    fn state(&self) -> sim::State {
        let view = &self.0.view;
        let topic = view.topic_by_id(TOPIC).unwrap();
        let standing = |node: &Arc<NodeEntry>| Standing {
            incarnation: node.incarnation,
            unfenced: node.status.is_live(),
            may_join: node.status == NodeStatus::Active,
        };
        let records = view.partitions_of(TOPIC);
        sim::State {
            records: records
                .map(|(_, record)| PartitionRecord::clone(record))
                .collect(),
            nodes: view.nodes().map(standing).collect(),
            min: topic.settings.min_insync_replicas,
            durability: topic.settings.durability,
        }
    }
}

#[test]
fn acknowledged_records_survive_under_the_real_commands_and_placement() {
    assert_eq!(index(NodeId(1)), 0, "nodes are numbered from one");
    survives_under(&|like| Box::new(Machine::new(like)));
}
