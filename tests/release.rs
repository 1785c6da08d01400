//! The version rule of `.ci/release`, on throw-away repositories with made-up histories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const CHANGELOG: &str = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- Written by hand.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n";

/// A git repository of two packages, like this one, with its own remote.
struct Repository {
    dir: TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.write(
            "Cargo.toml",
            "[workspace]\nmembers = [\".\", \"cli\"]\nresolver = \"3\"\n\n\
             [workspace.package]\nversion = \"0.1.0\"\nrust-version = \"1.94\"\n\n\
             [workspace.dependencies]\nlog = { path = \".\", version = \"0.1.0\" }\n\n\
             [package]\nname = \"log\"\nversion.workspace = true\nedition = \"2024\"\n",
        );
        repository.write(
            "cli/Cargo.toml",
            "[package]\nname = \"log-cli\"\nversion.workspace = true\nedition = \"2024\"\n\n\
             [dependencies]\nlog.workspace = true\n",
        );
        repository.write("src/lib.rs", "");
        repository.write("cli/src/main.rs", "fn main() {}\n");
        repository.write(
            "Cargo.lock",
            "# Made by cargo.\nversion = 4\n\n[[package]]\nname = \"log\"\nversion = \"0.1.0\"\n\n\
             [[package]]\nname = \"log-cli\"\nversion = \"0.1.0\"\ndependencies = [\n \"log\",\n]\n",
        );
        repository.write("CHANGELOG.md", CHANGELOG);
        repository.git(&["add", "."]);
        repository.commit("chore: begin");
        repository
    }

    /// One whose present state is version 0.1.0.
    fn released() -> Self {
        let repository = Self::new();
        repository.git(&["tag", "v0.1.0"]);
        repository
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).unwrap()
    }

    fn commit(&self, message: &str) {
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = isolated(Command::new("git").current_dir(self.path()).args(arguments));
        assert!(
            output.status.success(),
            "git {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    fn release(&self, options: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/release");
        isolated(
            Command::new("bash")
                .current_dir(self.path())
                .arg(script)
                .args(options),
        )
    }

    /// The first line that a release with these options prints.
    fn decision(&self, options: &[&str]) -> String {
        let output = self.release(options);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// What a refused release says.
    fn refusal(&self, options: &[&str]) -> String {
        let output = self.release(options);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Everything that a release changes.
    fn state(&self) -> (String, String, String) {
        (
            self.git(&["rev-parse", "HEAD"]),
            self.git(&["tag", "--list"]),
            self.git(&["status", "--porcelain"]),
        )
    }

    /// Gives the repository a bare remote, and returns its path.
    fn with_remote(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("origin.git");
        self.git(&["clone", "--quiet", "--bare", ".", path.to_str().unwrap()]);
        self.git(&["remote", "add", "origin", path.to_str().unwrap()]);
        (dir, path)
    }
}

/// Runs a command that sees neither the developer's git configuration nor a surrounding workflow.
fn isolated(command: &mut Command) -> Output {
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GITHUB_OUTPUT",
    ] {
        command.env_remove(name);
    }
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Tester");
        command.env(format!("GIT_{who}_EMAIL"), "tester@example.org");
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_highest_change_since_the_last_tag_decides_the_version() {
    let cases: &[(&[&str], &str)] = &[
        (&["fix: a"], "release v0.1.1 (patch since v0.1.0)"),
        (&["fix(storage): a"], "release v0.1.1 (patch since v0.1.0)"),
        (&["feat: a"], "release v0.2.0 (minor since v0.1.0)"),
        (&["Feat(http): a"], "release v0.2.0 (minor since v0.1.0)"),
        (&["feat!: a"], "release v1.0.0 (major since v0.1.0)"),
        (
            &["refactor(storage)!: a"],
            "release v1.0.0 (major since v0.1.0)",
        ),
        (
            &["fix: a\n\nWhy.\n\nBREAKING CHANGE: b is gone"],
            "release v1.0.0 (major since v0.1.0)",
        ),
        (
            &["chore: a\n\nBREAKING-CHANGE: b is gone"],
            "release v1.0.0 (major since v0.1.0)",
        ),
        (
            &["fix: a", "feat: b", "fix: c"],
            "release v0.2.0 (minor since v0.1.0)",
        ),
        (
            &["feat: a", "fix!: b", "docs: c"],
            "release v1.0.0 (major since v0.1.0)",
        ),
        (&[], "nothing to release since v0.1.0"),
        (
            &["docs: a", "chore: b", "test: c", "perf: d", "refactor: e"],
            "nothing to release since v0.1.0",
        ),
        // Words that only look like the rule's.
        (
            &["feature: a", "fixes: b", "feat a", "feat:c", "a fix: d"],
            "nothing to release since v0.1.0",
        ),
        (
            &["docs: a\n\nthis is not a BREAKING CHANGE: it is only mentioned"],
            "nothing to release since v0.1.0",
        ),
        (
            &["docs: a\n\nbreaking change: lower case is prose"],
            "nothing to release since v0.1.0",
        ),
        (
            &["docs: a\n\nfix: only in the body"],
            "nothing to release since v0.1.0",
        ),
    ];
    for (messages, expected) in cases {
        let repository = Repository::released();
        for message in *messages {
            repository.commit(message);
        }
        assert_eq!(
            repository.decision(&["--dry-run"]),
            *expected,
            "{messages:?}"
        );
    }
}

#[test]
fn versions_are_compared_as_numbers_and_only_tags_of_this_line_of_history_count() {
    let repository = Repository::released();
    for tag in ["v0.9.0", "v0.10.1"] {
        repository.commit("feat: a");
        repository.git(&["tag", tag]);
    }
    repository.git(&["tag", "v1.0.0-rc.1"]);
    repository.git(&["tag", "vnext"]);
    repository.git(&["switch", "--quiet", "--create", "other"]);
    repository.commit("feat!: elsewhere");
    repository.git(&["tag", "v7.0.0"]);
    repository.git(&["switch", "--quiet", "main"]);
    repository.commit("fix: b");
    assert_eq!(
        repository.decision(&["--dry-run"]),
        "release v0.10.2 (patch since v0.10.1)"
    );
}

#[test]
fn a_version_that_was_never_tagged_is_released_as_it_stands() {
    let repository = Repository::new();
    assert_eq!(
        repository.decision(&["--dry-run"]),
        "nothing to release since the first commit"
    );
    repository.commit("feat: a");
    repository.commit("fix: b");
    assert_eq!(repository.decision(&[]), "release v0.1.0 (first release)");
    assert_eq!(repository.git(&["tag", "--list"]), "v0.1.0\n");
    assert_eq!(repository.decision(&[]), "nothing to release since v0.1.0");
}

#[test]
fn a_release_writes_the_version_everywhere_and_a_second_one_finds_nothing() {
    let repository = Repository::released();
    repository.commit("feat: count the records\n\nEvery one of them.");
    repository.commit("docs: say so");
    repository.commit("fix: keep \\n, \"quotes\", $(id) and `id` as they are");
    let (manifest, lock) = (repository.read("Cargo.toml"), repository.read("Cargo.lock"));
    let [fix, feature] = ["HEAD", "HEAD~2"].map(|at| repository.git(&["rev-parse", "--short", at]));

    assert_eq!(
        repository.decision(&[]),
        "release v0.2.0 (minor since v0.1.0)"
    );

    assert_eq!(
        repository.read("Cargo.toml"),
        manifest.replace("0.1.0", "0.2.0")
    );
    assert_eq!(
        repository.read("Cargo.lock"),
        lock.replace("0.1.0", "0.2.0")
    );
    let commits = format!(
        "### Feature commits\n\n- feat: count the records ({})\n\n### Fix commits\n\n\
         - fix: keep \\n, \"quotes\", $(id) and `id` as they are ({})\n",
        feature.trim(),
        fix.trim()
    );
    let changelog = repository.read("CHANGELOG.md");
    let date = changelog
        .split("## [0.2.0] - ")
        .nth(1)
        .unwrap()
        .split('\n')
        .next()
        .unwrap();
    let released = CHANGELOG
        .replace(
            "## [Unreleased]\n",
            &format!("## [Unreleased]\n\n## [0.2.0] - {date}\n"),
        )
        .replace("by hand.\n", &format!("by hand.\n\n{commits}"));
    assert_eq!(changelog, released);
    assert_eq!(
        repository.git(&["log", "-1", "--format=%s"]),
        "chore: release v0.2.0\n"
    );
    assert_eq!(
        repository.git(&["rev-parse", "v0.2.0^{commit}"]),
        repository.git(&["rev-parse", "HEAD"])
    );
    assert_eq!(repository.git(&["cat-file", "-t", "v0.2.0"]), "tag\n");
    assert!(
        repository
            .git(&["tag", "--list", "--format=%(contents)", "v0.2.0"])
            .contains(&commits)
    );
    assert_eq!(repository.git(&["status", "--porcelain"]), "");
    let accepted = Command::new(env!("CARGO"))
        .current_dir(repository.path())
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .output()
        .unwrap();
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));

    let before = repository.state();
    assert_eq!(repository.decision(&[]), "nothing to release since v0.2.0");
    assert_eq!(repository.state(), before);
}

