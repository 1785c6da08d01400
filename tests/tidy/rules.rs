//! The rules and their lists.

use super::source::{Source, branches, find_word, first_word, line};

/// The layer of every module. Imports point to a lower layer, never up and never sideways.
const LAYERS: &[(&str, u8)] = &[
    ("types", 0),
    ("docs", 0),
    ("record", 1),
    ("tasks", 1),
    ("telemetry", 1),
    ("auth", 2),
    ("replication", 2),
    ("group", 2),
    ("schema", 2),
    ("placement", 2),
    ("producer", 2),
    ("api", 3),
    ("storage", 3),
    ("metadata", 3),
    ("cluster", 3),
    ("partition", 4),
    ("coordinator", 4),
    ("client", 4),
    ("broker", 5),
    ("http", 6),
    ("push", 6),
    ("autoscale", 6),
    ("config", 7),
    ("server", 7),
];

/// Imports between siblings that are meant: from, to, why.
const SIBLINGS: &[(&str, &str, &str)] = &[
    (
        "metadata",
        "storage",
        "the Raft log is written through the same seam to the disk, so that tests can cut its power",
    ),
    (
        "server",
        "config",
        "the composition root is what the configuration is for",
    ),
];

/// Files and folders that do no I/O, read no clock, draw no random number and never wait.
const PURE: &[&str] = &[
    "src/types/",
    "src/record/",
    "src/auth/",
    "src/replication/",
    "src/group/",
    "src/schema/",
    "src/placement/",
    "src/producer/",
    "src/metadata/chunked.rs",
    "src/metadata/command.rs",
    "src/metadata/state/",
    "src/metadata/view.rs",
    "src/metadata/wal.rs",
];

/// What pure code may not name.
const IMPURE: &[&str] = &[
    "tokio",
    "futures_util",
    "async",
    "await",
    "std::fs",
    "std::io::stdin",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "SystemTime",
    "Instant",
    "rand",
    "getrandom",
    "Generate",
    "new_v4",
    "now_v7",
    "metrics",
    "tracing",
    "Mutex",
    "RwLock",
    "sqlx",
    "reqwest",
];

/// What single pure files may name all the same: file, word, why.
pub(super) const IMPURE_BUT: &[(&str, &str, &str)] = &[
    (
        "src/types/clock.rs",
        "SystemTime",
        "the seam behind which the clock lies",
    ),
    (
        "src/record/seal.rs",
        "Generate",
        "nonces are random, or they are no nonces",
    ),
];

/// Most lines of a file.
pub(super) const LINES: usize = 600;
/// Files that were longer when the rule came. They may shrink; none may join them.
pub(super) const LONG: &[(&str, usize)] = &[];

/// How often a file names a lock. The numbers may fall, and the list with them; a file that is
/// not listed has none.
pub(super) const LOCKS: &[(&str, usize)] = &[
    // The index of the segment that is being written: readers look while the writer adds.
    ("src/storage/segment.rs", 2),
    // The list of running tasks.
    ("src/tasks.rs", 1),
    // The entries of the Raft log: the leader reads them for each follower while it adds more.
    ("src/metadata/raft/log.rs", 2),
    // The points of the segment that grows: the writer adds one per 4 KiB while readers look.
    ("src/storage/segment.rs", 2),
];
/// As above, for tasks that `tasks.rs` does not know.
pub(super) const LOOSE_TASKS: &[(&str, usize)] = &[
    // Ends after everything that Tasks joins: those still write through it. `close` waits for it.
    // And the one that watches Raft and ends with it.
    ("src/metadata/store.rs", 2),
    // A change of the voters in two steps, which must not stop between them because whoever asked
    // for it has gone away. It ends with Raft.
    ("src/metadata/members.rs", 1),
    // The thread that writes the Raft log: it ends with the store, which waits for it.
    ("src/metadata/raft/log.rs", 1),
];

/// Test files with loops that ask for a condition again and again until it holds, and how many:
/// the only places for a pause.
pub(super) const POLLS: &[(&str, usize)] = &[
    // Readiness of a node, with an eye on its process; and everything else.
    ("tests/it/support.rs", 2),
    // How long a fault lasts.
    ("tests/it/cluster/run.rs", 1),
    // What becomes of a cluster whose members see each other through cut wires.
    ("src/metadata/raft/tests/cluster.rs", 1),
];

