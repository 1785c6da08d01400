//! The owner of one partition's log.

mod early;
mod intake;
mod upkeep;
mod warmth;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use warmth::Warmth;

use crate::partition::follow::{Follow, Next, Upstreams};
use crate::partition::handle::{
    Assignment, Message, PartitionHandle, Reply, Role as Seen, Shared, State,
};
use crate::partition::job::{Commit, Done, Grown, Job, Outcome, Surroundings, Waiting};
use crate::partition::lead::{Lead, Proposal};
use crate::partition::once::Early;
use crate::partition::{AppendError, MaintainError, chain};
use crate::replication::{EpochCache, FetchAnswer, Follower, Leader, LogPosition, Timing};
use crate::storage::{HighWatermark, PartitionLog, StorageError};
use crate::tasks::Tasks;
use crate::telemetry::Stats;
use crate::types::{Acks, Clock, Durability, Offset, TopicPartition, limits};

/// What a partition shares with its neighbours on the node.
#[derive(Clone)]
pub struct Hosted {
    /// Where the partition's tasks run.
    pub tasks: Tasks,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The node's counters.
    pub stats: Arc<Stats>,
    /// Fires whenever readers of the topic may see more.
    pub progress: watch::Sender<u64>,
    /// The same, for readers that wait on other nodes.
    pub led: watch::Sender<u64>,
    /// Bounds how many logs of the node write at once.
    pub writers: Arc<Semaphore>,
    /// Bounds how many segments of the node are recompressed at once.
    pub compressors: Arc<Semaphore>,
    /// Takes what leaders ask the controller for.
    pub proposals: mpsc::Sender<Proposal>,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hosted")
    }
}

/// Starts the task that owns `log`. It takes nothing before it is told what to do
/// ([`PartitionHandle::assume`]), and ends when it is closed, destroyed, or all handles are gone.
pub fn spawn(name: TopicPartition, log: PartitionLog, hosted: Hosted) -> PartitionHandle {
    let (mailbox, messages) = mpsc::unbounded_channel();
    let (state, state_seen) = watch::channel(State::Online);
    let (role, role_seen) = watch::channel(Seen::default());
    let shared = Arc::new(Shared {
        name,
        role: role_seen,
        room: Arc::new(Semaphore::new(limits::PARTITION_QUEUE_BYTES)),
        reader: log.reader(),
        state: state_seen,
        hot: AtomicU64::new(log.log_end().0),
    });
    let tasks = hosted.tasks.clone();
    let task = Task {
        shared: shared.clone(),
        hosted,
        messages,
        mailbox: mailbox.downgrade(),
        state,
        seen: role,
        began: Instant::now(),
        warmth: Warmth {
            shared: shared.clone(),
            marks: VecDeque::from([log.log_end()]),
            bytes: 0,
        },
        high_watermark: log.publisher(),
        durability: Durability::default(),
        role: Role::None,
        epochs: EpochCache::new(),
        epochs_known: false,
        caught_up: false,
        upstreams: Upstreams::new(),
        assignment: None,
        appends: VecDeque::new(),
        early: Vec::new(),
        upkeep: VecDeque::new(),
        commits: 0,
        must_sync: false,
        running: None,
        written: None,
        recompressing: false,
        resign_at: None,
        ending: None,
    };
    tasks.spawn("partition", task.run(log));
    PartitionHandle { mailbox, shared }
}

enum Role {
    None,
    Lead(Box<Lead>),
    Follow(Box<Follow>),
}

type Running = Pin<Box<dyn Future<Output = Option<Done>> + Send>>;

struct Task {
    shared: Arc<Shared>,
    hosted: Hosted,
    messages: mpsc::UnboundedReceiver<Message>,
    mailbox: mpsc::WeakUnboundedSender<Message>,
    state: watch::Sender<State>,
    seen: watch::Sender<Seen>,
    /// Zero of the monotonic clock that the replication core is given.
    began: Instant,
    warmth: Warmth,
    high_watermark: HighWatermark,
    durability: Durability,
    role: Role,
    /// Where epochs begin in the log.
    epochs: EpochCache,
    /// Whether they were read: a log that has no other copy is spared that until it gets one.
    epochs_known: bool,
    /// What readers were told of the leader's knowledge.
    caught_up: bool,
    upstreams: Upstreams,
    /// What the metadata says and was not taken up yet, because the log is away.
    assignment: Option<Box<Assignment>>,
    appends: VecDeque<Waiting>,
    /// Idempotent producers' batches that wait for those before them.
    early: Vec<Early>,
    upkeep: VecDeque<Message>,
    /// Writes since the last upkeep.
    commits: u32,
    /// Records that were copied under another leader may not be durable yet.
    must_sync: bool,
    running: Option<Running>,
    /// The log end of the running job's batches, told before they are synced.
    written: Option<oneshot::Receiver<Grown>>,
    recompressing: bool,
    /// When a leader whose storage has failed asks again to be replaced.
    resign_at: Option<Instant>,
    ending: Option<End>,
}

