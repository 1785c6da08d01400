//! What commands do to nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Change, State};
use crate::metadata::command::{Applied, Registration, Rejected};
use crate::metadata::view::{NodeEntry, NodeStatus, Successor};
use crate::types::{Incarnation, NodeId, limits};

impl State {
    /// N1 to N3.
    pub(super) fn register_node(
        &mut self,
        asked: &Registration,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let id = asked.id;
        let known = self.view.node(id).cloned();
        if let Some(known) = &known {
            // N1: another disk is another node, and its id says so; but for a chance.
            if known.disk != asked.disk {
                return Err(Rejected::NodeIdInUse { id });
            }
            if known.process == asked.process {
                return Ok(Applied::NodeRegistered(known.clone()));
            }
        }
        let namesake = self.view.nodes().find(|node| {
            node.name == asked.name && node.id != id && node.status != NodeStatus::Fenced
        });
        if let Some(namesake) = namesake {
            return Err(Rejected::NameTaken {
                name: asked.name.clone(),
                holder: namesake.id,
            });
        }
        check_address("the public address", &asked.http)?;
        check_address("the internal address", &asked.peer)?;
        check_address("the rack", asked.rack.as_deref().unwrap_or_default())?;
        if known.is_none() && limits::NODES <= self.view.nodes.len() {
            return Err(Rejected::LimitReached {
                what: "nodes".into(),
                max: limits::NODES as u64,
            });
        }

        let node = Arc::new(NodeEntry {
            id,
            name: asked.name.clone(),
            disk: asked.disk,
            process: asked.process,
            incarnation: Incarnation(self.number()),
            status: NodeStatus::Registered,
            draining: known.as_ref().is_some_and(|known| known.draining),
            successor: known.and_then(|known| known.successor),
            http: asked.http.clone(),
            peer: asked.peer.clone(),
            rack: asked.rack.clone(),
            registered_at: asked.at,
            last_clean: asked.clean,
        });
        self.put_node(node.clone(), changes);
        self.fence_partitions(id, changes);
        self.drop_eligibility(asked, changes);
        self.adopt(id, changes);
        Ok(Applied::NodeRegistered(node))
    }

    /// The first node to register in a directory of before there were clusters holds all that is
    /// in it: live topics, and deleted ones whose files may be left.
    fn adopt(&mut self, id: NodeId, changes: &mut Vec<Change>) {
        self.adopt_partitions(id, changes);
        let deleted: Vec<_> = self.view.deleted().cloned().collect();
        for deleted in deleted.iter().filter(|deleted| deleted.holders.is_empty()) {
            self.put_deleted(deleted, BTreeSet::from([id]), changes);
        }
    }

    pub(super) fn activate_node(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.registered(id, incarnation)?;
        if node.status.is_live() {
            return Ok(Applied::NodeChanged(node));
        }
        let status = if node.draining {
            NodeStatus::Draining
        } else {
            NodeStatus::Active
        };
        let node = self.set_status(&node, status, changes);
        self.unfence_partitions(id, changes);
        Ok(Applied::NodeChanged(node))
    }

    pub(super) fn fence_node(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.registered(id, incarnation)?;
        if node.status == NodeStatus::Fenced {
            return Ok(Applied::NodeChanged(node));
        }
        let node = self.set_status(&node, NodeStatus::Fenced, changes);
        self.fence_partitions(id, changes);
        Ok(Applied::NodeChanged(node))
    }

    pub(super) fn drain_node(
        &mut self,
        id: NodeId,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.known(id)?;
        let successor = node.successor;
        Ok(self.drain(&node, successor, changes))
    }

    /// N8.
    pub(super) fn replace_node(
        &mut self,
        id: NodeId,
        by: Option<NodeId>,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.known(id)?;
        let successor = match by {
            None => Successor::Any,
            Some(by) if by == id => return Err(Rejected::ReplacesItself { id }),
            Some(by) => {
                let status = self.known(by)?.status;
                if status != NodeStatus::Active {
                    return Err(Rejected::NodeNotActive { id: by, status });
                }
                Successor::Node(by)
            }
        };
        Ok(self.drain(&node, Some(successor), changes))
    }

