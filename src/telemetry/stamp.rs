//! Lines of the log that are written whatever the filter says.

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// A line with time and level, as the log formats them.
pub(super) fn stamped(level: &str, text: &str) -> String {
    let mut line = String::new();
    // Only the clock could fail; a line without the time is better than none.
    let _ = SystemTime.format_time(&mut Writer::new(&mut line));
    format!("{line} {level:>5} {text}")
}
