//! What is wrong with a cluster, in words. Pure: what is known goes in, sentences come out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use super::{ClusterStatus, NodeDescription};
use crate::metadata::{NodeStatus, Successor};
use crate::types::{NodeId, PartitionRecord, TopicName, TopicPartition};

/// How bad it is. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something cannot be read, written or changed now.
    Critical,
    /// One more failure may make it so.
    Warning,
    /// Good to know; nothing is in danger.
    Notice,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, as a sentence without its full stop.
    pub text: String,
    /// What can be done about it, likewise.
    pub hint: Option<String>,
    /// The node that it is about, as it is addressed, if it is about one.
    pub node: Option<String>,
    /// The topic that it is about, if it is about one.
    pub topic: Option<TopicName>,
}

/// A partition that is not as it should be, or has a copy on a node that gives everything away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ailing {
    pub(super) partition: TopicPartition,
    pub(super) record: Arc<PartitionRecord>,
    /// In-sync copies that its topic demands.
    pub(super) min_insync: u32,
    /// Copies that its topic wants.
    pub(super) replication_factor: u32,
}

/// Things named one by one in a sentence; the others are counted.
const NAMED: usize = 4;

/// What is wrong, the worst first. `ailing` are the partitions that are not as they should be, that
/// are being moved, or that shall be.
pub(super) fn findings(status: &ClusterStatus, ailing: &[Ailing]) -> Vec<Finding> {
    let judge = Judge {
        status,
        ailing,
        nodes: status
            .nodes
            .iter()
            .map(|node| (node.entry.id, node))
            .collect(),
    };
    let mut findings = Vec::new();
    judge.metadata(&mut findings);
    judge.leaderless(&mut findings);
    judge.under_minimum(&mut findings);
    status
        .nodes
        .iter()
        .for_each(|node| judge.node(node, &mut findings));
    judge.gossip(&mut findings);
    judge.few_copies(&mut findings);
    judge.versions(&mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

struct Judge<'a> {
    status: &'a ClusterStatus,
    ailing: &'a [Ailing],
    nodes: BTreeMap<NodeId, &'a NodeDescription>,
}

impl Judge<'_> {
    fn name(&self, id: NodeId) -> String {
        match self.nodes.get(&id) {
            Some(node) => node.name.clone(),
            None => id.to_string(),
        }
    }

    fn names(&self, ids: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        ids.into_iter().map(|id| self.name(id)).collect()
    }

    fn is_live(&self, id: NodeId) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.entry.status.is_live())
    }

    /// Whether the metadata can be changed, and by how much.
    fn metadata(&self, findings: &mut Vec<Finding>) {
        let voters: Vec<_> = self.status.nodes.iter().filter(|n| n.voter).collect();
        let names = |of: &[&NodeDescription]| list(of.iter().map(|node| &node.name));
        let majority = voters.len() / 2 + 1;
        let silent: Vec<_> = voters
            .iter()
            .copied()
            .filter(|node| node.report.is_none())
            .collect();
        if self.status.controller.is_none() {
            let hint = match voters.len() {
                0 => None,
                _ => Some(format!(
                    "it takes {majority} of the {} ({}); start those that are down",
                    plural(voters.len(), "voter"),
                    names(&voters)
                )),
            };
            findings.push(Finding {
                hint,
                ..critical(
                    "nobody leads the metadata: topics, leaders and nodes cannot change".into(),
                )
            });
        } else if !silent.is_empty() && voters.len() - silent.len() <= majority {
            findings.push(warning(format!(
                "{} of the {} on the metadata {} not answer ({}): if one more fails, topics and \
                 leaders cannot change",
                silent.len(),
                plural(voters.len(), "voter"),
                verb(silent.len(), "does", "do"),
                names(&silent)
            )));
        }
    }

    /// Partitions without a leader, together where the same nodes have what is missing.
    fn leaderless(&self, findings: &mut Vec<Finding>) {
        let mut waiting: BTreeMap<Vec<NodeId>, Vec<&Ailing>> = BTreeMap::new();
        for ailing in self.ailing {
            let record = &ailing.record;
            if record.leader.is_none() {
                let complete = record.isr.union(&record.elr).copied().collect();
                waiting.entry(complete).or_default().push(ailing);
            }
        }
        for (complete, ailing) in waiting {
            let names = partitions(ailing.iter().map(|ailing| &ailing.partition));
            let have = verb(ailing.len(), "has", "have");
            let topic = one_topic(ailing.iter().map(|ailing| &ailing.partition.topic));
            let Some(first) = ailing.first() else {
                continue;
            };
            let holders = first.record.replicas.iter().map(|replica| replica.node);
            let willing = holders.clone().find(|node| self.is_live(*node));
            let give_up = willing.map(|node| {
                format!(
                    "pilgrimage cluster lead {} {} {} --unclean",
                    first.partition.topic,
                    first.partition.partition,
                    self.name(node)
                )
            });
            let (text, hint) = if complete.is_empty() {
                let text = format!("{names} {have} no leader, and no copy surely has every record");
                let hint = give_up.map(|command| {
                    format!("to go on with what a copy has, give up what it lacks: {command}")
                });
                (text, hint)
            } else {
                let nodes = self.names(complete.iter().copied());
                let only = match nodes.len() {
                    1 => format!("the only complete copy is on node {}", list(&nodes)),
                    _ => format!("the only complete copies are on nodes {}", list(&nodes)),
                };
                let start = format!("start {} again", alternatives(&nodes));
                let hint = match give_up {
                    None => start,
                    Some(command) => {
                        format!("{start}; if its disk is lost, give up what only it has: {command}")
                    }
                };
                (format!("{names} {have} no leader: {only}"), Some(hint))
            };
            findings.push(Finding {
                hint,
                topic,
                node: match complete.as_slice() {
                    [node] => Some(self.name(*node)),
                    _ => None,
                },
                ..critical(text)
            });
        }
    }

    fn under_minimum(&self, findings: &mut Vec<Finding>) {
        let under = self.ailing.iter().filter(|ailing| {
            let record = &ailing.record;
            record.leader.is_some() && record.isr.len() < ailing.min_insync as usize
        });
        let under: Vec<_> = under.map(|ailing| &ailing.partition).collect();
        if under.is_empty() {
            return;
        }
        findings.push(Finding {
            hint: Some(
                "start the nodes that are down, or lower min_insync_replicas of the topic".into(),
            ),
            topic: one_topic(under.iter().map(|partition| &partition.topic)),
            ..critical(format!(
                "{} {} fewer in-sync copies than {} demand{}: acks=all is refused",
                partitions(under.iter().copied()),
                verb(under.len(), "has", "have"),
                verb(under.len(), "its topic", "their topics"),
                verb(under.len(), "s", ""),
            ))
        });
    }

    fn node(&self, node: &NodeDescription, findings: &mut Vec<Finding>) {
        let name = &node.name;
        let of = |finding: Finding| Finding {
            node: Some(name.clone()),
            ..finding
        };
        let missing = self.ailing.iter().filter(|ailing| {
            let record = &ailing.record;
            let id = node.entry.id;
            record.replica(id).is_some()
                && !record.isr.contains(&id)
                && !record.adding.contains(&id)
        });
        let missing = missing.count();
        match node.entry.status {
            NodeStatus::Fenced => findings.push(of(self.gone(node, missing))),
            NodeStatus::Registered => findings.push(of(notice(format!("node {name} is starting")))),
            NodeStatus::Active | NodeStatus::Draining => {
                if node.report.is_none() {
                    let asked = self.name(self.status.node);
                    let text = format!("node {name} did not answer node {asked} in time");
                    findings.push(of(warning(text)));
                }
                if 0 < missing {
                    let text = format!(
                        "node {name} is at work, and {} of its copies {} not in sync yet",
                        missing,
                        verb(missing, "is", "are")
                    );
                    findings.push(of(warning(text)));
                }
                if node.entry.draining {
                    findings.push(of(self.draining(node)));
                }
            }
        }
        let report = node.report.iter();
        for problem in report.flat_map(|report| &report.problems) {
            findings.push(of(warning(format!("node {name}: {problem}"))));
        }
    }

    fn gone(&self, node: &NodeDescription, missing: usize) -> Finding {
        let name = &node.name;
        if node.replicas == 0 {
            return match node.entry.successor {
                Some(_) => notice(format!("node {name} is gone, and is about to be forgotten")),
                None => Finding {
                    hint: Some(format!(
                        "start it again, or forget it: pilgrimage node remove {name}"
                    )),
                    ..notice(format!("node {name} is gone, and holds nothing"))
                },
            };
        }
        let since = node.silent_ms.map(span);
        let silence = match since {
            Some(since) => format!("node {name} has not answered for {since}"),
            None => format!("node {name} does not answer"),
        };
        let lack = match missing {
            0 => String::new(),
            1 => "; one partition has one copy less than it should".into(),
            _ => format!("; {missing} partitions have one copy less than they should"),
        };
        if node.entry.draining {
            let to = match node.entry.successor {
                Some(Successor::Node(heir)) => format!("on node {}", self.name(heir)),
                Some(Successor::Any) | None => "elsewhere".into(),
            };
            return match self.stuck(node) {
                0 => warning(format!("{silence}{lack}; its copies are being made {to}")),
                stuck => self.cannot_give(node, stuck),
            };
        }
        Finding {
            hint: Some(format!(
                "start it again; if it will not come back: pilgrimage node replace {name}"
            )),
            ..warning(format!("{silence}{lack}"))
        }
    }

    fn draining(&self, node: &NodeDescription) -> Finding {
        let name = &node.name;
        if node.replicas == 0 {
            let then = match node.entry.successor {
                Some(_) => "stop it, and it is forgotten".into(),
                None => format!("stop it, then forget it: pilgrimage node remove {name}"),
            };
            return Finding {
                hint: Some(then),
                ..notice(format!("node {name} holds nothing any more"))
            };
        }
        match self.stuck(node) {
            0 => notice(format!(
                "node {name} gives everything away: {} left",
                plural(node.replicas as usize, "copy")
            )),
            stuck => self.cannot_give(node, stuck),
        }
    }

    fn cannot_give(&self, node: &NodeDescription, stuck: usize) -> Finding {
        let name = &node.name;
        Finding {
            hint: Some(format!(
                "add a node, or keep this one: pilgrimage node undrain {name}"
            )),
            ..warning(format!(
                "node {name} cannot give {} away: every other node at work has one already",
                plural(stuck, "copy")
            ))
        }
    }

    /// Copies that the node cannot give away: no other node can take them, and without them too
    /// few would be left.
    fn stuck(&self, node: &NodeDescription) -> usize {
        let open = |other: &NodeDescription| {
            other.entry.status == NodeStatus::Active && !other.entry.draining
        };
        let open: BTreeSet<NodeId> = self
            .status
            .nodes
            .iter()
            .filter(|other| open(other))
            .map(|other| other.entry.id)
            .collect();
        let stuck = self.ailing.iter().filter(|ailing| {
            let record = &ailing.record;
            let settled = record.adding.is_empty() && record.removing.is_empty();
            settled
                && record.replica(node.entry.id).is_some()
                && record.replicas.len() <= ailing.min_insync as usize
                && open.iter().all(|other| record.replica(*other).is_some())
        });
        stuck.count()
    }

    /// Who hears no gossip of whom. A node that says nothing is found elsewhere.
    fn gossip(&self, findings: &mut Vec<Finding>) {
        let answering: Vec<_> = self
            .status
            .nodes
            .iter()
            .filter(|node| node.entry.status.is_live() && node.report.is_some())
            .collect();
        for node in &answering {
            let deaf: Vec<_> = answering
                .iter()
                .filter(|other| {
                    let mut hears = other.report.iter().map(|report| &report.hears);
                    other.entry.id != node.entry.id
                        && !hears.any(|hears| hears.contains(&node.entry.id))
                })
                .map(|other| &other.name)
                .collect();
            if deaf.is_empty() {
                continue;
            }
            findings.push(Finding {
                hint: Some(format!(
                    "let UDP through between them and {}",
                    node.entry.peer
                )),
                node: Some(node.name.clone()),
                ..warning(format!(
                    "gossip of node {} does not reach {}: failures may be noticed late",
                    node.name,
                    some(&deaf)
                ))
            });
        }
    }

    fn few_copies(&self, findings: &mut Vec<Finding>) {
        let few = self.ailing.iter().filter(|ailing| {
            let record = &ailing.record;
            let moving = !record.adding.is_empty() || !record.removing.is_empty();
            !moving && record.replicas.len() < ailing.replication_factor as usize
        });
        let few: Vec<_> = few.map(|ailing| &ailing.partition).collect();
        if few.is_empty() {
            return;
        }
        let nodes = self.status.nodes.iter();
        let nodes = nodes.filter(|node| node.entry.status.is_live()).count();
        findings.push(Finding {
            topic: one_topic(few.iter().map(|partition| &partition.topic)),
            ..notice(format!(
                "{} {} fewer copies than {} want{}; {} at work",
                partitions(few.iter().copied()),
                verb(few.len(), "has", "have"),
                verb(few.len(), "its topic", "their topics"),
                verb(few.len(), "s", ""),
                match nodes {
                    1 => "one node is".into(),
                    _ => format!("{nodes} nodes are"),
                }
            ))
        });
    }

    fn versions(&self, findings: &mut Vec<Finding>) {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in &self.status.nodes {
            if let Some(report) = &node.report {
                versions
                    .entry(&report.version)
                    .or_default()
                    .push(&node.name);
            }
        }
        if versions.len() < 2 {
            return;
        }
        let versions: Vec<String> = versions
            .iter()
            .map(|(version, nodes)| format!("{version} on {}", some(nodes)))
            .collect();
        findings.push(notice(format!(
            "the nodes run different versions: {}",
            versions.join("; ")
        )));
    }
}

