//! The console's pages of the cluster: Chromium on one side, three real nodes on the other.

use pilgrimage::types::{TopicName, TopicPatch};
use serde_json::{Value, json};

use crate::support::{Node, command, wait_until};
use crate::webdriver::Browser;

/// Nodes that form one cluster; the first began it.
pub(crate) struct Nodes {
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
}

impl Nodes {
    /// `one`, `two` and `three`, of which any one may fail.
    pub(crate) async fn start() -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
        };
        for id in ["one", "two", "three"] {
            cluster.add(id, id).await;
        }
        let client = cluster.nodes[0].client();
        wait_until("three voters", || async {
            let found = client.cluster().await;
            found.is_ok_and(|found| found.nodes.iter().filter(|node| node.voter).count() == 3)
        })
        .await;
        cluster
    }

    /// Starts a node in the directory `name`; the others are those that run.
    pub(crate) async fn add(&mut self, id: &str, name: &str) {
        let storage = self.dir.path().join(name);
        let secret = self.dir.path().join("one/cluster.key");
        let secret = secret.display().to_string();
        let mut arguments = vec!["--id", id];
        let join = self.nodes.iter().map(Node::peers).collect::<Vec<_>>();
        let join = join.join(",");
        if !self.nodes.is_empty() {
            arguments.extend(["--join", &join, "--cluster-secret-file", &secret]);
        }
        self.nodes.push(Node::start_in(&storage, &arguments).await);
    }

    /// What the command says on stdout, asked of the first node.
    pub(crate) fn told(&self, arguments: &[&str]) -> String {
        let mut command = command(self.dir.path());
        command.env("PILGRIMAGE_URL", self.nodes[0].url());
        let output = command.args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a topic with a copy on each of three nodes, and waits until all are in sync.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) {
        let client = self.nodes[0].client();
        let topic: TopicName = name.parse().unwrap();
        let patch = TopicPatch {
            partitions: Some(partitions),
            replication_factor: Some(3),
            min_insync_replicas: Some(2),
            ..TopicPatch::default()
        };
        client.create_topic(&topic, &patch).await.unwrap();
        self.in_sync(name, 3).await;
    }

    /// Waits until so many copies of each partition are in sync, and no others are there.
    pub(crate) async fn in_sync(&self, name: &str, copies: usize) {
        let client = self.nodes[0].client();
        let topic: TopicName = name.parse().unwrap();
        wait_until("copies in sync", || async {
            let list = client.partitions(&topic).await;
            list.is_ok_and(|list| {
                let mut partitions = list.partitions.iter();
                partitions.all(|partition| {
                    let lengths = (partition.isr.len(), partition.replicas.len());
                    lengths == (copies, copies) && partition.leader.is_some()
                })
            })
        })
        .await;
    }

    async fn open(&self, browser: &Browser, hash: &str) {
        browser.open("about:blank").await;
        let url = self.nodes[0].url();
        browser.open(&format!("{url}/#/{hash}")).await;
    }
}

/// The texts of the elements of a selector, once they are these.
async fn shows(browser: &Browser, selector: &str, texts: &[&str]) {
    let script = format!(
        "const shown = [...document.querySelectorAll({})].filter((one) => one.checkVisibility()).map((one) => one.textContent.trim());
         return JSON.stringify(shown) === {}",
        json!(selector),
        json!(json!(texts).to_string()),
    );
    browser.until(&script).await;
}

