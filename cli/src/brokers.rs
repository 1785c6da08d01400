//! Brokers by id: `stop`, `send`, `status`, and the plain form of `consume`.

use std::time::{Duration, Instant};

use clap::Args;
use pilgrimage::api::v1::{ConsumeMessage, SendMessage};
use pilgrimage::client::NO_MESSAGES;
use pilgrimage::types::{BrokerId, TopicName};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::registry::{Entry, Registry};
use crate::target::Target;

/// Stop a broker: it finishes what it has begun, and its data stays.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The broker.
    #[arg(long, short)]
    id: BrokerId,
}

/// Send a message through a broker.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The broker.
    #[arg(value_name = "BROKER_ID")]
    id: BrokerId,
    /// The message.
    message: String,
    /// The topic.
    #[arg(long, short, default_value = pilgrimage::api::v1::DEFAULT_TOPIC)]
    topic: TopicName,
    /// The key.
    #[arg(long, short)]
    key: Option<String>,
}

/// Tell whether a broker, or the node, is up and can write.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The broker; without it: the node that commands speak to.
    #[arg(long, short)]
    id: Option<BrokerId>,
}

#[derive(Debug, Serialize)]
struct Status<'a> {
    id: &'a str,
    url: &'a str,
    running: bool,
    state: &'a str,
}

/// How long a node may take to stop. It gives its requests 10 seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Runs `stop`.
pub(crate) async fn stop(args: StopArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let found = target.broker(&args.id).await?;
    match found.process {
        Some(process) => stop_process(&process).await?,
        None => drop(found.client.stop_broker(args.id.as_str()).await?),
    }
    let status = Status {
        id: args.id.as_str(),
        url: found.client.url(),
        running: false,
        state: "stopped",
    };
    output.one(&status, || "Broker stopped".into())
}

async fn stop_process(process: &Entry) -> Result<(), Failure> {
    let signal = || {
        let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).ok()?)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok()
    };
    if signal().is_none() {
        return Err(Failure::failed(format!(
            "the broker {} (process {}) cannot be told to stop",
            process.id, process.pid
        ))
        .hint("it may belong to another user"));
    }
    let Some(registry) = Registry::of_user() else {
        return Ok(());
    };
    let begun = Instant::now();
    while registry
        .find(&process.id)
        .is_some_and(|entry| entry.pid == process.pid)
    {
        if STOP_PATIENCE < begun.elapsed() {
            return Err(Failure::failed(format!(
                "the broker {} (process {}) was told to stop but still runs after {} s",
                process.id,
                process.pid,
                STOP_PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Runs `send`.
pub(crate) async fn send(args: SendArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let found = target.broker(&args.id).await?;
    let message = SendMessage {
        id: args.id.into(),
        message: args.message,
        topic: Some(args.topic.into()),
        key: args.key,
    };
    let said = found.client.send_message(&message).await?;
    output.one(&said, || said.clone())
}

/// Runs `status`.
pub(crate) async fn status(
    args: StatusArgs,
    target: &Target,
    output: Output,
) -> Result<(), Failure> {
    let (id, client, running, state) = match args.id {
        Some(id) => {
            let client = target.broker(&id).await?.client;
            let running = client.broker_status(id.as_str()).await?;
            (
                id.to_string(),
                client,
                running,
                if running {
                    "ready"
                } else {
                    "not ready to write"
                }
                .to_owned(),
            )
        }
        None => {
            let client = target.client()?;
            let (node, health) = (client.node().await?, client.readyz().await?);
            let running = health.status == "ok" || health.status == "ready";
            let state = if running {
                node.state
            } else {
                health.problems.join("; ")
            };
            (node.id, client, running, state)
        }
    };
    let status = Status {
        id: &id,
        url: client.url(),
        running,
        state: &state,
    };
    output.one(&status, || format!("{id} at {}: {state}", client.url()))?;
    if running {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, ""))
    }
}

/// The plain form of `consume`: the next message by a position that the broker keeps.
pub(crate) async fn consume(
    id: &BrokerId,
    topic: Option<TopicName>,
    group: Option<String>,
    wait: Duration,
    target: &Target,
    output: Output,
) -> Result<(), Failure> {
    let found = target.broker(id).await?;
    let from = ConsumeMessage {
        id: id.to_string(),
        topic: topic.map(String::from),
        group,
        timeout_ms: u64::try_from(wait.as_millis()).ok().filter(|&ms| ms != 0),
    };
    let message = found.client.consume_message(&from).await?;
    if message == NO_MESSAGES && output == Output::Table {
        return output::line(NO_MESSAGES);
    }
    output.one(&message, || {
        crate::consume::shown(message.as_bytes()).into_owned()
    })
}
