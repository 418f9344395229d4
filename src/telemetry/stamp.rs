//! Lines of the log that are written whatever the filter says.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// Whether lines are JSON objects.
static JSON: AtomicBool = AtomicBool::new(false);

/// Makes lines JSON objects from now on.
pub(super) fn use_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// A line with time and level, as the log formats them.
pub(super) fn stamped(level: &str, text: &str) -> String {
    let mut time = String::new();
    // Only the clock could fail; a line without the time is better than none.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    if JSON.load(Ordering::Relaxed) {
        json!({"timestamp": time, "level": level, "message": text}).to_string()
    } else {
        format!("{time} {level:>5} {text}")
    }
}

/// The line that says why the program ends.
pub(super) fn failed(why: &str) -> String {
    if JSON.load(Ordering::Relaxed) {
        stamped("ERROR", why)
    } else {
        format!("error: {why}")
    }
}
