//! What single options may hold, beyond numbers and text.

use std::{fmt, str::FromStr};

/// A device as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// CUDA if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "auto" | "" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" | "gpu" => Ok(Self::Cuda(0)),
            _ => lower
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

/// A level, by the names of Rust and of Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub tracing::Level);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = match text.trim().to_ascii_lowercase().as_str() {
            "trace" | "notset" => tracing::Level::TRACE,
            "debug" => tracing::Level::DEBUG,
            "info" | "" => tracing::Level::INFO,
            "warn" | "warning" => tracing::Level::WARN,
            "error" | "critical" | "fatal" => tracing::Level::ERROR,
            _ => return Err("expected trace, debug, info, warning, error or critical".to_owned()),
        };
        Ok(Self(level))
    }
}

/// Text that must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_levels_read_as_people_write_them() {
        assert_eq!("CUDA".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:1".parse(), Ok(Device::Cuda(1)));
        assert_eq!("".parse(), Ok(Device::Auto));
        assert!("tpu".parse::<Device>().is_err());
        assert_eq!("WARNING".parse(), Ok(LogLevel(tracing::Level::WARN)));
        assert!("loud".parse::<LogLevel>().is_err());
    }
}
