//! Firewall rules of one namespace.

use std::process::Command;

use anyhow::Result;

use crate::netns::Netns;

/// A ruleset that drops, at this hook (`input`, `forward`), what connection tracking holds for invalid.
#[must_use]
pub fn drops_invalid(hook: &str) -> String {
    format!(
        "table inet firewall {{ chain {hook} {{ type filter hook {hook} priority 0; ct state invalid drop; }}; }}\n"
    )
}

/// A ruleset that drops, at this hook (`input`, `forward`, `output`), the segments with this flag (`fin`, `rst`). Its table is `drops`.
#[must_use]
pub fn drops_flag(hook: &str, flag: &str) -> String {
    format!(
        "table inet drops {{ chain {hook} {{ type filter hook {hook} priority 0; tcp flags & {flag} == {flag} drop; }}; }}\n"
    )
}

/// A ruleset that changes each FIN that comes in by this interface, before connection tracking sees it: `statement` says how, in the
/// language of nftables. Its table is `mangle`.
pub(crate) fn mangles_fins(interface: &str, statement: &str) -> String {
    format!(
        "table inet mangle {{ chain raw {{ type filter hook prerouting priority -400; \
         iifname \"{interface}\" tcp flags & fin == fin {statement}; }}; }}\n"
    )
}

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

    /// Runs iptables with these arguments: `legacy` for its older tables, `nft` for rules of nftables.
    ///
    /// # Errors
    /// With its message.
    pub fn iptables(&self, kind: &str, arguments: &str) -> Result<()> {
        let mut command = Command::new(format!("iptables-{kind}"));
        command.args(["--wait", "5"]).args(arguments.split_whitespace());
        self.check_output(command, "").map(drop)
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
