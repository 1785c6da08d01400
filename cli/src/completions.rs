//! `completions`: shell completions on stdout.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::failure::Failure;

/// Print completions for a shell. For bash: `source <(pilgrimage completions bash)`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Runs `completions`.
pub(crate) fn run(args: CompletionsArgs, command: &mut clap::Command) -> Result<(), Failure> {
    // The generator panics where it cannot write, so it writes to memory.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "pilgrimage", &mut text);
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}