/// Texts that no file may contain, whatever the case.
const WORDS: &[&str] = &[
    "todo",
    "fixme",
    "unimplemented!",
    "dbg!",
    "for now",
    "in a real",
    "simplified",
    "placeholder",
    "temporary hack",
    "quick and dirty",
];

/// Parts of names that say nothing about what bears them.
const EMPTY_NAMES: &[&str] = &[
    "manager", "util", "utils", "helper", "helpers", "misc", "v2",
];

/// What adds a route. Only the router may: there, none comes without its access rule.
const ROUTING: &[&str] = &[
    ".route(",
    ".route_service(",
    ".nest(",
    ".nest_service(",
    ".fallback(",
    ".fallback_service(",
    "Router::new",
    "OpenApiRouter",
];
pub(super) const ROUTER: &str = "src/http/router.rs";

pub(super) type Rule = fn(&Source) -> Vec<String>;

fn complaint(source: &Source, at: usize, text: impl std::fmt::Display) -> String {
    format!("{}:{}: {text}", source.path, line(&source.code, at))
}

fn layer(module: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.map(|(_, layer)| *layer)
}

/// The modules that a file names, and where.
fn imports(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in find_word(&source.code, "crate::") {
        // `$crate::` in a macro is the same crate.
        let rest = &source.code[at + "crate::".len()..];
        match rest.trim_start().strip_prefix('{') {
            Some(group) => found.extend(branches(group).into_iter().map(|name| (at, name))),
            None => found.push((at, first_word(rest))),
        }
    }
    // In a file directly below the root, `super` is the root.
    let top = source.path.matches('/').count() == 1 || source.path.ends_with("/mod.rs");
    if top && source.path.matches('/').count() <= 2 {
        for at in find_word(&source.product, "super::") {
            let name = first_word(&source.product[at + "super::".len()..]);
            if layer(name).is_some() {
                found.push((at, name));
            }
        }
    }
    found
}

pub(super) fn layers(source: &Source) -> Vec<String> {
    let Some(from) = source.module().filter(|module| *module != "lib") else {
        return Vec::new();
    };
    let Some(own) = layer(from) else {
        return vec![format!(
            "{}: {from} has no layer in tests/tidy.rs",
            source.path
        )];
    };
    let mut found = Vec::new();
    for at in find_word(&source.code, "super::super::") {
        found.push(complaint(
            source,
            at,
            "name it from the crate, not from super::super",
        ));
    }
    for (at, to) in imports(source) {
        let meant = SIBLINGS.iter().any(|(a, b, _)| (*a, *b) == (from, to));
        match layer(to) {
            // What the root re-exports, and macros that live there.
            None => found.push(complaint(
                source,
                at,
                format!("{to} has no layer in tests/tidy.rs"),
            )),
            Some(layer) if to == from || layer < own || meant => {}
            Some(layer) => found.push(complaint(
                source,
                at,
                format!("{from} (layer {own}) may not import {to} (layer {layer})"),
            )),
        }
    }
    found
}

pub(super) fn purity(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|pure| source.path.starts_with(pure)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for word in IMPURE.iter().chain(&["crate::tasks", "crate::telemetry"]) {
        if IMPURE_BUT
            .iter()
            .any(|(path, but, _)| (*path, *but) == (source.path.as_str(), *word))
        {
            continue;
        }
        for at in find_word(&source.product, word) {
            found.push(complaint(
                source,
                at,
                format!("pure code may not name {word}"),
            ));
        }
    }
    found
}

pub(super) fn length(source: &Source) -> Vec<String> {
    let listed = LONG.iter().find(|(path, _)| *path == source.path);
    let max = listed.map_or(LINES, |(_, lines)| *lines);
    let lines = source.text.lines().count();
    if max < lines {
        return vec![format!(
            "{}: {lines} lines, at most {max} are allowed",
            source.path
        )];
    }
    if listed.is_some() && lines <= LINES {
        return vec![format!(
            "{}: short enough now; take it off the list",
            source.path
        )];
    }
    Vec::new()
}

