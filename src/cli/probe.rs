//! One question to the server on this machine, for `healthcheck`: where it may be, and whether it
//! is ready there.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use ureq::{Agent, tls::TlsConfig};

use crate::http::Host;

/// How the program is called in its images.
const NAME: &str = "reranker";

/// The command line of the container's first process, if that is a server: flags such as
/// `--port 9000` stand nowhere else. An init process in front of it hands them on.
pub(super) fn container_arguments() -> Option<Vec<OsString>> {
    arguments(&fs::read("/proc/1/cmdline").ok()?)
}

fn arguments(command_line: &[u8]) -> Option<Vec<OsString>> {
    let all = command_line.split(|&byte| byte == 0).map(OsStr::from_bytes);
    let is_other = |argument: &&OsStr| Path::new(argument).file_name() != Some(OsStr::new(NAME));
    let mut ours: Vec<OsString> = all.skip_while(is_other).map(OsStr::to_owned).collect();
    // The last argument ends with a zero as well.
    ours.pop()?;
    Some(ours)
}

/// Fails unless the server says that it is ready.
///
/// # Errors
/// No answer from any of the addresses, or another answer than 200.
pub(super) fn health(host: &Host, port: u16, timeout: Duration) -> Result<()> {
    let until = Instant::now() + timeout;
    let addresses = host
        .addresses(port)
        .with_context(|| format!("\"{host}\" is neither an address nor a name that has one"))?;
    let mut problem = anyhow!("\"{host}\" has no address");
    for address in addresses.into_iter().flat_map(reachable) {
        match status(address, until) {
            Ok(status) => {
                ensure!(
                    status == 200,
                    "{address}/health answers {status}: the model is not ready"
                );
                return Ok(());
            }
            Err(error) => {
                problem =
                    anyhow::Error::new(error).context(format!("no answer from {address}/health"));
            }
        }
    }
    Err(problem)
}

/// The addresses at which a server that listens on this address can be reached.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let loopback: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => &[
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(Ipv4Addr::LOCALHOST),
        ],
        _ => return vec![address],
    };
    let at = |&ip| SocketAddr::new(ip, address.port());
    loopback.iter().map(at).collect()
}

/// The status of `GET /health`. Whether the server speaks HTTPS is found out by trying.
fn status(address: SocketAddr, until: Instant) -> Result<u16, ureq::Error> {
    get(&format!("http://{address}/health"), until)
        .or_else(|plain| get(&format!("https://{address}/health"), until).map_err(|_| plain))
}

fn get(url: &str, until: Instant) -> Result<u16, ureq::Error> {
    let config = Agent::config_builder()
        .timeout_global(Some(until.saturating_duration_since(Instant::now())))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        // The certificate is made out for the name that clients use, and the question holds no
        // secret.
        .tls_config(TlsConfig::builder().disable_verification(true).build());
    let agent = Agent::from(config.build());
    Ok(agent.get(url).call()?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_container_are_found_behind_an_init_process() {
        let found = |line: &str| {
            let arguments = arguments(line.replace(' ', "\0").as_bytes())?;
            Some(arguments.join(OsStr::new(" ")).into_string().unwrap())
        };
        for (line, expected) in [
            ("reranker ", Some("reranker")),
            ("reranker --port 9000 ", Some("reranker --port 9000")),
            (
                "/usr/local/bin/reranker serve --host :: ",
                Some("/usr/local/bin/reranker serve --host ::"),
            ),
            (
                "/sbin/docker-init -- reranker --port 9000 ",
                Some("reranker --port 9000"),
            ),
            ("/sbin/init splash ", None),
            ("/pause ", None),
            ("", None),
        ] {
            assert_eq!(found(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_is_asked_on_this_machine() {
        let asked = |address: &str| {
            let asked = reachable(address.parse().unwrap());
            asked.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(asked("0.0.0.0:80"), ["127.0.0.1:80"]);
        assert_eq!(asked("[::]:80"), ["[::1]:80", "127.0.0.1:80"]);
        assert_eq!(asked("10.0.0.7:80"), ["10.0.0.7:80"]);
    }
}
