//! What a cgroup path says of a process: container, pod, systemd unit, virtual machine.

use crate::model::{ContainerRuntime, Place};

/// Reads a path from the outside in: of containers in containers, and of units in containers, the innermost counts.
pub(super) fn place(cgroup: &str) -> Place {
    let mut place = Place::default();
    let is_kubernetes = cgroup.contains("kubepods");
    let mut parent = "";
    for part in cgroup.split('/').flat_map(steps) {
        if let Some((runtime, id)) = container(part, parent) {
            place.container_id = Some(id);
            place.runtime = runtime;
        } else if let Some(uid) = pod_uid(part).filter(|_| is_kubernetes) {
            place.pod_uid = Some(uid);
        } else {
            place.vm = virtual_machine(part).or(place.vm);
            if part.ends_with(".service") || part.ends_with(".scope") {
                place.unit = Some(part.to_owned());
            }
        }
        parent = part;
    }
    place
}

/// runc without systemd makes one folder of what systemd would nest: `SLICE:PREFIX:ID`. Else a colon is part of a unit's name.
fn steps(part: &str) -> impl Iterator<Item = &str> {
    let is_joined = part.rsplit(':').next().is_some_and(is_id);
    let separator = if is_joined { ':' } else { '/' };
    part.split(separator)
}

/// The container that a part of a path stands for, and what runs it. Where there is no prefix, the folder around tells.
fn container(part: &str, parent: &str) -> Option<(Option<ContainerRuntime>, String)> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    if let Some(name) = name.strip_prefix("lxc.payload.").or_else(|| (parent == "lxc").then_some(name)) {
        return Some((Some(ContainerRuntime::Lxc), name.to_owned()));
    }
    if let Some(machine) = nspawn_machine(part) {
        return Some((Some(ContainerRuntime::SystemdNspawn), machine));
    }
    let (prefix, id) = name.rsplit_once('-').unwrap_or((parent, name));
    is_id(id).then(|| (runtime(prefix), id.to_owned()))
}

fn runtime(prefix: &str) -> Option<ContainerRuntime> {
    match prefix {
        "docker" => Some(ContainerRuntime::Docker),
        "cri-containerd" | "nerdctl" => Some(ContainerRuntime::Containerd),
        "crio" | "crio-conmon" => Some(ContainerRuntime::CriO),
        // `libpod`, `libpod-conmon`, `libpod-payload`, and the folder `libpod_parent`.
        _ => prefix.starts_with("libpod").then_some(ContainerRuntime::Podman),
    }
}

/// `machine-NAME.scope` for what `systemd-machined` knows, or the service that starts a container. libvirt registers its machines
/// there, too, with the driver and a number before the name.
fn nspawn_machine(part: &str) -> Option<String> {
    let scope = part.strip_suffix(".scope").and_then(|name| name.strip_prefix("machine-"));
    let service = part.strip_suffix(".service").and_then(|name| name.strip_prefix("systemd-nspawn@"));
    let name = unescaped(scope.or(service)?);
    (libvirt_name(&name, "qemu").is_none() && libvirt_name(&name, "lxc").is_none()).then_some(name)
}

/// `machine-qemu\x2d7\x2dNAME.scope`, or without systemd `qemu-7-NAME.libvirt-qemu`.
fn virtual_machine(part: &str) -> Option<String> {
    let scope = part.strip_suffix(".scope").and_then(|name| name.strip_prefix("machine-"));
    libvirt_name(&unescaped(scope.or_else(|| part.strip_suffix(".libvirt-qemu"))?), "qemu")
}

/// The name behind libvirt's driver and number.
fn libvirt_name(machine: &str, driver: &str) -> Option<String> {
    let (number, name) = machine.strip_prefix(driver)?.strip_prefix('-')?.split_once('-')?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.to_owned())
}

