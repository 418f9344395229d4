//! The program on a GPU: a real one, or the emulated one that `tests/gpu/run` builds and points to
//! with `EMULATED_GPU`. Without that variable these tests show nothing.

use std::{env, fs, process::Command};

use serde_json::{Value, json};

use crate::support::{Server, program};

/// Logits in f16 against those in f32, on the demo model.
const TOLERANCE: f64 = 1e-2;

/// The folder of the emulated libraries.
fn emulated() -> Option<String> {
    env::var_os("EMULATED_GPU").map(|folder| folder.into_string().unwrap())
}

/// Options that bring the emulated GPU in, and more.
fn with_gpu<'a>(folder: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut options = vec![
        ("LD_LIBRARY_PATH", folder),
        ("DEVICE", "cuda"),
        ("RERANKER_MAX_BATCH_TOKENS", "1024"),
    ];
    options.extend(more);
    options
}

/// Logits of a request, in its order.
fn logits(server: &Server, request: &Value) -> Vec<f64> {
    let answer = server.post("/v1/rerank", &request.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let results = answer.as_array().unwrap();
    let mut logits = vec![f64::NAN; results.len()];
    for result in results {
        let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
        logits[index] = result["score"].as_f64().unwrap();
    }
    logits
}

fn request(documents: usize) -> Value {
    let text = |i: usize| {
        format!(
            "Document {i} about backups of a database. {}",
            "More of it. ".repeat(i * i % 90)
        )
    };
    json!({
        "query": "How do I back up a database?",
        "texts": (0..documents).map(text).collect::<Vec<_>>(),
        "raw_scores": true,
    })
}

fn assert_near(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= TOLERANCE,
            "{found} is not {expected}"
        );
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let text = server.get("/metrics").body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no metric {name}"))
        .parse()
        .unwrap()
}

#[test]
fn the_gpu_scores_as_the_cpu_does_and_says_what_it_is() {
    let Some(folder) = emulated() else { return };
    let cpu = logits(&Server::start(&[("DEVICE", "cpu")]), &request(12));
    for (capability, dtype) in [("7.5", "auto"), ("9.0", "f16"), ("7.5", "f32")] {
        let server = Server::start(&with_gpu(
            &folder,
            &[
                ("EMULATED_GPU_CAPABILITY", capability),
                ("RERANKER_DTYPE", dtype),
            ],
        ));
        assert_near(&logits(&server, &request(12)), &cpu);
        let health = server.get("/health").json();
        assert_eq!(health["device"], "cuda");
        let gpu = &health["gpus"][0];
        assert_eq!(
            (&gpu["name"], &gpu["compute_capability"], &gpu["cuda"]),
            (&json!("Emulated T4"), &json!(capability), &json!("12.2"))
        );
        assert_eq!(server.get("/info").json()["gpus"], health["gpus"]);
    }
}

#[test]
fn a_layer_is_eight_launches_and_a_batch_one_copy_each_way() {
    let Some(folder) = emulated() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let server = Server::start(&with_gpu(
        &folder,
        &[("EMULATED_GPU_LOG", log.to_str().unwrap())],
    ));
    let before = fs::read_to_string(&log).unwrap().lines().count();
    logits(&server, &request(5));
    let log = fs::read_to_string(&log).unwrap();
    let count = |what: &str| {
        log.lines()
            .skip(before)
            .filter(|line| line.starts_with(what))
            .count()
    };
    // Embeddings; 3 layers of 8; gathering, 1 more product and 8 in the last; 2 for the head.
    // Products are cuBLASLt's.
    let launches = count("launch") + count("matmul");
    assert_eq!(launches, 1 + 3 * 8 + 10 + 2, "{log}");
    assert_eq!(count("synchronize stream"), 1);
    assert_eq!((count("htod"), count("dtoh")), (1, 1), "{log}");
}

#[test]
fn serving_takes_no_memory() {
    let Some(folder) = emulated() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let options = [
        ("EMULATED_GPU_LOG", log.to_str().unwrap()),
        ("RERANKER_MAX_BATCH_TOKENS", "600"),
    ];
    let server = Server::start(&with_gpu(&folder, &options));
    let before = fs::read_to_string(&log).unwrap().lines().count();
    for documents in [1, 7, 25, 2, 40] {
        logits(&server, &request(documents));
    }
    let log = fs::read_to_string(&log).unwrap();
    let taken: Vec<&str> = log
        .lines()
        .skip(before)
        .filter(|line| line.starts_with("alloc"))
        .collect();
    assert!(taken.is_empty(), "{taken:?}");
}