enum End {
    Close(Reply<(), MaintainError>),
    Destroy(Reply<(), MaintainError>),
    /// Every handle is gone.
    Dropped,
}

/// Messages taken in before the log gets its next job.
const DRAIN: usize = 1024;
/// Writes after which upkeep that waits has its turn, however many appends wait: retention that
/// never ran would fill the disk.
const COMMITS: u32 = 16;
/// How often a leader whose storage has failed asks to be replaced.
const RESIGN: Duration = Duration::from_secs(1);

impl Task {
    async fn run(mut self, log: PartitionLog) {
        let mut log = Some(log);
        loop {
            if let Some(home) = log.take() {
                log = self.proceed(home);
                // What was taken in before the end was asked for is done.
                if log.is_some() && self.ending.is_some() {
                    break;
                }
            }
            if let Some(reached) = self.settle() {
                self.publish(reached);
            }
            self.tell_caught_up();
            let wake = self.wake_at();
            tokio::select! {
                done = running(&mut self.running) => {
                    self.running = None;
                    self.written = None;
                    // A panic in the storage took the log with it: nobody in the group hears an
                    // answer, which says "unknown", and the partition stays offline.
                    let Some(done) = done else {
                        self.offline("its writer stopped unexpectedly");
                        return;
                    };
                    log = Some(self.finished(done));
                }
                grown = written(&mut self.written) => {
                    self.written = None;
                    if let Some(grown) = grown {
                        self.log_grew(grown);
                    }
                }
                message = self.messages.recv(), if self.ending.is_none() => {
                    self.take_all(message);
                }
                () = tokio::time::sleep_until(wake.unwrap_or(self.began)), if wake.is_some() => {
                    self.woken();
                }
            }
        }
        if let (Some(log), Some(end)) = (log, self.ending.take()) {
            self.end(log, end).await;
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// A handle to itself, while anybody else holds one.
    fn own(&self) -> Option<PartitionHandle> {
        let mailbox = self.mailbox.upgrade()?;
        Some(PartitionHandle {
            mailbox,
            shared: self.shared.clone(),
        })
    }

    fn take_all(&mut self, first: Option<Message>) {
        let Some(first) = first else {
            self.ending = Some(End::Dropped);
            return;
        };
        self.take(first);
        for _ in 0..DRAIN {
            match self.messages.try_recv() {
                Ok(message) if self.ending.is_none() => self.take(message),
                _ => return,
            }
        }
    }

    /// Gives the log its next job, or keeps it at home.
    fn proceed(&mut self, mut log: PartitionLog) -> Option<PartitionLog> {
        self.take_up(&mut log);
        let own = self.own();
        let upkeep_is_due = COMMITS <= self.commits && !self.upkeep.is_empty();
        let next = match &mut self.role {
            Role::Follow(_) if upkeep_is_due || self.resign_at.is_some() => None,
            Role::Follow(follow) => match own.as_ref().map(|own| follow.next(own, &self.epochs)) {
                Some(Next::Run(job)) => Some(job),
                Some(Next::Stop(refused)) => {
                    self.offline(&refused.to_string());
                    None
                }
                Some(Next::Nothing) | None => None,
            },
            Role::None | Role::Lead(_) => None,
        };
        let job = match next {
            Some(job) => Some(job),
            None if self.must_sync => {
                self.must_sync = false;
                Some(Job::Sync)
            }
            None if !self.appends.is_empty() && !upkeep_is_due => self.group(),
            None => self.upkeep.pop_front().map(Job::Maintain),
        };
        match &job {
            Some(Job::Maintain(_)) => self.commits = 0,
            Some(_) => self.commits = self.commits.saturating_add(1),
            None => {}
        }
        // What failed here would fail again: the copy waits for the next start.
        if let (Role::Follow(follow), Some(own), None) = (&mut self.role, &own, self.resign_at) {
            follow.ask(own, &self.epochs, &self.upstreams);
        }
        let Some(job) = job else {
            return Some(log);
        };
        self.start(job, log);
        None
    }

    /// What is waiting, up to what one write may carry.
    fn group(&mut self) -> Option<Job> {
        let Role::Lead(lead) = &self.role else {
            return None;
        };
        let epoch = lead.epoch();
        let mut bytes = 0;
        let mut group = self.unpark();
        while bytes < limits::GROUP_COMMIT_BYTES
            && let Some(waiting) = self.appends.pop_front()
        {
            bytes += waiting
                .request
                .batches
                .iter()
                .map(|b| b.len())
                .sum::<usize>();
            group.push(waiting);
        }
        Some(Job::Commit(Commit { epoch, group }))
    }

    fn start(&mut self, job: Job, log: PartitionLog) {
        let replicated = match &self.role {
            Role::Lead(lead) => 1 < lead.core.record().replicas.len(),
            Role::Follow(_) => true,
            Role::None => false,
        };
        // A partition with one copy has nobody to tell before the sync.
        let told = replicated && matches!(job, Job::Commit(_) | Job::Copy { .. });
        let (tell, written) = match told {
            true => {
                let (tell, written) = oneshot::channel();
                (Some(tell), Some(written))
            }
            false => (None, None),
        };
        self.written = written;
        let around = Surroundings {
            name: self.shared.name.clone(),
            durability: self.durability,
            now: self.hosted.clock.now(),
            leads: matches!(self.role, Role::Lead(_)),
            stats: self.hosted.stats.clone(),
            written: tell,
        };
        let writers = self.hosted.writers.clone();
        self.running = Some(Box::pin(async move {
            let turn = writers.acquire_owned().await.ok();
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                job.run(log, around)
            });
            work.await.ok()
        }));
    }

