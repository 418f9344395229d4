//! What single options may hold, beyond numbers and text.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

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

/// Where to listen: an address, or a name that has some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// All its addresses, with a port. Those of IPv4 come first: who writes an address by hand
    /// writes 127.0.0.1.
    ///
    /// # Errors
    /// A name without an address.
    pub fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<SocketAddr> = (&*self.0, port).to_socket_addrs()?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(addresses)
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        // A zone, as in fe80::1%eth0.
        let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
        let is_address = match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => !zone.is_empty(),
            Ok(IpAddr::V4(_)) => address == host,
            Err(_) => false,
        };
        let is_name = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if is_address || is_name {
            return Ok(Self(host.to_owned()));
        }
        Err("expected an address such as 0.0.0.0 or ::, or a name such as localhost, without a scheme and without a port".to_owned())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

    /// The same without blanks around it.
    #[must_use]
    pub fn trimmed(&self) -> Self {
        Self(self.0.trim().to_owned())
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

/// The origin of a web page as a browser sends it, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// As in the header `Origin`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this stands for all origins.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let host = lower
            .strip_prefix("https://")
            .or_else(|| lower.strip_prefix("http://"));
        let is_origin = host.is_some_and(|host| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b))
        });
        if is_origin || lower == "*" {
            return Ok(Self(lower));
        }
        Err("expected origins such as https://app.example or http://localhost:3000, without a path, or *".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_levels_read_as_people_write_them() {
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
        assert_eq!("WARNING".parse(), Ok(LogLevel(tracing::Level::WARN)));
        assert!("loud".parse::<LogLevel>().is_err());
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for (text, first) in [
            ("0.0.0.0", "0.0.0.0:80"),
            ("::", "[::]:80"),
            ("[::1]", "[::1]:80"),
            ("localhost", "127.0.0.1:80"),
        ] {
            let addresses = text.parse::<Host>().unwrap().addresses(80).unwrap();
            assert_eq!(addresses[0].to_string(), first, "{text}");
        }
        assert!("fe80::1%eth0".parse::<Host>().is_ok());
        for text in [
            "",
            "http://localhost",
            "localhost:80",
            "0.0.0.0:80",
            "[::1",
            "a b",
            "*",
            "1.2.3.4%eth0",
            "::1%",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
        let nowhere: Host = "no-such-host.invalid".parse().unwrap();
        assert!(nowhere.addresses(80).is_err());
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_else() {
        for text in [
            "*",
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:80",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), text);
        }
        let origin: Origin = " HTTPS://App.Example ".parse().unwrap();
        assert_eq!(
            origin.as_str(),
            "https://app.example",
            "as browsers write it"
        );
        for text in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://*.example",
            "null",
            "ftp://a",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
