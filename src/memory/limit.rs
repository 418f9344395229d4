//! How much memory this process may use: the least of what its container, its resource limits and
//! the machine allow.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes that this process may use; none where nothing says so.
pub(crate) fn available_bytes() -> Option<usize> {
    let root = Path::new("/sys/fs/cgroup");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_files(root, &groups).into_iter();
    let group = group.filter_map(|file| bytes(&fs::read_to_string(file).ok()?));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let all = group.chain(resource_limits(&limits)).chain(total(&machine));
    all.min()
}

/// The files that may hold a limit of the process' control group or of one above it. In a container
/// its own group is the root.
fn group_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = vec![
        root.join("memory.max"),
        root.join("memory/memory.limit_in_bytes"),
    ];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = group.trim_start_matches('/');
        let above = Path::new(group).ancestors();
        files.extend(above.map(|group| mount.join(group).join(name)));
    }
    files
}

/// A number; `max` is none.
fn bytes(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

/// The soft limits on address space and data (`ulimit -v`, `ulimit -d`), as Linux prints them.
fn resource_limits(limits: &str) -> impl Iterator<Item = usize> {
    let lines = limits.lines();
    lines.filter_map(|line| {
        let rest = ["Max address space", "Max data size"]
            .iter()
            .find_map(|name| line.strip_prefix(name))?;
        bytes(rest.split_whitespace().next()?)
    })
}

/// The machine's memory, from `/proc/meminfo`.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    bytes(line.trim().strip_suffix("kB")?)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_above_the_process_counts() {
        let files = |groups| group_files(Path::new("/g"), groups);
        let both = ["/g/memory.max", "/g/memory/memory.limit_in_bytes"];
        assert_eq!(files(""), both.map(PathBuf::from));
        let two = files("0::/a/b\n");
        for file in ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"] {
            assert!(two.contains(&PathBuf::from(file)), "{file}");
        }
        let one = files("5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
        assert!(one.contains(&PathBuf::from("/g/memory/docker/1/memory.limit_in_bytes")));
        assert!(!one.iter().any(|file| file.ends_with("x/memory.max")));
    }

    #[test]
    fn limits_are_read_as_linux_prints_them() {
        assert_eq!(bytes("1073741824\n"), Some(1 << 30));
        assert_eq!(bytes("max\n"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max stack size            8388608              unlimited            bytes     \n\
                      Max address space         1073741824           unlimited            bytes     \n";
        assert_eq!(resource_limits(limits).collect::<Vec<_>>(), [1 << 30]);
        let meminfo = "MemTotal:       24601088 kB\nMemFree: 1 kB\n";
        assert_eq!(total(meminfo), Some(24_601_088 * 1024));
    }

    #[test]
    fn this_machine_has_a_limit() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
