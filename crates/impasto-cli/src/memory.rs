//! The memory available to this process: that of the machine, or the limit of its control group.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Returns the bytes of memory that the process can use at most; `None` if the system does not report it.
pub fn available() -> Option<u64> {
    under(Path::new("/"))
}

/// [`available`] with the system's files under `root`.
fn under(root: &Path) -> Option<u64> {
    [machine(root), control_group(root)].into_iter().flatten().min()
}

/// The memory of the machine.
fn machine(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the process's control group and its ancestors, in versions 1 and 2 (cgroups(7)).
fn control_group(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        // The format is hierarchy:controllers:path; version 2 has no controllers.
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes"),
            _ => return None,
        };
        mounts.iter().filter_map(|mount| least_limit(&root.join(mount), path, file)).min()
    });
    limits.min()
}

/// The lowest number in `file` of the group at `path` below `mount` and its ancestors. In a container, the path may be
/// that of the host and not exist; the mount point is then the container's own group. "max" is not a number and sets no
/// limit.
fn least_limit(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let inside = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let group = mount.join(inside.collect::<PathBuf>());
    let groups = group.ancestors().take_while(|group| group.starts_with(mount));
    groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        under(system(&[&[MACHINE], files].concat()).path())
    }

    #[test]
    fn the_machine_alone() {
        assert_eq!(limit(&[]), Some(16 << 20));
        assert_eq!(under(system(&[]).path()), None);
        assert_eq!(under(system(&[("proc/meminfo", "MemTotal: many kB")]).path()), None);
    }

    #[test]
    fn version_2_counts_every_ancestor() {
        let own = ("proc/self/cgroup", "0::/work/job\n");
        let max = ("sys/fs/cgroup/work/job/memory.max", "max\n");
        assert_eq!(limit(&[own, max]), Some(16 << 20));
        assert_eq!(limit(&[own, max, ("sys/fs/cgroup/work/memory.max", "5000\n")]), Some(5000));
        let files = [own, ("sys/fs/cgroup/work/job/memory.max", "4000"), ("sys/fs/cgroup/work/memory.max", "5000")];
        assert_eq!(limit(&files), Some(4000));
        assert_eq!(limit(&[own, ("sys/fs/cgroup/other/memory.max", "1")]), Some(16 << 20), "of another group");
    }

    #[test]
    fn version_1_and_both_at_once() {
        let own = ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a\n0::/b\n");
        let unlimited = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(&[own, unlimited]), Some(16 << 20));
        let limited = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n");
        assert_eq!(limit(&[own, limited]), Some(3000));
        assert_eq!(limit(&[own, limited, ("sys/fs/cgroup/unified/b/memory.max", "2000\n")]), Some(2000));
    }

    /// A container may see the path of its host, and its own group at the mount point.
    #[test]
    fn a_path_that_is_not_there() {
        let own = ("proc/self/cgroup", "0::/../../host/path\n");
        assert_eq!(limit(&[own, ("sys/fs/cgroup/memory.max", "7000\n")]), Some(7000));
    }
}