    /// The job's batches are in the log and not synced yet.
    fn log_grew(&mut self, grown: Grown) {
        let (own, end) = (self.own(), grown.end);
        for (epoch, start) in grown.epochs {
            self.epochs.assign(epoch, start);
        }
        match &mut self.role {
            Role::Lead(lead) => lead.appended(end, own.as_ref()),
            Role::Follow(follow) => {
                follow.core.appended(end);
                follow.settled();
                // F4: the next records are on their way while these are synced.
                own.iter()
                    .for_each(|own| follow.ask(own, &self.epochs, &self.upstreams));
            }
            Role::None => {}
        }
    }

    /// Takes the log back from a job.
    fn finished(&mut self, done: Done) -> PartitionLog {
        let log = done.log;
        if done.bytes != 0 {
            self.warmth.grew(done.bytes, log.log_end());
        }
        let (end, durable_end) = (log.log_end(), log.durable_end());
        let own = self.own();
        match done.outcome {
            Outcome::Committed {
                epoch,
                written,
                early,
                answers,
            } => {
                self.park(early);
                let failed = answers.iter().find_map(|(_, answer)| match answer {
                    Err(AppendError::Sync { reason, .. } | AppendError::Offline { reason, .. }) => {
                        Some(reason.clone())
                    }
                    _ => None,
                });
                for (reply, answer) in answers {
                    // A requester that has gone away does not want its answer.
                    let _ = reply.send(answer);
                }
                match &mut self.role {
                    Role::Lead(lead) if lead.epoch() == epoch => {
                        if !written.is_empty() {
                            lead.appended(end, own.as_ref());
                        }
                        lead.synced(durable_end);
                        let reached = lead.settle(own.as_ref(), &self.hosted);
                        if let Some(reached) = reached {
                            self.publish(reached);
                        }
                        if let Role::Lead(lead) = &mut self.role {
                            lead.written(written);
                        }
                    }
                    // The reign ended meanwhile: the records are in a log that another now leads.
                    _ => {
                        for written in written {
                            let _ = written.reply.send(Err(AppendError::LeadershipLost {
                                partition: self.shared.name.clone(),
                            }));
                        }
                    }
                }
                if let Some(reason) = failed.filter(|_| log.is_poisoned()) {
                    self.offline(&reason);
                }
            }
            Outcome::Copied {
                result: copied,
                epochs,
            } => {
                for (epoch, start) in epochs {
                    self.epochs.assign(epoch, start);
                }
                if let Role::Follow(follow) = &mut self.role {
                    follow.settled();
                    follow.core.appended(end);
                    follow.core.synced(durable_end);
                    match (&copied, &own) {
                        (Ok(()), Some(own)) => {
                            follow.tell_durable(own, &self.epochs, &self.upstreams)
                        }
                        _ => follow.retry(),
                    }
                    let reached = follow.high_watermark();
                    self.publish(reached);
                }
                self.failed(&log, copied);
            }
            Outcome::Cut {
                restarted,
                result: cut,
            } => {
                match (&cut, restarted) {
                    (Ok(()), true) => self.epochs.clear(),
                    (Ok(()), false) => self.epochs.truncate(end),
                    (Err(_), _) => {}
                }
                if let Role::Follow(follow) = &mut self.role {
                    follow.settled();
                    match (&cut, restarted) {
                        (Ok(()), true) => follow.core.restarted(log.log_start()),
                        (Ok(()), false) => follow.core.truncated(end),
                        (Err(_), _) => follow.retry(),
                    }
                }
                self.failed(&log, cut);
            }
            Outcome::Synced(synced) => {
                match &mut self.role {
                    Role::Lead(lead) => lead.synced(durable_end),
                    Role::Follow(follow) => {
                        follow.core.synced(durable_end);
                        own.iter().for_each(|own| {
                            follow.tell_durable(own, &self.epochs, &self.upstreams)
                        });
                    }
                    Role::None => {}
                }
                self.failed(&log, synced);
            }
            Outcome::Maintained { installed, failed } => {
                if installed {
                    self.recompressing = false;
                }
                if let Role::Lead(lead) = &mut self.role {
                    lead.synced(durable_end);
                }
                // Who asked for the work may have been told what failed, and nobody else.
                if failed.is_none() && log.is_poisoned() {
                    self.offline("its storage has failed");
                }
                self.failed(&log, failed.map_or(Ok(()), Err));
                self.announce();
                self.recompress(&log);
            }
        }
        log
    }

