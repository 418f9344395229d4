//! A stream that is written by a thread of its own, so that nobody who has something to say waits
//! for it.
//!
//! A pipe that nobody reads blocks that thread and nothing else; a reader that is gone or a full
//! disk loses lines and nothing else. Lines that find no room are dropped and counted, and a line
//! says how many as soon as writing works again.

use std::{
    io::{self, Write},
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::stamp::stamped;
use crate::metrics::LOG_LINES_DROPPED;

/// What may wait to be written; as much again may be with the thread. Some 5,000 lines.
const CAPACITY: usize = 1 << 20;

/// How soon a stream is tried again that would block but was opened not to.
const AGAIN: Duration = Duration::from_millis(20);

/// The lines that wait for the thread.
pub(super) struct Outlet {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

struct State {
    /// Whether there is a thread to write. Without one, lines are written at once.
    has_writer: bool,
    waiting: Vec<u8>,
    /// Whether the thread has lines in hand.
    writing: bool,
    /// Lines that were dropped and not told of yet.
    dropped: u64,
}

impl Outlet {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                has_writer: false,
                waiting: Vec::new(),
                writing: false,
                dropped: 0,
            }),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    /// Starts the thread. If the system gives none, lines go on being written at once.
    pub(super) fn start(&'static self, stream: impl Write + Send + 'static) {
        let mut state = self.state();
        let writer = thread::Builder::new().name("log".to_owned());
        let started = writer.spawn(move || self.run(Stream::new(stream)));
        state.has_writer = started.is_ok();
    }

    /// Takes in one or more whole lines.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        if !state.has_writer {
            // There is nobody to tell of a failure.
            let _ = io::stderr().write_all(lines);
        } else if state.waiting.len() + lines.len() > CAPACITY {
            state.drop_lines(lines);
        } else {
            state.waiting.extend_from_slice(lines);
            self.filled.notify_one();
        }
    }

    /// Waits until all is written, or until the time is over.
    pub(super) fn flush(&self, limit: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.waiting.is_empty();
        // What is left after this time is given up.
        let _ = self
            .written
            .wait_timeout_while(self.state(), limit, unwritten);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut stream: Stream<impl Write>) {
        let mut lines = Vec::new();
        loop {
            let dropped = self.take(&mut lines);
            let unwritten = stream.write(&lines);
            if unwritten.is_empty() {
                self.tell(dropped, &mut stream);
            }
            let mut state = self.state();
            state.drop_lines(unwritten);
            state.writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines, and hands out with them how many were dropped so far.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        lines.clear();
        let mut state = self
            .filled
            .wait_while(self.state(), |state| state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut state.waiting, lines);
        state.writing = true;
        state.dropped
    }

    fn tell(&self, dropped: u64, stream: &mut Stream<impl Write>) {
        if dropped == 0 {
            return;
        }
        let text = format!("{dropped} lines of the log were lost: they were not taken in time");
        let line = stamped("WARN", &text) + "\n";
        if stream.write(line.as_bytes()).is_empty() {
            self.state().dropped -= dropped;
        }
    }
}

impl State {
    fn drop_lines(&mut self, lines: &[u8]) {
        let number = lines.split(|&byte| byte == b'\n').count() as u64 - 1;
        self.dropped += number;
        LOG_LINES_DROPPED.inc_by(number);
    }
}

/// The stream, and whether it ends in the middle of a line.
struct Stream<W> {
    inner: W,
    is_mid_line: bool,
}

impl<W: Write> Stream<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            is_mid_line: false,
        }
    }

    /// Writes whole lines; hands back what could not be written of them.
    fn write<'a>(&mut self, lines: &'a [u8]) -> &'a [u8] {
        if self.is_mid_line && !self.write_bytes(b"\n").is_empty() {
            return lines;
        }
        self.write_bytes(lines)
    }

    fn write_bytes<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match self.inner.write(bytes) {
                Ok(0) => break,
                Ok(written) => {
                    self.is_mid_line = bytes[written - 1] != b'\n';
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
                Err(_) => break,
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};

    use super::*;

    fn started(stream: impl Write + Send + 'static) -> &'static Outlet {
        let outlet = Box::leak(Box::new(Outlet::new()));
        outlet.start(stream);
        outlet
    }

    const LINE: &[u8] = b"a line of the log\n";

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let outlet = started(writer);
        let expected: Vec<String> = (0..10_000).map(|number| format!("line {number}")).collect();
        let count = expected.len();
        let reading = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().take(count);
            lines.collect::<io::Result<Vec<String>>>().unwrap()
        });
        for line in &expected {
            outlet.push(format!("{line}\n").as_bytes());
        }
        assert_eq!(reading.join().unwrap(), expected);
        outlet.flush(Duration::from_mins(1));
    }

    #[test]
    fn what_a_blocked_reader_does_not_take_is_dropped_counted_and_told() {
        let (reader, writer) = io::pipe().unwrap();
        let outlet = started(writer);
        let before = LOG_LINES_DROPPED.get();
        // The pipe takes 64 KiB of that, the thread and the queue at most twice the capacity.
        let pushed = 4 * CAPACITY / LINE.len();
        for _ in 0..pushed {
            outlet.push(LINE);
        }
        outlet.flush(Duration::from_millis(1)); // returns although nobody reads
        let dropped = outlet.state().dropped;
        assert!(dropped > 1000 && LOG_LINES_DROPPED.get() >= before + dropped);
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let told = format!(" WARN {dropped} lines of the log were lost");
        let whole = lines.by_ref().take_while(|line| !line.contains(&told));
        let whole: Vec<String> = whole.collect();
        assert!(
            whole
                .iter()
                .all(|line| format!("{line}\n").as_bytes() == LINE)
        );
        assert_eq!(whole.len() as u64 + dropped, pushed as u64);
        outlet.push(b"after\n");
        assert_eq!(lines.next().unwrap(), "after");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let outlet = started(writer);
        for expected in 1..=3 {
            outlet.push(LINE);
            outlet.flush(Duration::from_mins(1));
            assert_eq!(outlet.state().dropped, expected);
        }
    }

    /// A disk that is full until it is not.
    struct Disk {
        room: usize,
        failures: usize,
        file: io::PipeWriter,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 && self.failures > 0 {
                self.failures -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let room = if self.room == 0 {
                bytes.len()
            } else {
                self.room
            };
            self.room = 0;
            self.file.write(&bytes[..bytes.len().min(room)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_by_a_full_disk_does_not_run_into_the_next() {
        let (mut reader, file) = io::pipe().unwrap();
        let mut stream = Stream::new(Disk {
            room: 4,
            failures: 2,
            file,
        });
        assert_eq!(stream.write(b"first\n"), b"t\n");
        assert_eq!(stream.write(b"second\n"), b"second\n");
        assert_eq!(stream.write(b"third\n"), b"");
        drop(stream);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "firs\nthird\n");
    }
}