#[test]
fn a_dry_run_changes_nothing() {
    let repository = Repository::released();
    repository.commit("feat!: a");
    let before = repository.state();
    assert_eq!(
        repository.decision(&["--dry-run", "--push", "--publish"]),
        "release v1.0.0 (major since v0.1.0)"
    );
    assert_eq!(repository.state(), before);
}

#[test]
fn what_cannot_be_released_cleanly_is_refused_with_the_reason() {
    let repository = Repository::released();
    repository.commit("fix: a");

    repository.write("src/lib.rs", "// changed\n");
    assert_eq!(
        repository.refusal(&[]),
        "error: the working tree has changes that are not committed\n"
    );
    repository.git(&["checkout", "--quiet", "src/lib.rs"]);
    repository.write("new", "");
    assert_eq!(
        repository.refusal(&[]),
        "error: the working tree has changes that are not committed\n"
    );
    fs::remove_file(repository.path().join("new")).unwrap();

    assert_eq!(
        repository.refusal(&["--force"]),
        "error: unknown option --force\n"
    );

    repository.git(&["switch", "--quiet", "--detach"]);
    assert_eq!(repository.refusal(&[]), "error: HEAD is not on a branch\n");
    repository.git(&["switch", "--quiet", "main"]);

    repository.git(&["switch", "--quiet", "--create", "other", "HEAD~1"]);
    repository.commit("fix: b");
    repository.git(&["tag", "v0.1.1"]);
    repository.git(&["switch", "--quiet", "main"]);
    assert_eq!(
        repository.refusal(&[]),
        "error: the tag v0.1.1 exists already, on another line of history\n"
    );
    repository.git(&["tag", "--delete", "v0.1.1"]);

    repository.write("CHANGELOG.md", "# Changelog\n");
    repository.git(&["commit", "--quiet", "--all", "--message", "docs: empty"]);
    let before = repository.state();
    assert_eq!(
        repository.refusal(&[]),
        "error: CHANGELOG.md has no \"## [Unreleased]\" heading\n"
    );
    assert_eq!(repository.state(), before);
}

