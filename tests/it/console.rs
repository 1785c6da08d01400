//! The console, as people use it: Chromium on one side, the binary on the other.

use serde_json::{Value, json};

use crate::support::Node;
use crate::webdriver::Browser;

/// Markup that runs something, wherever it is taken for markup.
const PAYLOADS: [&str; 20] = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<iframe src=\"javascript:parent.alert(1)\"></iframe>",
    "<a href=\"javascript:alert(1)\" autofocus onfocus=alert(1)>x</a>",
    "<details open ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<style>@import 'http://127.0.0.1:1/x.css'; * { display: none }</style>",
    "<link rel=stylesheet href=//127.0.0.1:1/x.css>",
    "<base href=//127.0.0.1:1/>",
    "<meta http-equiv=refresh content='0;url=//127.0.0.1:1/'>",
    "<form action=//127.0.0.1:1/><button>x</button></form>",
    "\"><script>alert(1)</script>",
    "'-alert(1)-'",
    "</pre></li></ol><script>alert(1)</script>",
    "<template><img src=x onerror=alert(1)></template>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}}",
];

async fn put(node: &Node, topic: &str, settings: Value) {
    let url = format!("{}/v1/topics/{topic}", node.url());
    let answer = reqwest::Client::new()
        .put(url)
        .json(&settings)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
}

