//! What nodes do: sync, fetch, serve, lead.

use super::*;

impl World {
    pub(super) fn tick(&mut self, node: usize) {
        if self.nodes[node].incarnation.is_none() {
            let process = self.nodes[node].process;
            let lossy = self.nodes[node].lossy;
            return self.send(node, CONTROLLER, Message::Register { process, lossy });
        }
        if self.rng.percent(10) {
            let version = self.controller.version();
            self.send(CONTROLLER, node, Message::State { version });
        }
        for partition in 0..self.nodes[node].copies.len() {
            self.begin_sync(node, partition);
            let now = self.now;
            let give_up =
                self.mutant == Some(Mutant::ClearPendingOnTimeout) && self.rng.percent(20);
            let retried = self.lead(node, partition, |leader, _, effects| {
                if give_up {
                    leader.pending = None;
                    return false;
                }
                let waited = leader.pending.is_some();
                leader.tick(now, effects);
                waited && !effects.is_empty()
            });
            self.history.seen.retried += u64::from(retried == Some(true));
            let asked_at = self.nodes[node].copies[partition].asked_at;
            if asked_at.is_none_or(|at| at + 60 <= self.now) {
                self.fetch(node, partition, true);
            }
        }
    }

    fn begin_sync(&mut self, node: usize, partition: usize) {
        let process = self.nodes[node].process;
        let copy = &mut self.nodes[node].copies[partition];
        let (version, end) = (copy.log.version, copy.log.entries.len());
        if copy.syncing || end <= copy.log.durable {
            return;
        }
        copy.syncing = true;
        let takes = match self.in_trouble() && self.rng.percent(15) {
            true => self.rng.between(20, 300),
            false => self.rng.between(1, 12),
        };
        let synced = Event::Synced {
            node,
            partition,
            process,
            version,
            end,
        };
        self.after(takes, synced);
    }

    pub(super) fn synced(&mut self, node: usize, partition: usize, version: u64, end: usize) {
        let copy = &mut self.nodes[node].copies[partition];
        copy.syncing = false;
        if copy.log.version == version {
            copy.log.durable = copy.log.durable.max(end);
        }
        let durable = Offset(copy.log.durable as u64);
        if self.rng.percent(30) {
            copy.checkpoint = copy.hwm().min(copy.log.durable);
        }
        if let Role::Follower(follower) = &mut copy.role {
            follower.synced(durable);
            // F4.
            self.fetch(node, partition, false);
        }
        self.lead(node, partition, |leader, _, effects| {
            leader.synced(durable, effects)
        });
    }

    fn fetch(&mut self, node: usize, partition: usize, wants: bool) {
        let process = self.nodes[node].process;
        let copy = &mut self.nodes[node].copies[partition];
        let Role::Follower(follower) = &copy.role else {
            return;
        };
        let Some((leader, fetch)) = follower.request(copy.log.epochs.last_epoch()) else {
            return;
        };
        if wants {
            copy.asked_at = Some(self.now);
        }
        let message = Message::Fetch {
            partition,
            fetch,
            process,
            wants,
        };
        self.send(node, index(leader), message);
    }

    pub(super) fn produce(&mut self) {
        let (node, partition) = (self.any(), self.any_partition());
        let leader_only = self.rng.percent(40);
        if !self.nodes[node].answers(self.now) {
            return;
        }
        let copy = &mut self.nodes[node].copies[partition];
        let Role::Leader(leader) = &copy.role else {
            return;
        };
        // A1: acks=leader is taken all the same, which makes logs differ.
        if !leader.can_append_acks_all() {
            self.history.seen.refused_below_min += 1;
            if !leader_only {
                return;
            }
        }
        self.values += 1;
        let value = self.values;
        copy.log.push(Entry {
            epoch: leader.epoch(),
            value,
        });
        self.history.seen.appended += 1;
        self.history.wrote(partition, &copy.log.entries);
        copy.waiting.push_back((copy.log.entries.len(), value));
        let end = copy.log.end();
        let unsynced = self.mutant == Some(Mutant::LeaderCountsUnsynced);
        self.lead(node, partition, |leader, _, effects| {
            leader.appended(end, effects);
            if unsynced {
                leader.synced(end, effects);
            }
        });
    }

    /// Calls a leader, if the node leads, and does what it says.
    fn lead<R>(
        &mut self,
        node: usize,
        partition: usize,
        call: impl FnOnce(&mut Leader, &Log, &mut Vec<Effect>) -> R,
    ) -> Option<R> {
        let copy = &mut self.nodes[node].copies[partition];
        let Role::Leader(leader) = &mut copy.role else {
            return None;
        };
        let from = leader.log().high_watermark.0 as usize;
        let mut effects = Vec::new();
        let result = call(leader, &copy.log, &mut effects);
        if self.mutant == Some(Mutant::NoMaximalIsr) && leader.can_append_acks_all() {
            let pending = leader.pending.take();
            let log = leader.log();
            leader.appended(log.log_end, &mut effects);
            leader.pending = pending;
        }
        self.perform(node, partition, from, effects);
        Some(result)
    }

