//! What the server says of itself, and whether it ranks as it should.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{
    check::Check,
    client::{Answer, Client},
    samples,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Days before its end from which a certificate is told.
const DAYS_LEFT: f64 = 14.0;

/// Gigabytes of GPU memory that the model takes, as the migration guide has it.
const GPU_GIGABYTES: f64 = 3.0;

/// Why nothing is known of a server that asks for another key.
const REFUSED: &str = "the key was refused";

/// What `/health` says of a server that is healthy.
pub(super) struct Health {
    device: String,
    model: String,
    milliseconds: u128,
}

impl Health {
    /// Reads an answer.
    ///
    /// # Errors
    /// The check that says why the server is not healthy.
    pub(super) fn of(answer: &Answer) -> Result<Self, Check> {
        let name = "reach";
        let json = answer.json();
        match answer.status {
            200 if json["status"] == "healthy" => Ok(Self {
                device: json["device"].as_str().unwrap_or("unknown").to_owned(),
                model: json["model"].as_str().unwrap_or("unknown").to_owned(),
                milliseconds: answer.took.as_millis(),
            }),
            503 => Err(
                Check::fail(name, format!("the server is there but not ready: {}", answer.detail()))
                    .advise("a model is loaded in seconds and downloaded in minutes: wait (--wait 300), and see the server's log if it does not end"),
            ),
            404 => Err(Check::fail(name, "something answers here, but it has no /health").advise(
                "this is not a reranker, or a proxy passes on another path: look at the address",
            )),
            status @ 300..=399 => {
                let to = answer.header("location").unwrap_or("nowhere");
                Err(Check::fail(name, format!("status {status}: it sends on to {to}"))
                    .advise("use that address"))
            }
            status => Err(
                Check::fail(name, format!("/health answers {status}: {}", answer.detail()))
                    .advise("see the server's log, and what is between it and this machine"),
            ),
        }
    }

    pub(super) fn is_gpu(&self) -> bool {
        self.device.starts_with("cuda")
    }
}

/// The check of a server that was reached.
pub(super) fn reached(health: &Health) -> Check {
    Check::pass(
        "reach",
        format!("healthy, {} in {} ms", health.model, health.milliseconds),
    )
    .with(json!({"model": health.model, "milliseconds": health.milliseconds}))
}

/// The check of where it computes.
pub(super) fn device(health: &Health, wants_gpu: bool) -> Check {
    let name = "device";
    let values = json!({"device": health.device});
    let check = if health.is_gpu() {
        Check::pass(name, &*health.device)
    } else {
        let found = format!("{}: no GPU is used", health.device);
        let check = if wants_gpu {
            Check::fail(name, found)
        } else {
            Check::warn(name, found)
        };
        check.advise("on a GPU machine see the server's log for the reason (driver, container toolkit, `gpus` of the compose file); RERANKER_REQUIRE_GPU=true makes it a failed start")
    };
    check.with(values)
}

/// Asks the request of the migration guide. The first check is about the key, the second about the
/// order.
pub(super) fn order(client: &Client) -> (Check, Check) {
    let name = "order";
    let answer = match client.rerank(&samples::of_the_guide()) {
        Ok(answer) => answer,
        Err(trouble) => {
            return (
                Check::skip("key", "no answer"),
                Check::fail(name, trouble.words()).advise("see the server's log"),
            );
        }
    };
    if is_refusal(answer.status) {
        return (refused_key(client, &answer), Check::skip(name, REFUSED));
    }
    let key = if client.has_key() {
        Check::pass("key", "the server takes the key")
    } else {
        Check::pass("key", "the server asks for none")
    };
    (key, ranked(&answer))
}

fn is_refusal(status: u16) -> bool {
    matches!(status, 401 | 403)
}

fn refused_key(client: &Client, answer: &Answer) -> Check {
    let found = if client.has_key() {
        "the server refuses this key"
    } else {
        "the server asks for a key"
    };
    Check::fail("key", format!("{found} ({})", answer.status))
        .advise("set RERANKER_API_KEY to one of the server's keys (its RERANKER_API_KEY or RERANKER_API_KEY_FILE)")
}

