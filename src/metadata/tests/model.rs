//! Any commands in any order: what holds after each of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::metadata::database::migrations;
use crate::metadata::rows;
use crate::metadata::state::snapshot::Snapshot;
use crate::metadata::view::Key;
use crate::replication::control::{self, AlterPartition};
use crate::types::Durability;

const NODES: u32 = 4;
const TOPICS: u32 = 3;

/// What chance decides about one command.
type Dice = (u8, u8, u8);

fn dice() -> impl Strategy<Value = Vec<Dice>> {
    prop::collection::vec((0..22u8, any::<u8>(), any::<u8>()), 1..160)
}

/// A command that may well be accepted in this state, or be a little late.
fn command(state: &State, step: usize, (kind, x, y): Dice) -> Command {
    let view = &state.view;
    let node = NodeId(u32::from(x) % NODES + 1);
    let lag = u64::from(y % 8 == 0);
    let incarnation = view.node(node).map_or(0, |node| node.incarnation.0);
    let incarnation = Incarnation(incarnation.saturating_sub(lag));
    let topic = name(&format!("t{}", u32::from(x) % TOPICS));
    let records: Vec<_> = view.partitions().collect();
    let chosen = records.get(usize::from(x) % records.len().max(1));
    let subset = || (1..=NODES).filter(|n| y >> n & 1 == 1).map(NodeId);
    let at = Timestamp(step as i64);
    match (kind, chosen) {
        (0..=1, _) => Command::RegisterNode(Registration {
            clean: y % 3 != 0,
            loss: match (y % 5, chosen) {
                (0, _) => Loss::All,
                (1, Some((topic, partition, _))) => Loss::Some(vec![(*topic, *partition)]),
                _ => Loss::None,
            },
            ..registration(node.0, if y % 4 == 0 { 0 } else { step as u128 })
        }),
        (2..=4, _) => Command::ActivateNode {
            id: node,
            incarnation,
        },
        (5, _) => Command::FenceNode {
            id: node,
            incarnation,
        },
        (6, _) => Command::DrainNode { id: node },
        (7, _) => Command::UndrainNode { id: node },
        (8, _) if y % 2 == 0 => Command::ReplaceNode {
            id: node,
            by: (y % 3 != 0).then_some(NodeId(u32::from(y) % NODES + 1)),
        },
        (8, _) => Command::RemoveNode { id: node },
        (9..=10, _) => Command::CreateTopic {
            name: topic,
            id: id(step as u128),
            settings: TopicSettings {
                partitions: u32::from(y) % 3 + 1,
                replication_factor: 3,
                min_insync_replicas: u32::from(y) % 2 + 1,
                durability: [Durability::Fsync, Durability::Replicated][usize::from(y / 128)],
                ..TopicSettings::default()
            },
            at,
        },
        (11, _) => Command::AlterTopic {
            name: topic,
            patch: TopicPatch {
                partitions: (y % 2 == 0).then_some(u32::from(y) % 5 + 1),
                min_insync_replicas: Some(u32::from(y) % 3 + 1),
                ..TopicPatch::default()
            },
            at,
        },
        (12, _) if y % 3 == 0 => Command::DeleteTopic {
            id: view.topic(&topic).map_or(id(0), |topic| topic.id),
            name: topic,
            at,
        },
        (12 | 13, _) => Command::FinishDelete {
            id: view.deleted().next().map_or(id(0), |deleted| deleted.id),
            node,
        },
        (14..=17, Some((topic, partition, record))) => Command::AlterPartition {
            topic: *topic,
            partition: *partition,
            alter: AlterPartition {
                leader: record.leader.unwrap_or(node),
                leader_incarnation: record
                    .leader
                    .and_then(|leader| view.node(leader))
                    .map_or(incarnation, |leader| leader.incarnation),
                leader_epoch: record.leader_epoch,
                partition_epoch: PartitionEpoch(record.partition_epoch.0 - lag as u32),
                attempt: step as u64,
                new_isr: subset()
                    .chain(record.leader)
                    .filter_map(|id| view.node(id))
                    .map(|node| (node.id, node.incarnation))
                    .collect(),
            },
        },
        (18, Some((topic, partition, _))) if y % 3 == 0 => Command::ResignReplica {
            topic: *topic,
            partition: *partition,
            node,
            incarnation,
        },
        (18, Some((topic, partition, record))) => Command::MoveLeader {
            topic: *topic,
            partition: *partition,
            to: NodeId(u32::from(y) % NODES + 1),
            partition_epoch: record.partition_epoch,
        },
        (19, Some((topic, partition, record))) => Command::Reassign {
            topic: *topic,
            partition: *partition,
            replicas: subset().collect(),
            partition_epoch: record.partition_epoch,
        },
        (20, Some((topic, partition, record))) if y % 2 == 0 => Command::CancelReassign {
            topic: *topic,
            partition: *partition,
            partition_epoch: record.partition_epoch,
        },
        (20, Some((topic, partition, record))) => Command::ElectUnclean {
            topic: *topic,
            partition: *partition,
            leader: NodeId(u32::from(y) % NODES + 1),
            partition_epoch: record.partition_epoch,
        },
        _ => Command::SetPosition {
            broker: broker(),
            group: "g".into(),
            topic_id: view.topic(&topic).map_or(id(0), |topic| topic.id),
            partition: Partition(u32::from(y) % 3),
            offset: Offset(step as u64),
            at,
        },
    }
}

