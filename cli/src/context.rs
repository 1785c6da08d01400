//! Named nodes: `context set|use|list|remove`.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pilgrimage::client::Client;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

/// Name nodes, and choose the one that commands speak to.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give a node a name, or change where a name leads.
    Set {
        /// The name.
        name: String,
        /// The node's address.
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// Make a name the one that commands speak to.
    Use {
        /// The name.
        name: String,
    },
    /// Forget a name.
    Remove {
        /// The name.
        name: String,
    },
    /// Show all names.
    List,
}

/// What is kept in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The name that is used when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// Names and addresses.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    url: &'a str,
    current: bool,
}

/// `PILGRIMAGE_CONFIG_DIR`, else `$XDG_CONFIG_HOME/pilgrimage`, else `~/.config/pilgrimage`.
fn file() -> Option<PathBuf> {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = var("PILGRIMAGE_CONFIG_DIR")
        .or_else(|| var("XDG_CONFIG_HOME").map(|dir| dir.join("pilgrimage")))
        .or_else(|| var("HOME").map(|dir| dir.join(".config/pilgrimage")))?;
    Some(dir.join("contexts.json"))
}

impl Contexts {
    /// The user's contexts; none when there is no file.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Some(path) = file() else {
            return Ok(Self::default());
        };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Failure::failed(format!("read {}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::failed(format!("read {}: {error}", path.display()))),
        }
    }

    fn save(&self) -> Result<(), Failure> {
        let path = file().ok_or_else(|| {
            Failure::failed("there is no home directory to keep contexts in")
                .hint("set PILGRIMAGE_CONFIG_DIR")
        })?;
        let text = serde_json::to_vec_pretty(self)?;
        let write = || {
            let dir = path.parent().unwrap_or(&path);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
            // Written beside and moved over: a reader sees the old file or the new one, never half.
            let new = path.with_extension(format!("{}.new", std::process::id()));
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?
                .write_all(&text)?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|error: std::io::Error| {
            Failure::failed(format!("write {}: {error}", path.display()))
        })
    }

    /// Where a name leads.
    pub(crate) fn url(&self, name: &str) -> Result<&str, Failure> {
        self.contexts.get(name).map(String::as_str).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no context {name:?}"))
                .hint("`pilgrimage context list` shows all, `pilgrimage context set NAME ADDRESS` makes one")
        })
    }
}

/// Runs `context`.
pub(crate) fn run(args: ContextArgs, output: Output) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match args.action {
        Action::Set { name, address } => {
            let url = Client::new(&address)?.url().to_owned();
            let said = format!("{name} is {url}");
            contexts.contexts.insert(name.clone(), url);
            contexts.current.get_or_insert(name);
            contexts.save()?;
            output.one(&contexts, || said)
        }
        Action::Use { name } => {
            let said = format!("commands now speak to {name} ({})", contexts.url(&name)?);
            contexts.current = Some(name);
            contexts.save()?;
            output.one(&contexts, || said)
        }
        Action::Remove { name } => {
            contexts.url(&name)?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
            contexts.save()?;
            output.one(&contexts, || format!("{name} is forgotten"))
        }
        Action::List => {
            let current = contexts.current.as_deref();
            let listed: Vec<_> = contexts
                .contexts
                .iter()
                .map(|(name, url)| Listed {
                    name,
                    url,
                    current: Some(name.as_str()) == current,
                })
                .collect();
            output.many(&listed, || {
                let row = |l: &Listed<'_>| {
                    vec![
                        if l.current { "*" } else { "" }.to_owned(),
                        l.name.to_owned(),
                        l.url.to_owned(),
                    ]
                };
                output::table(&["", "NAME", "ADDRESS"], listed.iter().map(row).collect())
            })
        }
    }
}
