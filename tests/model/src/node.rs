//! Replicas, sets of them, and one value for each.

use std::ops::{Index, IndexMut};

/// How many replicas the partition has.
pub(crate) const REPLICAS: usize = 3;

/// One of the replicas, and the node that bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub(crate) u8);

impl Node {
    pub(crate) const ALL: [Self; REPLICAS] = [Self(0), Self(1), Self(2)];

    pub(crate) fn next(self) -> Self {
        Self((self.0 + 1) % REPLICAS as u8)
    }
}

/// A set of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Nodes(u8);

impl Nodes {
    pub(crate) const NONE: Self = Self(0);
    /// Every replica.
    pub const EVERY: Self = Self(0b111);
    /// The first two.
    pub const TWO: Self = Self(0b011);

    pub(crate) fn of(node: Node) -> Self {
        Self(1 << node.0)
    }

    pub(crate) fn contains(self, node: Node) -> bool {
        self.0 & (1 << node.0) != 0
    }

    pub(crate) fn with(self, node: Node) -> Self {
        Self(self.0 | 1 << node.0)
    }

    pub(crate) fn without(self, node: Node) -> Self {
        Self(self.0 & !(1 << node.0))
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Node> {
        Node::ALL
            .into_iter()
            .filter(move |node| self.contains(*node))
    }
}

/// One value for each replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct PerNode<T>(pub(crate) [T; REPLICAS]);

impl<T> Index<Node> for PerNode<T> {
    type Output = T;

    fn index(&self, node: Node) -> &T {
        &self.0[usize::from(node.0)]
    }
}

impl<T> IndexMut<Node> for PerNode<T> {
    fn index_mut(&mut self, node: Node) -> &mut T {
        &mut self.0[usize::from(node.0)]
    }
}