/// What was seen so far, and must not be contradicted.
#[derive(Default)]
struct Past {
    /// Invariant 1.
    leaders: BTreeMap<(Key, LeaderEpoch), NodeId>,
    /// Invariant 2.
    records: BTreeMap<(Key, PartitionEpoch), Arc<PartitionRecord>>,
    newest: BTreeMap<Key, (LeaderEpoch, PartitionEpoch)>,
    incarnation: BTreeMap<NodeId, Incarnation>,
}

impl Past {
    fn check(&mut self, view: &View) {
        for node in view.nodes() {
            let known = self.incarnation.insert(node.id, node.incarnation);
            assert!(known <= Some(node.incarnation), "invariant 2: {node:?}");
        }
        for (topic, partition, record) in view.partitions() {
            let key = (topic, partition);
            let numbers = (record.leader_epoch, record.partition_epoch);
            if let Some(before) = self.newest.insert(key, numbers) {
                let grown = before.0 <= numbers.0 && before.1 <= numbers.1;
                assert!(grown, "invariant 2: {before:?}, then {record:?}");
            }
            let named = self.records.entry((key, record.partition_epoch));
            assert_eq!(
                named.or_insert_with(|| record.clone()),
                record,
                "invariant 2"
            );
            if let Some(leader) = record.leader {
                let first = self.leaders.entry((key, record.leader_epoch));
                assert_eq!(*first.or_insert(leader), leader, "invariant 1: {record:?}");
            }
            let settings = &view.topic_by_id(topic).unwrap().settings;
            let sound = control::check(record, settings.min_insync_replicas);
            assert_eq!(sound, Ok(()), "invariants 3 and 4: {record:?}");
            for member in &record.isr {
                let status = view.node(*member).map(|node| node.status);
                assert!(
                    status.is_some_and(NodeStatus::is_live),
                    "invariant 3: {member} is {status:?} in {record:?}"
                );
            }
        }
        for topic in view.topics() {
            let count = view.partitions_of(topic.id).count();
            assert_eq!(count, topic.settings.partitions as usize);
        }
    }
}

fn copy(state: &State) -> State {
    let text = serde_json::to_vec(&state.to_snapshot()).unwrap();
    State::from_snapshot(serde_json::from_slice::<Snapshot>(&text).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_order_of_commands_breaks_the_invariants_of_records(dice in dice()) {
        let (mut state, mut past) = (State::default(), Past::default());
        for (step, dice) in dice.into_iter().enumerate() {
            let command = command(&state, step + 1, dice);
            let before = state.clone();
            if state.apply(&command, &mut Vec::new()).is_err() {
                assert_eq!(state, before, "a rejected command left something: {command:?}");
                continue;
            }
            past.check(&state.view);
        }
        let twin = copy(&state);
        assert_eq!(twin, state);
        assert_eq!(twin.hash(), state.hash());
        let mut other = state.clone();
        other.view.applied += 1;
        assert_ne!(other.hash(), state.hash());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_on_disk_is_what_the_state_says_after_any_commands(dice in dice()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (place, fresh) = (Place::new(), Place::new());
            let store = place.open().await;
            let mut state = State::default();
            for (step, dice) in dice.into_iter().enumerate() {
                let command = command(&state, step + 1, dice);
                let expected = state.apply(&command, &mut Vec::new());
                match store.apply(command).await {
                    Ok(applied) => assert_eq!(Ok(applied), expected),
                    Err(ApplyError::Rejected(rejected)) => assert_eq!(Err(rejected), expected),
                    Err(error) => panic!("{error}"),
                }
            }
            store.close().await;
            let mut conn = options(&place.path()).connect().await.unwrap();
            assert_eq!(rows::read_state(&mut conn).await.unwrap(), state);

            let mut conn = options(&fresh.path()).connect().await.unwrap();
            migrations().run_direct(None, &mut conn, false).await.unwrap();
            rows::write_changes(&mut conn, &state.rows()).await.unwrap();
            rows::write_progress(&mut conn, &state).await.unwrap();
            assert_eq!(rows::read_state(&mut conn).await.unwrap(), state);
        });
    }
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut state = State::default();
    for command in history() {
        state.apply(&command, &mut Vec::new()).ok();
    }
    let whole = serde_json::to_string(&state.to_snapshot()).unwrap();
    assert!(whole.starts_with(r#"{"state/1":{"applied":"#), "{whole}");
    let refused = |from: &str, to: &str| {
        assert!(whole.contains(from), "{whole}");
        let text = whole.replacen(from, to, 1);
        let snapshot = serde_json::from_str::<Snapshot>(&text);
        snapshot.is_err() || State::from_snapshot(snapshot.unwrap()).is_err()
    };
    assert!(refused("state/1", "state/2"));
    assert!(refused(r#""name":"b""#, r#""name":"a""#));
    assert!(refused(r#""partitions":5"#, r#""partitions":4"#));
    let of_topic = |n| format!(r#""id":"{}""#, id(n).0);
    assert!(refused(&of_topic(2), &of_topic(1)));
}
