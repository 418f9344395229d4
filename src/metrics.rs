//! What the process counts: every metric with its name, labels and buckets, and their text form for Prometheus.
//!
//! A metric is added here and nowhere else; `docs/metrics.md` lists them, and a test compares the two.

use std::{sync::LazyLock, time::Duration};

use prometheus::{
    CounterVec, Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, exponential_buckets,
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Lines that never reached standard error. The log is the process's, and so is what is counted of
/// it.
pub static LOG_LINES_DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "log_lines_dropped_total",
        "Lines of the log that were dropped, because standard error did not take them.",
    )
});

/// Why a request was refused; the label `reason` has these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is no request that can be scored.
    Invalid,
    /// It exceeds a limit.
    TooLarge,
    /// The queue is full.
    Overloaded,
    /// Requests in flight hold all the memory that there is for them.
    Memory,
    /// No answer within the deadline.
    Deadline,
    /// The model is loading.
    Loading,
    /// The server is draining.
    ShuttingDown,
    /// The body broke off or cannot be unpacked.
    BrokenOff,
    /// The body came too slowly.
    SlowBody,
    /// The body is packed in an unknown way.
    Encoding,
    /// No key, or a wrong one.
    Unauthorized,
    /// All connections are taken.
    Connections,
    /// No such path.
    NoRoute,
    /// The path is there, for another method.
    Method,
    /// The connection ended before there was an answer.
    HungUp,
    /// The model failed.
    Failed,
}

impl Refused {
    /// Each of them once.
    const ALL: [Self; 16] = [
        Self::Invalid,
        Self::TooLarge,
        Self::Overloaded,
        Self::Memory,
        Self::Deadline,
        Self::Loading,
        Self::ShuttingDown,
        Self::BrokenOff,
        Self::SlowBody,
        Self::Encoding,
        Self::Unauthorized,
        Self::Connections,
        Self::NoRoute,
        Self::Method,
        Self::HungUp,
        Self::Failed,
    ];