async fn produce(node: &Node, topic: &str, records: Value) {
    let url = format!("{}/v1/topics/{topic}/records", node.url());
    let answer = reqwest::Client::new()
        .post(url)
        .json(&json!({ "records": records }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

async fn records(node: &Node, topic: &str) -> Vec<Value> {
    let url = format!("{}/v1/topics/{topic}/records?from=earliest", node.url());
    let mut page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let Value::Array(mut records) = page["records"].take() else {
        panic!("no records in {page}")
    };
    for record in &mut records {
        record.as_object_mut().unwrap().remove("timestamp");
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_written_and_watched_in_the_console() {
    let node = Node::start().await;
    let browser = Browser::start().await;

    browser.open(&node.url()).await;
    browser.find("#status-text", Some("Ready")).await;
    browser.click("nav a", Some("Topics")).await;
    browser.click("main button", Some("Create topic")).await;
    browser
        .type_into("dialog input[name=topic]", "orders")
        .await;
    browser
        .type_into("dialog input[name=partitions]", "2")
        .await;
    browser.click("dialog button[type=submit]", None).await;
    browser.find("h1", Some("orders")).await;

    browser.click("button.segment", Some("Live tail")).await;
    browser.find(".tail-status", Some("Live")).await;
    browser.click(".toolbar button", Some("Produce")).await;
    browser
        .type_into(".produce-form input[name=key]", "customer-7")
        .await;
    browser.click(".produce-form option", Some("JSON")).await;
    browser
        .click(".produce-form select[name=partition] option", Some("1"))
        .await;
    browser
        .type_into(
            ".produce-form textarea",
            r#"{"total": 12345678901234567890, "paid": 1.0}"#,
        )
        .await;
    browser.click(".produce-form button", Some("Header")).await;
    browser
        .type_into("input[aria-label='Header name']", "source")
        .await;
    browser
        .type_into("input[aria-label='Header value']", "console")
        .await;
    browser
        .click(".produce-form button[type=submit]", None)
        .await;
    browser
        .find(".sent strong", Some("Partition 1, offset 0"))
        .await;

    browser
        .find(".tail-scroll .record-key", Some("customer-7"))
        .await;
    browser.click(".tail-scroll .record-line", None).await;
    // As it was written: not a digit and no white space is lost on the way.
    browser.click(".record-open button", Some("Text")).await;
    browser
        .find(
            ".record-open .value",
            Some(r#"{"total": 12345678901234567890, "paid": 1.0}"#),
        )
        .await;
    assert_eq!(
        records(&node, "orders").await,
        [json!({
            "partition": 1, "offset": 0, "key": "customer-7",
            "value": { "total": 12345678901234567890_u64, "paid": 1.0 },
            "headers": [["source", "console"]],
        })]
    );
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_tail_keeps_what_arrives_and_a_resumed_one_shows_it() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    put(&node, "ticks", json!({})).await;

    browser
        .open(&format!("{}/#/topics/ticks", node.url()))
        .await;
    browser.click("button.segment", Some("Live tail")).await;
    browser.find(".tail-status", Some("Live")).await;
    browser.click("button", Some("Pause")).await;
    produce(
        &node,
        "ticks",
        json!([{ "value": "one" }, { "value": "two" }]),
    )
    .await;
    browser
        .find(".tail-status", Some("Paused, 2 new messages"))
        .await;
    assert_eq!(
        browser
            .run("return document.querySelectorAll('.tail-scroll .record').length")
            .await,
        0
    );

    browser.click("button", Some("Resume")).await;
    browser
        .find(".tail-scroll .record-value", Some("two"))
        .await;
    let shown = "return [...document.querySelectorAll('.tail-scroll .record-value')].map((v) => v.textContent)";
    assert_eq!(browser.run(shown).await, json!(["one", "two"]));

    // A burst is bounded to the last 500 lines.
    let burst: Vec<Value> = (0..700)
        .map(|n| json!({ "value": format!("burst {n}") }))
        .collect();
    produce(&node, "ticks", json!(burst)).await;
    browser
        .find(".tail-scroll .record-value", Some("burst 699"))
        .await;
    assert_eq!(
        browser
            .run("return document.querySelectorAll('.tail-scroll .record').length")
            .await,
        500
    );
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_message_holds_is_shown_and_never_run() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    put(&node, "hostile", json!({})).await;
    let hostile: Vec<Value> = PAYLOADS
        .iter()
        .flat_map(|payload| {
            let headers = json!([[payload.replace(['\r', '\n'], " "), payload]]);
            [
                json!({ "key": payload, "value": payload, "headers": headers }),
                json!({ "key": payload, "value": { *payload: [payload] }, "headers": headers }),
            ]
        })
        .collect();
    produce(&node, "hostile", json!(hostile)).await;

    browser
        .open(&format!("{}/#/topics/hostile", node.url()))
        .await;
    browser
        .until("return document.querySelectorAll('.record').length === 40")
        .await;
    browser
        .run("for (const line of document.querySelectorAll('.record-line')) line.click()")
        .await;
    let shown = browser
        .run(
            "return [...document.querySelectorAll('.record')].map((record) => ({
                key: record.querySelector('.record-key').textContent,
                header: record.querySelector('.facts.mono dt').textContent,
                content: record.querySelector('.facts.mono dd').textContent,
                value: record.querySelector('.value').textContent,
            })).reverse()",
        )
        .await;
    let expected: Vec<Value> = PAYLOADS
        .iter()
        .flat_map(|payload| {
            let quoted = json!(payload);
            let json_value = format!("{{\n  {quoted}: [\n    {quoted}\n  ]\n}}");
            [json!(payload), json!(json_value)]
                .map(|value| json!({ "key": payload, "header": payload, "content": payload, "value": value }))
        })
        .collect();
    assert_eq!(shown, json!(expected));
    let made = "return document.querySelectorAll('main :is(script, img, iframe, style, link, base, meta, template)').length";
    assert_eq!(browser.run(made).await, 0);
    assert_eq!(browser.troubles().await, [""; 0]);

    // A name in the address is as hostile as a message; the browser logs that no such topic is there.
    browser
        .open(&format!(
            "{}/#/topics/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
            node.url()
        ))
        .await;
    browser.find(".notice:not(.loading)", None).await;
    let refused = browser.troubles().await;
    assert!(
        refused
            .iter()
            .all(|trouble| trouble.contains("Failed to load resource")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_scrolls_sideways_on_a_narrow_phone() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    let long = "x".repeat(249);
    put(&node, &long, json!({ "partitions": 3 })).await;
    let wide = "w".repeat(5000);
    produce(
        &node,
        &long,
        json!([{ "key": wide, "value": { &wide[..900]: wide }, "headers": [[&wide[..900], wide]], "partition": 0 }]),
    )
    .await;

    browser.resize(320, 640).await;
    for (hash, ready, open) in [
        ("", ".meter-list", ""),
        ("topics", ".table a", ""),
        (
            "topics",
            ".table a",
            "document.querySelector('.page-head .primary').click()",
        ),
        (
            "topics/{}",
            ".record",
            "document.querySelector('.record-line').click()",
        ),
        (
            "topics/{}",
            ".record",
            "document.querySelector('.toolbar .primary').click()",
        ),
        ("topics/{}/partitions", ".table td", ""),
        (
            "topics/{}/settings",
            ".settings",
            "document.querySelector('.card-head button').click()",
        ),
        (
            "topics/{}/settings",
            ".settings",
            "document.querySelector('.quiet-danger').click()",
        ),
        ("nowhere/at/all", ".notice", ""),
    ] {
        let hash = hash.replace("{}", &long);
        // A page apart, so that nothing of the one before is left open.
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/{hash}", node.url())).await;
        browser.find(ready, None).await;
        browser.run(open).await;
        let widths = browser
            .run("return [document.documentElement.scrollWidth, innerWidth]")
            .await;
        assert_eq!(widths, json!([320, 320]), "on #/{hash} after `{open}`");
        let dialog = browser
            .run("return document.querySelector('dialog')?.scrollWidth ?? 0")
            .await;
        assert!(
            dialog.as_u64().unwrap() <= 320,
            "the dialog of #/{hash} is {dialog} wide"
        );
    }
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_shown_in_the_words_of_the_node() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    let url = format!("{}/v1/topics/orders", node.url());
    let answer = reqwest::Client::new()
        .put(url)
        .json(&json!({ "partitions": 0 }))
        .send()
        .await
        .unwrap();
    let problem: Value = answer.json().await.unwrap();

    browser.open(&format!("{}/#/topics", node.url())).await;
    browser.click("main button", Some("Create topic")).await;
    browser
        .type_into("dialog input[name=topic]", "orders")
        .await;
    browser
        .type_into("dialog input[name=partitions]", "0")
        .await;
    browser.click("dialog button[type=submit]", None).await;
    browser
        .find(
            "dialog [role=alert] p:not(.notice-title)",
            problem["detail"].as_str(),
        )
        .await;

    // The dialog stays open, and the same form goes through once it is right.
    browser
        .run("document.querySelector('dialog input[name=partitions]').value = ''")
        .await;
    browser
        .type_into("dialog input[name=partitions]", "1")
        .await;
    browser.click("dialog button[type=submit]", None).await;
    browser.find("h1", Some("orders")).await;

    browser.click("main button", Some("Delete")).await;
    browser.type_into("dialog input", "orders").await;
    browser.click("dialog button[type=submit]", None).await;
    browser.find("h1", Some("Topics")).await;
    browser.find(".notice-title", Some("No topics yet")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_can_be_operated_has_a_name_and_the_theme_is_remembered() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    put(&node, "orders", json!({ "partitions": 3 })).await;
    produce(&node, "orders", json!([{ "value": "hello" }])).await;

    for (hash, open) in [
        (
            "topics",
            "document.querySelector('.page-head .primary').click()",
        ),
        (
            "topics/orders",
            "document.querySelector('.toolbar .primary').click()",
        ),
    ] {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/{hash}", node.url())).await;
        browser.find("main .card", None).await;
        browser.run(open).await;
        browser.devtools("Accessibility.enable", json!({})).await;
        let tree = browser
            .devtools("Accessibility.getFullAXTree", json!({}))
            .await;
        let operable = [
            "button",
            "link",
            "textbox",
            "searchbox",
            "combobox",
            "checkbox",
            "spinbutton",
        ];
        let nodes = tree["nodes"].as_array().unwrap();
        let operated = nodes
            .iter()
            .filter(|node| operable.contains(&node["role"]["value"].as_str().unwrap_or("")));
        let (named, nameless): (Vec<_>, Vec<_>) = operated.partition(|node| {
            node["name"]["value"]
                .as_str()
                .is_some_and(|name| !name.is_empty())
        });
        assert!(
            8 < named.len(),
            "#/{hash} shows only {} controls",
            named.len()
        );
        assert_eq!(nameless, [&Value::Null; 0], "on #/{hash}");
    }

    browser.open("about:blank").await;
    browser.open(&node.url()).await;
    let before = browser
        .run("return getComputedStyle(document.body).backgroundColor")
        .await;
    browser.click("#theme", None).await;
    let after = browser
        .run("return getComputedStyle(document.body).backgroundColor")
        .await;
    assert_ne!(before, after);
    browser.open("about:blank").await;
    browser.open(&node.url()).await;
    assert_eq!(
        browser
            .run("return getComputedStyle(document.body).backgroundColor")
            .await,
        after
    );
    assert_eq!(browser.troubles().await, [""; 0]);
}

/// Produces `m0` to `m59`, a minute apart, with three keys, alternating between two partitions.
async fn sixty_messages(node: &Node) {
    put(node, "hours", json!({ "partitions": 2 })).await;
    let records: Vec<Value> = (0..60)
        .map(|n| {
            json!({
                "key": format!("k{}", n % 3),
                "value": format!("m{n}"),
                "timestamp": 1_800_000_000_000_i64 + n * 60_000,
                "partition": n % 2,
            })
        })
        .collect();
    produce(node, "hours", json!(records)).await;
}

/// Waits until so many messages are listed, and gives their values in the order of the page.
async fn listed(browser: &Browser, count: usize) -> Vec<String> {
    let values = browser
        .until(&format!(
            "const found = [...document.querySelectorAll('.record-value')].map((value) => value.textContent);
             return found.length === {count} && found",
        ))
        .await;
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_str().unwrap().to_owned())
        .collect()
}

fn named(numbers: impl Iterator<Item = i32>) -> Vec<String> {
    numbers.map(|n| format!("m{n}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_read_from_wherever_they_are_asked_for() {
    let node = Node::start().await;
    let browser = Browser::start().await;
    sixty_messages(&node).await;
    let choose = async |field: &str, label: &str| {
        let option = format!("select[name={field}] option");
        browser.click(&option, Some(label)).await;
    };

    browser
        .open(&format!("{}/#/topics/hours", node.url()))
        .await;
    // The newest of all partitions together, newest first, and then what is older.
    listed(&browser, 50).await;
    choose("limit", "25").await;
    assert_eq!(listed(&browser, 25).await, named((35..60).rev()));
    browser.click("button", Some("Show older")).await;
    assert_eq!(listed(&browser, 50).await, named((10..60).rev()));
    browser.click("button", Some("Show older")).await;
    assert_eq!(listed(&browser, 60).await, named((0..60).rev()));
    let more = browser
        .run("return [...document.querySelectorAll('main button')].some((b) => b.textContent === 'Show older')")
        .await;
    assert_eq!(more, false);

    choose("partition", "1").await;
    choose("from", "The beginning").await;
    assert_eq!(
        listed(&browser, 25).await,
        named((1..51).step_by(2)),
        "the first page of partition 1"
    );
    browser.click("button", Some("Show more")).await;
    assert_eq!(listed(&browser, 30).await, named((1..60).step_by(2)));

    choose("from", "An offset").await;
    browser
        .run("document.querySelector('input[name=offset]').value = ''")
        .await;
    browser.type_into("input[name=offset]", "27").await;
    browser.click("button", Some("Read")).await;
    assert_eq!(listed(&browser, 3).await, named([55, 57, 59].into_iter()));

    choose("from", "A time").await;
    // The form takes the reader's own time zone.
    browser
        .run(
            "const two = (n) => String(n).padStart(2, '0');
             const at = new Date(1800000000000 + 50 * 60000);
             document.querySelector('input[name=time]').value =
                 `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}:00`",
        )
        .await;
    browser.click("button", Some("Read")).await;
    assert_eq!(listed(&browser, 5).await, named((51..60).step_by(2)));

    choose("partition", "All 2").await;
    choose("from", "The newest").await;
    choose("filter", "Key is").await;
    browser.type_into("input[name=filter-value]", "k2").await;
    browser.click("button", Some("Read")).await;
    // Those among the newest 25 of each partition.
    assert_eq!(listed(&browser, 17).await, named((11..60).step_by(3).rev()));
    assert_eq!(browser.troubles().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_counts_what_the_node_counts() {
    let node = Node::start().await;
    let browser = Browser::start().await;

    browser.open(&node.url()).await;
    browser.find(".notice-title", Some("No topics yet")).await;
    put(&node, "ticks", json!({ "partitions": 3 })).await;
    produce(
        &node,
        "ticks",
        json!([{ "value": "one" }, { "value": "two" }]),
    )
    .await;
    browser
        .until(
            "const tiles = [...document.querySelectorAll('.tile')].map((tile) => tile.innerText.split('\\n').slice(0, 2).join(' '));
             return ['State Ready', 'Topics 1', 'Records written 2'].every((wanted) => tiles.includes(wanted))",
        )
        .await;
    let drawn = browser
        .until("return document.querySelectorAll('.chart-line[d^=M]').length")
        .await;
    assert_eq!(drawn, 8, "each chart draws its lines");

    assert_eq!(browser.troubles().await, [""; 0]);

    drop(node);
    browser.find("#status-text", Some("Offline")).await;
    browser.find("#banner[data-state=down]", None).await;
}
