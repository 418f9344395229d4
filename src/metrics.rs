//! What the process counts: every metric with its name, labels and buckets, and their text form for
//! Prometheus.
//!
//! A metric is added here and nowhere else; `docs/metrics.md` lists them, and a test compares the
//! two.

mod labels;

use std::{sync::LazyLock, time::Duration};

use prometheus::{
    Counter, CounterVec, Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
    exponential_buckets,
};

pub(crate) use self::labels::{CacheError, PairSource, Refused, Stage};

/// The content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Lines that never reached standard error. The log is the process's, and so is what is counted of
/// it.
pub(crate) static LOG_LINES_DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "log_lines_dropped_total",
        "Lines of the log that were dropped, because standard error did not take them.",
    )
});

/// All metrics of one process.
pub(crate) struct Metrics {
    registry: Registry,
    /// Answers, by route, wire format and status.
    pub requests: IntCounterVec,
    /// Time from the first byte of the body to the answer, by wire format; scored requests only.
    pub request_seconds: HistogramVec,
    stage_seconds: HistogramVec,
    /// Documents, by request.
    pub documents: Histogram,
    refused: IntCounterVec,
    /// Requests being worked on.
    pub in_progress: IntGauge,
    /// Pairs that wait for a batch.
    pub queue_pairs: IntGauge,
    /// Pairs that may wait.
    pub queue_pairs_limit: IntGauge,
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
    /// What is counted of the cache.
    pub cache: Cached,
    info: IntGaugeVec,
    certificate_end: IntGaugeVec,
    gpus: Gpus,
    batches: Batches,
}

/// What is counted of the cache of scores.
pub(crate) struct Cached {
    pairs: IntCounterVec,
    errors: IntCounterVec,
    /// Scores in memory.
    pub entries: IntGauge,
    /// Bytes that they take.
    pub bytes: IntGauge,
    /// Time of the model that the cache saved.
    pub saved_seconds: Counter,
    /// 1 while there is a connection to Redis.
    pub redis_connected: IntGauge,
    /// Time that requests waited for Redis.
    pub redis_seconds: Histogram,
}

/// How GPUs are doing. What a card does not tell is not there.
struct Gpus {
    memory_used: IntGaugeVec,
    memory_total: IntGaugeVec,
    utilization: GaugeVec,
    temperature: GaugeVec,
    power: GaugeVec,
}

/// What is counted of the batches that the model computes.
struct Batches {
    seconds: Histogram,
    operation_seconds: CounterVec,
    sizes_in_tokens: Histogram,
    sizes_in_pairs: Histogram,
    tokens: IntCounter,
    padding_tokens: IntCounter,
}

impl Metrics {
    /// All of them, at zero.
    pub(crate) fn new() -> Self {
        let new = New(Registry::new());
        let metrics = Self {
            requests: new.counters(
                "requests_total",
                "Answers, of all routes.",
                &["route", "format", "status"],
            ),
            request_seconds: new.histograms(
                "request_seconds",
                "Time from a request's body to its answer, of requests that were scored.",
                "format",
                times(),
            ),
            stage_seconds: new.histograms(
                "stage_seconds",
                "Time that requests spent in each stage.",
                "stage",
                times(),
            ),
            documents: new.histogram(
                "request_documents",
                "Documents of a request.",
                buckets(1.0, 2.0, 13),
            ),
            refused: new.counters(
                "refused_total",
                "Requests that were refused, or got no answer.",
                &["reason"],
            ),
            in_progress: new.gauge("requests_in_progress", "Requests being worked on."),
            queue_pairs: new.gauge("queue_pairs", "Pairs that wait for a batch."),
            queue_pairs_limit: new.gauge("queue_pairs_limit", "Pairs that may wait."),
            memory: new.gauge("memory_bytes", "Bytes that requests in flight hold."),
            memory_limit: new.gauge(
                "memory_limit_bytes",
                "Bytes that requests in flight may hold.",
            ),
            ready: new.gauge("ready", "1 once the model is loaded."),
            non_finite_scores: new.counter(
                "non_finite_scores_total",
                "Logits that were NaN or infinite; their requests were failed.",
            ),
            redone_batches: new.counter(
                "redone_batches_total",
                "Batches that left f16's range on a GPU and were computed again in f32.",
            ),
            info: new.gauges(
                "info",
                "What is running; always 1.",
                &["version", "model", "device", "dtype", "backend"],
            ),
            certificate_end: new.gauges(
                "tls_certificate_expiry_timestamp_seconds",
                "When the first certificate of the chain ends, in seconds since 1970.",
                &[],
            ),
            gpus: Gpus::new(&new),
            cache: Cached::new(&new),
            batches: Batches::new(&new),
            registry: new.0,
        };
        // They are there from the start, at zero, so that the first refusal is a change.
        for reason in Refused::ALL {
            metrics.refused(reason);
        }
        metrics.register_those_of_the_process();
        metrics
    }