fn finding(severity: Severity, text: String) -> Finding {
    Finding {
        severity,
        text,
        hint: None,
        node: None,
        topic: None,
    }
}

fn critical(text: String) -> Finding {
    finding(Severity::Critical, text)
}

fn warning(text: String) -> Finding {
    finding(Severity::Warning, text)
}

fn notice(text: String) -> Finding {
    finding(Severity::Notice, text)
}

/// The topic, if all are of one.
fn one_topic<'a>(mut topics: impl Iterator<Item = &'a TopicName>) -> Option<TopicName> {
    let first = topics.next()?;
    topics.all(|topic| topic == first).then(|| first.clone())
}

fn verb<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    match count {
        1 => one,
        _ => many,
    }
}

fn plural(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// `a, b and c`, or another last word.
fn joined<T: Display>(things: impl IntoIterator<Item = T>, last: &str) -> String {
    let mut things: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    match things.pop() {
        None => String::new(),
        Some(only) if things.is_empty() => only,
        Some(end) => format!("{} {last} {end}", things.join(", ")),
    }
}

fn list<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    joined(things, "and")
}

fn alternatives<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    joined(things, "or")
}

/// The first few by name, the others as a number.
fn some<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    let things: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    if things.len() <= NAMED + 1 {
        return list(things);
    }
    let more = things.len() - NAMED;
    format!("{} and {more} more", things[..NAMED].join(", "))
}

/// The first few partitions by name, the others as a number.
fn partitions<'a>(names: impl Iterator<Item = &'a TopicPartition>) -> String {
    let names: Vec<_> = names.collect();
    format!(
        "{} {}",
        verb(names.len(), "partition", "partitions"),
        some(names)
    )
}

/// A span of milliseconds in its greatest unit.
fn span(ms: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)];
    let unit = units.iter().find(|(_, size)| 2 * size <= ms);
    let (unit, size) = unit.copied().unwrap_or(("s", 1_000));
    format!("{} {unit}", ms / size)
}

#[cfg(test)]
mod tests;