fn ranked(answer: &Answer) -> Check {
    let name = "order";
    match answer.status {
        200 => {}
        429 => return overloaded(name, answer),
        status => {
            return Check::fail(name, format!("status {status}: {}", answer.detail()))
                .advise("see the server's log");
        }
    }
    let json = answer.json();
    let score = |place: usize| json["documents"][place]["rerank_score"].as_f64();
    let (Some(first), Some(second)) = (score(0), score(1)) else {
        return Check::fail(name, "the answer has no `documents` with `rerank_score`")
            .advise("this is no server of RAGFab's format: look at the address");
    };
    let values = json!({"scores": [first, second]});
    let content = json["documents"][0]["content"].as_str().unwrap_or_default();
    let in_order = (0.0..=1.0).contains(&first) && first >= second;
    if in_order && samples::is_answer(content) {
        let found = format!("the answer comes first ({first:.3} and {second:.3})");
        return Check::pass(name, found).with(values);
    }
    Check::fail(name, format!("\"{content}\" comes first ({first:.3} and {second:.3})"))
        .advise("the weights or the device are wrong: compare with RERANKER_BACKEND=candle on the CPU; on a GPU run `reranker gpu-check`")
        .with(values)
}

/// The check of a server that refuses because it has too much to do.
pub(super) fn overloaded(name: &'static str, answer: &Answer) -> Check {
    let after = answer.header("retry-after").unwrap_or("a few");
    Check::warn(name, format!("overloaded: {}", answer.detail())).advise(format!(
        "ask again in {after} seconds; if it lasts, the server needs a GPU or a second machine"
    ))
}

/// What only this program's servers tell.
pub(super) struct Server {
    /// Whether it tells nothing without a key that it takes.
    refuses: bool,
    info: Value,
    metrics: Option<String>,
}

impl Server {
    pub(super) fn ask(client: &Client) -> Self {
        let (info, metrics) = (client.get("/info").ok(), client.get("/metrics").ok());
        let refuses = info
            .as_ref()
            .is_some_and(|answer| is_refusal(answer.status));
        let good = |answer: &Answer| answer.status == 200;
        let info = info.filter(good).map(|answer| answer.json());
        Self {
            refuses,
            info: info.unwrap_or_default(),
            metrics: metrics.filter(good).map(|answer| answer.body),
        }
    }

    pub(super) fn version(&self) -> Check {
        let name = "version";
        if self.refuses {
            return Check::skip(name, REFUSED);
        }
        let Some(version) = self.info["version"].as_str() else {
            return Check::skip(name, "the server does not tell; it is another program");
        };
        let values = json!({"server": version, "here": VERSION});
        let check = if version == VERSION {
            Check::pass(name, version)
        } else {
            Check::warn(name, format!("{version}; this program is {VERSION}"))
                .advise("upgrade the older one")
        };
        check.with(values)
    }

    /// What its metrics say about its state.
    pub(super) fn state(&self) -> Vec<Check> {
        if self.refuses {
            return vec![Check::skip("state", REFUSED)];
        }
        if self.metric("ready").is_none() {
            return vec![Check::skip(
                "state",
                "the server has no metrics of this program",
            )];
        }
        let checks = [
            self.memory(),
            self.scores(),
            self.redis(),
            self.certificate(),
        ];
        checks.into_iter().flatten().collect()
    }

    fn memory(&self) -> Option<Check> {
        let used = self.metric("gpu_memory_used_bytes")? / 1e9;
        let found = format!("{used:.1} GB of GPU memory");
        let check = if used <= GPU_GIGABYTES {
            Check::pass("memory", found)
        } else {
            Check::warn("memory", found).advise(
                "the model takes 2 to 3 GB: another process may use the GPU too (nvidia-smi)",
            )
        };
        Some(check.with(json!({"gigabytes": used})))
    }

