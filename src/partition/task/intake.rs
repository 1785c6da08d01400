//! What comes in: messages, and what the metadata says the task is to do.

use super::*;
use crate::partition::follow::Heard;
use crate::partition::{Ready, Upstream};
use crate::types::NodeId;

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
                early_until: None,
            }),
            Message::GiveUpEarly => self.give_up(),
            Message::Assume(assignment) => self.assume(assignment),
            Message::Upstream(Upstream { leader, requests }) => {
                self.upstreams.insert(leader, requests);
                self.way_changed(leader);
            }
            Message::UpstreamLost(Upstream { leader, requests }) => {
                let known = self.upstreams.get(&leader);
                if known.is_some_and(|known| known.same_channel(&requests)) {
                    self.upstreams.remove(&leader);
                    self.way_changed(leader);
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
                    Role::Lead(lead) if self.epochs_known => {
                        lead.fetched(fetch, wants, session, &own, &self.epochs, now_ms)
                    }
                    // The first follower of a log that was alone: it asks again in a moment.
                    Role::Lead(_) if wants => {
                        let _ = session.send(Ready {
                            from: own,
                            fetch,
                            answer: FetchAnswer::UnknownEpoch,
                        });
                    }
                    Role::Lead(_) => {}
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
                room,
            } => {
                if let Role::Follow(follow) = &mut self.role {
                    follow.heard(Heard {
                        request,
                        answer,
                        batches,
                        room,
                    });
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
            // One that waits does for all.
            Message::Maintain(_)
                if self
                    .upkeep
                    .iter()
                    .any(|waits| matches!(waits, Message::Maintain(_))) => {}
            upkeep => self.upkeep.push_back(upkeep),
        }
    }

    fn way_changed(&mut self, to: NodeId) {
        let own = self.own();
        if let Role::Follow(follow) = &mut self.role {
            follow.way_changed(to);
            own.iter()
                .for_each(|own| follow.ask(own, &self.epochs, &self.upstreams));
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
        self.caught_up = false;
        self.seen.send_if_modified(|seen| {
            seen.caught_up = false;
            std::mem::take(&mut seen.leads)
        });
        for waiting in std::mem::take(&mut self.appends) {
            let _ = waiting.reply.send(Err(AppendError::NotLeader {
                partition: self.shared.name.clone(),
            }));
        }
    }

    /// Takes up what the metadata says. The log is at hand.
    pub(super) fn take_up(&mut self, log: &mut PartitionLog) {
        let reign = match &self.role {
            Role::Lead(lead) if !self.epochs_known && !lead.is_alone() => Some(lead.epoch()),
            _ => None,
        };
        let followed = self.assignment.as_ref();
        if reign.is_some()
            || followed.is_some_and(|assignment| 1 < assignment.view.record.replicas.len())
        {
            self.epochs = match epochs(log) {
                Ok(epochs) => epochs,
                Err(error) => return self.offline(&chain(&error)),
            };
            self.epochs_known = true;
            if let Some(reign) = reign {
                self.epochs.assign(reign, log.log_end());
            }
        }
        let Some(assignment) = self.assignment.take() else {
            return;
        };
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
        match std::mem::replace(&mut self.role, Role::None) {
            Role::Follow(mut follow) if !leads => {
                let reign = follow.core.record().leader_epoch;
                follow.core.view_changed(record.clone());
                if follow.core.record().leader_epoch != reign {
                    follow.reign_changed();
                }
                self.role = Role::Follow(follow);
            }
            Role::Follow(_) | Role::None | Role::Lead(_) => {}
        }
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
            self.role = Role::Follow(Box::new(Follow::new(core)));
        }
        self.caught_up = false;
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
