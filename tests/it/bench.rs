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
            "--rounds", "3", "-o", "json",
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
        let baselines = report["baselines"].as_array().unwrap();
        assert_eq!(baselines.is_empty(), more.contains(&"--no-baseline"));
        assert_eq!(rounds(&report), 3, "{}", ran.line);
        for baseline in baselines {
            assert_eq!(rounds(baseline), 3, "{}: {baseline}", ran.line);
            let [least, median, most] =
                ["min", "median", "max"].map(|end| baseline["ratio"][end].as_f64().unwrap());
            assert!(0.0 < least && least <= most, "{}: {baseline}", ran.line);
            assert!(0.0 < median, "{}: {baseline}", ran.line);
        }
    }
    assert_eq!(
        shell.run(&["topic", "list", "-o", "json"]).json(),
        serde_json::json!([]),
        "topics stayed behind"
    );
}

/// How many rounds were taken; each moved something, and together they are what is reported.
fn rounds(of: &serde_json::Value) -> usize {
    let rounds = of["rounds"].as_array().unwrap();
    let records = |of: &serde_json::Value| of["rate"]["records"].as_u64().unwrap();
    assert!(rounds.iter().all(|round| 0 < records(round)), "{of}");
    assert_eq!(rounds.iter().map(records).sum::<u64>(), records(of), "{of}");
    rounds.len()
}

#[tokio::test]
async fn a_log_that_is_larger_than_what_the_baseline_holds_is_still_compared_in_full() {
    let shell = Shell::start(&[]).await;
    let report = shell
        .run(&[
            "bench",
            "consume",
            "--format",
            "binary",
            "-n",
            "72",
            "--record-size",
            "1MiB",
            "--batch",
            "3",
            "--connections",
            "1",
            "--warmup",
            "0s",
            "--rounds",
            "2",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(report["verified"]["wrong"], serde_json::json!([]));
    assert_eq!(report["rate"]["records"], 144);
    let baseline = &report["baselines"][0];
    assert_eq!(
        baseline["rate"]["records"], 144,
        "63 records from the beginning, then 9 more, twice"
    );
    assert_eq!(
        baseline["does"],
        "axum; streams from memory the first 64.0 MiB of the same batches again and again, as many \
         records as the node"
    );
}
