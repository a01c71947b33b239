//! The memory that this process may use: the limit of its control groups, or the memory of the machine.

use std::path::Path;

/// A limit on the memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) bytes: u64,
    /// What sets the limit, for messages.
    pub(crate) source: &'static str,
}

/// The lowest limit on the memory of this process. `None` if the system doesn't report one, as on all systems but
/// Linux.
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    limit_below(Path::new("/"))
}

/// As [`memory_limit`], with the files of the system below `root`.
fn limit_below(root: &Path) -> Option<MemoryLimit> {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
    });
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let group_limits = groups.lines().filter_map(|line| {
        // hierarchy-ID:controllers:path. Version 2 is hierarchy 0 and names no controllers.
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, file) = if hierarchy == "0" && controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        limit_of_group(&root.join(mount), path, file)
    });
    let group = group_limits.min().map(|bytes| MemoryLimit { bytes, source: "the memory limit of its control group" });
    let machine = machine.map(|bytes| MemoryLimit { bytes, source: "the memory of the machine" });
    // A group without a limit has the largest number or no number, depending on the version.
    group.into_iter().chain(machine).min_by_key(|limit| limit.bytes)
}

/// The lowest limit of a group and of the groups that contain it. In a container the path may be that on the host, of
/// which the container sees the last part as the root of its hierarchy. So groups that don't exist are skipped.
fn limit_of_group(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let group = Path::new(path.trim_start_matches('/'));
    let files = group.ancestors().map(|group| mount.join(group).join(file));
    files.filter_map(|file| read(&file)?.trim().parse().ok()).min()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit that these files set, and its source.
    fn limit(test: &str, files: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        let root = std::env::temp_dir().join(format!("dataflux-limit-{test}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let limit = limit_below(&root);
        std::fs::remove_dir_all(&root).unwrap();
        limit.map(|limit| (limit.bytes, limit.source))
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:  9 kB\n");
    const GROUP: &str = "the memory limit of its control group";

    #[test]
    fn the_lowest_limit_of_version_2_counts() {
        let own = ("proc/self/cgroup", "0::/pods/train\n");
        let files = [
            MACHINE,
            own,
            ("sys/fs/cgroup/pods/train/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "4194304\n"),
        ];
        assert_eq!(limit("v2", &files), Some((4_194_304, GROUP)));
        // A container sees its own group as the root.
        assert_eq!(limit("v2-root", &[MACHINE, own, ("sys/fs/cgroup/memory.max", "8192\n")]), Some((8_192, GROUP)));
    }

    #[test]
    fn the_limit_of_version_1_counts_if_there_is_one() {
        let own = ("proc/self/cgroup", "3:cpuset:/\n4:cpu,memory:/job\n0::/\n");
        let set = ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2097152\n");
        assert_eq!(limit("v1", &[MACHINE, own, set]), Some((2_097_152, GROUP)));
        let none = ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("v1-none", &[MACHINE, own, none]), Some((16_777_216, "the memory of the machine")));
    }

    #[test]
    fn without_such_files_there_is_no_limit() {
        assert_eq!(limit("nothing", &[("proc/self/cgroup", "what is this\n")]), None);
    }
}
