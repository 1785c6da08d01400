//! What the controller does, and what goes wrong.

use super::*;

impl World {
    pub(super) fn decide(&mut self, from: usize, message: Message) {
        match message {
            Message::Alter {
                partition,
                request,
                process,
            } => {
                let answer = self
                    .controller
                    .alter(partition, &request, &mut self.history);
                let answered = Message::Altered {
                    partition,
                    attempt: request.attempt,
                    process,
                    answer,
                };
                self.send(CONTROLLER, from, answered);
            }
            Message::Register { process, lossy } => self.register(from, process, lossy),
            _ => {}
        }
    }

    fn register(&mut self, from: usize, process: u64, lossy: bool) {
        if process < self.processes[from] {
            return;
        }
        let id = self.nodes[from].id;
        let incarnation = match self.processes[from] == process {
            true => self.controller.now.nodes[from].incarnation,
            false => {
                let replicated = self.controller.now.durability == Durability::Replicated;
                let lossy = lossy && replicated && self.mutant != Some(Mutant::NoFsyncAck);
                self.controller.register(id, lossy, &mut self.history)
            }
        };
        self.processes[from] = process;
        let version = self.controller.version();
        let registered = Message::Registered {
            process,
            incarnation,
            version,
        };
        self.send(CONTROLLER, from, registered);
    }

    pub(super) fn detect(&mut self) {
        for at in 0..NODES {
            let node = &self.nodes[at];
            let cut = self.in_trouble() && self.cut.contains(&(at, CONTROLLER));
            let answers = node.answers(self.now) && !cut;
            let unfenced = self.controller.now.nodes[at].unfenced;
            let ready = node.is_registered(&self.controller.now)
                && self.controller.registered[at] <= node.applied;
            let id = node.id;
            if answers {
                self.silent[at] = None;
                if !unfenced && ready && self.rng.percent(50) {
                    self.controller.unfence(id, &mut self.history);
                }
                continue;
            }
            let since = *self.silent[at].get_or_insert(self.now);
            if unfenced && since + 100 <= self.now && self.rng.percent(50) {
                self.controller.fence(id, &mut self.history);
            }
        }
    }

    pub(super) fn trouble(&mut self) {
        let node = self.any();
        let id = self.nodes[node].id;
        let fsync = self.controller.now.durability == Durability::Fsync;
        match self.rng.below(100) {
            0..25 => {
                let power = self.rng.percent(60);
                self.crash(node, power);
            }
            25..40 => {
                self.history.seen.pauses += 1;
                let wait = self.rng.between(20, 400);
                self.nodes[node].paused_until = self.now + wait;
            }
            40..55 => {
                self.history.seen.false_alarms += 1;
                self.controller.fence(id, &mut self.history);
            }
            55..75 => self.part(node),
            75..88 => {
                let partition = self.any_partition();
                self.controller
                    .move_leader(partition, id, &mut self.history);
            }
            88..94 if fsync => {
                let partition = self.any_partition();
                let mut target: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
                target.rotate_left(node);
                target.truncate(2 + self.rng.below(2) as usize);
                match self.rng.percent(50) {
                    true => self.controller.rebalance(&mut self.history),
                    false => self
                        .controller
                        .reassign(partition, &target, &mut self.history),
                }
            }
            94..97 if fsync => (0..NODES).for_each(|node| self.crash(node, true)),
            97.. if fsync && self.mutant.is_none() => {
                let min = 1 + self.rng.below(2) as u32;
                self.controller.set_min(min, &mut self.history);
            }
            _ => {}
        }
    }

    /// Some links lose everything for a while, perhaps in one direction only.
    fn part(&mut self, node: usize) {
        let both = self.rng.percent(50);
        let lasts = self.rng.between(50, 500);
        for other in (0..=CONTROLLER).filter(|other| *other != node) {
            if self.rng.percent(30) {
                continue;
            }
            let mut links = vec![(node, other)];
            if both {
                links.push((other, node));
            }
            for (from, to) in links {
                self.cut.insert((from, to));
                self.after(lasts, Event::Mend(from, to));
            }
        }
    }

    /// A killed process leaves the page cache behind; a power cut takes some or all of it.
    fn crash(&mut self, node: usize, power: bool) {
        if !self.nodes[node].up || self.crashes == 0 {
            return;
        }
        self.crashes -= 1;
        match power {
            true => self.history.seen.power_cuts += 1,
            false => self.history.seen.kills += 1,
        }
        let rng = &mut self.rng;
        self.nodes[node].crash(|unsynced| match power {
            true if rng.percent(50) => 0,
            true => rng.below(unsynced as u64 + 1) as usize,
            false => unsynced,
        });
        self.nodes[node].lossy = true;
        self.history.dirty = true;
        let wait = self.rng.between(10, 400);
        self.after(wait, Event::Restart(node));
    }

    pub(super) fn restart(&mut self, node: usize) {
        self.nodes[node].start();
        let resumes = self.mutant == Some(Mutant::SameEpochRestart) && self.rng.percent(70);
        if !resumes {
            self.nodes[node].incarnation = None;
        } else if self.nodes[node].incarnation.is_some() {
            let applied = self.nodes[node].applied;
            self.apply(node, applied);
        }
    }
}
