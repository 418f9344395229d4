//! The host that the server listens on, or that a probe asks.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

/// Where to listen: an address, or a name that has some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(String);

impl Host {
    /// All its addresses, with a port. Those of IPv4 come first: who writes an address by hand
    /// writes 127.0.0.1.
    ///
    /// # Errors
    /// A name without an address.
    pub(crate) fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
