//! A real browser, driven over WebDriver (W3C) with plain HTTP. Chromium's own driver starts it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take to show what a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The member under which WebDriver puts the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Runs in each page before the page's own scripts: notes what a reader would never see.
const WITNESS: &str = r#"
    window.witnessed = [];
    addEventListener("securitypolicyviolation", (event) =>
        witnessed.push(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`), true);
    addEventListener("error", (event) =>
        witnessed.push(`error: ${event.message ?? event.target.outerHTML}`), true);
    addEventListener("unhandledrejection", (event) => witnessed.push(`rejection: ${event.reason}`));
    window.alert = (text) => witnessed.push(`alert: ${text}`);
"#;

/// One browser window with a profile of its own. Dropping it ends the browser.
pub(crate) struct Browser {
    http: reqwest::Client,
    address: SocketAddr,
    session: String,
    driver: Child,
    _profile: TempDir,
}

/// An element of the page.
pub(crate) struct Element(String);

impl Browser {
    /// Starts a browser.
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start chromedriver ({error}): the console is tested in a browser; \
                     install Chromium and its driver, on Debian `apt-get install -y chromium chromium-driver`"
                )
            });
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                line.unwrap()
                    .split_once("successfully on port ")?
                    .1
                    .trim_end_matches('.')
                    .parse()
                    .ok()
            })
            .expect("chromedriver ended before it said on which port it listens");
        // Whatever else it prints must find a reader, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));

        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(2 * PATIENCE)
                .build()
                .unwrap(),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            driver,
            _profile: profile,
        };
        browser.open_session().await;
        browser
            .devtools(
                "Page.addScriptToEvaluateOnNewDocument",
                json!({ "source": WITNESS }),
            )
            .await;
        browser
    }

    async fn open_session(&mut self) {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            &profile,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        }}});
        let opened = self.ask("/session", capabilities).await;
        self.session = format!("/session/{}", opened["sessionId"].as_str().unwrap());
    }

    /// Sends a command; a refused one fails the test with the driver's own words.
    async fn ask(&self, path: &str, body: Value) -> Value {
        self.try_ask(path, body)
            .await
            .unwrap_or_else(|refusal| panic!("WebDriver {path}: {refusal}"))
    }

    async fn try_ask(&self, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("http://{}{}{path}", self.address, self.session);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        let refused = !answer.status().is_success();
        let mut answer: Value = answer.json().await.unwrap();
        let value = answer["value"].take();
        if refused {
            Err(value["message"].to_string())
        } else {
            Ok(value)
        }
    }

    /// Runs a command of the browser's own developer protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask(
            "/goog/cdp/execute",
            json!({ "cmd": command, "params": parameters }),
        )
        .await
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.ask("/url", json!({ "url": url })).await;
    }

    /// Gives the page a width and a height in CSS pixels, as a phone would.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": true });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// What the body of a function in the page returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Waits until the body of a function in the page returns something that JavaScript holds for
    /// true, and gives it.
    pub(crate) async fn until(&self, script: &str) -> Value {
        // The page looks by itself: no round trip between the event and the answer.
        let look = format!(
            "const answer = arguments[0];
             const giveUp = performance.now() + {};
             (function look() {{
                 const found = (() => {{ {script} }})();
                 if (found || giveUp < performance.now()) answer(found || null);
                 else setTimeout(look, 10);
             }})()",
            PATIENCE.as_millis(),
        );
        let found = self
            .ask("/execute/async", json!({ "script": look, "args": [] }))
            .await;
        if found.is_null() {
            let page = self.run("return document.body.innerText").await;
            panic!(
                "nothing came of `{script}`; the page says:\n{}",
                page.as_str().unwrap_or_default()
            );
        }
        found
    }

    /// Waits for a visible element of this selector whose text, if one is asked for, is exactly `text`.
    pub(crate) async fn find(&self, selector: &str, text: Option<&str>) -> Element {
        let script = format!(
            "return [...document.querySelectorAll({})].find((found) => \
             (found.localName === 'option' || found.checkVisibility()) \
             && ({text} === null || found.textContent.trim() === {text})) ?? null",
            json!(selector),
            text = json!(text),
        );
        Element(
            self.until(&script).await[ELEMENT]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    }

    /// Clicks as a person does: the element must be visible and nothing may lie over it.
    pub(crate) async fn click(&self, selector: &str, text: Option<&str>) {
        // A list that is redrawn between the two commands takes its elements away: look again.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Element(id) = self.find(selector, text).await;
            match self
                .try_ask(&format!("/element/{id}/click"), json!({}))
                .await
            {
                Ok(_) => return,
                Err(refusal) => assert!(
                    Instant::now() < deadline,
                    "cannot click {selector} {text:?}: {refusal}"
                ),
            }
        }
    }

    /// Types into a field, key by key.
    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let Element(id) = self.find(selector, None).await;
        self.ask(&format!("/element/{id}/value"), json!({ "text": text }))
            .await;
    }

    /// What went wrong behind the page since it was opened: exceptions, broken policy, failed loads,
    /// dialogs that a script opened. Reading empties the list.
    pub(crate) async fn troubles(&self) -> Vec<String> {
        let witnessed = self.run("return window.witnessed.splice(0)").await;
        let logged = self.ask("/se/log", json!({ "type": "browser" })).await;
        let texts = witnessed
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().to_owned());
        let entries = logged.as_array().unwrap().iter();
        texts
            .chain(entries.map(|entry| format!("{}: {}", entry["level"], entry["message"])))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes the browser down when its session is deleted, not when it is killed.
        if let Ok(mut driver) = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)) {
            let request = format!(
                "DELETE {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.address
            );
            let _ = driver.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = driver.write_all(request.as_bytes());
            let _ = driver.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