/// Waits until some element of the selector says something that begins so.
async fn says(browser: &Browser, selector: &str, beginning: &str) {
    let script = format!(
        "return [...document.querySelectorAll({})].some((one) => one.textContent.trim().startsWith({}))",
        json!(selector),
        json!(beginning),
    );
    browser.until(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_page_says_how_each_node_is_and_what_is_wrong_in_words() {
    let mut cluster = Nodes::start().await;
    cluster.topic("orders", 6).await;
    let browser = Browser::start().await;

    browser.open(&cluster.nodes[0].url()).await;
    browser.click("nav a", Some("Cluster")).await;
    browser.find("h1", Some("Cluster")).await;
    let well = "All is well: every partition has a leader and all of its copies.";
    browser.find(".well", Some(well)).await;
    let nodes = "table:has(th:nth-child(10)) tbody tr";
    let state = format!("{nodes} .state");
    shows(&browser, &state, &["At work"; 3]).await;
    let mut names: Vec<String> = cluster.nodes[0]
        .client()
        .cluster()
        .await
        .unwrap()
        .nodes
        .into_iter()
        .map(|node| node.id)
        .collect();
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    shows(&browser, &format!("{nodes} a"), &listed).await;
    browser.click(".segments button", Some("Copies")).await;
    shows(&browser, ".bar-value", &["6, 6 in sync"; 3]).await;
    shows(&browser, "td[data-label='Gossip hears']", &["All"; 3]).await;

    cluster.nodes[2].kill();
    says(
        &browser,
        ".finding p",
        "Warning: Node three has not answered for",
    )
    .await;
    let lost = "6 partitions have one copy less than they should.";
    browser
        .until(&format!(
            "return [...document.querySelectorAll('.finding p')].some((one) => one.textContent.endsWith({}))",
            json!(lost)
        ))
        .await;
    browser
        .find(".finding code", Some("pilgrimage node replace three"))
        .await;
    says(&browser, &state, "Silent for").await;
    // The same words on the command line.
    let status = cluster.told(&["cluster", "status"]);
    assert!(
        status.contains("warning: node three has not answered for"),
        "{status}"
    );
    assert!(
        status.contains(
            "    start it again; if it will not come back: pilgrimage node replace three"
        ),
        "{status}"
    );

    browser.click(".finding a", Some("Node three")).await;
    browser.find("h1", Some("three")).await;
    says(&browser, ".page-head .state", "Silent for").await;
    browser.find(".page-head button", Some("Replace")).await;
    names.sort();
    assert_eq!(names, ["one", "three", "two"]);
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_after_a_question_and_kept_again_with_a_click() {
    let cluster = Nodes::start().await;
    let client = cluster.nodes[0].client();
    let topic: TopicName = "spread".parse().unwrap();
    let patch = TopicPatch {
        partitions: Some(6),
        replication_factor: Some(2),
        ..TopicPatch::default()
    };
    client.create_topic(&topic, &patch).await.unwrap();
    cluster.in_sync("spread", 2).await;
    let browser = Browser::start().await;

    cluster.open(&browser, "cluster/nodes/two").await;
    browser.find(".page-head .state", Some("At work")).await;
    shows(&browser, "td[data-label='In sync']", &["2 of 2"; 4]).await;
    browser.click(".page-head button", Some("Drain")).await;
    browser.find("dialog h2", Some("Drain two?")).await;
    browser.click("dialog button[type=submit]", None).await;
    browser
        .find(".page-head .state", Some("Draining, holds nothing"))
        .await;
    browser
        .find(".records-empty", Some("It holds no copy of any partition."))
        .await;
    browser
        .find(".finding-hint code", Some("pilgrimage node remove two"))
        .await;
    browser
        .click(".page-head button", Some("Keep what it has"))
        .await;
    // Its share comes back by itself.
    browser.find(".page-head .state", Some("At work")).await;
    browser
        .until("return document.querySelectorAll('td[data-label=\"This copy\"]').length === 4")
        .await;
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_by_another_and_forgotten() {
    let mut cluster = Nodes::start().await;
    cluster.topic("orders", 4).await;
    let browser = Browser::start().await;
    cluster.nodes[1].kill();
    cluster.nodes.remove(1);
    cluster.add("four", "four").await;

    cluster.open(&browser, "cluster/nodes/two").await;
    says(&browser, ".page-head .state", "Silent for").await;
    browser.click(".page-head button", Some("Replace")).await;
    browser
        .click("dialog select[name=by] option", Some("Node four"))
        .await;
    browser.click("dialog button[type=submit]", None).await;
    browser
        .find(".notice-title", Some("There is no such node"))
        .await;
    browser
        .click(".notice a", Some("Back to the cluster"))
        .await;
    let well = "All is well: every partition has a leader and all of its copies.";
    browser.find(".well", Some(well)).await;
    cluster.in_sync("orders", 3).await;
    let orders: TopicName = "orders".parse().unwrap();
    let list = cluster.nodes[0].client().partitions(&orders).await.unwrap();
    for partition in list.partitions {
        let mut isr = partition.isr;
        isr.sort();
        assert_eq!(isr, ["four", "one", "three"]);
    }
    // The page may have asked for the partitions of a node that was just forgotten.
    let troubles = browser.troubles().await;
    let of_two = |trouble: &String| trouble.contains("/v1/nodes/two/partitions");
    assert!(troubles.iter().all(of_two), "{troubles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_leaders_are_moved_from_the_list_of_partitions() {
    let cluster = Nodes::start().await;
    let client = cluster.nodes[0].client();
    let topic: TopicName = "moved".parse().unwrap();
    let patch = TopicPatch {
        replication_factor: Some(2),
        ..TopicPatch::default()
    };
    client.create_topic(&topic, &patch).await.unwrap();
    cluster.in_sync("moved", 2).await;
    let before = client
        .partitions(&topic)
        .await
        .unwrap()
        .partitions
        .remove(0);
    let leader = before.leader.unwrap();
    let other = before.isr.iter().find(|node| **node != leader).unwrap();
    let outside = ["one", "two", "three"]
        .into_iter()
        .find(|node| !before.replicas.iter().any(|held| held == node))
        .unwrap();
    let browser = Browser::start().await;

    cluster.open(&browser, "topics/moved/partitions").await;
    browser
        .click("button[aria-label='Leader of moved/0']", None)
        .await;
    browser
        .click("dialog select[name=leader] option", Some(other))
        .await;
    browser.click("dialog button[type=submit]", None).await;
    browser.find("td[data-label=Leader]", Some(other)).await;

    browser
        .click("button[aria-label='Copies of moved/0']", None)
        .await;
    browser
        .click(&format!("dialog input[value={leader}]"), None)
        .await;
    browser
        .click(&format!("dialog input[value={outside}]"), None)
        .await;
    browser.click("dialog button[type=submit]", None).await;
    let copies = format!(
        "const text = document.querySelector('td[data-label=Copies]').textContent;
         return !text.includes({}) && text.includes({}) && text.split(';').length === 2",
        json!(leader),
        json!(format!("{outside} in sync")),
    );
    browser.until(&copies).await;
    assert_eq!(browser.troubles().await, [""; 0]);
}

/// What can be operated and has no name for screen readers.
async fn nameless(browser: &Browser) -> Vec<Value> {
    browser.devtools("Accessibility.enable", json!({})).await;
    let tree = browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await;
    let operable = ["button", "link", "textbox", "combobox", "checkbox"];
    let nodes = tree["nodes"].as_array().unwrap().iter();
    let operated: Vec<&Value> = nodes
        .filter(|node| operable.contains(&node["role"]["value"].as_str().unwrap_or("")))
        .collect();
    // A dialog takes everything outside of it out of reach.
    assert!(2 < operated.len(), "only {} controls", operated.len());
    let nameless = operated.into_iter().filter(|node| {
        let name = node["name"]["value"].as_str();
        name.is_none_or(str::is_empty)
    });
    nameless.cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_pages_fit_a_narrow_phone_and_name_what_can_be_operated() {
    let mut cluster = Nodes::start().await;
    cluster.topic(&"o".repeat(249), 3).await;
    cluster.nodes[2].kill();
    let browser = Browser::start().await;
    browser.resize(320, 640).await;
    let topic = format!("topics/{}/partitions", "o".repeat(249));
    for (hash, ready, open) in [
        ("cluster", ".finding", ""),
        ("cluster/nodes/one", "td[data-label='This copy']", ""),
        (
            "cluster/nodes/one",
            ".page-head button",
            "document.querySelector('.page-head button').click()",
        ),
        (
            "cluster/nodes/three",
            ".page-head button",
            "document.querySelector('.page-head .button').click()",
        ),
        (&topic, "button[aria-label^=Leader]", ""),
        (
            &topic,
            "button[aria-label^=Copies]",
            "document.querySelector('button[aria-label^=Copies]').click()",
        ),
    ] {
        cluster.open(&browser, hash).await;
        browser.find(ready, None).await;
        browser.run(open).await;
        let widths = browser
            .run("return [document.documentElement.scrollWidth, innerWidth]")
            .await;
        assert_eq!(widths, json!([320, 320]), "on #/{hash} after `{open}`");
        let dialog = browser
            .run("return document.querySelector('dialog')?.scrollWidth ?? 0")
            .await;
        assert!(dialog.as_u64().unwrap() <= 320, "the dialog of #/{hash}");
        assert_eq!(nameless(&browser).await, Vec::<Value>::new(), "on #/{hash}");
    }
    assert_eq!(browser.troubles().await, [""; 0]);
}
