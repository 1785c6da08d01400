//! Benchmarks are only worth something if they cannot be fast and wrong.

use crate::shell::Shell;

#[tokio::test]
async fn every_benchmark_verifies_what_it_measured() {
    let shell = Shell::start(&[]).await;
    for (what, format, more) in [
        (
            "produce",
            "binary",
            &["--compress", "--partitions", "2", "--topics", "2"][..],
        ),
        ("produce", "json", &["--rate", "20000"]),
        ("produce", "ndjson", &["--http2"]),
        ("produce", "publish", &["--no-baseline"]),
        ("consume", "binary", &["--partitions", "3", "--fan-out"]),
        ("consume", "json", &[]),
        ("consume", "ndjson", &["--no-baseline"]),
        ("end-to-end", "binary", &["--connections", "1"]),
    ] {
        let common = [
            "bench", what, "--format", format, "-n", "400", "--batch", "50", "--warmup", "20ms",
            "-o", "json",
        ];
        let ran = shell.run(&[&common[..], more].concat());
        let report = ran.json();
        assert_eq!(
            report["verified"]["wrong"],
            serde_json::json!([]),
            "{}",
            ran.line
        );
        assert!(
            400 <= report["verified"]["records"].as_u64().unwrap(),
            "{}",
            ran.line
        );
        assert!(
            0.0 < report["request"]["p50_us"].as_f64().unwrap(),
            "{}",
            ran.line
        );
        assert_eq!(
            report["baselines"].as_array().unwrap().is_empty(),
            more.contains(&"--no-baseline")
        );
    }
    assert_eq!(
        shell.run(&["topic", "list", "-o", "json"]).json(),
        serde_json::json!([]),
        "topics stayed behind"
    );
}