    fn register_those_of_the_process(&self) {
        register(&self.registry, LOG_LINES_DROPPED.clone());
        #[cfg(target_os = "linux")]
        register(
            &self.registry,
            prometheus::process_collector::ProcessCollector::for_self(),
        );
    }

    /// Notes the time that a request spent in a stage.
    pub(crate) fn observe_stage(&self, stage: Stage, took: Duration) {
        let seconds = self.stage_seconds.with_label_values(&[stage.label()]);
        seconds.observe(took.as_secs_f64());
    }

    /// The counter of requests that were refused for this reason.
    pub(crate) fn refused(&self, reason: Refused) -> IntCounter {
        self.refused.with_label_values(&[reason.label()])
    }

    /// Says what model is running, from now on.
    pub(crate) fn set_info(&self, model: &str, device: &str, dtype: &str, backend: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let labels = [version, model, device, dtype, backend];
        self.info.with_label_values(&labels).set(1);
        self.ready.set(1);
    }

    /// Says when the certificate ends, in seconds since 1970. Without one the metric is not there.
    pub(crate) fn set_certificate_end(&self, seconds: i64) {
        let none: [&str; 0] = [];
        self.certificate_end.with_label_values(&none).set(seconds);
    }

    /// Forgets how GPUs were doing: what is not told again is not there.
    pub(crate) fn forget_gpus(&self) {
        self.gpus.memory_used.reset();
        self.gpus.memory_total.reset();
        for gauges in [
            &self.gpus.utilization,
            &self.gpus.temperature,
            &self.gpus.power,
        ] {
            gauges.reset();
        }
    }

    /// Says how much of a GPU's memory is in use, of how much.
    pub(crate) fn set_gpu_memory(&self, gpu: usize, used: u64, total: u64) {
        let gpu = gpu.to_string();
        for (gauges, bytes) in [
            (&self.gpus.memory_used, used),
            (&self.gpus.memory_total, total),
        ] {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            gauges.with_label_values(&[&gpu]).set(bytes);
        }
    }

    /// Says what a GPU's sensors show: utilization from 0 to 1, degrees Celsius, watts.
    pub(crate) fn set_gpu_sensors(&self, gpu: usize, sensors: [Option<f64>; 3]) {
        let gpu = gpu.to_string();
        let gauges = [
            &self.gpus.utilization,
            &self.gpus.temperature,
            &self.gpus.power,
        ];
        for (gauges, value) in gauges.into_iter().zip(sensors) {
            if let Some(value) = value {
                gauges.with_label_values(&[&gpu]).set(value);
            }
        }
    }

    /// Notes a batch of so many pairs and tokens that has been computed, with how many tokens of
    /// padding.
    pub(crate) fn observe_batch(
        &self,
        pairs: usize,
        tokens: usize,
        padding: usize,
        took: Duration,
    ) {
        let batches = &self.batches;
        batches.seconds.observe(took.as_secs_f64());
        batches.sizes_in_tokens.observe(tokens as f64);
        batches.sizes_in_pairs.observe(pairs as f64);
        batches.tokens.inc_by(tokens as u64);
        batches.padding_tokens.inc_by(padding as u64);
    }