    fn scores(&self) -> Option<Check> {
        let bad = self.metric("non_finite_scores_total")?;
        let redone = self.metric("redone_batches_total").unwrap_or_default();
        let values = json!({"non_finite": bad, "redone_batches": redone});
        let check = if bad > 0.0 {
            Check::fail("scores", format!("{bad} scores were not finite"))
                .advise("the weights are damaged or the device computes wrongly: see the log")
        } else if redone > 0.0 {
            Check::warn(
                "scores",
                format!("{redone} batches left f16's range and were repeated"),
            )
            .advise("if there are many, RERANKER_DTYPE=f32 is faster for this model")
        } else {
            Check::pass("scores", "all finite since the start")
        };
        Some(check.with(values))
    }

    fn redis(&self) -> Option<Check> {
        let connected = self.metric("cache_redis_connected")?;
        let errors = self.sum("cache_errors_total");
        let values = json!({"connected": connected, "errors": errors});
        let check = match (connected > 0.0, errors > 0.0) {
            (false, false) => return None, // there is none
            (true, false) => Check::pass("redis", "connected, no errors"),
            (true, true) => Check::warn("redis", format!("connected; {errors} errors so far"))
                .advise("see the server's log and Redis' memory"),
            (false, true) => Check::warn("redis", format!("not connected; {errors} errors"))
                .advise(
                    "scores are computed, not shared: see the server's log and RERANKER_REDIS_URL",
                ),
        };
        Some(check.with(values))
    }

    fn certificate(&self) -> Option<Check> {
        let end = self.metric("tls_certificate_expiry_timestamp_seconds")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let days = (end - now.as_secs_f64()) / 86400.0;
        let found = format!("the certificate ends in {days:.0} days");
        let check = if days < DAYS_LEFT {
            Check::warn("certificate", found)
                .advise("renew it; a running server takes a new file up by itself")
        } else {
            Check::pass("certificate", found)
        };
        Some(check.with(json!({"days": days})))
    }

    /// The largest of the samples of a metric.
    fn metric(&self, name: &str) -> Option<f64> {
        self.samples(name).into_iter().reduce(f64::max)
    }

    fn sum(&self, name: &str) -> f64 {
        self.samples(name).into_iter().sum()
    }

    fn samples(&self, name: &str) -> Vec<f64> {
        let name = format!("reranker_{name}");
        let lines = self.metrics.iter().flat_map(|text| text.lines());
        let value = |line: &str| {
            let rest = line.strip_prefix(&*name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            is_it.then(|| value.parse().ok())?
        };
        lines.filter_map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(metrics: &str) -> Server {
        Server {
            refuses: false,
            info: Value::Null,
            metrics: Some(format!("reranker_ready 1\n{metrics}\n")),
        }
    }

    fn words(metrics: &str) -> Vec<String> {
        let checks = server(metrics).state();
        let word =
            |check: &Check| format!("{} {}: {}", check.verdict.word(), check.name, check.found);
        checks.iter().map(word).collect()
    }

    #[test]
    fn a_state_is_told_by_its_metrics() {
        for (metrics, expected) in [
            (
                "reranker_non_finite_scores_total 0",
                "pass scores: all finite since the start",
            ),
            (
                "reranker_non_finite_scores_total 2",
                "fail scores: 2 scores were not finite",
            ),
            (
                "reranker_gpu_memory_used_bytes{gpu=\"0\"} 2400000000",
                "pass memory: 2.4 GB of GPU memory",
            ),
            (
                "reranker_gpu_memory_used_bytes{gpu=\"0\"} 14400000000",
                "warn memory: 14.4 GB of GPU memory",
            ),
            (
                "reranker_cache_redis_connected 1\nreranker_cache_errors_total{kind=\"timeout\"} 3",
                "warn redis: connected; 3 errors so far",
            ),
            (
                "reranker_tls_certificate_expiry_timestamp_seconds 86400",
                "warn certificate: the certificate ends in -",
            ),
        ] {
            let words = words(metrics);
            assert_eq!(words.len(), 1, "{words:?}");
            assert!(words[0].starts_with(expected), "{words:?}");
        }
        assert!(words("reranker_cache_redis_connected 0").is_empty());
    }
}
