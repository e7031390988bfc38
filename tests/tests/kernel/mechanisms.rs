//! Every way of attaching finds the same; a kernel that is not as assumed is told, not passed over.

use std::{env, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe::model::{Hook, Mechanism};
use connprobe_tests::{
    clocks::{wall_of_event, wall_seconds},
    facts::{self, KernelFacts},
    findings::{ensure_is_about, wait as finding},
    labs::routed::Routed,
    peer::{Keepalive, Mode, Options, Peer},
    probe::Probe,
    require::{
        GUEST_VARIABLE,
        Requirement::{Attaching, Guest},
    },
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, attached, connect, cut_and_write, stop, stop_silent},
    wire::{self, Coverage, SelfTest},
};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = Mechanism::ALL.into_iter().flat_map(by).collect();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    tests.extend([
        test("a hook that this kernel calls otherwise is unsupported, and what that costs is said", renamed_hook),
        Test::new(
            "a kprobe attaches to a function of a module, once the module is there",
            &[WATCHING, &[Attaching(Mechanism::Kprobe), Guest]].concat(),
            module_function,
        ),
        test("a field that is not where it is read is broken, and both values are said", shifted_field),
        Test::new("this kernel offers what is committed for it", &[WATCHING, &[Guest]].concat(), committed_facts),
        test("a field without which no event passes is told by the silence of the hooks", shifted_identity),
    ]);
    tests.into_iter().map(Test::on_every_kernel).collect()
}

fn by(mechanism: Mechanism) -> Vec<Test> {
    let needs = [WATCHING, &[Attaching(mechanism)]].concat();
    let test = |what: &str, function: fn(&TestContext, Mechanism) -> Result<()>| {
        Test::new(format!("{mechanism}: {what}"), &needs, move |test| function(test, mechanism))
    };
    let mut tests = vec![
        test("the self-test sees a connection stall and be reset", rehearsed),
        test("a silent peer is found, and the kernel's giving up ends the finding", silent_peer),
        test("three thousand short connections are no event", short_connections).alone(),
    ];
    // The tracepoints tell of failed attempts only from Linux 6.17 on.
    if matches!(mechanism, Mechanism::Fentry | Mechanism::Kprobe) {
        tests.push(test("a retransmission that cannot leave this host is told with its error", send_failure));
        tests.push(test("unanswered keepalive probes are told without a scan", keepalive_probes));
        tests.push(test("probes that cannot leave this host are told without a scan, with their error", failed_probes));
    }
    tests
}

fn check(options: &[&str]) -> Result<(Coverage, i32)> {
    facts::check(options)?.context("nothing can be observed")
}

fn hook(coverage: &Coverage, hook: Hook) -> Result<&wire::Hook> {
    coverage.hooks.iter().find(|entry| entry.hook == hook.name()).with_context(|| format!("no {}", hook.name()))
}

fn self_test(coverage: &Coverage) -> Result<&SelfTest> {
    coverage.self_test.as_ref().context("no self-test")
}

fn watch(lab: &Routed, mechanism: Mechanism) -> Result<Probe> {
    let inode = lab.client.inode().to_string();
    let arguments = ["diagnose", "--netns", &inode, "--follow", "--format", "ndjson", "--scan-every", "never"];
    let probe = Probe::start_with_tracefs(&[&arguments[..], &["--force-mechanism", mechanism.name()]].concat())?;
    attached(&probe)?;
    Ok(probe)
}

fn rehearsed(_: &TestContext, mechanism: Mechanism) -> Result<()> {
    let (coverage, _) = check(&["--force-mechanism", mechanism.name()])?;
    ensure!(self_test(&coverage)?.status == "ok", "{coverage:?}");
    for entry in &coverage.hooks {
        if is_to_be_had(&entry.hook, mechanism) {
            ensure!(entry.mechanism.as_deref() == Some(mechanism.name()), "{entry:?}");
        }
    }
    Ok(())
}

fn is_to_be_had(hook: &str, mechanism: Mechanism) -> bool {
    let is_function = matches!(mechanism, Mechanism::Fentry | Mechanism::Kprobe);
    if hook == Hook::KfreeSkb.name() {
        !is_function
    } else if hook == Hook::TcpWriteWakeup.name() {
        is_function
    } else if hook == Hook::NfCtLogInvalid.name() {
        // No trampoline goes to its functions, and they come with connection tracking, which need not be loaded.
        false
    } else {
        // The tracepoint's record names no socket.
        !(mechanism == Mechanism::Tracepoint && hook == Hook::InetSkErrorReport.name())
    }
}

fn silent_peer(test: &TestContext, mechanism: Mechanism) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let options = Options { user_timeout: Some(Duration::from_secs(6)), ..Options::default() };
    let (_server, client) = connect(&lab, &options)?;
    let probe = watch(&lab, mechanism)?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("peer_silent", "suspected"), "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn short_connections(test: &TestContext, mechanism: Mechanism) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, quiet: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let probe = watch(&lab, mechanism)?;
    let churn = Peer::churn(&lab.client, Routed::server_v4(PORT), 3_000)?;
    churn.wait_event("churned", Duration::from_secs(100))?;
    let summary = stop_silent(probe)?;
    let seen: u64 = summary.hooks.iter().map(|hook| hook.seen).sum();
    ensure!(seen == 0, "events on healthy connections: {summary:?}");
    Ok(())
}