    /// Notes the time that one kind of operation took of a batch.
    pub(crate) fn observe_operation(&self, operation: &str, took: Duration) {
        let seconds = &self.batches.operation_seconds;
        seconds
            .with_label_values(&[operation])
            .inc_by(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("writing to memory does not fail");
        String::from_utf8(text).expect("the format is text")
    }
}

impl Gpus {
    fn new(new: &New) -> Self {
        let gauges = |name, help| new.real_gauges(name, help, "gpu");
        Self {
            memory_used: new.gauges(
                "gpu_memory_used_bytes",
                "Bytes of a GPU's memory in use, by all processes.",
                &["gpu"],
            ),
            memory_total: new.gauges(
                "gpu_memory_total_bytes",
                "Bytes of memory that a GPU has.",
                &["gpu"],
            ),
            utilization: gauges(
                "gpu_utilization_ratio",
                "Share of the last moments in which a kernel ran.",
            ),
            temperature: gauges("gpu_temperature_celsius", "Temperature of a GPU."),
            power: gauges("gpu_power_watts", "Power that a GPU draws."),
        }
    }
}

impl Cached {
    fn new(new: &New) -> Self {
        Self {
            pairs: new.counters(
                "cache_pairs_total",
                "Pairs of requests that were scored, by where the logit came from.",
                &["source"],
            ),
            errors: new.counters(
                "cache_errors_total",
                "What went wrong with Redis; no request failed for it.",
                &["kind"],
            ),
            entries: new.gauge("cache_entries", "Scores in memory."),
            bytes: new.gauge("cache_bytes", "Bytes that scores in memory take."),
            saved_seconds: new.registered(Counter::with_opts(opts(
                "cache_saved_seconds_total",
                "Time that the model would have taken for pairs that it did not compute.",
            ))),
            redis_connected: new.gauge(
                "cache_redis_connected",
                "1 while there is a connection to Redis.",
            ),
            redis_seconds: new.histogram(
                "cache_redis_seconds",
                "Time that requests waited for Redis.",
                buckets(0.000_1, 2.0, 12),
            ),
        }
    }

    /// Notes pairs by where their logits came from.
    pub(crate) fn pairs(&self, source: PairSource, count: usize) {
        if count > 0 {
            let pairs = self.pairs.with_label_values(&[source.label()]);
            pairs.inc_by(count as u64);
        }
    }

    /// Notes what went wrong with Redis.
    pub(crate) fn error(&self, kind: CacheError) {
        self.errors.with_label_values(&[kind.label()]).inc();
    }
}

impl Batches {
    fn new(new: &New) -> Self {
        Self {
            seconds: new.histogram("batch_seconds", "Time the model took for a batch.", times()),
            operation_seconds: new.seconds(
                "operation_seconds_total",
                "Time of batches on the CPU by kind of operation.",
                "operation",
            ),
            sizes_in_tokens: new.histogram(
                "batch_tokens",
                "Tokens of a batch.",
                buckets(16.0, 2.0, 12),
            ),
            sizes_in_pairs: new.histogram(
                "batch_pairs",
                "Pairs of a batch.",
                buckets(1.0, 2.0, 11),
            ),
            tokens: new.counter("tokens_total", "Tokens computed, without padding."),
            padding_tokens: new.counter("padding_tokens_total", "Padding computed beside them."),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("reranker_{name}"), help)
}

/// Buckets from 0.25 ms to 65 s.
fn times() -> Vec<f64> {
    buckets(0.000_25, 2.0, 19)
}

fn buckets(start: f64, factor: f64, count: usize) -> Vec<f64> {
    exponential_buckets(start, factor, count).expect("start, factor and count are positive")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::with_opts(opts(name, help)).expect("the name is valid")
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    let registered = registry.register(Box::new(collector));
    registered.expect("names are different");
}

/// Makes metrics and registers each.
struct New(Registry);

impl New {
    fn registered<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("the name is valid");
        register(&self.0, collector.clone());
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(opts(name, help), labels))
    }

    /// Counters of seconds, which need not be whole.
    fn seconds(&self, name: &str, help: &str, label: &str) -> CounterVec {
        self.registered(CounterVec::new(opts(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(IntGaugeVec::new(opts(name, help), labels))
    }

    /// Gauges of what need not be whole.
    fn real_gauges(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        self.registered(GaugeVec::new(opts(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
        self.registered(Histogram::with_opts(opts))
    }

    fn histograms(&self, name: &str, help: &str, label: &str, buckets: Vec<f64>) -> HistogramVec {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
        self.registered(HistogramVec::new(opts, &[label]))
    }
}