    fn perform(&mut self, node: usize, partition: usize, from: usize, effects: Vec<Effect>) {
        let mut from = from;
        for effect in effects {
            match effect {
                Effect::HighWatermark(to) => {
                    let copy = &self.nodes[node].copies[partition];
                    let Role::Leader(leader) = &copy.role else {
                        continue;
                    };
                    let own = &copy.log.entries;
                    self.history
                        .high_watermark(partition, leader, from, &self.nodes, own);
                    from = to.0 as usize;
                }
                Effect::ProposeIsr(request) => {
                    let process = self.nodes[node].process;
                    let message = Message::Alter {
                        partition,
                        request,
                        process,
                    };
                    self.send(node, CONTROLLER, message);
                }
            }
        }
        let copy = &mut self.nodes[node].copies[partition];
        let Role::Leader(leader) = &copy.role else {
            return;
        };
        while let Some((end, value)) = copy.waiting.front().copied() {
            if !leader.acks_all_done(Offset(end as u64)) {
                break;
            }
            copy.waiting.pop_front();
            self.history.acknowledged(partition, end - 1, value);
        }
    }

    pub(super) fn apply(&mut self, node: usize, version: usize) {
        self.nodes[node].applied = version;
        for partition in 0..self.nodes[node].copies.len() {
            let from = self.nodes[node].copies[partition].hwm();
            let state = &self.controller.states[version];
            let history = &mut self.history;
            let effects = self.nodes[node].apply(partition, state, self.mutant, self.now, history);
            self.perform(node, partition, from, effects);
        }
    }

    pub(super) fn hear(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::State { version } => {
                let node = &self.nodes[to];
                if node.incarnation.is_some() && node.applied < version {
                    self.apply(to, version);
                }
            }
            Message::Registered {
                process,
                incarnation,
                version,
            } => {
                let node = &mut self.nodes[to];
                if node.process == process && node.incarnation.is_none() {
                    node.incarnation = Some(incarnation);
                    node.lossy = false;
                    self.apply(to, version);
                }
            }
            Message::Altered {
                partition,
                attempt,
                process,
                answer,
            } => {
                if self.nodes[to].process == process {
                    self.altered(to, partition, attempt, answer);
                }
            }
            Message::Fetch {
                partition,
                fetch,
                process,
                wants,
            } => self.serve(from, to, partition, fetch, process, wants),
            Message::Fetched {
                partition,
                request,
                process,
                answer,
                records,
            } => {
                if self.nodes[to].process == process {
                    self.fetched(to, partition, &request, &answer, &records);
                }
            }
            Message::Alter { .. } | Message::Register { .. } => {}
        }
    }

    fn altered(&mut self, node: usize, partition: usize, attempt: u64, answer: AlterAnswer) {
        let mutant = self.mutant;
        self.lead(node, partition, |leader, _, effects| {
            let known = leader.record().partition_epoch;
            match (mutant, &answer) {
                (Some(Mutant::UncorrelatedAnswer), AlterAnswer::Stale { partition_epoch })
                    if *partition_epoch == known =>
                {
                    leader.pending = None;
                }
                (Some(Mutant::RollbackWithRetryInFlight), AlterAnswer::Ineligible { .. }) => {
                    leader.pending = None;
                }
                _ => {}
            }
            leader.alter_answered(attempt, answer, effects);
        });
    }

    fn serve(
        &mut self,
        from: usize,
        to: usize,
        partition: usize,
        fetch: Fetch,
        process: u64,
        wants: bool,
    ) {
        let now = self.now;
        let served = self.lead(to, partition, |leader, log, effects| {
            let end_of = |epoch| log.end_of(epoch);
            let answer = leader.fetched(&fetch, Offset::ZERO, end_of, now, effects);
            let first = match answer {
                FetchAnswer::Ok { .. } if wants => fetch.fetch_offset.0 as usize,
                _ => log.entries.len(),
            };
            let records: Vec<Entry> = log.entries[first..].iter().take(BATCH).copied().collect();
            (answer, records)
        });
        let (answer, records) = served.unwrap_or((FetchAnswer::NotLeader, Vec::new()));
        let message = Message::Fetched {
            partition,
            request: fetch,
            process,
            answer,
            records,
        };
        self.send(to, from, message);
    }

    fn fetched(
        &mut self,
        node: usize,
        partition: usize,
        request: &Fetch,
        answer: &FetchAnswer,
        records: &[Entry],
    ) {
        let id = self.nodes[node].id;
        let copy = &mut self.nodes[node].copies[partition];
        let Role::Follower(follower) = &mut copy.role else {
            return;
        };
        let log = &mut copy.log;
        let step = follower.answered(request, answer, Offset::ZERO, |epoch| log.end_of(epoch));
        copy.asked_at = None;
        match step {
            Step::Append => {
                for entry in records {
                    log.push(*entry);
                    self.history.wrote(partition, &log.entries);
                }
                follower.appended(log.end());
                if records.is_empty() {
                    return;
                }
            }
            Step::Truncate { to } | Step::Restart { start: to } => {
                let to = to.0 as usize;
                self.history.cuts(partition, id, &log.entries, to);
                log.truncate(to);
                follower.truncated(log.end());
            }
            Step::Wait => {
                self.history.seen.late_answers += 1;
                return;
            }
            Step::Stop(refused) => {
                return self.history.expect(false, "16", || refused.to_string());
            }
        }
        self.fetch(node, partition, true);
    }
}
