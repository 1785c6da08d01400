//! Which node a command speaks to.

use clap::Args;
use pilgrimage::client::Client;
use pilgrimage::types::BrokerId;

use crate::context::Contexts;
use crate::failure::Failure;
use crate::registry::{Entry, Registry};

/// Where a node listens unless it is told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Options that name a node. Without any: the current context, else the one node that runs on this
/// machine, else the default address.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Target {
    /// Address of the node.
    #[arg(
        long,
        env = "PILGRIMAGE_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) url: Option<String>,
    /// Name of the node, as set with `pilgrimage context`.
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "url")]
    pub(crate) context: Option<String>,
}

/// A broker that was found by its id.
#[derive(Debug)]
pub(crate) struct FoundBroker {
    pub(crate) client: Client,
    /// Its own process on this machine; none when it runs elsewhere or inside another node.
    pub(crate) process: Option<Entry>,
}

impl Target {
    /// What the user named, if anything.
    fn named(&self) -> Result<Option<String>, Failure> {
        if let Some(url) = self.url.as_ref().filter(|url| !url.is_empty()) {
            return Ok(Some(url.clone()));
        }
        let contexts = Contexts::load()?;
        match self.context.as_deref().or(contexts.current.as_deref()) {
            Some(name) => contexts.url(name).map(|url| Some(url.to_owned())),
            None => Ok(None),
        }
    }

    /// The address of the node to speak to.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        if let Some(url) = self.named()? {
            return Ok(url);
        }
        let running = Registry::of_user()
            .map(|registry| registry.all())
            .unwrap_or_default();
        Ok(match running.as_slice() {
            [only] => only.url.clone(),
            _ => DEFAULT_URL.to_owned(),
        })
    }

    /// The node to speak to.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.url()?)?)
    }

    /// The node that runs the broker `id`: the one of that id on this machine; else any on this
    /// machine that runs it inside; else the node that the user named.
    pub(crate) async fn broker(&self, id: &BrokerId) -> Result<FoundBroker, Failure> {
        let not_there = || {
            Failure::failed(format!("no broker is running with the ID {id}")).hint(format!(
                "start it with `pilgrimage start --id {id}`, or name its node with --url"
            ))
        };
        if let Some(url) = self.named()? {
            let client = Client::new(&url)?;
            let node = client.node().await?;
            if !node.brokers.iter().any(|broker| broker == id.as_str()) {
                return Err(not_there());
            }
            let entry = Registry::of_user().and_then(|registry| registry.find(id));
            let process = entry.filter(|entry| entry.url == client.url());
            return Ok(FoundBroker { client, process });
        }
        let Some(registry) = Registry::of_user() else {
            return Err(not_there());
        };
        if let Some(entry) = registry.find(id) {
            let client = Client::new(&entry.url)?;
            return Ok(FoundBroker {
                client,
                process: Some(entry),
            });
        }
        let mut urls: Vec<_> = registry.all().into_iter().map(|entry| entry.url).collect();
        if !urls.iter().any(|url| url == DEFAULT_URL) {
            urls.push(DEFAULT_URL.to_owned());
        }
        for url in urls {
            let client = Client::new(&url)?;
            let Ok(node) = client.node().await else {
                continue;
            };
            if node.brokers.iter().any(|broker| broker == id.as_str()) {
                return Ok(FoundBroker {
                    client,
                    process: None,
                });
            }
        }
        Err(not_there())
    }
}
