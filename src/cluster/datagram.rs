//! Sealed datagrams: what gossip travels in.
//!
//! Each is sealed under a key of the cluster secret (AES-256-GCM) and bound to its head: who sent
//! it in which session, its number there, and the session of whom it is for. A session is a random
//! number that a process draws when it starts. So a datagram counts once, and only for the process
//! that it was sent to: what was recorded before a restart of either side means nothing after it.
//! No clock is involved (PROTOCOL C1).
//!
//! Who does not know the receiver's session is answered with it, in a datagram no longer than the
//! shortest one, and gossips again; that answer is itself for one session only.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use aes_gcm::aead::{AeadInOut, Generate, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use super::Refused;
use crate::types::NodeId;

const VERSION: u8 = 1;
/// Version, kind, node, session, number, session of the receiver.
const HEAD_BYTES: usize = 1 + 1 + 4 + 8 + 8 + 8;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Where the content begins.
const CONTENT_AT: usize = HEAD_BYTES + NONCE_BYTES;
/// What UDP over IPv4 carries.
pub(super) const DATAGRAM_BYTES: usize = 65_507;
/// Numbers below the highest seen that are still taken: datagrams overtake each other.
const WINDOW: u64 = 128;
/// Sessions of one node that are remembered. More than one matters only around its restart.
const SESSIONS: usize = 8;
/// Nodes and addresses that are remembered. Only holders of the secret make entries.
const NODES: usize = 4096;

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Carries gossip.
    Gossip = 0,
    /// Tells the session of the sender to somebody who did not know it.
    Session = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: Kind,
    node: NodeId,
    session: u64,
    number: u64,
    to_session: u64,
}

impl Head {
    fn write(self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let fields = [VERSION, self.kind as u8]
            .into_iter()
            .chain(self.node.0.to_be_bytes())
            .chain(self.session.to_be_bytes())
            .chain(self.number.to_be_bytes())
            .chain(self.to_session.to_be_bytes());
        for (byte, field) in head.iter_mut().zip(fields) {
            *byte = field;
        }
        head
    }

    fn read(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (front, rest) = head.split_first_chunk::<2>()?;
        let kind = match front {
            [VERSION, 0] => Kind::Gossip,
            [VERSION, 1] => Kind::Session,
            _ => return None,
        };
        let (node, rest) = rest.split_first_chunk::<4>()?;
        let (session, rest) = rest.split_first_chunk::<8>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let to_session = rest.first_chunk::<8>()?;
        Some(Self {
            kind,
            node: NodeId(u32::from_be_bytes(*node)),
            session: u64::from_be_bytes(*session),
            number: u64::from_be_bytes(*number),
            to_session: u64::from_be_bytes(*to_session),
        })
    }
}

/// Which numbers of a session have come.
#[derive(Debug, Clone, Copy)]
struct Seen {
    session: u64,
    highest: u64,
    /// Bit `n` is `highest - n`.
    bits: u128,
}

impl Seen {
    /// Notes a number. False when it came before, or is too old to know.
    fn note(&mut self, number: u64) -> bool {
        if let Some(ahead) = number.checked_sub(self.highest).filter(|ahead| 0 < *ahead) {
            let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
            self.bits = self.bits.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest.saturating_sub(number);
        if WINDOW <= behind {
            return false;
        }
        let bit = 1_u128 << behind;
        let new = self.bits & bit == 0;
        self.bits |= bit;
        new
    }
}

/// What came in a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opened {
    /// Gossip, sealed for this process by a holder of the secret.
    Gossip(Vec<u8>),
    /// To be sent back: the sender does not know this process yet.
    Reply(Vec<u8>),
    /// Nothing to be done.
    Nothing,
}

/// Seals and opens the datagrams of one process.
pub(super) struct Sealer {
    cipher: Aes256Gcm,
    node: NodeId,
    session: u64,
    number: u64,
    /// The session of whoever receives at an address.
    known: BTreeMap<SocketAddr, u64>,
    seen: BTreeMap<NodeId, VecDeque<Seen>>,
    refused: Refused,
}

impl Sealer {
    pub(super) fn new(key: &Zeroizing<[u8; 32]>, node: NodeId, refused: Refused) -> Self {
        Self {
            cipher: Aes256Gcm::new((&**key).into()),
            node,
            session: u64::from_be_bytes(<[u8; 8]>::generate()),
            number: 0,
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
            refused,
        }
    }

