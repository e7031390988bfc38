//! Which process holds a socket.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use procfs::process::{Process, all_processes};

use super::cgroup;
use crate::model::Owner;

/// What one walk through `/proc` found.
#[derive(Debug)]
pub struct Owners {
    found: HashMap<u64, Owner>,
    /// Why a socket that was not found may still be held.
    blind: Option<String>,
}

impl Owners {
    /// The process that holds the socket with this `sockfs` inode, which must be one of those looked for.
    ///
    /// # Errors
    ///
    /// Why it cannot be known: no process was found, but some could not be looked into.
    pub fn of(&self, inode: u64) -> Result<Option<Owner>, String> {
        match (self.found.get(&inode), &self.blind) {
            (Some(owner), _) => Ok(Some(owner.clone())),
            (None, None) => Ok(None),
            (None, Some(why)) => Err(why.clone()),
        }
    }
}

/// Finds the processes that hold these sockets, in one walk: it reads every descriptor of the host, some microseconds each. Where several
/// processes share a socket (a server that forks, a descriptor that was handed on), the one with the lowest pid is taken, which is the
/// one that opened it unless pids have wrapped, and the others are counted.
pub fn owners_of_sockets(inodes: &HashSet<u64>) -> Owners {
    let mut found: HashMap<u64, Owner> = HashMap::new();
    let processes = match all_processes() {
        Ok(processes) => processes,
        Err(error) => return Owners { found, blind: Some(format!("/proc cannot be read: {error}")) },
    };
    let (mut unreadable, mut saw_init) = (0, false);
    // In ascending order of pids (`proc_pid_readdir`, `fs/proc/base.c`).
    for process in processes.flatten() {
        saw_init |= process.pid == 1;
        match held_of(&process, inodes) {
            Ok(held) if held.is_empty() => {}
            Ok(held) => {
                // One that has ended meanwhile holds nothing any more.
                let Some(owner) = owner(&process) else { continue };
                for inode in held {
                    found
                        .entry(inode)
                        .and_modify(|first| first.other_holders = first.other_holders.saturating_add(1))
                        .or_insert_with(|| owner.clone());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unreadable += 1,
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    let blind = match (unreadable, saw_init) {
        (0, true) => None,
        (0, false) => Some("other users' processes are hidden; run connprobe as root".to_owned()),
        (count, _) => Some(format!("{count} processes could not be looked into; run connprobe as root")),
    };
    Owners { found, blind }
}

/// Which of these sockets the process holds. The links alone are read: opening each descriptor takes longer.
fn held_of(process: &Process, inodes: &HashSet<u64>) -> io::Result<HashSet<u64>> {
    let mut held = HashSet::new();
    for descriptor in fs::read_dir(format!("/proc/{}/fd", process.pid))?.flatten() {
        match fs::read_link(descriptor.path()) {
            Ok(target) => held.extend(socket_inode(&target).filter(|inode| inodes.contains(inode))),
            // The descriptors of a process of the same user with more capabilities are listed, but what they are is not told
            // (`proc_fd_access_allowed`, `fs/proc/base.c`).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Closed meanwhile.
            Err(_) => {}
        }
    }
    Ok(held)
}

/// The inode number in the link `socket:[NUMBER]`.
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `None` when it has ended.
fn owner(process: &Process) -> Option<Owner> {
    let comm = process.stat().ok()?.comm;
    let cgroup = cgroup_of(process);
    Some(Owner {
        pid: u32::try_from(process.pid).ok()?,
        comm,
        other_holders: 0,
        exe: process.exe().ok().map(|path| path.to_string_lossy().into_owned()),
        place: cgroup.as_deref().map(cgroup::place).unwrap_or_default(),
        cgroup,
    })
}

/// The path in the unified hierarchy (number 0), or in systemd's where the host still has version 1.
fn cgroup_of(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?.0;
    let is_systemd = |controllers: &[String]| controllers.iter().any(|name| name == "name=systemd");
    groups
        .iter()
        .find(|group| group.hierarchy == 0)
        .or_else(|| groups.iter().find(|group| is_systemd(&group.controllers)))
        .map(|group| group.pathname.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_nobody_holds_has_no_owner() {
        assert!(!matches!(owners_of_sockets(&HashSet::from([u64::MAX])).of(u64::MAX), Ok(Some(_))));
    }

    #[test]
    fn the_others_that_hold_a_socket_are_counted() {
        use std::{
            net::UdpSocket,
            os::fd::{AsRawFd as _, OwnedFd},
            process::{Command, Stdio},
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(&link).unwrap();
        let inherited = Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let mut child = Command::new("sleep").arg("60").stdin(inherited).spawn().unwrap();
        let owner = owners_of_sockets(&HashSet::from([inode])).of(inode);
        child.kill().unwrap();
        child.wait().unwrap();
        let owner = owner.unwrap().unwrap();
        let first = std::process::id().min(child.id());
        assert_eq!((owner.pid, owner.other_holders), (first, 1));
    }

    #[test]
    fn one_walk_finds_the_owners_of_many_sockets() {
        use std::{net::TcpListener, os::fd::AsRawFd as _};
        let sockets: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let inode = |socket: &TcpListener| -> u64 {
            let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            socket_inode(&link).unwrap()
        };
        let inodes: HashSet<_> = sockets.iter().map(inode).collect();
        let owners = owners_of_sockets(&inodes);
        for inode in inodes {
            let owner = owners.of(inode).unwrap().unwrap();
            assert_eq!(owner.pid, std::process::id());
            assert_eq!(owner.exe.unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
        }
    }
}
