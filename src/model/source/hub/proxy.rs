//! Which proxy a request goes through.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use ureq::{Proxy, http::Uri};

use super::super::settings::Proxies;

/// The proxy for requests to `url`, if there is one.
pub(super) fn find(proxies: &Proxies, url: &Uri) -> Result<Option<Proxy>> {
    let is_https = url.scheme_str() == Some("https");
    let (name, address) = if is_https {
        ("HTTPS_PROXY", &proxies.https)
    } else {
        ("HTTP_PROXY", &proxies.http)
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    match address {
        Some(address) if !is_excepted(&proxies.except, host, port) => {
            // The address is not shown, as it may have a password.
            Proxy::new(address).map(Some).map_err(|_| {
                anyhow!(
                    "{name} (or ALL_PROXY) is not the address of a proxy: write it as \
                     http://proxy.example:3128 or http://user:password@proxy.example:3128"
                )
            })
        }
        _ => Ok(None),
    }
}

/// A proxy without its password.
pub(super) fn shown(proxy: &Proxy) -> String {
    format!("{}:{}", proxy.host(), proxy.port())
}

/// Whether a list as in `NO_PROXY` has the host.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.split([',', ' ', '\t'])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| matches(&entry.to_ascii_lowercase(), &host, port))
}

/// An entry is `*`, an address, a network such as `10.0.0.0/8`, or a name, which stands for
/// everything below it too; all but a network may have a port.
fn matches(entry: &str, host: &str, port: u16) -> bool {
    if let Some((network, bits)) = entry.split_once('/') {
        return is_in_network(host, network, bits).unwrap_or(false);
    }
    let (name, entry_port) = match entry.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address.
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
            (name, digits.parse().ok())
        }
        _ => (entry, None),
    };
    if entry_port.is_some_and(|entry_port: u16| entry_port != port) {
        return false;
    }
    let name = name.trim_matches(['[', ']']);
    if let (Ok(entry), Ok(host)) = (name.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return entry == host;
    }
    let name = name.trim_start_matches('*').trim_matches('.');
    let is_all = name.is_empty() && entry.starts_with('*');
    is_all || host == name || (!name.is_empty() && host.ends_with(&format!(".{name}")))
}

fn is_in_network(host: &str, network: &str, bits: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    match (host.parse().ok()?, network.parse().ok()?) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            let unused = 32_u32.checked_sub(bits)?;
            let differing = host.to_bits() ^ network.to_bits();
            Some(differing.checked_shr(unused).unwrap_or(0) == 0)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => {
            let unused = 128_u32.checked_sub(bits)?;
            let differing = host.to_bits() ^ network.to_bits();
            Some(differing.checked_shr(unused).unwrap_or(0) == 0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_exceptions_has_names_addresses_networks_and_ports() {
        let yes = [
            ("*", "hub.example"),
            ("hub.example", "hub.example"),
            ("HUB.example", "hub.EXAMPLE"),
            ("example", "hub.example"),
            (".example", "hub.example"),
            ("*.example", "hub.example"),
            ("a, example ,b", "hub.example"),
            ("a b hub.example", "hub.example"),
            ("10.0.0.0/8", "10.43.12.7"),
            ("0.0.0.0/0", "10.43.12.7"),
            ("10.43.12.7", "10.43.12.7"),
            ("10.43.12.7/32", "10.43.12.7"),
            ("fd00::/8", "fd12::1"),
            ("::1", "::1"),
            ("[::1]:443", "::1"),
            ("hub.example:443", "hub.example"),
        ];
        for (list, host) in yes {
            assert!(is_excepted(list, host, 443), "{list} {host}");
        }
        let no = [
            ("", "hub.example"),
            (",", "hub.example"),
            (".", "hub.example"),
            ("other.example", "hub.example"),
            ("b.example", "hub.example"),
            ("hub.example:80", "hub.example"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/33", "10.0.0.1"),
            ("10.0.0.0/8", "10.example"),
            ("10.0.0.0/8", "::1"),
            ("/", "hub.example"),
        ];
        for (list, host) in no {
            assert!(!is_excepted(list, host, 443), "{list} {host}");
        }
    }

    fn found(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = find(proxies, &url.parse().unwrap()).unwrap();
        proxy.map(|proxy| shown(&proxy))
    }

    #[test]
    fn each_scheme_has_a_proxy_of_its_own() {
        let proxies = Proxies {
            https: Some("http://user:secret@one.example:3128".to_owned()),
            http: Some("two.example:8080".to_owned()),
            except: "10.0.0.0/8".to_owned(),
        };
        let one = Some("one.example:3128".to_owned());
        let two = Some("two.example:8080".to_owned());
        assert_eq!(found(&proxies, "https://hub.example/x"), one);
        assert_eq!(found(&proxies, "http://hub.example/x"), two);
        assert_eq!(found(&proxies, "http://10.1.2.3/x"), None);
        assert_eq!(found(&Proxies::default(), "http://hub.example/x"), None);
    }

    #[test]
    fn what_is_no_address_is_named_and_not_shown() {
        let proxies = Proxies {
            https: Some("gopher://user:secret@x".to_owned()),
            ..Proxies::default()
        };
        let error = find(&proxies, &"https://hub.example".parse().unwrap());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("HTTPS_PROXY") && !message.contains("secret"));
    }
}
