//! What the documents name exists: tests, files, settings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Everything between backticks outside code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .collect()
}

fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no {heading:?}"));
    let body = &text[start + heading.len() + 2..];
    let level = heading.split(' ').next().unwrap();
    body.split(&format!("\n{level} ")).next().unwrap()
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "cli/src"] {
        sources(&Path::new(ROOT).join(dir), &mut files);
    }
    let code: String = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let readme = read("README.md");
    let promises = section(&readme, "## What it promises");
    let named: Vec<&str> = quoted(promises)
        .into_iter()
        .filter(|name| 3 < name.matches('_').count())
        .collect();
    let absent: Vec<&&str> = named
        .iter()
        .filter(|name| !code.contains(&format!("fn {name}(")))
        .collect();
    assert!(10 < named.len(), "{named:?}");
    assert_eq!(absent, Vec::<&&str>::new());
}

#[test]
fn every_path_and_link_leads_somewhere() {
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let files = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        let paths = quoted(&text).into_iter().filter(|word| {
            let starts = [
                ".ci/",
                ".github/",
                "src/",
                "cli/",
                "static/",
                "openapi/",
                "migrations/",
                "tests/",
            ];
            let more = ["examples/", "benches/"];
            starts
                .iter()
                .chain(&more)
                .any(|start| word.starts_with(start))
                && !word.contains(' ')
        });
        let absent: Vec<&str> = files
            .chain(paths)
            .filter(|path| !Path::new(ROOT).join(path).exists())
            .collect();
        assert_eq!(absent, Vec::<&str>::new(), "{document}");
        let headings: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect();
        for anchor in text
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            assert!(headings.contains(anchor), "{document}: #{anchor}");
        }
    }
}

#[test]
fn every_setting_is_documented_and_no_other() {
    let config = read("src/config.rs");
    let options = config
        .split("pub struct Options {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let settings: BTreeSet<&str> = options
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    for (document, heading) in [
        ("README.md", "## Configuration"),
        ("src/docs/operations.md", "# Configuration"),
    ] {
        let text = read(document);
        let table = section(&text, heading)
            .lines()
            .filter(|line| line.starts_with("| `"));
        let first_cells = table.filter_map(|line| line.split('|').nth(1));
        let documented: BTreeSet<&str> = first_cells.flat_map(quoted).collect();
        assert_eq!(documented, settings, "{document}");
    }
}

#[test]
fn every_metric_in_the_documents_is_exported() {
    let telemetry = read("src/telemetry.rs");
    let exported: Vec<&str> = telemetry
        .split("&str = \"")
        .skip(1)
        .map(|s| s.split('"').next().unwrap())
        .collect();
    assert!(10 < exported.len());
    for document in ["README.md", "src/docs/operations.md"] {
        let text = read(document);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let metrics =
            words.filter(|word| word.starts_with("pilgrimage_") && *word != "pilgrimage_");
        let unknown: Vec<&str> = metrics.filter(|word| !exported.contains(word)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{document}");
    }
}
