//! What this project is built from: licences, sources, versions. The lock file and the crates' own
//! manifests are the evidence; nothing is fetched but what a build fetches anyway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Licences under which code may become part of a binary that is itself MIT-licensed.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Additions to a licence that only give more freedom.
const EXCEPTIONS: &[&str] = &["LLVM-exception"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates that must not come in, not even through others.
const BANNED: &[(&str, &str)] = &[
    (
        "native-tls",
        "one TLS implementation is enough, and it is rustls",
    ),
    (
        "openssl",
        "C code with its own release cycle on the target machine",
    ),
    ("openssl-sys", "as openssl"),
    (
        "rsa",
        "RUSTSEC-2023-0071: decryption leaks the key by its timing; there is no fixed version",
    ),
    (
        "atty",
        "RUSTSEC-2021-0145: unaligned read; std has is_terminal",
    ),
    ("serde_yaml", "archived by its author"),
    ("time", "one crate for calendar time, and it is jiff"),
];

/// Versions below which a crate has a defect that matters here.
const AT_LEAST: &[(&str, [u64; 3], &str)] = &[
    (
        "h2",
        [0, 4, 12],
        "CVE-2025-8671: streams reset by the server are not counted (MadeYouReset)",
    ),
    ("tokio", [1, 54, 1], "1.54.0 has a timer regression"),
    ("hyper", [1, 0, 0], "0.14 is no longer maintained"),
    (
        "jsonwebtoken",
        [10, 3, 0],
        "CVE-2026-25537: an exp that is a string counts as absent",
    ),
    (
        "ring",
        [0, 17, 12],
        "RUSTSEC-2025-0009: some AES functions may panic",
    ),
];

/// Crates that the lock file holds in more than one version, how many, and who keeps the older one.
/// A ratchet: an entry may go or shrink, and a new one needs a reason that a reviewer accepts.
const DUPLICATES: &[(&str, usize, &str)] = &[
    ("base64", 2, "0.22: sqlx-core, metrics-exporter-prometheus"),
    ("block-buffer", 2, "0.10: sha2 0.10"),
    ("cpufeatures", 2, "0.2: sha2 0.10"),
    ("crypto-common", 2, "0.1: sha2 0.10"),
    ("digest", 2, "0.10: sha2 0.10"),
    ("getrandom", 3, "0.2: ring; 0.3: rand 0.9"),
    (
        "hashbrown",
        3,
        "0.14: dashmap (stateright, tests alone); 0.16: hashlink (sqlx-core), metrics-util",
    ),
    (
        "itertools",
        3,
        "0.13: criterion, not in the binary; 0.14: chitchat",
    ),
    ("r-efi", 2, "through getrandom, on UEFI alone"),
    (
        "rand",
        3,
        "0.8: phf_generator, which builds openraft's chrono-tz; 0.9: metrics-util",
    ),
    ("rand_core", 3, "0.6: rand 0.8; 0.9: rand 0.9"),
    ("sha2", 2, "0.10: sqlx-core"),
    ("syn", 2, "2: the older derive macros; not in the binary"),
    ("tower-http", 2, "0.6: reqwest"),
    ("windows-sys", 2, "on Windows alone"),
    ("zstd", 2, "0.13: chitchat"),
    ("zstd-safe", 2, "7: chitchat's zstd"),
];

/// A package of the lock file.
#[derive(Debug, PartialEq, Eq)]
struct Locked {
    name: String,
    version: String,
    /// None for the members of this workspace.
    source: Option<String>,
}

fn locked(lock: &str) -> Vec<Locked> {
    let field = |block: &str, name: &str| {
        let line = block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let package = |block: &str| Locked {
        name: field(block, "name").unwrap(),
        version: field(block, "version").unwrap(),
        source: field(block, "source"),
    };
    lock.split("[[package]]").skip(1).map(package).collect()
}

fn own_lock() -> Vec<Locked> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    locked(&std::fs::read_to_string(path).unwrap())
}

/// Whether an SPDX expression can be fulfilled with [`LICENCES`] alone.
fn allowed(expression: &str) -> Result<bool, String> {
    // The slash is how manifests wrote OR before they wrote SPDX.
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let verdict = any_of(&mut words)?;
    match words.next() {
        None => Ok(verdict),
        Some(word) => Err(format!("{word:?} is left over in {expression:?}")),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> Result<bool, String> {
    let mut verdict = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        verdict |= all_of(words)?;
    }
    Ok(verdict)
}

fn all_of(words: &mut Words<'_>) -> Result<bool, String> {
    let mut verdict = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        verdict &= one(words)?;
    }
    Ok(verdict)
}

fn one(words: &mut Words<'_>) -> Result<bool, String> {
    match words.next() {
        Some("(") => {
            let verdict = any_of(words)?;
            words
                .next_if_eq(&")")
                .map(|_| verdict)
                .ok_or_else(|| "a parenthesis is not closed".to_owned())
        }
        Some(word @ (")" | "OR" | "AND" | "WITH")) => {
            Err(format!("{word:?} where a licence is expected"))
        }
        Some(licence) => {
            let mut verdict = LICENCES.contains(&licence);
            if words.next_if_eq(&"WITH").is_some() {
                verdict &= words
                    .next()
                    .is_some_and(|exception| EXCEPTIONS.contains(&exception));
            }
            Ok(verdict)
        }
        None => Err("the expression ends where a licence is expected".to_owned()),
    }
}

fn numbers(version: &str) -> [u64; 3] {
    let core = version.split(['-', '+']).next().unwrap();
    let mut parts = core.split('.').map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

fn breaches(packages: &[Locked]) -> Vec<String> {
    let mut found = Vec::new();
    for Locked {
        name,
        version,
        source,
    } in packages
    {
        if source.as_deref().is_some_and(|source| source != CRATES_IO) {
            found.push(format!(
                "{name} {version} comes from {}",
                source.as_deref().unwrap()
            ));
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| banned == name) {
            found.push(format!("{name} {version} is banned: {why}"));
        }
        for (_, least, why) in AT_LEAST
            .iter()
            .filter(|(crate_name, ..)| crate_name == name)
        {
            if numbers(version) < *least {
                found.push(format!("{name} {version} is too old: {why}"));
            }
        }
    }
    found
}

fn duplicates(packages: &[Locked]) -> BTreeMap<&str, usize> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    versions
        .into_iter()
        .map(|(name, versions)| (name, versions.len()))
        .filter(|(_, n)| 1 < *n)
        .collect()
}

#[test]
fn every_crate_comes_from_crates_io_and_none_is_banned_or_known_to_be_defective() {
    let packages = own_lock();
    assert_eq!(breaches(&packages), Vec::<String>::new());
    let own: Vec<&str> = packages
        .iter()
        .filter(|p| p.source.is_none())
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(own, ["pilgrimage", "pilgrimage-cli", "pilgrimage-model"]);
}

#[test]
fn a_crate_is_there_twice_only_for_a_written_reason() {
    let packages = own_lock();
    let listed: BTreeMap<&str, usize> = DUPLICATES
        .iter()
        .map(|(name, count, _)| (*name, *count))
        .collect();
    assert_eq!(
        duplicates(&packages),
        listed,
        "found, and listed in DUPLICATES"
    );
}

#[test]
fn every_licence_can_be_combined_with_ours() {
    // The platform that is released; other platforms' crates are not downloaded by a build.
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--all-features",
        ])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(100 < packages.len(), "only {} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| {
            package["license"]
                .as_str()
                .is_none_or(|text| allowed(text) != Ok(true))
        })
        .map(|package| {
            format!(
                "{} {}: {}",
                package["name"], package["version"], package["license"]
            )
        })
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn the_checks_find_what_they_are_for() {
    let lock = "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"1.0.0\"\n\n\
        [[package]]\nname = \"rsa\"\nversion = \"0.9.6\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n\
        [[package]]\nname = \"h2\"\nversion = \"0.4.11\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n\
        [[package]]\nname = \"h2\"\nversion = \"0.4.20\"\nsource = \"git+https://example.org/h2#1\"\n";
    let packages = locked(lock);
    let found = breaches(&packages);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("rsa 0.9.6 is banned"));
    assert!(found[1].starts_with("h2 0.4.11 is too old"));
    assert_eq!(
        found[2],
        "h2 0.4.20 comes from git+https://example.org/h2#1"
    );
    assert_eq!(duplicates(&packages), BTreeMap::from([("h2", 2)]));
}

