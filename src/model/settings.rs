//! What the operator decides about the model: which one, where from, on which device, in which
//! dtype.

use std::{fmt, str::FromStr};

use clap::ValueEnum as _;

use super::source::{HubSettings, Source};
use crate::ops::Precision;

/// Which model, where from, and how it is built.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name as typed, for the answers.
    pub id: String,
    /// Where the checkpoint is.
    pub source: Source,
    /// How the hub is reached.
    pub hub: HubSettings,
    /// How the network is built.
    pub build: BuildOptions,
    /// Megabytes of tokens of recent documents that are kept.
    pub token_cache_mb: usize,
}

/// Which implementation of the network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Ours: packed sequences, fused operations.
    Native,
    /// The padded model of candle-transformers: slow, independent, for a second opinion on a score.
    #[value(alias = "reference")]
    Candle,
}

impl Backend {
    /// The name of this backend, as it is typed and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Candle => "candle",
        }
    }
}

/// How weights are kept and multiplied, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// What costs no order on the device: f16 on a GPU, f32 on the CPU.
    Auto,
    /// 32-bit floats, as the reference implementation computes.
    #[value(alias = "float32")]
    F32,
    /// Half the memory; on the CPU the speed of f32.
    #[value(alias = "bfloat16")]
    Bf16,
    /// Half the memory, closer to f32 than bf16; on the CPU the speed of f32.
    #[value(alias = "float16")]
    F16,
    /// A quarter of the memory, the fastest on a CPU.
    Int8,
}

impl Dtype {
    /// The name of this type, as it is typed.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("none is hidden");
        value.get_name().to_owned()
    }

    pub(super) fn on_cpu(self) -> (Precision, &'static str) {
        match self {
            Self::Auto | Self::F32 => (Precision::F32, "float32"),
            Self::Bf16 => (Precision::Bf16, "bfloat16"),
            Self::F16 => (Precision::F16, "float16"),
            Self::Int8 => (Precision::Int8, "int8"),
        }
    }
}

/// How the network is built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Which implementation.
    pub backend: Backend,
    /// How weights are kept and multiplied.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// Whether the CPU will not do.
    pub require_gpu: bool,
    /// Tokens computed at once, where the operator has an opinion.
    pub batch_tokens: Option<usize>,
    /// Tokens of the longest pair.
    pub max_length: usize,
}

/// Devices as asked for; each of a list gets a worker of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA device if there is one, else the CPU.
    Auto,
    /// The CPU, with so many copies of the model: more than one is for tests.
    Cpu(usize),
    /// The CUDA devices of these numbers.
    Cuda(Vec<usize>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        if matches!(lower.as_str(), "auto" | "") {
            return Ok(Self::Auto);
        }
        let names: Vec<&str> = lower.split(',').map(str::trim).collect();
        if names.iter().all(|&name| name == "cpu") {
            return Ok(Self::Cpu(names.len()));
        }
        let numbers: Option<Vec<usize>> = names.iter().map(|name| cuda_number(name)).collect();
        let numbers =
            numbers.ok_or("expected auto, cpu, cuda, cuda:N, or a list as cuda:0,cuda:1")?;
        for (place, number) in numbers.iter().enumerate() {
            if numbers[..place].contains(number) {
                return Err(format!("cuda:{number} is there twice"));
            }
        }
        Ok(Self::Cuda(numbers))
    }
}

fn cuda_number(name: &str) -> Option<usize> {
    match name {
        "cuda" | "gpu" => Some(0),
        _ => name.strip_prefix("cuda:")?.parse().ok(),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu(workers) => write!(f, "{}", vec!["cpu"; *workers].join(",")),
            Self::Cuda(numbers) => {
                let names: Vec<String> = numbers.iter().map(|n| format!("cuda:{n}")).collect();
                write!(f, "{}", names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_people_write_them() {
        assert_eq!("CUDA".parse(), Ok(Device::Cuda(vec![0])));
        assert_eq!("cuda:1".parse(), Ok(Device::Cuda(vec![1])));
        assert_eq!("".parse(), Ok(Device::Auto));
        let both = Device::Cuda(vec![0, 1]);
        assert_eq!("cuda:0, cuda:1".parse(), Ok(both.clone()));
        assert_eq!(both.to_string(), "cuda:0,cuda:1");
        assert_eq!("cpu".parse(), Ok(Device::Cpu(1)));
        for wrong in ["tpu", "cpu,cuda", "cuda:1,cuda:1", "cuda:-1"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