    /// The value of the label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Memory => "memory",
            Self::Deadline => "deadline",
            Self::Loading => "loading",
            Self::ShuttingDown => "shutting_down",
            Self::BrokenOff => "broken_off",
            Self::SlowBody => "slow_body",
            Self::Encoding => "encoding",
            Self::Unauthorized => "unauthorized",
            Self::Connections => "connections",
            Self::NoRoute => "no_route",
            Self::Method => "method",
            Self::HungUp => "hung_up",
            Self::Failed => "failed",
        }
    }
}

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    /// Answers, by route, wire format and status.
    pub requests: IntCounterVec,
    /// From the first byte of the body to the answer, by wire format; scored requests only.
    pub request_seconds: HistogramVec,
    /// The parts of that: `parse`, `tokenize`, `queue`, `compute`.
    pub stage_seconds: HistogramVec,
    /// Documents, by request.
    pub documents: Histogram,
    refused: IntCounterVec,
    /// Requests being worked on.
    pub in_progress: IntGauge,
    /// Pairs that wait for a batch.
    pub queue_pairs: IntGauge,
    /// Bytes that requests in flight hold.
    pub memory: IntGauge,
    /// Bytes that they may hold.
    pub memory_limit: IntGauge,
    /// 1 once the model is loaded.
    pub ready: IntGauge,
    /// Logits that were NaN or infinite; none of them was sent.
    pub non_finite_scores: IntCounter,
    /// Batches that were computed twice, the second time in f32.
    pub redone_batches: IntCounter,
    info: IntGaugeVec,
    batch_seconds: Histogram,
    operation_seconds: CounterVec,
    batch_tokens: Histogram,
    batch_pairs: Histogram,
    tokens: IntCounter,
    padding_tokens: IntCounter,
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let seconds = || buckets(0.000_25, 2.0, 19); // 0.25 ms to 65 s
        let metrics = Self {
            requests: counters(
                "requests_total",
                "Answers, of all routes.",
                &["route", "format", "status"],
            ),
            request_seconds: histograms(
                "request_seconds",
                "Time from a request's body to its answer, of requests that were scored.",
                "format",
                seconds(),
            ),
            stage_seconds: histograms(
                "stage_seconds",
                "Time that requests spent in each stage.",
                "stage",
                seconds(),
            ),
            documents: histogram(
                "request_documents",
                "Documents of a request.",
                buckets(1.0, 2.0, 13),
            ),
            refused: counters(
                "refused_total",
                "Requests that were refused, or got no answer.",
                &["reason"],
            ),
            in_progress: gauge("requests_in_progress", "Requests being worked on."),
            queue_pairs: gauge("queue_pairs", "Pairs that wait for a batch."),
            memory: gauge("memory_bytes", "Bytes that requests in flight hold."),
            memory_limit: gauge(
                "memory_limit_bytes",
                "Bytes that requests in flight may hold.",
            ),
            ready: gauge("ready", "1 once the model is loaded."),
            non_finite_scores: counter(
                "non_finite_scores_total",
                "Logits that were NaN or infinite; their requests were failed.",
            ),
            redone_batches: counter(
                "redone_batches_total",
                "Batches that left f16's range on a GPU and were computed again in f32.",
            ),
            info: info_gauge(),
            batch_seconds: histogram(
                "batch_seconds",
                "Time the model took for a batch.",
                seconds(),
            ),
            operation_seconds: CounterVec::new(
                opts(
                    "operation_seconds_total",
                    "Time of batches on the CPU by kind of operation.",
                ),
                &["operation"],
            )
            .expect("the name is valid"),
            batch_tokens: histogram("batch_tokens", "Tokens of a batch.", buckets(16.0, 2.0, 12)),
            batch_pairs: histogram("batch_pairs", "Pairs of a batch.", buckets(1.0, 2.0, 11)),
            tokens: counter("tokens_total", "Tokens computed, without padding."),
            padding_tokens: counter("padding_tokens_total", "Padding computed beside them."),
            registry,
        };
        metrics.register_all();
        metrics
    }

    fn register_all(&self) {
        let collectors: [Box<dyn Collector>; 20] = [
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.stage_seconds.clone()),
            Box::new(self.documents.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.in_progress.clone()),
            Box::new(self.queue_pairs.clone()),
            Box::new(self.memory.clone()),
            Box::new(self.memory_limit.clone()),
            Box::new(self.ready.clone()),
            Box::new(self.non_finite_scores.clone()),
            Box::new(self.redone_batches.clone()),
            Box::new(self.info.clone()),
            Box::new(self.batch_seconds.clone()),
            Box::new(self.operation_seconds.clone()),
            Box::new(self.batch_tokens.clone()),
            Box::new(self.batch_pairs.clone()),
            Box::new(self.tokens.clone()),
            Box::new(self.padding_tokens.clone()),
            Box::new(LOG_LINES_DROPPED.clone()),
        ];
        for collector in collectors {
            let registered = self.registry.register(collector);
            registered.expect("names are different");
        }
        // They are there from the start, at zero, so that the first refusal is a change.
        for reason in Refused::ALL {
            self.refused(reason);
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            let registered = self.registry.register(Box::new(process));
            registered.expect("names are different");
        }
    }

    /// The counter of requests that were refused for this reason.
    pub fn refused(&self, reason: Refused) -> IntCounter {
        self.refused.with_label_values(&[reason.label()])
    }

    /// Says what model is running, from now on.
    pub fn set_info(&self, model: &str, device: &str, dtype: &str, backend: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let labels = [version, model, device, dtype, backend];
        self.info.with_label_values(&labels).set(1);
        self.ready.set(1);
    }

    /// Notes a batch of so many pairs and tokens that has been computed, with how many tokens of
    /// padding.
    pub fn observe_batch(&self, pairs: usize, tokens: usize, padding: usize, took: Duration) {
        self.batch_seconds.observe(took.as_secs_f64());
        self.batch_tokens.observe(tokens as f64);
        self.batch_pairs.observe(pairs as f64);
        self.tokens.inc_by(tokens as u64);
        self.padding_tokens.inc_by(padding as u64);
    }

    /// Notes the time that one kind of operation took of a batch.
    pub fn observe_operation(&self, operation: &str, took: Duration) {
        self.operation_seconds
            .with_label_values(&[operation])
            .inc_by(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("writing to memory does not fail");
        String::from_utf8(text).expect("the format is text")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn info_gauge() -> IntGaugeVec {
    let labels = ["version", "model", "device", "dtype", "backend"];
    IntGaugeVec::new(opts("info", "What is running; always 1."), &labels)
        .expect("the name is valid")
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("reranker_{name}"), help)
}

fn buckets(start: f64, factor: f64, count: usize) -> Vec<f64> {
    exponential_buckets(start, factor, count).expect("start, factor and count are positive")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::with_opts(opts(name, help)).expect("the name is valid")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(opts(name, help), labels).expect("the name is valid")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::with_opts(opts(name, help)).expect("the name is valid")
}

fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
    Histogram::with_opts(opts).expect("the name is valid")
}

fn histograms(name: &str, help: &str, label: &str, buckets: Vec<f64>) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
    HistogramVec::new(opts, &[label]).expect("the name is valid")
}
