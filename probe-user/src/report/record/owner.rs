use schemars::JsonSchema;
use serde::Serialize;

use super::schema::one_of_or_null;
use crate::model::{ContainerRuntime, Owner, OwnerKnowledge, Place};

/// The process that holds the socket.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OwnerBody {
    /// Process id.
    pub pid: u32,
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// How many processes hold it, too: the socket lives until the last one closes it.
    pub other_holders: u32,
    /// Path of the program, with ` (deleted)` behind it where its file is gone or replaced; `null` where it cannot be read.
    pub exe: Option<String>,
    /// Path in the cgroup hierarchy; `null` where it cannot be read.
    pub cgroup: Option<String>,
    /// Container id; `null` when the cgroup names none.
    pub container_id: Option<String>,
    /// `docker`, `containerd`, `cri-o`, `podman`, `systemd-nspawn` or `lxc`; `null` where the cgroup does not tell.
    #[schemars(extend("enum" = one_of_or_null(ContainerRuntime::ALL.map(ContainerRuntime::name))))]
    pub runtime: Option<&'static str>,
    /// Kubernetes pod uid; `null` when the cgroup names none.
    pub pod_uid: Option<String>,
    /// systemd unit that is not a container's; `null` when the cgroup names none.
    pub unit: Option<String>,
    /// libvirt's name of the virtual machine; `null` when the cgroup names none.
    pub vm: Option<String>,
}

impl OwnerBody {
    pub(super) fn new(owner: &Owner) -> Self {
        let Owner { pid, comm, other_holders, exe, cgroup, place } = owner;
        let Place { container_id, runtime, pod_uid, unit, vm } = place;
        Self {
            pid: *pid,
            comm: comm.clone(),
            other_holders: *other_holders,
            exe: exe.clone(),
            cgroup: cgroup.clone(),
            container_id: container_id.clone(),
            runtime: runtime.map(ContainerRuntime::name),
            pod_uid: pod_uid.clone(),
            unit: unit.clone(),
            vm: vm.clone(),
        }
    }
}

/// The owner, or why there is none.
pub(super) fn owner(owner: &OwnerKnowledge) -> (Option<OwnerBody>, Option<String>) {
    let unavailable = |why: &str| (None, Some(why.to_owned()));
    match owner {
        OwnerKnowledge::Process(owner) => (Some(OwnerBody::new(owner)), None),
        OwnerKnowledge::NoProcess => unavailable("no process holds the socket"),
        OwnerKnowledge::NotAsked => unavailable("not known yet"),
        OwnerKnowledge::Unavailable(why) => unavailable(why),
    }
}
