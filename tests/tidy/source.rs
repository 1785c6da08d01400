//! Source files, and as much of Rust's grammar as the rules need.

use std::path::Path;

/// A Rust file, in the forms that rules look at.
pub(super) struct Source {
    /// From the root of the repository, with `/`.
    pub(super) path: String,
    /// As it stands.
    pub(super) text: String,
    /// Without comments and without what stands in quotes; lines stay where they are.
    pub(super) code: String,
    /// `code` without what only tests compile. Empty if the whole file is a test.
    pub(super) product: String,
}

impl Source {
    /// A file of that path and text.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let code = code(text);
        let product = if is_test(path) {
            String::new()
        } else {
            without_tests(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            product,
        }
    }

    /// The folder or file directly below `src/` to which the file belongs.
    pub(super) fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

/// Every Rust file of the project, by path.
pub(super) fn all() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "cli/src", "tests", "examples", "benches"] {
        collect(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut found,
        );
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let inside = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            found.push(Source::new(
                &inside.to_str().unwrap().replace('\\', "/"),
                &text,
            ));
        }
    }
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// `text` with comments and the contents of literals turned into spaces.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = comment(&chars, at).or_else(|| literal(&chars, at));
        match end {
            Some(end) => {
                let end = end.min(chars.len());
                out.extend(
                    chars[at..end]
                        .iter()
                        .map(|c| if *c == '\n' { '\n' } else { ' ' }),
                );
                at = end;
            }
            None if is_word(chars[at]) => {
                let end = word_end(&chars, at);
                out.extend(&chars[at..end]);
                at = end;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment that begins at `at` ends.
fn comment(chars: &[char], at: usize) -> Option<usize> {
    let two = |at: usize| (chars.get(at).copied(), chars.get(at + 1).copied());
    match two(at) {
        (Some('/'), Some('/')) => {
            let line = chars[at..].iter().position(|c| *c == '\n');
            Some(line.map_or(chars.len(), |length| at + length))
        }
        (Some('/'), Some('*')) => {
            let (mut depth, mut end) = (1, at + 2);
            while 0 < depth && end < chars.len() {
                match two(end) {
                    (Some('/'), Some('*')) => (depth, end) = (depth + 1, end + 2),
                    (Some('*'), Some('/')) => (depth, end) = (depth - 1, end + 2),
                    _ => end += 1,
                }
            }
            Some(end)
        }
        _ => None,
    }
}

/// Where the string or character that begins at `at` ends.
fn literal(chars: &[char], at: usize) -> Option<usize> {
    let mut start = at;
    let mut raw = false;
    for (prefix, is_raw) in [
        ("br", true),
        ("cr", true),
        ("r", true),
        ("b", false),
        ("c", false),
    ] {
        let rest: String = chars[at..].iter().take(prefix.len() + 1).collect();
        if rest.starts_with(prefix) && rest.ends_with(['"', '#', '\'']) {
            (start, raw) = (at + prefix.len(), is_raw);
            break;
        }
    }
    if raw {
        let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
        // A raw identifier such as r#type has no quote.
        if chars.get(start + hashes) != Some(&'"') {
            return None;
        }
        let mut close = vec!['"'];
        close.resize(hashes + 1, '#');
        let body = start + hashes + 1;
        let length = chars[body..]
            .windows(close.len())
            .position(|window| *window == close[..]);
        return Some(length.map_or(chars.len(), |length| body + length + close.len()));
    }
    match chars.get(start)? {
        '"' => Some(quoted(chars, start + 1, '"')),
        // 'a' and '\n', but not the lifetime 'a.
        '\'' if chars.get(start + 1) == Some(&'\\') || chars.get(start + 2) == Some(&'\'') => {
            Some(quoted(chars, start + 1, '\''))
        }
        _ => None,
    }
}

fn quoted(chars: &[char], mut at: usize, close: char) -> usize {
    while at < chars.len() && chars[at] != close {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `code` without items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let end = item_end(item);
        out.extend(item[..end].matches('\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Where the item that `code` begins with ends: at its `;`, or at the brace that closes it.
fn item_end(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_end(chars: &[char], at: usize) -> usize {
    let length = chars[at..].iter().position(|c| !is_word(*c));
    length.map_or(chars.len(), |length| at + length)
}

/// Where `word` stands in `code` as a whole word, or a whole path. Byte offsets.
pub(super) fn find_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .filter(move |(at, _)| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            let bounded = |edge: Option<char>, next: Option<char>| {
                !(edge.is_some_and(is_word) && next.is_some_and(is_word))
            };
            bounded(word.chars().next(), before) && bounded(word.chars().next_back(), after)
        })
        .map(|(at, _)| at)
}

/// The line, counted from one, on which a byte offset lies.
pub(super) fn line(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

/// The word at the beginning of `code`, after white space.
pub(super) fn first_word(code: &str) -> &str {
    let code = code.trim_start();
    let length = code.find(|c| !is_word(c)).unwrap_or(code.len());
    &code[..length]
}

/// The first names of the branches of a `{a::b, c::{d, e}}` group whose brace is already open.
pub(super) fn branches(code: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(first_word(&code[from..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(first_word(&code[from..at]));
                from = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r####"a /* b /* c */ d */ e // f
"g\"" 'h' '\'' r#"i " j"# br"k" b'l' b"m" &'n str r#type"####;
    let kept: String = code(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(kept, "a e &'n str r#type");
    assert_eq!(code(text).matches('\n').count(), 1);
}

#[test]
fn what_only_tests_compile_is_no_product() {
    let text = "a();\n#[cfg(test)]\nmod tests {\n fn b() { c([1; 2]); }\n}\nd();\n#[cfg(test)]\nmod e;\nf();";
    let source = Source::new("src/x.rs", text);
    let kept: String = source.product.split_whitespace().collect();
    assert_eq!(kept, "a();d();f();");
    for path in ["tests/a.rs", "src/x/tests.rs", "src/x/tests/y.rs"] {
        assert_eq!(Source::new(path, text).product, "");
    }
}

#[test]
fn words_are_found_whole() {
    let code = "sleep( asleep( x.sleep() sleeper a::b a::bc";
    assert_eq!(find_word(code, "sleep").count(), 2);
    assert_eq!(find_word(code, "sleep(").count(), 2);
    assert_eq!(find_word(code, "a::b").count(), 1);
    assert_eq!(
        branches("types::{A, B}, record, api::v1::X}; y"),
        ["types", "record", "api"]
    );
}
