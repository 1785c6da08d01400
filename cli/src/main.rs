//! The `pilgrimage` command: runs a node, and speaks to nodes over their public API.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bench;
mod brokers;
mod cluster;
mod completions;
mod consume;
mod context;
mod failure;
mod input;
mod local_cluster;
mod log;
mod moving;
mod node;
mod output;
mod produce;
mod registry;
mod start;
mod target;
mod topics;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{EXIT_CODES, Exit, Failure};
use output::Output;
use target::Target;

/// Threads for file I/O, large checksums and compression.
const BLOCKING_THREADS: usize = 96;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A partitioned, durable message log with an HTTP face.
#[derive(Debug, Parser)]
#[command(name = "pilgrimage", version, max_term_width = 100, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// Form of the output.
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM"
    )]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(Box<start::StartArgs>),
    Stop(brokers::StopArgs),
    Send(brokers::SendArgs),
    Consume(Box<consume::ConsumeArgs>),
    Status(brokers::StatusArgs),
    Topic(topics::TopicArgs),
    Produce(Box<produce::ProduceArgs>),
    Node(node::NodeArgs),
    Cluster(cluster::ClusterArgs),
    Context(context::ContextArgs),
    Log(log::LogArgs),
    Bench(Box<bench::BenchArgs>),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    async fn run(self) -> Result<(), Failure> {
        let Self {
            target,
            output,
            command,
        } = self;
        match command {
            Command::Start(args) => start::run(*args).await,
            Command::Stop(args) => brokers::stop(args, &target, output).await,
            Command::Send(args) => brokers::send(args, &target, output).await,
            Command::Consume(args) => consume::run(*args, &target, output).await,
            Command::Status(args) => brokers::status(args, &target, output).await,
            Command::Topic(args) => topics::run(args, &target, output).await,
            Command::Produce(args) => produce::run(*args, &target, output).await,
            Command::Node(args) => node::run(args, &target, output).await,
            Command::Cluster(args) => cluster::run(args, &target, output).await,
            Command::Context(args) => context::run(args, output),
            Command::Log(args) => log::run(args, output),
            Command::Bench(args) => bench::run(*args, &target, output).await,
            Command::Completions(args) => completions::run(args, &mut Cli::command()),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // clap's own exit would panic where stdout is closed (`pilgrimage help | head -0`).
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() {
                Exit::Usage as u8
            } else {
                Exit::Ok as u8
            });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // One disk does not become faster with more threads, and each keeps memory of its own.
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            Failure::failed(format!("start the runtime: {error}")).report();
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let result = runtime.block_on(cli.run());
    // A thread may sit in a read of stdin that never ends.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("pilgrimage").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_form_is_taken() {
        for line in [
            "start",
            "start --id broker1 --partitions 3 --replication 2 --storage /tmp/b1",
            "start -i broker1 -p 3 -r 2 -s /tmp/b1 --test-mode",
            "start --listen 0.0.0.0:80 --allow-anonymous --allowed-hosts a,b:80 --config x.toml",
            "start --allow-anonymous=false --auto-create-topics false --log-format json --log-level warn",
            "start --nodes 3 --listen 9000",
            "start -n 3",
            "stop --id broker1",
            "stop -i broker1",
            "send broker1 hello",
            "send broker1 hello --topic t --key k",
            "consume broker1",
            "consume broker1 --topic t --group g --wait 5s",
            "consume --topic t",
            "consume --topic t --from earliest --partition 0 --limit 5 --format raw",
            "consume --topic t --from timestamp:1700000000000 --follow --format ndjson",
            "consume --topic t --filter-key k --filter-header a=b --filter-json /id=7",
            "status",
            "status --id broker1",
            "topic list",
            "topic create orders --partitions 3 --retention 7d --compression zstd",
            "topic alter orders --retention none --retention-bytes 10GiB",
            "topic describe orders",
            "topic delete orders --yes",
            "topic trim orders --partition 0 --before 5",
            "produce orders a b c",
            "produce orders --file x --format lines --key-separator : --compress --batch 500",
            "produce orders --format ndjson --acks none",
            "--url http://x:1 node -o json",
            "node --url http://x:1",
            "node list",
            "node describe",
            "node describe two",
            "node drain two --wait",
            "node undrain two",
            "node remove two",
            "node replace two",
            "node replace two four --wait",
            "cluster",
            "cluster status -o json",
            "cluster reassign orders 3 one two --wait",
            "cluster reassign orders 3",
            "cluster lead orders 3 two --unclean",
            "context set prod http://x:1",
            "context use prod",
            "context list",
            "completions bash",
            "log verify data",
            "log dump data/x.log --headers -n 5",
            "bench produce --spawn --records 10 --record-size 1KiB --batch 1 --connections 2 --format json",
            "bench consume --duration 2s --partitions 3 --topics 2 --fan-out",
            "bench end-to-end --url http://x:1 --rate 100 --no-baseline",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn the_service_is_started_with_settings_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let unit = std::fs::read_to_string(format!("{root}/packaging/pilgrimage.service")).unwrap();
        let values = |key| unit.lines().filter_map(move |line| line.strip_prefix(key));
        let starts: Vec<_> = values("ExecStart=/usr/local/bin/pilgrimage ").collect();
        assert_eq!(starts.len(), 1);
        assert!(parse(starts[0]).is_ok());
        let start = <start::StartArgs as clap::Args>::augment_args(clap::Command::new("start"));
        let known: Vec<_> = start
            .get_arguments()
            .filter_map(clap::Arg::get_env)
            .collect();
        let set = values("Environment=").map(|pair| pair.split_once('=').unwrap().0);
        for name in set.filter(|name| *name != "PILGRIMAGE_STATE_DIR") {
            assert!(known.contains(&std::ffi::OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "send broker1",
            "send bro/ker hello",
            "consume",
            "consume broker1 --follow",
            "consume broker1 --from earliest",
            "consume --topic t --group g",
            "consume --topic a/b",
            "consume --topic t --from newest",
            "topic create orders --partitions 0",
            "topic create orders --retention soon",
            "topic trim orders --partition 0",
            "produce orders --acks some",
            "produce orders --key k --key-separator :",
            "node --url http://x --context y",
            "--output xml node",
            "node replace",
            "node drain",
            "cluster lead orders three",
            "nonsense",
            "start --partitions many",
            "start --log-format xml",
            "log verify",
            "bench produce --spawn --url http://x:1",
            "bench produce --records 0",
            "bench produce --records 5 --duration 1s",
            "bench produce --record-size 17MiB",
            "bench produce --rate -1",
        ] {
            let error = parse(line)
                .err()
                .unwrap_or_else(|| panic!("{line:?} was taken"));
            assert!(error.use_stderr(), "{line}");
        }
    }
}
