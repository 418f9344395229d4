//! How a download shows that it goes on: a bar on a terminal, a log line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How downloads show their progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar on standard error; nothing is drawn if that is no terminal.
    Bar,
    /// A `tracing` line at `info` about every tenth of a file or every ten seconds.
    Lines,
}

impl Progress {
    /// A bar if standard error is a terminal, lines otherwise.
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }
}

/// What a download reports.
pub(super) enum Event {
    /// A download of so many bytes starts, or starts again from nothing.
    Start(u64),
    /// So many more bytes are there. Bytes kept from an earlier attempt are the first event.
    Bytes(u64),
}

/// Shows one download of one file.
pub(super) struct Reporter {
    meter: Meter,
    file: String,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// Reports on `file`, of which `kept` bytes are there from an earlier attempt.
    pub(super) fn new(progress: Progress, file: &str, kept: u64) -> Self {
        Self {
            meter: Meter::new(kept, Instant::now()),
            file: file.to_owned(),
            bar: (progress == Progress::Bar).then(|| bar(file)),
        }
    }

    pub(super) fn on(&mut self, event: &Event) {
        let line = self.meter.on(event, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_length(self.meter.total);
            bar.set_position(self.meter.done);
            if self.meter.done <= self.meter.kept {
                // The rate is that of this attempt, without what was there before.
                bar.reset_eta();
            }
        } else if let Some(Line { mb_per_s }) = line {
            tracing::info!(
                file = %self.file,
                bytes = self.meter.done,
                total_bytes = self.meter.total,
                mb_per_s,
                "downloading"
            );
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn bar(file: &str) -> ProgressBar {
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} (eta {eta})";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0)
        .with_style(style)
        .with_message(file.to_owned())
}

/// A line is due after this long without one.
const INTERVAL: Duration = Duration::from_secs(10);
/// Tenths of a small file are too quick to be worth a line each.
const MIN_STEP: u64 = 16 << 20;

/// Counts one download's bytes and decides when a line is due.
struct Meter {
    kept: u64,
    done: u64,
    total: u64,
    started: Instant,
    last_at: Instant,
    last_done: u64,
}

#[derive(Debug, PartialEq)]
struct Line {
    /// Mean since the start, in millions of bytes a second, rounded to a tenth.
    mb_per_s: f64,
}

impl Meter {
    fn new(kept: u64, now: Instant) -> Self {
        Self {
            kept,
            done: 0,
            total: 0,
            started: now,
            last_at: now,
            last_done: kept,
        }
    }

    /// Takes in an event; a line if one is due.
    fn on(&mut self, event: &Event, now: Instant) -> Option<Line> {
        match event {
            Event::Start(total) => {
                self.total = *total;
                self.done = 0;
                self.started = now;
                return None;
            }
            Event::Bytes(bytes) => self.done += bytes,
        }
        let step = (self.total / 10).max(MIN_STEP);
        let due = self.done >= self.last_done + step
            || now.duration_since(self.last_at) >= INTERVAL
            || self.done >= self.total;
        // Bytes kept from before, and an end of the file without data, are no news.
        (due && self.done > self.last_done).then(|| {
            self.last_at = now;
            self.last_done = self.done;
            let seconds = now.duration_since(self.started).as_secs_f64();
            let rate = (self.done - self.kept) as f64 / 1e6 / seconds.max(1e-3);
            Line {
                mb_per_s: (rate * 10.0).round() / 10.0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The bytes done at each line of a download that gets `chunk` bytes every `pause` seconds.
    fn lines(total: u64, kept: u64, chunk: u64, pause: u64) -> Vec<(u64, f64)> {
        let start = Instant::now();
        let mut meter = Meter::new(kept, start);
        meter.on(&Event::Start(total), start);
        let mut lines = Vec::new();
        let mut now = start;
        assert_eq!(meter.on(&Event::Bytes(kept), now), None);
        while meter.done < total {
            now += Duration::from_secs(pause);
            let bytes = chunk.min(total - meter.done);
            let line = meter.on(&Event::Bytes(bytes), now);
            lines.extend(line.map(|line| (meter.done, line.mb_per_s)));
        }
        lines
    }

    fn positions(lines: &[(u64, f64)]) -> Vec<u64> {
        lines.iter().map(|(done, _)| done / MIB).collect()
    }

    #[test]
    fn a_quick_download_has_a_line_each_tenth() {
        let lines = lines(1000 * MIB, 0, MIB, 0);
        let expected: Vec<u64> = (1..=10).map(|tenth| tenth * 100).collect();
        assert_eq!(positions(&lines), expected);
    }

    #[test]
    fn a_slow_download_has_a_line_each_ten_seconds() {
        let lines = lines(1000 * MIB, 0, 10 * MIB, 5);
        let expected: Vec<u64> = (1..=50).map(|line| line * 20).collect();
        assert_eq!(positions(&lines), expected);
        // 20 MiB each 10 s.
        assert!(lines.iter().all(|(_, rate)| (rate - 2.1).abs() < 1e-9));
    }

    #[test]
    fn a_small_file_has_one_line_at_its_end() {
        assert_eq!(positions(&lines(15 * MIB, 0, MIB, 0)), [15]);
    }

    #[test]
    fn kept_bytes_are_neither_news_nor_speed() {
        let lines = lines(100 * MIB, 90 * MIB, 10 * MIB, 5);
        assert_eq!(lines, [(100 * MIB, 2.1)]);
    }
}
