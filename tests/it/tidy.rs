//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words, and the only places under `src` where they may stand outside comments.
const ONLY_IN: [(&[&str], &[&str]); 9] = [
    (
        &["candle_core", "candle_nn", "candle_transformers"],
        &["model/candle.rs", "model/weights.rs"],
    ),
    (&["axum::"], &["http"]),
    (
        &["unsafe "],
        &[
            "ops/matmul",
            "ops/disjoint.rs",
            "ops/attention.rs",
            "ops/cuda",
            "model/weights.rs",
            "allocator.rs",
        ],
    ),
    (&["cudarc"], &["ops/cuda"]),
    (&["std::arch"], &["ops/matmul"]),
    (&["env::var", "env::vars", "home_dir"], &["config"]),
    (&["top_k", "rerank_score"], &["http/wire", "cli/doctor"]),
    (
        &["utoipa::"],
        &[
            "http/wire",
            "http/openapi.rs",
            "http/pages.rs",
            "http/status.rs",
        ],
    ),
    (&["println!", "eprintln!"], &[]),
];

/// Words that the queue's policy must do without: it is a pure data structure.
const NOT_IN_QUEUE: [&str; 5] = ["tokio", "candle", "Instant", "Mutex", "thread"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The program's own lines of a file: no comments, no tests.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    let code = text
        .lines()
        .map(|line| line.split("//").next().unwrap().to_owned());
    code.filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn words_stay_in_their_places() {
    for path in sources(Path::new("src")) {
        let name = path
            .strip_prefix("src")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        for line in code(&path) {
            for (words, places) in ONLY_IN {
                let found = words.iter().find(|word| line.contains(**word));
                let allowed = places.iter().any(|place| name.starts_with(place));
                assert!(
                    found.is_none() || allowed,
                    "{name}: {found:?} belongs in {places:?}: {line}"
                );
            }
        }
    }
}

#[test]
fn the_queue_is_pure() {
    for line in code(Path::new("src/queue.rs")) {
        assert!(
            NOT_IN_QUEUE.iter().all(|word| !line.contains(word)),
            "{line}"
        );
    }
}

#[test]
fn files_are_short() {
    for path in sources(Path::new("src")) {
        if path.ends_with("tests.rs") {
            continue;
        }
        let lines = code(&path).len();
        assert!(
            lines <= 400,
            "{} has {lines} lines of code; is it still one noun?",
            path.display()
        );
    }
}

#[test]
fn comments_are_at_most_100_columns_wide() {
    for root in ["src", "tests/it"] {
        for path in sources(Path::new(root)) {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let is_comment = line.trim_start().starts_with("//");
                let is_table = line.contains("//! |") || line.contains("/// |");
                assert!(
                    !is_comment || is_table || line.chars().count() <= 100,
                    "{}:{}: {line}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}
