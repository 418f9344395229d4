//! How fast the server is.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    check::Check,
    client::{Answer, Client, Trouble},
    samples::Samples,
    server::overloaded,
};

/// What the migration guide expects of a request.
#[derive(Clone, Copy)]
pub(super) struct Latency {
    pub(super) name: &'static str,
    documents: usize,
    milliseconds: u128,
}

/// What the migration guide expects of a Tesla T4.
pub(super) const LATENCIES: [Latency; 2] = [
    Latency {
        name: "20 documents",
        documents: 20,
        milliseconds: 150,
    },
    Latency {
        name: "50 documents",
        documents: 50,
        milliseconds: 200,
    },
];

/// Requests per second that the guide expects of short ones.
const THROUGHPUT: f64 = 50.0;

/// Requests that a latency is the median of.
const REPETITIONS: usize = 5;

/// A request that took longer is not repeated.
const SLOW: Duration = Duration::from_secs(3);

/// Documents of a short request.
const FEW: usize = 5;

/// The time of a request with passages of real length that no cache has seen.
pub(super) fn latency(client: &Client, samples: &Samples, of: Latency, is_gpu: bool) -> Check {
    let mut times = Vec::new();
    for number in 0..REPETITIONS {
        match good(client.rerank(&samples.long(of.documents, number)), of.name) {
            Ok(answer) => times.push(answer.took),
            Err(check) => return check,
        }
        if times[number] > SLOW {
            break;
        }
    }
    times.sort_unstable();
    let (median, worst) = (
        times[times.len() / 2].as_millis(),
        times[times.len() - 1].as_millis(),
    );
    let expected = of.milliseconds;
    let found = format!(
        "{median} ms (median of {}, at most {worst}); expected at most {expected}",
        times.len()
    );
    let check = match (median <= expected, is_gpu) {
        (true, _) => Check::pass(of.name, found),
        (false, true) => Check::warn(of.name, found).advise(
            "see whether others use the GPU or the network is slow (`x-total-time` is the server's own time), and run `reranker gpu-check`",
        ),
        (false, false) => Check::warn(of.name, found)
            .advise("that is a GPU's time; on a CPU RERANKER_DTYPE=int8 is three to four times faster than f32"),
    };
    check.with(json!({"median_ms": median, "worst_ms": worst, "limit_ms": expected}))
}

/// Whether a request that comes again is answered from the cache.
pub(super) fn repeat(client: &Client, samples: &Samples) -> Check {
    let name = "cache";
    let body = samples.long(20, REPETITIONS);
    let again = good(client.rerank(&body), name).and_then(|_| good(client.rerank(&body), name));
    let answer = match again {
        Ok(answer) => answer,
        Err(check) => return check,
    };
    let number = |header| {
        answer
            .header(header)
            .and_then(|value| value.parse::<usize>().ok())
    };
    let (Some(cached), Some(pairs)) = (number("x-cached-pairs"), number("x-compute-pairs")) else {
        return Check::skip(name, "this server has no cache of scores");
    };
    let milliseconds = answer.took.as_millis();
    let found = format!("{cached} of {pairs} pairs of a repeated request, in {milliseconds} ms");
    let check = if cached == pairs {
        Check::pass(name, found)
    } else {
        Check::warn(name, found)
            .advise("RERANKER_CACHE_MB is 0 or too small on the server: repeated requests cost as much as new ones")
    };
    check.with(json!({"cached": cached, "pairs": pairs, "milliseconds": milliseconds}))
}

/// How many short requests are answered a second.
pub(super) fn throughput(
    client: &Client,
    samples: &Samples,
    clients: u16,
    time: Duration,
    is_gpu: bool,
) -> Check {
    let name = "throughput";
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let counts = thread::scope(|scope| {
        let ask = || ask_until(client, samples, &next, started + time);
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        let counts = threads.into_iter().map(thread::ScopedJoinHandle::join);
        counts
            .map(Result::unwrap_or_default)
            .fold(Counts::default(), Counts::plus)
    });
    let rate = counts.good as f64 / started.elapsed().as_secs_f64();
    let found = format!(
        "{rate:.0} requests/s of {FEW} short documents, {clients} at once{}",
        counts.refusals()
    );
    let check = if counts.failed > 0 {
        Check::fail(name, found).advise("see the server's log")
    } else if counts.refused > 0 {
        Check::warn(name, found).advise("the server refuses what it cannot do in time; it needs a GPU or a second machine for so many clients")
    } else if rate < THROUGHPUT && is_gpu {
        Check::warn(name, found).advise("expected 50 to 100: see whether others use the GPU")
    } else {
        Check::pass(name, found)
    };
    check.with(json!({
        "requests_per_s": rate, "good": counts.good, "refused": counts.refused, "failed": counts.failed
    }))
}

/// What became of requests.
#[derive(Clone, Copy, Default)]
struct Counts {
    good: usize,
    refused: usize,
    failed: usize,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            good: self.good + other.good,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
        }
    }

    fn refusals(&self) -> String {
        match (self.refused, self.failed) {
            (0, 0) => String::new(),
            (refused, 0) => format!("; {refused} refused (429)"),
            (0, failed) => format!("; {failed} failed"),
            (refused, failed) => format!("; {refused} refused (429), {failed} failed"),
        }
    }
}

fn ask_until(client: &Client, samples: &Samples, next: &AtomicUsize, until: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < until {
        let number = next.fetch_add(1, Ordering::Relaxed);
        match client.rerank(&samples.short(FEW, number)) {
            Ok(answer) if answer.status == 200 => counts.good += 1,
            Ok(answer) if answer.status == 429 => counts.refused += 1,
            _ => counts.failed += 1,
        }
    }
    counts
}

/// An answer with scores, or the check that says why there is none.
fn good(answer: Result<Answer, Trouble>, name: &'static str) -> Result<Answer, Check> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(answer),
        Ok(answer) if answer.status == 429 => Err(overloaded(name, &answer)),
        Ok(answer) => {
            let found = format!("status {}: {}", answer.status, answer.detail());
            Err(Check::fail(name, found).advise("see the server's log"))
        }
        Err(trouble) => Err(Check::fail(name, trouble.words()).advise("see the server's log")),
    }
}