/// The driver alone is not enough.
#[test]
fn without_cublaslt_the_cpu_computes() {
    let Some(folder) = emulated() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        format!("{folder}/libcuda.so.1"),
        dir.path().join("libcuda.so.1"),
    )
    .unwrap();
    let driver_only = [("LD_LIBRARY_PATH", dir.path().to_str().unwrap())];
    let server = Server::start_loading(&with_gpu(&folder, &driver_only));
    let line = server.wait_for_log("computing on the CPU");
    assert!(
        line.contains("cuBLASLt is missing (libcublasLt.so.12 was not found)"),
        "{line}"
    );
}

#[test]
fn without_a_usable_gpu_the_cpu_computes_and_the_log_says_why() {
    let Some(folder) = emulated() else { return };
    let cases: [(&[(&str, &str)], &str); 5] = [
        (
            &[("LD_LIBRARY_PATH", "/nonexistent")],
            "there is no NVIDIA driver (libcuda.so.1 was not found)",
        ),
        (
            &[("EMULATED_GPU_COUNT", "0")],
            "the NVIDIA driver shows no GPU to this process",
        ),
        (
            &[("CUDA_VISIBLE_DEVICES", "")],
            "the NVIDIA driver shows no GPU to this process",
        ),
        (
            &[
                ("EMULATED_GPU_CAPABILITY", "6.1"),
                ("EMULATED_GPU_NAME", "Old GPU"),
            ],
            "Old GPU has compute capability 6.1, but 7.5 or newer is needed",
        ),
        (
            &[("EMULATED_GPU_DRIVER", "11040")],
            "the NVIDIA driver is for CUDA 11.4, but one for CUDA 12.0 or newer is needed",
        ),
    ];
    for (options, why) in cases {
        let server = Server::start_loading(&with_gpu(&folder, options));
        let line = server.wait_for_log("computing on the CPU");
        assert!(line.contains(why), "{line}");
        server.wait_for_log("ready");
        assert_eq!(server.get("/health").json()["device"], "cpu");

        let required = program()
            .envs(with_gpu(&folder, options))
            .envs([("RERANKER_REQUIRE_GPU", "true"), ("RERANKER_PORT", "0")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&required.stderr).into_owned();
        assert_eq!(required.status.code(), Some(1), "{said}");
        assert!(
            said.contains("RERANKER_REQUIRE_GPU is set, but") && said.contains(why),
            "{said}"
        );
    }
}

#[test]
fn what_the_gpu_cannot_do_goes_to_the_cpu() {
    let Some(folder) = emulated() else { return };
    let cases: [(&[(&str, &str)], &str); 4] = [
        (
            &[("RERANKER_DTYPE", "int8")],
            "RERANKER_DTYPE=int8 is for the CPU",
        ),
        (
            &[("RERANKER_BACKEND", "candle")],
            "RERANKER_BACKEND=candle is for the CPU",
        ),
        (
            &[("DEVICE", "cuda:1")],
            "there is no GPU 1: the NVIDIA driver shows 1, counted from 0",
        ),
        (
            &[("EMULATED_GPU_MEMORY", "10000000")],
            "MB of the GPU's memory are free",
        ),
    ];
    for (options, why) in cases {
        let server = Server::start_loading(&with_gpu(&folder, options));
        let line = server.wait_for_log("computing on the CPU");
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn too_little_memory_for_a_batch_halves_it() {
    let Some(folder) = emulated() else { return };
    let cpu = logits(&Server::start(&[("DEVICE", "cpu")]), &request(30));
    // The weights of the demo model are 15 MB, loading takes 16 for a moment and cuBLASLt has 8.
    let options = [
        ("EMULATED_GPU_MEMORY", "44e6"),
        ("RERANKER_MAX_BATCH_TOKENS", "16384"),
    ];
    let server = Server::start_loading(&with_gpu(&folder, &options));
    server.wait_for_log("halving them");
    server.wait_for_log("GPU memory planned");
    server.wait_for_log("ready");
    assert_near(&logits(&server, &request(30)), &cpu);
}

#[test]
fn a_launch_that_fails_fails_its_batch_only() {
    let Some(folder) = emulated() else { return };
    // The first batch is the warm-up pair.
    let options = [
        ("EMULATED_GPU_FAIL_LAUNCH", "90"),
        // Equal requests are computed each time.
        ("RERANKER_CACHE_MB", "0"),
    ];
    let server = Server::start(&with_gpu(&folder, &options));
    let statuses: Vec<u16> = (0..8)
        .map(|_| server.post("/v1/rerank", &request(2).to_string()).status)
        .collect();
    assert_eq!(
        statuses.iter().filter(|&&status| status == 500).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|&&status| status == 200).count(),
        7,
        "{statuses:?}"
    );
}

#[test]
fn two_gpus_share_the_queue() {
    let Some(folder) = emulated() else { return };
    let cpu = logits(&Server::start(&[("DEVICE", "cpu")]), &request(40));
    let options = [("EMULATED_GPU_COUNT", "2"), ("DEVICE", "cuda:0,cuda:1")];
    let server = Server::start(&with_gpu(&folder, &options));
    assert_near(&logits(&server, &request(40)), &cpu);
    assert_eq!(
        server.get("/health").json()["gpus"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// The demo model with activations beyond the range of f16.
fn overflowing() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("python3")
        .arg("tests/tools/overflowing.py")
        .args(["models/demo", dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    dir
}

#[test]
fn a_batch_beyond_the_range_of_f16_is_computed_again() {
    let Some(folder) = emulated() else { return };
    let dir = overflowing();
    let model = [("RERANKER_MODEL", dir.path().to_str().unwrap())];
    let cpu = logits(&Server::start(&[("DEVICE", "cpu"), model[0]]), &request(8));
    let server = Server::start(&with_gpu(&folder, &model));
    assert_near(&logits(&server, &request(8)), &cpu);
    assert!(metric(&server, "reranker_redone_batches_total") > 0.0);
    assert!(metric(&server, "reranker_non_finite_scores_total") < 0.5);
}

#[test]
fn too_little_memory_to_compute_a_batch_again_halves_it() {
    let Some(folder) = emulated() else { return };
    let dir = overflowing();
    let model = ("RERANKER_MODEL", dir.path().to_str().unwrap());
    let cpu = logits(&Server::start(&[("DEVICE", "cpu"), model]), &request(8));
    // Activations in f16 for so many tokens leave 5 MB, and those of a batch in f32 take 7.
    let options = [
        model,
        ("EMULATED_GPU_MEMORY", "44e6"),
        ("RERANKER_MAX_BATCH_TOKENS", "3456"),
    ];
    let server = Server::start_loading(&with_gpu(&folder, &options));
    // The batches that are measured at the start are computed again, too.
    server.wait_for_log("from now on such batches are halved");
    server.wait_for_log("ready");
    assert_near(&logits(&server, &request(8)), &cpu);
}

#[test]
fn the_examination_passes() {
    let Some(folder) = emulated() else { return };
    let examined = program()
        .arg("gpu-check")
        .envs(with_gpu(&folder, &[("RERANKER_MAX_BATCH_TOKENS", "512")]))
        .output()
        .unwrap();
    assert!(
        examined.status.success(),
        "{}",
        String::from_utf8_lossy(&examined.stderr)
    );
    let found: Value = serde_json::from_slice(&examined.stdout).unwrap();
    assert_eq!(found["passed"], true);
    assert_eq!(found["layers"]["launches_per_layer"], 8);
}

#[test]
fn metrics_say_how_the_gpus_are_doing() {
    let Some(folder) = emulated() else { return };
    let options = [("DEVICE", "cuda:1,cuda:0"), ("EMULATED_GPU_COUNT", "2")];
    let server = Server::start(&with_gpu(&folder, &options));
    let uuid = |gpu: usize| server.get("/info").json()["gpus"][gpu]["uuid"].clone();
    assert_ne!(uuid(0), uuid(1));
    assert!(uuid(0).as_str().unwrap().starts_with("GPU-"), "{}", uuid(0));
    let metrics = server.get("/metrics").body;
    for line in [
        "reranker_gpu_memory_used_bytes{gpu=\"0\"} 1000000",
        "reranker_gpu_memory_used_bytes{gpu=\"1\"} 2000000",
        "reranker_gpu_utilization_ratio{gpu=\"1\"} 0.42",
        "reranker_gpu_temperature_celsius{gpu=\"0\"} 51",
        "reranker_gpu_temperature_celsius{gpu=\"1\"} 52",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // This machine has no such sensor.
    assert!(!metrics.contains("reranker_gpu_power_watts"));
}