#[test]
fn a_shallow_clone_is_refused_because_its_history_is_cut() {
    let repository = Repository::released();
    repository.commit("feat: a");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", repository.path().display());
    repository.git(&[
        "clone",
        "--quiet",
        "--depth=1",
        &url,
        dir.path().to_str().unwrap(),
    ]);
    let shallow = Repository { dir };
    assert!(
        shallow
            .refusal(&[])
            .starts_with("error: the clone is shallow"),
        "{}",
        shallow.refusal(&[])
    );
}

#[test]
fn the_commit_and_its_tag_are_pushed_together_or_not_at_all() {
    let repository = Repository::released();
    let (_dir, origin) = repository.with_remote();
    repository.commit("fix: a");
    assert_eq!(
        repository.decision(&["--push"]),
        "release v0.1.1 (patch since v0.1.0)"
    );
    let on_remote = |reference: &str| {
        let path = origin.to_str().unwrap();
        repository.git(&[
            "--git-dir",
            path,
            "rev-parse",
            &format!("{reference}^{{commit}}"),
        ])
    };
    assert_eq!(on_remote("main"), repository.git(&["rev-parse", "HEAD"]));
    assert_eq!(on_remote("v0.1.1"), on_remote("main"));

    // Somebody else has pushed in between.
    let dir = tempfile::tempdir().unwrap();
    repository.git(&[
        "clone",
        "--quiet",
        origin.to_str().unwrap(),
        dir.path().to_str().unwrap(),
    ]);
    let other = Repository { dir };
    other.commit("docs: faster");
    other.git(&["push", "--quiet", "origin", "main"]);
    repository.commit("fix: b");
    let before = repository.state();
    assert!(
        repository
            .refusal(&["--push"])
            .ends_with("pushing v0.1.2 was refused; nothing has been released\n")
    );
    assert_eq!(repository.state(), before);
    assert_eq!(
        repository.git(&["ls-remote", "--tags", "origin", "v0.1.2"]),
        ""
    );
}

