//! Firewall rules of one namespace.

use std::process::Command;

use anyhow::Result;

use crate::netns::Netns;

impl Netns {
    /// Loads rules in the language of nftables; all of them or, after an error, none.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.check_output(command, ruleset).map(drop)
    }

    /// What `nft` prints for some arguments, such as `["list", "counters"]`.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn nft_query(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nft");
        command.args(arguments);
        self.check_output(command, "")
    }
}
