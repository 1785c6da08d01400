//! The face as clients meet it: a node on a real socket, and bytes.

mod assets;
mod browsers;
mod connections;
mod hostile;
mod once;
mod produce;
mod read;
mod stream;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::serve::{Settings, bind, serve};
use super::{App, Options, router};
use crate::broker::{self, Broker, Brokers};
use crate::tasks::Tasks;

/// A node on a free port, with a directory of its own.
struct Node {
    address: SocketAddr,
    app: Arc<App>,
    stop: CancellationToken,
    tasks: Tasks,
    _dir: TempDir,
}

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Node {
    async fn start() -> Self {
        Self::with(Options::default(), Settings::default()).await
    }

    async fn with(options: Options, settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = "broker1".try_into().unwrap();
        let broker = Broker::open(broker::Options::new(id, dir.path().join("data")))
            .await
            .unwrap();
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let brokers = Brokers::new(broker, &tasks);
        let app = Arc::new(App::new(brokers, options, None, stop.clone()).unwrap());
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(
            "http",
            serve(
                listener,
                app.clone(),
                router(app.clone()),
                settings,
                stop.clone(),
            ),
        );
        Self {
            address,
            app,
            stop,
            tasks,
            _dir: dir,
        }
    }

    /// Ends the node as the server does.
    async fn shutdown(self) {
        self.stop.cancel();
        let brokers = self.app.brokers.clone();
        brokers.close().await;
        self.tasks.shutdown(PATIENCE).await.unwrap();
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a connection of its own and reads the answer.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(body).await;
        Answer::read(&mut stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    async fn post(&self, path: &str, kind: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask("POST", path, &[("content-type", kind)], body.as_ref())
            .await
    }
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// Reads until the server closes the connection.
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        let end = read.expect("the server neither answers nor closes");
        assert!(end.is_ok() || !bytes.is_empty(), "{end:?}");
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| {
                panic!("no head in {:?}", String::from_utf8_lossy(bytes));
            });
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers
            .iter()
            .any(|(name, value)| name == "transfer-encoding" && value == "chunked")
        {
            body = unchunk(&body);
        }
        Self {
            status,
            headers,
            body,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the problem document that this is, with everything that must be true of one.
    fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: crate::api::v1::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert_eq!(problem.code.status(), self.status);
        if matches!(self.status, 429 | 503) {
            assert!(self.header("retry-after").is_some(), "{self:?}");
        }
        problem.code.to_string()
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else {
            break;
        };
        out.extend_from_slice(chunk);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    out
}