#[test]
fn a_licence_expression_is_read_as_spdx_says() {
    let cases = [
        ("MIT", Ok(true)),
        ("GPL-3.0-only", Ok(false)),
        ("MIT OR GPL-3.0-only", Ok(true)),
        ("MIT/Apache-2.0", Ok(true)),
        ("MIT AND GPL-3.0-only", Ok(false)),
        ("MIT OR GPL-3.0-only AND ISC", Ok(true)),
        ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", Ok(false)),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", Ok(true)),
        ("Apache-2.0 WITH LLVM-exception", Ok(true)),
        ("Apache-2.0 WITH other-exception", Ok(false)),
        ("GPL-3.0-only WITH LLVM-exception", Ok(false)),
        (
            "",
            Err("the expression ends where a licence is expected".to_owned()),
        ),
        (
            "MIT OR",
            Err("the expression ends where a licence is expected".to_owned()),
        ),
        ("(MIT", Err("a parenthesis is not closed".to_owned())),
        (
            "MIT ISC",
            Err("\"ISC\" is left over in \"MIT ISC\"".to_owned()),
        ),
        (
            "OR MIT",
            Err("\"OR\" where a licence is expected".to_owned()),
        ),
    ];
    for (expression, expected) in cases {
        assert_eq!(allowed(expression), expected, "{expression:?}");
    }
}