    /// The datagram that carries this gossip to that address; none when it would be too long.
    pub(super) fn seal(&mut self, to: SocketAddr, gossip: &[u8]) -> Option<Vec<u8>> {
        let to_session = self.known.get(&to).copied().unwrap_or_default();
        self.seal_as(Kind::Gossip, to_session, gossip)
    }

    fn seal_as(&mut self, kind: Kind, to_session: u64, content: &[u8]) -> Option<Vec<u8>> {
        if DATAGRAM_BYTES < CONTENT_AT + content.len() + TAG_BYTES {
            return None;
        }
        self.number += 1;
        let head = Head {
            kind,
            node: self.node,
            session: self.session,
            number: self.number,
            to_session,
        }
        .write();
        // Random: a node sends far fewer than the 2^32 datagrams for which that is safe between
        // two changes of the secret.
        let nonce = Nonce::generate();
        let mut datagram = Vec::with_capacity(CONTENT_AT + content.len() + TAG_BYTES);
        datagram.extend_from_slice(&head);
        datagram.extend_from_slice(&nonce);
        datagram.extend_from_slice(content);
        let sealed = datagram.get_mut(CONTENT_AT..)?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &head, sealed.into())
            .ok()?;
        datagram.extend_from_slice(&tag);
        Some(datagram)
    }

    /// Opens what came from that address.
    pub(super) fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Opened {
        let Some((head, content)) = self.authentic(datagram) else {
            self.refused.datagram();
            return Opened::Nothing;
        };
        if head.to_session != self.session {
            // It may be a replay of what was meant for an earlier process: nothing of it is used
            // but the address and session to answer to.
            return match head.kind {
                Kind::Gossip => self
                    .seal_as(Kind::Session, head.session, &[])
                    .map_or(Opened::Nothing, Opened::Reply),
                Kind::Session => Opened::Nothing,
            };
        }
        if !self.first(head) {
            self.refused.datagram();
            return Opened::Nothing;
        }
        if NODES <= self.known.len() && !self.known.contains_key(&from) {
            self.known.clear();
        }
        self.known.insert(from, head.session);
        match head.kind {
            Kind::Gossip => Opened::Gossip(content),
            Kind::Session => Opened::Nothing,
        }
    }

    /// Head and content, if a holder of the secret has sealed them so.
    fn authentic(&self, datagram: &[u8]) -> Option<(Head, Vec<u8>)> {
        let (head, rest) = datagram.split_first_chunk::<HEAD_BYTES>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        // Before the cipher: what is no datagram of ours costs nothing.
        let fields = Head::read(head).filter(|fields| fields.node != self.node)?;
        let mut content = sealed.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &Nonce::from(*nonce),
                head,
                content.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .ok()?;
        Some((fields, content))
    }

    /// Whether this datagram comes for the first time.
    fn first(&mut self, head: Head) -> bool {
        if NODES <= self.seen.len() && !self.seen.contains_key(&head.node) {
            return false;
        }
        let sessions = self.seen.entry(head.node).or_default();
        if let Some(seen) = sessions.iter_mut().find(|s| s.session == head.session) {
            return seen.note(head.number);
        }
        if sessions.len() == SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(Seen {
            session: head.session,
            highest: head.number,
            bits: 1,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(node: u32) -> Sealer {
        Sealer::new(&Zeroizing::new([7; 32]), NodeId(node), Refused::default())
    }

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Two processes that know each other's session, at the addresses 1 and 2.
    fn acquainted() -> (Sealer, Sealer) {
        let (mut one, mut two) = (sealer(1), sealer(2));
        let first = one.seal(at(2), b"hi").unwrap();
        let Opened::Reply(reply) = two.open(at(1), &first) else {
            panic!("a stranger's datagram was taken, or not answered");
        };
        assert!(reply.len() <= first.len());
        assert_eq!(one.open(at(2), &reply), Opened::Nothing);
        (one, two)
    }

    fn gossip(text: &str) -> Opened {
        Opened::Gossip(text.into())
    }

    #[test]
    fn gossip_arrives_once_both_know_each_other_and_only_once() {
        let (mut one, mut two) = acquainted();
        let datagram = one.seal(at(2), b"news").unwrap();
        assert_eq!(two.open(at(1), &datagram), gossip("news"));
        // What answers it needs no introduction.
        let answer = two.seal(at(1), b"more").unwrap();
        assert_eq!(one.open(at(2), &answer), gossip("more"));
        for from in [1, 3] {
            assert_eq!(two.open(at(from), &datagram), Opened::Nothing);
        }
        assert_eq!((one.refused.datagrams(), two.refused.datagrams()), (0, 2));
    }

    #[test]
    fn datagrams_may_overtake_each_other_but_not_by_far() {
        let (mut one, mut two) = acquainted();
        let sent: Vec<_> = (0..300)
            .map(|n| one.seal(at(2), format!("{n}").as_bytes()).unwrap())
            .collect();
        assert_eq!(two.open(at(1), &sent[200]), gossip("200"));
        assert_eq!(two.open(at(1), &sent[199]), gossip("199"));
        assert_eq!(two.open(at(1), &sent[73]), gossip("73"));
        assert_eq!(two.open(at(1), &sent[72]), Opened::Nothing);
        assert_eq!(two.open(at(1), &sent[199]), Opened::Nothing);
        assert_eq!(two.open(at(1), &sent[299]), gossip("299"));
        assert_eq!(two.open(at(1), &sent[200]), Opened::Nothing);
        assert_eq!(two.open(at(1), &sent[201]), gossip("201"));
    }

    #[test]
    fn what_was_for_an_earlier_process_means_nothing_to_its_successor() {
        let (mut one, mut two) = acquainted();
        let recorded = one.seal(at(2), b"old").unwrap();
        assert_eq!(two.open(at(1), &recorded), gossip("old"));
        let mut restarted = sealer(2);
        let outcome = restarted.open(at(1), &recorded);
        assert!(matches!(outcome, Opened::Reply(_)), "{outcome:?}");
        // The reply is for the process that had sent it, and for no other.
        let Opened::Reply(reply) = outcome else {
            return;
        };
        let mut other = sealer(1);
        assert_eq!(other.open(at(2), &reply), Opened::Nothing);
        assert!(other.known.is_empty());
        assert_eq!(one.open(at(2), &reply), Opened::Nothing);
        let fresh = one.seal(at(2), b"new").unwrap();
        assert_eq!(restarted.open(at(1), &fresh), gossip("new"));
    }

    #[test]
    fn a_datagram_that_is_changed_cut_or_forged_changes_nothing() {
        let (mut one, mut two) = acquainted();
        let datagram = one.seal(at(2), b"news").unwrap();
        let (known, refused) = (two.known.clone(), two.refused.datagrams());
        let mut count = 0;
        let mut drop = |two: &mut Sealer, bytes: &[u8]| {
            assert_eq!(two.open(at(9), bytes), Opened::Nothing, "{bytes:?}");
            count += 1;
            assert_eq!(two.refused.datagrams(), refused + count);
        };
        for at in 0..datagram.len() {
            drop(&mut two, &datagram[..at]);
            for bit in 0..8 {
                let mut changed = datagram.clone();
                changed[at] ^= 1 << bit;
                drop(&mut two, &changed);
            }
        }
        let mut longer = datagram.clone();
        longer.push(0);
        drop(&mut two, &longer);
        let other_key = Zeroizing::new([8; 32]);
        let mut stranger = Sealer::new(&other_key, NodeId(1), Refused::default());
        stranger.session = one.session;
        stranger.known.insert(at(2), two.session);
        stranger.number = 1000;
        let forged = stranger.seal(at(2), b"lies").unwrap();
        drop(&mut two, &forged);
        // Its own, thrown back at it.
        let own = two.seal(at(1), b"mine").unwrap();
        drop(&mut two, &own);
        assert_eq!(two.known, known);
        assert_eq!(two.open(at(1), &datagram), gossip("news"));
    }

    #[test]
    fn what_udp_does_not_carry_is_not_sealed() {
        let mut one = sealer(1);
        let most = DATAGRAM_BYTES - CONTENT_AT - TAG_BYTES;
        assert_eq!(
            one.seal(at(2), &vec![0; most]).unwrap().len(),
            DATAGRAM_BYTES
        );
        assert_eq!(one.seal(at(2), &vec![0; most + 1]), None);
    }
}