/// `kubepods-burstable-podUID.slice` with underscores in the uid where systemd makes the path (a dash would be a step down), `podUID`
/// where the kubelet does. A static pod's uid is a hash without dashes.
fn pod_uid(part: &str) -> Option<String> {
    let (before, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    let is_uuid = uuid::Uuid::try_parse(&uid).is_ok();
    (is_uuid && (before.is_empty() || before.ends_with('-'))).then_some(uid)
}

/// Container ids of Docker, containerd, CRI-O and Podman are 64 hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A name as it was before systemd escaped it for a unit name (`\x2d` for a dash; systemd.unit(5)).
fn unescaped(name: &str) -> String {
    let mut pieces = name.split("\\x");
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let escaped = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(b"\\x"),
        }
        bytes.extend(piece.bytes().skip(if escaped.is_some() { 2 } else { 0 }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1b8f1b3c2ad9d4bb7bd4dbd32ab4d4b4e0a7b2b6a9c64b1d1c7f2a3e5d6c7b";
    const UID: &str = "0d6b3b3a-58a8-4a4e-9f0e-2f0d1c6f7a11";

    fn container(cgroup: &str) -> (Option<&'static str>, Option<String>) {
        let place = place(cgroup);
        (place.runtime.map(ContainerRuntime::name), place.container_id)
    }

    #[test]
    fn containers_are_named_by_the_conventions_of_their_runtimes() {
        for (cgroup, runtime) in [
            (format!("/docker/{ID}"), Some("docker")),
            (format!("/system.slice/docker-{ID}.scope"), Some("docker")),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope"), Some("docker")),
            (format!("/kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope"), Some("containerd")),
            (format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}"), Some("containerd")),
            (format!("/system.slice/nerdctl-{ID}.scope"), Some("containerd")),
            (format!("/kubepods/burstable/pod{UID}/{ID}"), None),
            (format!("/kubepods.slice/crio-{ID}.scope"), Some("cri-o")),
            (format!("/kubepods.slice/crio-{ID}.scope/container"), Some("cri-o")),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("podman")),
            (format!("/libpod_parent/{ID}"), Some("podman")),
            (format!("/system.slice/web.service/libpod-payload-{ID}"), Some("podman")),
        ] {
            assert_eq!(container(&cgroup), (runtime, Some(ID.to_owned())), "{cgroup}");
        }
        for (cgroup, runtime, name) in [
            ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "systemd-nspawn", "web"),
            ("/machine.slice/machine-my\\x2dweb.scope", "systemd-nspawn", "my-web"),
            ("/machine.slice/systemd-nspawn@web.service/payload", "systemd-nspawn", "web"),
            ("/lxc.payload.aio1_rabbit_mq_container-1a2b3c4d/system.slice", "lxc", "aio1_rabbit_mq_container-1a2b3c4d"),
            ("/lxc/aio1_galera_container-1a2b3c4d", "lxc", "aio1_galera_container-1a2b3c4d"),
        ] {
            assert_eq!(container(cgroup), (Some(runtime), Some(name.to_owned())), "{cgroup}");
        }
        for cgroup in ["/", "/system.slice/rabbitmq-server.service", "/user.slice/user-0.slice/session-1.scope"] {
            assert_eq!(container(cgroup), (None, None), "{cgroup}");
        }
    }

    #[test]
    fn of_containers_in_containers_the_innermost_counts() {
        let inner = "e".repeat(64);
        let path = format!(
            "/docker/{ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-\
             pod0d6b3b3a_58a8_4a4e_9f0e_2f0d1c6f7a11.slice/cri-containerd-{inner}.scope"
        );
        assert_eq!(container(&path), (Some("containerd"), Some(inner)));
        assert_eq!(place(&path).pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn pods_are_named_alike_whichever_driver_made_the_path() {
        let escaped = UID.replace('-', "_");
        for cgroup in [
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/crio-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod{escaped}.slice"),
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod{escaped}.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(place(&cgroup).pod_uid.as_deref(), Some(UID), "{cgroup}");
        }
        let of_a_static_pod = "/kubepods/burstable/pod5b1a3f0e9d8c7b6a5f4e3d2c1b0a9f8e";
        assert_eq!(place(of_a_static_pod).pod_uid.as_deref(), Some("5b1a3f0e9d8c7b6a5f4e3d2c1b0a9f8e"));
        for cgroup in [
            format!("/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope"),
            format!("/pod{UID}"),
            "/kubepods.slice/kubepods-burstable.slice".to_owned(),
        ] {
            assert_eq!(place(&cgroup).pod_uid, None, "{cgroup}");
        }
    }

    #[test]
    fn the_unit_is_the_last_one_that_is_not_a_container() {
        for (cgroup, unit) in [
            ("/system.slice/nova-compute.service", "nova-compute.service"),
            ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main.service"),
            ("/user.slice/user-0.slice/session-1.scope", "session-1.scope"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/vim.service", "vim.service"),
            (&format!("/system.slice/web.service/libpod-payload-{ID}"), "web.service"),
            ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/a:b.service", "a:b.service"),
        ] {
            assert_eq!(place(cgroup).unit.as_deref(), Some(unit), "{cgroup}");
        }
        for cgroup in ["/", &format!("/system.slice/docker-{ID}.scope"), &format!("/docker/{ID}")] {
            assert_eq!(place(cgroup).unit, None, "{cgroup}");
        }
    }

    #[test]
    fn a_virtual_machine_has_the_name_that_libvirt_gave_it() {
        for (cgroup, vm) in [
            ("/machine.slice/machine-qemu\\x2d7\\x2dinstance\\x2d00000007.scope", "instance-00000007"),
            ("/machine.slice/machine-qemu\\x2d7\\x2dinstance\\x2d00000007.scope/libvirt/emulator", "instance-00000007"),
            ("/machine/qemu-12-db.libvirt-qemu/emulator", "db"),
        ] {
            assert_eq!(place(cgroup).vm.as_deref(), Some(vm), "{cgroup}");
            assert_eq!(place(cgroup).container_id, None, "{cgroup}");
        }
        for cgroup in
            ["/machine.slice/machine-qemu.scope", "/machine.slice/machine-web.scope", "/system.slice/x.service"]
        {
            assert_eq!(place(cgroup).vm, None, "{cgroup}");
        }
    }

    #[test]
    fn what_systemd_escaped_is_unescaped() {
        assert_eq!(unescaped("a\\x2db\\xc3\\xa4"), "a-bä");
        assert_eq!(unescaped("\\x2"), "\\x2");
    }
}
