//! The brokers that run in one process: the node's own, and those that `/start` adds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Broker, OpenError, Options};
use crate::tasks::Tasks;
use crate::types::BrokerId;

/// How a further broker is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOptions {
    /// Its id.
    pub id: BrokerId,
    /// Partitions of topics that say nothing else.
    pub partitions: u32,
    /// Copies wanted of each.
    pub replication: u32,
    /// Directory of its data.
    pub storage: PathBuf,
}

/// Why a broker was not started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// One of that id runs already.
    #[error("Broker is already running")]
    AlreadyRunning,
    /// None of that id runs.
    #[error("No broker is running with the given ID")]
    NotRunning,
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// More than [`Brokers::MOST`] would run.
    #[error("at most {} brokers run in one process", Brokers::MOST)]
    TooMany,
    /// The process is shutting down.
    #[error("the node is shutting down")]
    Closing,
}

/// The brokers of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Brokers {
    own: Broker,
    running: Arc<ArcSwap<BTreeMap<BrokerId, Broker>>>,
    requests: mpsc::Sender<Request>,
    own_stopped: CancellationToken,
}

#[derive(Debug)]
enum Request {
    Start(StartOptions, oneshot::Sender<Result<(), BrokerError>>),
    Stop(BrokerId, oneshot::Sender<Result<(), BrokerError>>),
    CloseAll(oneshot::Sender<()>),
}

impl Brokers {
    /// Most brokers of one process.
    pub const MOST: usize = 16;

    /// The node's own broker, and room for more.
    pub fn new(own: Broker, tasks: &Tasks) -> Self {
        let first = BTreeMap::from([(own.id().clone(), own.clone())]);
        let running = Arc::new(ArcSwap::from_pointee(first));
        let (requests, receiver) = mpsc::channel(64);
        let own_stopped = CancellationToken::new();
        let owner = Owner {
            own: own.clone(),
            running: running.clone(),
            own_stopped: own_stopped.clone(),
        };
        tasks.spawn("brokers", owner.run(receiver));
        Self {
            own,
            running,
            requests,
            own_stopped,
        }
    }

    /// The node's own broker.
    pub fn own(&self) -> &Broker {
        &self.own
    }

    /// The broker of that id, if it runs.
    pub fn get(&self, id: &BrokerId) -> Option<Broker> {
        self.running.load().get(id).cloned()
    }

    /// Ids of all running brokers, the node's own first.
    pub fn ids(&self) -> Vec<BrokerId> {
        let running = self.running.load();
        let others = running.keys().filter(|id| *id != self.own.id());
        running
            .get_key_value(self.own.id())
            .map(|(id, _)| id)
            .into_iter()
            .chain(others)
            .cloned()
            .collect()
    }

    /// Starts a further broker with a storage of its own: another node of this one's cluster, if
    /// other nodes can reach this one.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn start(&self, options: StartOptions) -> Result<(), BrokerError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Start(options, reply)).await;
        sent.map_err(|_| BrokerError::Closing)?;
        answer.await.unwrap_or(Err(BrokerError::Closing))
    }

    /// Stops a broker and keeps its data. Stopping the node's own asks the node to shut down:
    /// see [`own_stopped`](Self::own_stopped).
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn stop(&self, id: &BrokerId) -> Result<(), BrokerError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Stop(id.clone(), reply)).await;
        sent.map_err(|_| BrokerError::Closing)?;
        answer.await.unwrap_or(Err(BrokerError::Closing))
    }

    /// Fires when the node's own broker was asked to stop.
    pub fn own_stopped(&self) -> &CancellationToken {
        &self.own_stopped
    }

    /// Closes every broker, the node's own last.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::CloseAll(reply)).await.is_ok() {
            // An owner that is gone has nothing left to close.
            let _ = answer.await;
        }
        self.own.close().await;
    }
}

struct Owner {
    own: Broker,
    running: Arc<ArcSwap<BTreeMap<BrokerId, Broker>>>,
    own_stopped: CancellationToken,
}

impl Owner {
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Start(options, reply) => {
                    let _ = reply.send(self.start(options).await);
                }
                Request::Stop(id, reply) => {
                    let _ = reply.send(self.stop(&id).await);
                }
                Request::CloseAll(reply) => {
                    for (id, broker) in self.running.swap(Arc::default()).iter() {
                        if id != self.own.id() {
                            broker.close().await;
                        }
                    }
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    async fn start(&self, options: StartOptions) -> Result<(), BrokerError> {
        let running = self.running.load_full();
        if running.contains_key(&options.id) {
            return Err(BrokerError::AlreadyRunning);
        }
        if Brokers::MOST <= running.len() {
            return Err(BrokerError::TooMany);
        }
        let mut open = Options::new(options.id.clone(), options.storage);
        open.defaults.partitions = options.partitions;
        open.defaults.replication_factor = options.replication;
        open.cluster = self.own.company();
        let broker = Broker::open(open).await?;
        let mut running = BTreeMap::clone(&running);
        running.insert(options.id, broker);
        self.running.store(Arc::new(running));
        Ok(())
    }

    async fn stop(&self, id: &BrokerId) -> Result<(), BrokerError> {
        let mut running = BTreeMap::clone(&self.running.load());
        let broker = running.remove(id).ok_or(BrokerError::NotRunning)?;
        self.running.store(Arc::new(running));
        if id == self.own.id() {
            self.own_stopped.cancel();
        } else {
            broker.close().await;
        }
        Ok(())
    }
}
