//! Browsers: pages of other origins stay out, and answers are harmless in their hands.

use super::Node;
use crate::http::Options;
use crate::http::openapi::document;
use crate::http::serve::Settings;

/// Every method and path of the document, with something in place of its parameters.
fn every_route() -> Vec<(&'static str, String)> {
    let mut routes = Vec::new();
    for (path, item) in document().paths.paths {
        let path = path
            .replace("{topic}", "t")
            .replace("{partition}", "0")
            .replace("{offset}", "0");
        let operations = [
            ("GET", item.get),
            ("PUT", item.put),
            ("POST", item.post),
            ("PATCH", item.patch),
            ("DELETE", item.delete),
        ];
        for (method, operation) in operations {
            if operation.is_some() {
                routes.push((method, path.clone()));
            }
        }
    }
    assert!(20 < routes.len());
    routes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_web_page_of_another_origin_reaches_any_route() {
    let node = Node::start().await;
    let port = node.address.port();
    let own = format!("http://localhost:{port}");
    let routes = every_route()
        .into_iter()
        .chain(["/", "/docs/", "/js/main.js"].map(|page| ("GET", page.to_owned())));
    for (method, path) in routes {
        for (headers, code) in [
            (&[("host", "evil.example")][..], "host_not_allowed"),
            (&[("host", "localhost.evil.example")], "host_not_allowed"),
            (&[("host", "127.0.0.1@evil.example")], "invalid_request"),
            (
                &[("host", "localhost"), ("host", "evil.example")],
                "invalid_request",
            ),
            (&[("origin", "http://evil.example")], "origin_not_allowed"),
            (&[("origin", "null")], "origin_not_allowed"),
            (&[("origin", "http://localhost:1")], "origin_not_allowed"),
            (&[("sec-fetch-site", "cross-site")], "origin_not_allowed"),
            (
                &[
                    ("sec-fetch-site", "same-site"),
                    ("sec-fetch-mode", "no-cors"),
                ],
                "origin_not_allowed",
            ),
        ] {
            let answer = node.ask(method, &path, headers, b"").await;
            assert_eq!(answer.problem(), code, "{method} {path} {headers:?}");
        }
    }
    let same_origin = [
        ("host", &own["http://".len()..]),
        ("origin", own.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(
        node.ask("GET", "/v1/node", &same_origin, b"").await.status,
        200
    );
    let link = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(node.ask("GET", "/", &link, b"").await.status, 200);
    assert_eq!(
        node.ask("GET", "/v1/topics", &link, b"").await.problem(),
        "origin_not_allowed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_may_read_answers_and_no_others() {
    let options = Options {
        cors_origins: vec!["https://console.example".into()],
        ..Options::default()
    };
    let node = Node::with(options, Settings::default()).await;
    let preflight = [
        ("origin", "https://console.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "content-type"),
    ];
    let answer = node.ask("OPTIONS", "/v1/topics/t", &preflight, b"").await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://console.example")
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("content-type")
    );
    let answer = node.ask("GET", "/v1/topics", &preflight[..1], b"").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://console.example"))
    );
    let answer = node.get("/v1/topics").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_tells_browsers_to_do_nothing_with_it() {
    let node = Node::start().await;
    for (method, path) in every_route() {
        let answer = node.ask(method, &path, &[], b"").await;
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{method} {path}"
        );
        assert_eq!(
            answer.header("cross-origin-resource-policy"),
            Some("same-origin"),
            "{method} {path}"
        );
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .contains("default-src 'none'"),
            "{method} {path}"
        );
    }
}
