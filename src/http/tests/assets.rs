//! The console's files and the documentation.

use super::Node;
use crate::types::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_is_served_under_a_strict_policy_and_not_sent_twice() {
    let node = Node::start().await;
    let page = node.get("/").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let tag = page.header("etag").unwrap();
    let again = node.ask("GET", "/", &[("if-none-match", tag)], b"").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    for path in [
        "/../Cargo.toml",
        "/%2e%2e/Cargo.toml",
        "//etc/passwd",
        "/index.html/",
        "/js/",
    ] {
        assert_eq!(node.get(path).await.problem(), "route_not_found", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_works_without_a_network() {
    let node = Node::start().await;
    assert_eq!(node.get("/docs").await.header("location"), Some("/docs/"));
    let page = node.get("/docs/").await;
    assert_eq!(
        (page.status, page.header("content-encoding")),
        (200, Some("gzip"))
    );
    for file in [
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        assert_eq!(
            node.get(&format!("/docs/{file}")).await.status,
            200,
            "{file}"
        );
    }
    assert_eq!(node.get("/docs/nothing").await.problem(), "route_not_found");
    let document = node.get("/openapi.json").await.json();
    assert_eq!(
        document["openapi"].as_str().map(|v| v.starts_with("3.1")),
        Some(true)
    );
    let problems = node.get("/docs/problems").await;
    for code in Code::ALL {
        assert!(
            problems.text().contains(&format!("<tr id=\"{code}\">")),
            "{code}"
        );
    }
}
