//! Which process holds a socket.

use procfs::{
    ProcError,
    process::{FDTarget, Process, all_processes},
};

use crate::model::Owner;

/// The process that holds the socket with this `sockfs` inode. Where several share it (a server that forks), the one with the
/// lowest pid, which is the one that opened it unless pids have wrapped.
///
/// # Errors
///
/// Why it cannot be known: no process was found, but some could not be looked into.
pub(super) fn owner_of_socket(inode: u32) -> Result<Option<Owner>, String> {
    let processes = all_processes().map_err(|error| format!("/proc cannot be read: {error}"))?;
    let mut unreadable = 0;
    let mut holder: Option<Process> = None;
    for process in processes.flatten() {
        if holder.as_ref().is_some_and(|found| found.pid < process.pid) {
            continue;
        }
        match holds(&process, inode) {
            Ok(true) => holder = Some(process),
            Ok(false) => {}
            Err(ProcError::PermissionDenied(_)) => unreadable += 1,
            // It has ended meanwhile, and holds nothing any more.
            Err(_) => {}
        }
    }
    match (holder, unreadable) {
        (Some(process), _) => Ok(Some(owner(&process))),
        (None, 0) => Ok(None),
        (None, count) => Err(format!("{count} processes could not be looked into; run connprobe as root")),
    }
}

fn holds(process: &Process, inode: u32) -> Result<bool, ProcError> {
    let is_it = |target: &FDTarget| matches!(target, FDTarget::Socket(this) if *this == u64::from(inode));
    Ok(process.fd()?.flatten().any(|descriptor| is_it(&descriptor.target)))
}

fn owner(process: &Process) -> Owner {
    let cgroup = cgroup(process);
    Owner {
        pid: u32::try_from(process.pid).unwrap_or(0),
        comm: process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm),
        container_id: cgroup.as_deref().and_then(container_id),
        cgroup,
    }
}

/// The path in the unified hierarchy (number 0), or in systemd's where the host still has version 1.
fn cgroup(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?.0;
    let is_systemd = |controllers: &[String]| controllers.iter().any(|name| name == "name=systemd");
    groups
        .iter()
        .find(|group| group.hierarchy == 0)
        .or_else(|| groups.iter().find(|group| is_systemd(&group.controllers)))
        .map(|group| group.pathname.clone())
}

/// The container a cgroup path names: the last part that is 64 hexadecimal digits, with or without a runtime's prefix and
/// systemd's `.scope` (`docker-…`, `cri-containerd-…`, `crio-…`, `libpod-…`).
fn container_id(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next().unwrap_or(part);
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_by_the_conventions_of_their_runtimes() {
        let id = "0123456789abcdef".repeat(4);
        for cgroup in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/burstable/pod1/{id}"),
            format!("/kubepods.slice/crio-{id}.scope"),
            format!("/kubepods.slice/crio-{id}.scope/container"),
            format!("/machine.slice/libpod-{id}.scope"),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{id}"),
        ] {
            assert_eq!(container_id(&cgroup).as_ref(), Some(&id), "{cgroup}");
        }
        for cgroup in ["/", "/system.slice/rabbitmq-server.service", "/user.slice/user-0.slice/session-1.scope"] {
            assert_eq!(container_id(cgroup), None);
        }
    }

    #[test]
    fn a_socket_nobody_holds_has_no_owner() {
        assert!(!matches!(owner_of_socket(u32::MAX), Ok(Some(_))));
    }
}