    fn drain(
        &mut self,
        node: &Arc<NodeEntry>,
        successor: Option<Successor>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let drained = NodeEntry {
            status: match node.status {
                NodeStatus::Active => NodeStatus::Draining,
                status => status,
            },
            draining: true,
            successor,
            ..NodeEntry::clone(node)
        };
        let node = self.alter_node(node, drained, changes);
        self.hand_over(node.id, changes);
        Applied::NodeChanged(node)
    }

    pub(super) fn undrain_node(
        &mut self,
        id: NodeId,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.known(id)?;
        let undrained = NodeEntry {
            status: match node.status {
                NodeStatus::Draining => NodeStatus::Active,
                status => status,
            },
            draining: false,
            successor: None,
            ..NodeEntry::clone(&node)
        };
        let node = self.alter_node(&node, undrained, changes);
        Ok(Applied::NodeChanged(node))
    }

    pub(super) fn remove_node(
        &mut self,
        id: NodeId,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let node = self.known(id)?;
        let replicas = self.load.get(&id).map_or(0, |load| load.replicas);
        if 0 < replicas {
            return Err(Rejected::NodeHoldsReplicas { id, replicas });
        }
        // A process that is still there would go on as a node that does not exist.
        if node.status != NodeStatus::Fenced {
            return Err(Rejected::NodeAtWork { id });
        }
        Arc::make_mut(&mut self.view.nodes).remove(&id);
        changes.push(Change::RemoveNode(id));
        // It will not come back to say that its files are gone.
        let deleted: Vec<_> = self.view.deleted().cloned().collect();
        for deleted in &deleted {
            self.release_deleted(deleted, id, changes);
        }
        Ok(Applied::NodeRemoved)
    }

    fn known(&self, id: NodeId) -> Result<Arc<NodeEntry>, Rejected> {
        let node = self.view.node(id);
        node.cloned().ok_or(Rejected::NodeNotFound { id })
    }

    /// The node, if that is its newest incarnation (M6).
    pub(super) fn registered(
        &self,
        id: NodeId,
        meant: Incarnation,
    ) -> Result<Arc<NodeEntry>, Rejected> {
        let node = self.known(id)?;
        let current = node.incarnation;
        if current != meant {
            return Err(Rejected::StaleIncarnation { id, current });
        }
        Ok(node)
    }

    fn set_status(
        &mut self,
        node: &Arc<NodeEntry>,
        status: NodeStatus,
        changes: &mut Vec<Change>,
    ) -> Arc<NodeEntry> {
        let altered = NodeEntry {
            status,
            ..NodeEntry::clone(node)
        };
        self.alter_node(node, altered, changes)
    }

    fn alter_node(
        &mut self,
        node: &Arc<NodeEntry>,
        altered: NodeEntry,
        changes: &mut Vec<Change>,
    ) -> Arc<NodeEntry> {
        if **node == altered {
            return node.clone();
        }
        let node = Arc::new(altered);
        self.put_node(node.clone(), changes);
        node
    }

    fn put_node(&mut self, node: Arc<NodeEntry>, changes: &mut Vec<Change>) {
        changes.push(Change::PutNode(node.clone()));
        self.add_node(node);
    }

    /// Adds a node, in place of what was known of it.
    pub(in crate::metadata) fn add_node(&mut self, node: Arc<NodeEntry>) {
        Arc::make_mut(&mut self.view.nodes).insert(node.id, node);
    }
}

fn check_address(what: &'static str, text: &str) -> Result<(), Rejected> {
    if limits::ADDRESS_BYTES < text.len() || text.chars().any(char::is_control) {
        return Err(Rejected::InvalidAddress { what: what.into() });
    }
    Ok(())
}