    fn failed(&mut self, log: &PartitionLog, result: Result<(), String>) {
        let Err(reason) = result else { return };
        tracing::warn!(partition = %self.shared.name, reason, "work on the log failed");
        if log.is_poisoned() {
            self.offline(&reason);
        }
    }

    /// Carries out what the leader's core asked for.
    fn settle(&mut self) -> Option<Offset> {
        let own = self.own();
        let Role::Lead(lead) = &mut self.role else {
            return None;
        };
        lead.settle(own.as_ref(), &self.hosted)
    }

    /// Shows readers everything below `reached`, then answers whoever waited for that.
    fn publish(&mut self, reached: Offset) {
        let moved = self.high_watermark.raise(reached);
        if let Role::Lead(lead) = &mut self.role {
            lead.acknowledge();
        }
        self.tell_caught_up();
        if moved {
            self.announce();
        }
    }

    /// H4: a leader may know all that earlier ones committed without its high watermark moving.
    fn tell_caught_up(&mut self) {
        let caught_up = matches!(&self.role, Role::Lead(lead) if lead.core.caught_up());
        if caught_up != self.caught_up {
            self.caught_up = caught_up;
            self.seen.send_modify(|seen| seen.caught_up = caught_up);
        }
    }

    fn announce(&self) {
        for word in [&self.hosted.progress, &self.hosted.led] {
            word.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let of_role = match &self.role {
            Role::Lead(lead) => lead.wake_at(),
            Role::Follow(_) if self.resign_at.is_some() => None,
            Role::Follow(follow) => follow.wake_at(),
            Role::None => None,
        };
        let resign_at = self
            .resign_at
            .filter(|_| matches!(self.role, Role::Lead(_)));
        of_role.into_iter().chain(resign_at).min()
    }

    fn woken(&mut self) {
        let (own, now_ms) = (self.own(), self.now_ms());
        self.resign();
        match &mut self.role {
            Role::Lead(lead) => lead.woken(own.as_ref(), now_ms),
            Role::Follow(follow) => {
                follow.woken();
                own.iter()
                    .for_each(|own| follow.ask(own, &self.epochs, &self.upstreams));
            }
            Role::None => {}
        }
    }
}

/// Where epochs begin in a log.
fn epochs(log: &mut PartitionLog) -> Result<EpochCache, StorageError> {
    let mut epochs = EpochCache::new();
    for (epoch, start) in log.epochs()? {
        epochs.assign(*epoch, *start);
    }
    Ok(epochs)
}

/// The running job's end; never, if none runs.
async fn running(running: &mut Option<Running>) -> Option<Done> {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// What the running job tells of the log; never, if it tells none.
async fn written(written: &mut Option<oneshot::Receiver<Grown>>) -> Option<Grown> {
    match written {
        Some(written) => written.await.ok(),
        None => std::future::pending().await,
    }
}