pub(super) fn opening(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!(
        "{}:1: say in a `//!` line what the file is for",
        source.path
    )]
}

pub(super) fn words(source: &Source) -> Vec<String> {
    // These two spell the words out.
    if source.path.starts_with("tests/tidy") {
        return Vec::new();
    }
    let text = source.text.to_lowercase();
    let mut found = Vec::new();
    for word in WORDS {
        for at in find_word(&text, word) {
            found.push(format!(
                "{}:{}: banned: {word}",
                source.path,
                line(&text, at)
            ));
        }
    }
    found
}

pub(super) fn names(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for keyword in [
        "struct",
        "enum",
        "union",
        "trait",
        "type",
        "fn",
        "mod",
        "const",
        "static",
        "macro_rules!",
    ] {
        for at in find_word(&source.code, keyword) {
            let name = first_word(&source.code[at + keyword.len()..]);
            if parts(name)
                .iter()
                .any(|part| EMPTY_NAMES.contains(&part.as_str()))
            {
                found.push(complaint(
                    source,
                    at,
                    format!("{name} says nothing; name what it does"),
                ));
            }
        }
    }
    found
}

/// The words of which a name in CamelCase or snake_case is made, in lower case.
fn parts(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut parts = vec![String::new()];
    for (at, c) in chars.iter().enumerate() {
        let after_small = 0 < at && !chars[at - 1].is_uppercase();
        let before_small = chars.get(at + 1).is_some_and(|next| next.is_lowercase());
        if *c == '_' || (c.is_uppercase() && (after_small || before_small)) {
            parts.push(String::new());
        }
        if *c != '_' {
            parts.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    parts
}

pub(super) fn routing(source: &Source) -> Vec<String> {
    if source.path == ROUTER || !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for word in ROUTING {
        for at in find_word(&source.product, word) {
            found.push(complaint(
                source,
                at,
                format!("{word} belongs into {ROUTER}"),
            ));
        }
    }
    found
}

pub(super) fn sleeps(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    // A command may wait for another process; a node has other requests to serve.
    if source.path.starts_with("src/") {
        for at in find_word(&source.product, "thread::sleep") {
            found.push(complaint(source, at, "a node's thread must not sleep"));
        }
    }
    // What the product does not have, the tests have.
    let count = |code: &str| find_word(code, "sleep(").count();
    let polls = POLLS.iter().find(|(path, _)| *path == source.path);
    let polls = polls.map_or(0, |(_, count)| *count);
    if count(&source.product) + polls < count(&source.code) {
        let at = find_word(&source.code, "sleep(").last().unwrap_or(0);
        found.push(complaint(
            source,
            at,
            "a test must not sleep; wait for a condition",
        ));
    }
    found
}

/// Holds a list of the library's files with counts: none may have more than is listed, and a file that has
/// fewer takes the list down with it.
fn ratchet(source: &Source, words: &[&str], list: &[(&str, usize)], why: &str) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let used = |code: &str| {
        let uses = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("use "));
        uses.map(|line| {
            words
                .iter()
                .map(|word| find_word(line, word).count())
                .sum::<usize>()
        })
        .sum::<usize>()
    };
    let listed = list
        .iter()
        .find(|(path, _)| *path == source.path)
        .map_or(0, |(_, count)| *count);
    let count = used(&source.product);
    if count == listed {
        return Vec::new();
    }
    vec![format!(
        "{}: {count} of {words:?}, {listed} in tests/tidy.rs: {why}",
        source.path
    )]
}

pub(super) fn locks(source: &Source) -> Vec<String> {
    ratchet(
        source,
        &["Mutex", "RwLock"],
        LOCKS,
        "one owner per state, asked through a handle",
    )
}

pub(super) fn loose_tasks(source: &Source) -> Vec<String> {
    if source.path == "src/tasks.rs" {
        return Vec::new();
    }
    let words = ["tokio::spawn", "thread::spawn", "thread::Builder"];
    ratchet(
        source,
        &words,
        LOOSE_TASKS,
        "spawn through Tasks, which names, joins and reports",
    )
}
