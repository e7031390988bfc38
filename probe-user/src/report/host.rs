use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which host a record comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// `/etc/machine-id`: the installation; `null` where there is none.
    pub machine_id: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`: the boot.
    pub boot_id: Uuid,
}
