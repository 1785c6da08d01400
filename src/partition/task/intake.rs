//! What comes in: messages, and what the metadata says the task is to do.

use super::*;
use crate::partition::Ready;

impl Task {
    /// Takes one message in: at once what needs no log, for later what does.
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Append {
                request,
                acks,
                reply,
                room,
            } => self.admit(Waiting {
                request,
                acks,
                reply,
                room,
            }),
            Message::Assume(assignment) => self.assume(assignment),
            Message::Upstream(upstream) => {
                let own = self.own();
                match &mut self.role {
                    Role::Follow(follow) => {
                        follow.upstream(upstream);
                        own.iter().for_each(|own| follow.ask(own, &self.epochs));
                    }
                    // A leader needs no way to itself; it is told anew once it follows.
                    Role::None | Role::Lead(_) => {}
                }
            }
            Message::Fetch {
                fetch,
                wants,
                session,
            } => {
                let (own, now_ms) = (self.own(), self.now_ms());
                let Some(own) = own else { return };
                match &mut self.role {
                    Role::Lead(lead) => {
                        lead.fetched(fetch, wants, session, &own, &self.epochs, now_ms)
                    }
                    Role::None | Role::Follow(_) if wants => {
                        let _ = session.send(Ready {
                            from: own,
                            fetch,
                            answer: FetchAnswer::NotLeader,
                        });
                    }
                    Role::None | Role::Follow(_) => {}
                }
            }
            Message::Copied {
                request,
                answer,
                batches,
            } => {
                if let Role::Follow(follow) = &mut self.role {
                    follow.heard(request, answer, batches);
                }
            }
            Message::AlterAnswered { attempt, answer } => {
                if let Role::Lead(lead) = &mut self.role {
                    lead.with(|core, effects| core.alter_answered(attempt, answer, effects));
                }
            }
            Message::Replicas(reply) => {
                let progress = match &self.role {
                    Role::Lead(lead) => {
                        let own = lead.core.record().leader.unwrap_or_default();
                        lead.replicas(own)
                    }
                    Role::None | Role::Follow(_) => Vec::new(),
                };
                let _ = reply.send(progress);
            }
            Message::Close { reply } => self.ending = Some(End::Close(reply)),
            Message::Destroy { reply } => self.ending = Some(End::Destroy(reply)),
            upkeep => self.upkeep.push_back(upkeep),
        }
    }

    /// A1: what cannot be appended is refused before it touches the log.
    fn admit(&mut self, waiting: Waiting) {
        let partition = || self.shared.name.clone();
        let refused = match &self.role {
            Role::None | Role::Follow(_) => Some(AppendError::NotLeader {
                partition: partition(),
            }),
            Role::Lead(lead) => match waiting.acks {
                // H4: the end that an earlier leader promised is not known yet.
                _ if waiting.request.expected.is_some() && !lead.core.caught_up() => {
                    Some(AppendError::NotLeader {
                        partition: partition(),
                    })
                }
                Acks::All if !lead.core.can_append_acks_all() => {
                    let record = lead.core.record();
                    Some(AppendError::NotEnoughReplicas {
                        partition: partition(),
                        in_sync: record.isr.len(),
                        min: lead.core.min_insync(),
                    })
                }
                _ => None,
            },
        };
        match refused {
            Some(error) => {
                let _ = waiting.reply.send(Err(error));
            }
            None => self.appends.push_back(waiting),
        }
    }

    fn assume(&mut self, assignment: Box<Assignment>) {
        self.durability = assignment.view.durability;
        if let Role::Lead(lead) = &mut self.role {
            let mut goes_on = false;
            let view = assignment.view.clone();
            lead.with(|core, effects| goes_on = core.view_changed(view, effects));
            if goes_on {
                return;
            }
            self.depose();
        }
        self.assignment = Some(assignment);
    }

    fn depose(&mut self) {
        if let Role::Lead(lead) = std::mem::replace(&mut self.role, Role::None) {
            lead.depose(&self.shared);
        }
        self.seen
            .send_if_modified(|seen| std::mem::take(&mut seen.leads));
        for waiting in std::mem::take(&mut self.appends) {
            let _ = waiting.reply.send(Err(AppendError::NotLeader {
                partition: self.shared.name.clone(),
            }));
        }
    }

    /// Takes up what the metadata says. The log is at hand.
    pub(super) fn take_up(&mut self, log: &mut PartitionLog) {
        let Some(assignment) = self.assignment.take() else {
            return;
        };
        if 1 < assignment.view.record.replicas.len() {
            self.epochs = match epochs(log) {
                Ok(epochs) => epochs,
                Err(error) => return self.offline(&chain(&error)),
            };
        }
        let Assignment {
            node,
            incarnation,
            view,
        } = *assignment;
        let position = LogPosition {
            log_end: log.log_end(),
            durable_end: log.durable_end(),
            high_watermark: self.shared.reader.high_watermark(),
        };
        self.must_sync = position.durable_end < position.log_end;
        let record = view.record.clone();
        let leads = record.leader == Some(node);
        let upstream = match std::mem::replace(&mut self.role, Role::None) {
            Role::Follow(mut follow) if !leads => {
                let reign = follow.core.record().leader_epoch;
                follow.core.view_changed(record.clone());
                if follow.core.record().leader_epoch != reign {
                    follow.reign_changed();
                }
                self.role = Role::Follow(follow);
                None
            }
            Role::Follow(follow) => follow.into_upstream(),
            Role::None | Role::Lead(_) => None,
        };
        if leads {
            // From here on the log's records are this reign's, also those that are not synced yet.
            self.epochs.assign(record.leader_epoch, position.log_end);
            let timing = Timing::default();
            let now_ms = self.now_ms();
            let mut lead = Lead::new(Leader::new(
                node,
                incarnation,
                view,
                position,
                timing,
                now_ms,
            ));
            lead.with(|core, effects| core.synced(position.durable_end, effects));
            self.role = Role::Lead(Box::new(lead));
        } else if matches!(self.role, Role::None) {
            let core = Follower::new(node, incarnation, record.clone(), position);
            self.role = Role::Follow(Box::new(Follow::new(core, upstream)));
        }
        self.seen.send_replace(Seen {
            leads,
            caught_up: false,
            leader: record.leader,
            epoch: record.leader_epoch,
        });
        if let Some(reached) = self.settle() {
            self.publish(reached);
        }
    }
}