fn send_failure(test: &TestContext, mechanism: Mechanism) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab, mechanism)?;
    cut_and_write(&lab, &client)?;
    lab.client.ip("route del default via 10.77.1.254\n")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("local_send_failure", "confirmed"), "{opened:?}");
    stop(probe)?;
    Ok(())
}

fn keepalive_probes(test: &TestContext, mechanism: Mechanism) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let keepalive = Some(Keepalive { time_s: 2, interval_s: 3, probes: 5 });
    let (_server, client) = connect(&lab, &Options { keepalive, ..Options::default() })?;
    let probe = watch(&lab, mechanism)?;
    lab.cut()?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.cause == "keepalive_unanswered", "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    let error = client.wait_event("error", SOON)?;
    let (stated, given_up) = (wall_seconds(&deadline.time)?, wall_of_event(&error)?);
    println!("stated {:.1} s ahead, given up {:+.3} s from it", deadline.in_seconds, given_up - stated);
    ensure!((given_up - stated).abs() <= 3.0, "stated {stated}, given up {given_up}: {deadline:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn failed_probes(test: &TestContext, mechanism: Mechanism) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab, mechanism)?;
    lab.client
        .nft("table inet filter { chain output { type filter hook output priority 0; tcp dport 5672 drop; }; }\n")?;
    client.command("write 100")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("local_send_failure", "confirmed"), "{opened:?}");
    ensure!(opened.evidence.iter().any(|evidence| evidence.text.contains("packet filter")), "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    stop(probe)?;
    Ok(())
}

fn committed_facts(_: &TestContext) -> Result<()> {
    let series = env::var(GUEST_VARIABLE)?;
    let committed = KernelFacts::committed(&series)?;
    let observed = KernelFacts::observe()?;
    // The release moves on with every update of the distribution.
    let observed = KernelFacts { release: committed.release.clone(), ..observed };
    ensure!(
        observed == committed,
        "observed: {observed:#?}\ncommitted: {committed:#?}\n`cargo xtask kernels --update`"
    );
    Ok(())
}

fn renamed_hook(_: &TestContext) -> Result<()> {
    let renamed = ["--test-rename-hook", "tcp_retransmit_skb=tcp_send_again"];
    for forced in [&[][..], &["--force-mechanism", "tp_btf"]] {
        let (coverage, code) = check(&[&renamed[..], forced].concat())?;
        ensure!(code == 1, "exit code {code}");
        ensure!(coverage.degraded, "{coverage:?}");
        ensure!(hook(&coverage, Hook::TcpRetransmitSkb)?.status == "unsupported", "{coverage:?}");
        ensure!(hook(&coverage, Hook::TcpReceiveReset)?.status == "ok", "{coverage:?}");
    }
    let finished = Probe::run(&[&["check"], &renamed[..]].concat(), SOON)?;
    ensure!(finished.stdout.contains("no retransmit_stalled"), "{}", finished.stdout);
    Ok(())
}

fn module_function(_: &TestContext) -> Result<()> {
    // In its place the program sees no socket, and says nothing.
    let renamed =
        ["--force-mechanism", "kprobe", "--test-rename-hook", "tcp_retransmit_synack=nf_conntrack_tcp_packet"];
    let modprobe = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("modprobe").args(arguments).status()?;
        ensure!(status.success(), "modprobe {arguments:?}: {status}");
        Ok(())
    };
    modprobe(&["nf_conntrack"])?;
    let (coverage, _) = check(&renamed)?;
    ensure!(hook(&coverage, Hook::TcpRetransmitSynack)?.mechanism.as_deref() == Some("kprobe"), "{coverage:?}");
    // Of a module that no test needs.
    let absent = ["--force-mechanism", "kprobe", "--test-rename-hook", "tcp_retransmit_synack=nfsd_dispatch"];
    let (coverage, _) = check(&absent)?;
    ensure!(hook(&coverage, Hook::TcpRetransmitSynack)?.status == "unsupported", "{coverage:?}");
    Ok(())
}

fn shifted_field(_: &TestContext) -> Result<()> {
    let (coverage, code) = check(&["--test-shift-field", "tcp_sock.keepalive_time=4"])?;
    ensure!(code == 1, "exit code {code}");
    let test = self_test(&coverage)?;
    ensure!(test.status == "broken" && test.text.contains("keepalive_time"), "{test:?}");
    Ok(())
}

fn shifted_identity(_: &TestContext) -> Result<()> {
    let (coverage, code) = check(&["--test-shift-field", "net.ns.inum=4"])?;
    ensure!(code == 1, "exit code {code}");
    let test = self_test(&coverage)?;
    ensure!(test.status == "broken" && test.text.contains("nothing came from tcp_retransmit_skb"), "{test:?}");
    Ok(())
}
