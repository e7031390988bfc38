//! The older tables of iptables, of which `nft` knows nothing. Their rules are not read: only in which table one can have dropped a
//! packet is told, by the hook and by which tables there are. The calls do not tell it: the packet is freed when the table has been
//! gone through (`nf_hook_slow`, `net/netfilter/core.c`).

use std::{fs, io};

use crate::{
    model::{NetfilterHook, Site},
    witness::netns::Netns,
};

/// The older tables that there are in a namespace: from Linux 5.15 on, those that were used; before, all that are loaded.
pub(super) fn in_use(netns: &Netns, is_ipv4: bool) -> io::Result<Vec<String>> {
    let names = if is_ipv4 { "ip_tables_names" } else { "ip6_tables_names" };
    match netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{names}"))).flatten() {
        Ok(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        // The kernel has none, or they are not loaded.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Says where a packet can have been dropped in these tables; `None` where none of them is at that hook.
pub(super) fn place(site: Site, in_use: &[String], is_ipv4: bool) -> Option<String> {
    let hook = site.hook()?;
    let tables: Vec<_> = at(hook).iter().copied().filter(|table| in_use.iter().any(|used| used == table)).collect();
    if tables.is_empty() {
        return None;
    }
    let program = if is_ipv4 { "iptables" } else { "ip6tables" };
    let commands: Vec<_> = tables.iter().map(|table| format!("{program}-legacy-save -c -t {table}")).collect();
    let (table, list) = (tables.join(" or "), commands.join("; "));
    Some(format!("{program}-legacy, table {table}, hook {} (list with {list})", hook.name()))
}

/// Which of the tables are at a hook (`valid_hooks` in `net/ipv4/netfilter/iptable_*.c`). In `nat` nothing is dropped: iptables refuses it.
const fn at(hook: NetfilterHook) -> &'static [&'static str] {
    match hook {
        NetfilterHook::Prerouting => &["raw", "mangle"],
        NetfilterHook::Input | NetfilterHook::Forward => &["filter", "mangle", "security"],
        NetfilterHook::Output => &["filter", "raw", "mangle", "security"],
        NetfilterHook::Postrouting => &["mangle"],
        NetfilterHook::Ingress => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_told_by_the_hook_and_by_what_is_in_use() {
        let of = |hook, in_use: &str, is_ipv4| {
            let in_use: Vec<_> = in_use.split_whitespace().map(str::to_owned).collect();
            place(Site::Netfilter(hook), &in_use, is_ipv4)
        };
        let filter = |program: &str| {
            Some(format!("{program}-legacy, table filter, hook input (list with {program}-legacy-save -c -t filter)"))
        };
        assert_eq!(of(NetfilterHook::Input, "filter nat raw", true), filter("iptables"));
        assert_eq!(of(NetfilterHook::Input, "filter", false), filter("ip6tables"));
        let several = of(NetfilterHook::Forward, "mangle filter", true).unwrap();
        assert!(several.contains("table filter or mangle, hook forward"), "{several}");
        assert_eq!(of(NetfilterHook::Postrouting, "filter nat", true), None);
        assert_eq!(place(Site::OpenVswitch, &["filter".to_owned()], true), None);
    }
}
