use serde::{Deserialize, Serialize};

/// The process that holds a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Process id in the initial namespace of this program.
    pub pid: u32,
    /// Command name, at most 15 bytes (`/proc/PID/comm`).
    pub comm: String,
    /// How many processes hold it, too, after a fork or by a descriptor handed on: the socket lives until the last one closes it.
    pub other_holders: u32,
    /// Path of the program as its mount namespace names it, with ` (deleted)` behind it where the file has been replaced or
    /// removed since (`/proc/PID/exe`); `None` where it cannot be read.
    pub exe: Option<String>,
    /// Path in the unified cgroup hierarchy; `None` where it cannot be read.
    pub cgroup: Option<String>,
    /// What that path names.
    pub place: Place,
}

/// What is known of who holds the socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OwnerKnowledge {
    /// Not asked, or not answered yet.
    NotAsked,
    /// This process.
    Process(Owner),
    /// No process: the application has closed it, or has not accepted it yet, or it is the kernel's own.
    NoProcess,
    /// It cannot be known, for this reason.
    Unavailable(String),
}

impl OwnerKnowledge {
    /// The process, when there is one and it is known.
    pub const fn process(&self) -> Option<&Owner> {
        match self {
            Self::Process(owner) => Some(owner),
            Self::NotAsked | Self::NoProcess | Self::Unavailable(_) => None,
        }
    }
}

/// What a witness has answered.
impl From<Result<Option<Owner>, String>> for OwnerKnowledge {
    fn from(answer: Result<Option<Owner>, String>) -> Self {
        match answer {
            Ok(Some(owner)) => Self::Process(owner),
            Ok(None) => Self::NoProcess,
            Err(why) => Self::Unavailable(why),
        }
    }
}

/// What a cgroup path names by the conventions of those who make such paths; `None` for what it does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The container: 64 hexadecimal digits, or the name where the runtime identifies containers by name.
    pub container_id: Option<String>,
    /// What runs the container, where the path tells.
    pub runtime: Option<ContainerRuntime>,
    /// The Kubernetes pod: its `metadata.uid`, or for a static pod the hash of its manifest.
    pub pod_uid: Option<String>,
    /// The systemd unit, a service or a scope; not one that only stands for a container.
    pub unit: Option<String>,
    /// The virtual machine, by libvirt's name; Nova calls its machines `instance-` and eight hexadecimal digits.
    pub vm: Option<String>,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContainerRuntime {
    /// Docker Engine.
    Docker,
    /// containerd, by its CRI service or by nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// `systemd-nspawn`, or what else registers containers with `systemd-machined`.
    SystemdNspawn,
    /// LXC, LXD or Incus.
    Lxc,
}

impl ContainerRuntime {
    /// Every runtime.
    pub const ALL: [Self; 6] =
        [Self::Docker, Self::Containerd, Self::CriO, Self::Podman, Self::SystemdNspawn, Self::Lxc];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::SystemdNspawn => "systemd-nspawn",
            Self::Lxc => "lxc",
        }
    }
}
