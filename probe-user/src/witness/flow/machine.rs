//! Which virtual machine is behind a tap: the process that holds it open, and what its command line calls the machine.

use std::{collections::HashMap, fs};

use procfs::process::all_processes;

use crate::model::Machine;

/// The tap behind an interface. Where Neutron puts a bridge for a machine's firewall between the tap and Open vSwitch (`hybrid plug`),
/// the interfaces on the way share the tap's suffix: `tap…`, `qbr…`, `qvb…`, `qvo…`.
pub(super) fn tap_behind(name: &str, is_tap: bool) -> Option<String> {
    let suffix = ["qvo", "qvb", "qbr"].iter().find_map(|prefix| name.strip_prefix(prefix));
    match suffix {
        Some(suffix) => Some(format!("tap{suffix}")),
        None => is_tap.then(|| name.to_owned()),
    }
}

/// The machines behind taps that were asked about together: a tap is looked for once, by a walk through the descriptors of all processes.
#[derive(Debug, Default)]
pub(super) struct Machines(HashMap<String, Option<Machine>>);

impl Machines {
    /// The machine whose process holds the tap of this name open.
    pub(super) fn of_tap(&mut self, tap: String) -> Option<Machine> {
        if let Some(known) = self.0.get(&tap) {
            return known.clone();
        }
        let machine = of_tap(&tap);
        self.0.insert(tap, machine.clone());
        machine
    }
}

fn of_tap(tap: &str) -> Option<Machine> {
    for process in all_processes().ok()?.flatten() {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == "/dev/net/tun")
                && fs::read_to_string(format!(
                    "/proc/{}/fdinfo/{}",
                    process.pid,
                    descriptor.file_name().to_string_lossy()
                ))
                .is_ok_and(|info| is_of(&info, tap))
        });
        if holds {
            let (name, uuid) = named(&process.cmdline().ok()?);
            return Some(Machine { pid: u32::try_from(process.pid).ok()?, name, uuid });
        }
    }
    None
}

/// Whether an open descriptor of `/dev/net/tun` is this tap's (`tun_chr_show_fdinfo`, `drivers/net/tun.c`).
fn is_of(info: &str, tap: &str) -> bool {
    info.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == tap))
}

/// Name and UUID in the command line of QEMU.
fn named(arguments: &[String]) -> (Option<String>, Option<String>) {
    let after = |option: &str| {
        let place = arguments.iter().position(|argument| argument == option)?;
        arguments.get(place.checked_add(1)?).map(String::as_str)
    };
    let name = after("-name").map(|name| {
        let guest = name.split(',').find_map(|part| part.strip_prefix("guest="));
        guest.or_else(|| name.split(',').next()).unwrap_or(name).to_owned()
    });
    (name, after("-uuid").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_machine_is_named_by_its_command_line() {
        let some = |text: &str| Some(text.to_owned());
        let uuid = "6c1f6a9c-0a1b-4c8e-9d8f-0d5a0c3f2b11";
        let nova =
            arguments(&format!("qemu-system-x86_64 -name guest=instance-0000002a,debug-threads=on -S -uuid {uuid}"));
        assert_eq!(named(&nova), (some("instance-0000002a"), some(uuid)));
        assert_eq!(named(&arguments("qemu-system-x86_64 -name web1,process=web1")), (some("web1"), None));
        assert_eq!(named(&arguments("tap-holder")), (None, None));
    }

    #[test]
    fn a_tap_is_found_behind_the_bridge_of_its_firewall() {
        assert_eq!(tap_behind("qvo1a2b3c4d-5e", false).unwrap(), "tap1a2b3c4d-5e");
        assert_eq!(tap_behind("vnet0", true).unwrap(), "vnet0");
        assert_eq!(tap_behind("eth0", false), None);
    }

    #[test]
    fn a_descriptor_names_its_tap() {
        let info = "pos:\t0\nflags:\t0104002\nmnt_id:\t22\nino:\t87\niff:\ttap1a2b3c4d-5e\n";
        assert!(is_of(info, "tap1a2b3c4d-5e"));
        assert!(!is_of(info, "tap1a2b3c4d-5"));
    }
}