#[test]
fn the_workflow_learns_the_tag() {
    let repository = Repository::released();
    let outputs = tempfile::NamedTempFile::new().unwrap();
    let run = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/release");
        let done = Command::new("bash")
            .current_dir(repository.path())
            .arg(script)
            .env("GITHUB_OUTPUT", outputs.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([
                ("GIT_AUTHOR_NAME", "Tester"),
                ("GIT_AUTHOR_EMAIL", "tester@example.org"),
            ])
            .envs([
                ("GIT_COMMITTER_NAME", "Tester"),
                ("GIT_COMMITTER_EMAIL", "tester@example.org"),
            ])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    run();
    repository.commit("fix: a");
    run();
    assert_eq!(
        fs::read_to_string(outputs.path()).unwrap(),
        "tag=\ntag=v0.1.1\n"
    );
}

#[test]
fn this_workspace_has_the_shape_that_a_release_rewrites() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = Repository::released();
    for file in ["Cargo.toml", "Cargo.lock", "CHANGELOG.md"] {
        repository.write(file, &fs::read_to_string(here.join(file)).unwrap());
    }
    repository.git(&[
        "commit",
        "--quiet",
        "--all",
        "--message",
        "feat!: become this workspace",
    ]);
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(
        repository.decision(&[]),
        "release v1.0.0 (major since v0.1.0)"
    );
    let changed: Vec<String> = repository
        .git(&[
            "diff",
            "--unified=0",
            "HEAD~1",
            "--",
            "Cargo.toml",
            "Cargo.lock",
        ])
        .lines()
        .filter(|line| {
            line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---")
        })
        .map(str::to_owned)
        .collect();
    let pair = |line: &str| {
        [
            format!("-{}", line.replace("1.0.0", own)),
            format!("+{line}"),
        ]
    };
    let dependency = "pilgrimage = { path = \".\", version = \"1.0.0\" }";
    let expected = [
        "version = \"1.0.0\"",
        "version = \"1.0.0\"",
        "version = \"1.0.0\"",
        "version = \"1.0.0\"",
        dependency,
    ]
    .map(pair);
    assert_eq!(sorted(changed), sorted(expected.concat()));
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
