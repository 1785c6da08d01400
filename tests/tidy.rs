//! The house rules, held by a test: layers, purity, lengths, words. Each rule is first shown a
//! file that breaks it, so that none of them can be empty.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::*;
use source::Source;

/// A file that breaks a rule: its path, its text, and how often.
type Sample = (&'static str, &'static str, usize);

/// Each rule with files that break it.
const RULES: &[(&str, Rule, &[Sample])] = &[
    (
        "layers",
        layers,
        &[
            ("src/storage/log.rs", "use crate::broker::Broker;", 1),
            ("src/storage/log.rs", "use crate::metadata::View;", 1),
            (
                "src/storage/log.rs",
                "use crate::{types::Offset, record, metadata::{View, Store}};",
                1,
            ),
            (
                "src/storage/log.rs",
                "fn f() -> crate::http::X { crate::partition::y() }",
                2,
            ),
            ("src/storage/log.rs", "use super::super::types::Offset;", 1),
            ("src/storage/mod.rs", "use super::broker::Broker;", 1),
            (
                "src/record/mod.rs",
                "#[cfg(test)] mod tests { use crate::storage::Disk; }",
                1,
            ),
            ("src/config.rs", "use crate::server::run;", 1),
            ("src/telemetry.rs", "use super::tasks::Tasks;", 1),
            ("src/elsewhere.rs", "", 1),
            ("src/http/mod.rs", "use crate::Broker;", 1),
        ],
    ),
    (
        "purity",
        purity,
        &[
            ("src/record/mod.rs", "use tokio::sync::mpsc;", 1),
            (
                "src/auth/mod.rs",
                "fn f() { std::fs::read(p); Instant::now(); }",
                2,
            ),
            ("src/metadata/state/mod.rs", "let id = Uuid::new_v4();", 1),
            ("src/record/header.rs", "async fn f() { g().await }", 2),
            ("src/record/header.rs", "use crate::telemetry;", 1),
        ],
    ),
    (
        "opening",
        opening,
        &[
            ("src/x.rs", "use std::fmt;", 1),
            ("src/x.rs", "", 1),
            ("src/x.rs", "// x", 1),
        ],
    ),
    (
        "words",
        words,
        &[
            ("src/x.rs", "// TODO: later", 1),
            ("cli/src/x.rs", "/// For now this is\n/// simplified.", 2),
            ("tests/x.rs", "todo!(); dbg!(x); unimplemented!()", 3),
        ],
    ),
    (
        "names",
        names,
        &[
            ("src/x.rs", "struct TopicManager; fn path_util() {}", 2),
            ("tests/x.rs", "mod helpers; trait HTTPHelper {}", 2),
            ("src/x.rs", "enum CommandV2 {}", 1),
        ],
    ),
    (
        "routing",
        routing,
        &[
            (
                "src/http/topics.rs",
                "fn f(r: Router) { r.route(\"/\", get(h)); }",
                1,
            ),
            (
                "src/server.rs",
                "Router::new().nest(\"/x\", y).fallback(z)",
                3,
            ),
        ],
    ),
    (
        "sleeps",
        sleeps,
        &[
            ("tests/x.rs", "tokio::time::sleep(t).await;", 1),
            (
                "tests/it/support.rs",
                "fn f() { sleep(t); sleep(t); } fn g() { sleep(t) }",
                1,
            ),
            (
                "src/x.rs",
                "#[cfg(test)] mod tests { async fn f() { sleep(t).await } }",
                1,
            ),
            ("src/x.rs", "fn f() { std::thread::sleep(t); }", 1),
        ],
    ),
    (
        "locks",
        locks,
        &[("src/x.rs", "use std::sync::Mutex;\nstruct A(Mutex<u8>);", 1)],
    ),
    (
        "loose_tasks",
        loose_tasks,
        &[("src/x.rs", "tokio::spawn(f);", 1)],
    ),
];

#[test]
fn every_file_keeps_the_house_rules() {
    let sources = source::all();
    assert!(
        20 < sources.len(),
        "only {} files were found",
        sources.len()
    );
    let broken: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            RULES
                .iter()
                .flat_map(move |(_, rule, _)| rule(source))
                .chain(length(source))
        })
        .collect();
    assert!(
        broken.is_empty(),
        "{} complaints:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn every_rule_finds_what_breaks_it() {
    for (name, rule, samples) in RULES {
        for (path, text, count) in *samples {
            let found = rule(&Source::new(path, text));
            assert_eq!(
                found.len(),
                *count,
                "{name} on {path} with {text:?} says {found:#?}"
            );
        }
    }
    let long = "//! Long.\n".repeat(LINES + 1);
    assert_eq!(
        length(&Source::new("src/x.rs", &long)),
        ["src/x.rs: 601 lines, at most 600 are allowed"]
    );
}

#[test]
fn no_rule_is_broken_by_what_is_allowed() {
    let text = "//! A good file. \"todo\" is a word, and so is a sleeper.\n\
        use crate::record::Batch;\n\
        use crate::{types::Offset, tasks::Tasks};\n\
        use crate::storage::Disk;\n\
        // tokio::spawn and Mutex stand in a comment.\n\
        pub struct Log { lifetime: &'static str, utility: u8, crate_v1: u8 }\n\
        fn f() { g(\"thread::sleep(crate::broker)\"); self::h(); sleeper(); }\n\
        #[cfg(test)]\nmod tests { use super::*; fn m() { let _ = Mutex::new(tokio::spawn(f())); } }\n";
    let text = text.replace("\"todo\"", "\"to do\"");
    let source = Source::new("src/storage/log.rs", &text);
    for (name, rule, _) in RULES {
        assert_eq!(rule(&source), Vec::<String>::new(), "{name}");
    }
    let meant = Source::new("src/server.rs", "//! Server.\nuse crate::config::Config;\n");
    assert_eq!(layers(&meant), Vec::<String>::new());
    let router = Source::new(
        ROUTER,
        "//! Router.\nfn f() { Router::new().route(p, m); }\n",
    );
    assert_eq!(routing(&router), Vec::<String>::new());
}

#[test]
fn the_lists_name_files_that_exist() {
    let sources = source::all();
    let known = |path: &str| sources.iter().any(|source| source.path == path);
    let counted = LONG
        .iter()
        .chain(LOCKS)
        .chain(LOOSE_TASKS)
        .map(|(path, _)| *path);
    let excepted = IMPURE_BUT.iter().map(|(path, _, _)| *path);
    let lost: Vec<&str> = counted
        .chain(excepted)
        .filter(|path| !known(path))
        .collect();
    assert_eq!(lost, [""; 0], "listed, but not there");
}
