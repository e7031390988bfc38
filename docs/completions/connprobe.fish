# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_connprobe_global_optspecs
    string join \n v/verbose h/help V/version
end

function __fish_connprobe_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_connprobe_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_connprobe_using_subcommand
    set -l cmd (__fish_connprobe_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c connprobe -n "__fish_connprobe_needs_command" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_needs_command" -s h -l help -d 'Print help'
complete -c connprobe -n "__fish_connprobe_needs_command" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "diagnose" -d 'Watch for a while and report the connections in limbo'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "daemon" -d 'Watch all year as a service, and write what is found to files, sockets and the journal'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "snapshot" -d 'Look for a moment, without privileges and without loading anything, and report the connections in limbo'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "check" -d 'Say what can be observed on this kernel, by which mechanism, and what is missing'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "explain" -d 'Say what a verdict or a cause means, which evidence it takes, what it is not, and what to do'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "record" -d 'Watch for a while and write what was seen to a file, to be replayed elsewhere'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "replay" -d 'Report once more what a recorded run found'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "schema" -d 'Print the JSON Schema of the records'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "completions" -d 'Print what makes a shell complete connprobe\'s commands and options'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "man" -d 'Print a manual page, or write all of them'
complete -c connprobe -n "__fish_connprobe_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l duration -d 'How long to watch, for example 30s or 5m' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l scan-every -d 'How often all sockets are scanned for those that wait, for example 5s; never: only what raises an event is found' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l netns -d 'Only this network namespace: a name under /run/netns, a path, an inode number, or all' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l port -d 'Only connections with this port at either end; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l peer -d 'Only connections to peers in this prefix, of those that are only forwarded to or from; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l verdict -d 'Only these verdicts, as silently_dropped_fin,half_open; the exit code counts only these' -r -f -a "half_open\t''
asymmetric_handshake\t''
retransmit_stalled\t''
silently_dropped_fin\t''
zero_window_stalled\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l format -d 'How to report' -r -f -a "text\t'For people'
json\t'One JSON array of records at the end'
ndjson\t'One JSON record a line, each as it happens'"
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l fail-on -d 'From which confidence on a finding makes the exit code 1' -r -f -a "suspected\t'Any finding'
confirmed\t'Only findings that admit no other explanation'
never\t'None'"
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l idle-timeout -d 'For --risks: after how long without traffic a firewall, NAT or load balancer on the way forgets a connection [default: 1h]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l btf -d 'Read the kernel\'s type information from this file instead of /sys/kernel/btf/vmlinux' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l force-mechanism -d 'Attach by this mechanism only, to try a fallback where it is not needed' -r -f -a "tp_btf\t'BTF tracepoints'
tracepoint\t'Classic tracepoints'
fentry\t'Trampolines at functions (fentry and fexit)'
kprobe\t'Probes at functions (kprobes and kretprobes)'"
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l follow -d 'Watch until interrupted, and report each finding as it happens'
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -l risks -d 'Tell also, at the end, which idle connections may be forgotten on the way without notice, and which were never closed; they are no findings and do not change the exit code'
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand diagnose" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l config -d 'Read settings from this TOML file' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l netns -d 'Only this network namespace: a name under /run/netns, a path, an inode number, or all [default: all]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l port -d 'Only connections with one of these ports at either end; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l peer -d 'Only connections to peers in one of these prefixes; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l scan-every -d 'How often all sockets are scanned for those that wait, or never [default: 5s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l lifecycle -d 'Write a `connection` record of each connection that ends, besides what is in limbo: thousands a second on a busy host' -r -f -a "true\t''
false\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l heartbeat-every -d 'How often a heartbeat is written [default: 1m]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l stdout -d 'Write records to standard output [default: true, where no other sink is named]' -r -f -a "true\t''
false\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l file -d 'Write records to this file' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l file-max-size -d 'At which size the file is turned over, such as 100MiB, or never, where logrotate does it [default: 100MiB]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l file-keep -d 'How many older files are kept [default: 5]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l unix-socket -d 'Write records to the readers of this Unix domain socket' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l journald -d 'Write records to systemd\'s journal' -r -f -a "true\t''
false\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l otlp-endpoint -d 'Send records to this OpenTelemetry collector, by OTLP over HTTP' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l otlp-headers-file -d 'Add the header fields in this file to what is sent there, such as `Authorization: Bearer ...`, one a line' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l otlp-timeout -d 'How long the collector may take for an answer [default: 10s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l metrics-listen -d 'Serve /metrics for Prometheus and /healthz at this address, or none; they are not encrypted and ask nobody who he is [default: 127.0.0.1:9758]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l lock -d 'The file that a second daemon on this host finds locked [default: /run/connprobe/daemon.lock]' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l state-dir -d 'Keep in this folder what is open, so that a daemon that is started again on this boot goes on with the same findings' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l retransmits-suspected -d 'Retransmission timeouts in a row, from which on data without an answer is suspicious [default: 4]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l retransmits-confirmed -d 'The same from which on it is a fact [default: 6]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l probes-suspected -d 'Keepalive probes in a row without an answer, from which on that is suspicious [default: 2]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l window-probes-suspected -d 'The same of window probes [default: 3]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l probes-confirmed -d 'Probes of either kind from which on it is a fact [default: 4]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l window-shut-suspected -d 'For how long a window stays shut before that is suspicious [default: 6s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l window-shut-confirmed -d 'The same before it is a fact [default: 30s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l silence-before-reset -d 'How long a peer has been silent that answers with a reset, to have forgotten the connection [default: 10s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l fin-confirmed -d 'For how long a receiver waits for a FIN that was dropped once before that is a fact [default: 3s]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l fin-copies-confirmed -d 'Copies of a forwarded FIN that were dropped, from which on it is a fact without another sign [default: 3]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l embryonic-within -d 'How soon after the peer was last heard of a connection stalls, for its two paths to be suspected [default: 5m]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l btf -d 'Read the kernel\'s type information from this file instead of /sys/kernel/btf/vmlinux' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l force-mechanism -d 'Attach by this mechanism only, to try a fallback where it is not needed' -r -f -a "tp_btf\t'BTF tracepoints'
tracepoint\t'Classic tracepoints'
fentry\t'Trampolines at functions (fentry and fexit)'
kprobe\t'Probes at functions (kprobes and kretprobes)'"
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -l check-config -d 'Only say whether the settings are right'
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand daemon" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l duration -d 'How long to look: what only hesitates makes progress meanwhile' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l netns -d 'Only this network namespace: a name under /run/netns, a path, an inode number, or all' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l port -d 'Only connections with this port at either end; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l peer -d 'Only connections to peers in this prefix, of those that are only forwarded to or from; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l verdict -d 'Only these verdicts, as silently_dropped_fin,half_open; the exit code counts only these' -r -f -a "half_open\t''
asymmetric_handshake\t''
retransmit_stalled\t''
silently_dropped_fin\t''
zero_window_stalled\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l format -d 'How to report' -r -f -a "text\t'For people'
json\t'One JSON array of records at the end'
ndjson\t'One JSON record a line, each as it happens'"
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l fail-on -d 'From which confidence on a finding makes the exit code 1' -r -f -a "suspected\t'Any finding'
confirmed\t'Only findings that admit no other explanation'
never\t'None'"
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l idle-timeout -d 'For --risks: after how long without traffic a firewall, NAT or load balancer on the way forgets a connection [default: 1h]' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -l risks -d 'Tell also, at the end, which idle connections may be forgotten on the way without notice, and which were never closed; they are no findings and do not change the exit code'
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand snapshot" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -l format -d 'How to report' -r -f -a "text\t'For people'
json\t'The `coverage` record'"
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -l btf -d 'Read the kernel\'s type information from this file instead of /sys/kernel/btf/vmlinux' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -l force-mechanism -d 'Attach by this mechanism only, to try a fallback where it is not needed' -r -f -a "tp_btf\t'BTF tracepoints'
tracepoint\t'Classic tracepoints'
fentry\t'Trampolines at functions (fentry and fexit)'
kprobe\t'Probes at functions (kprobes and kretprobes)'"
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -l lifecycle -d 'Attach also what tells a daemon of every connection that ends (`lifecycle`), which is off otherwise'
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand check" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand explain" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand explain" -s h -l help -d 'Print help'
complete -c connprobe -n "__fish_connprobe_using_subcommand explain" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -s o -l output -d 'The file to write; only its owner may read it' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l duration -d 'How long to watch, for example 30s or 5m' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l scan-every -d 'How often all sockets are scanned for those that wait, for example 5s; never: only what raises an event is found' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l netns -d 'Only this network namespace: a name under /run/netns, a path, an inode number, or all' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l port -d 'Only connections with this port at either end; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l peer -d 'Only connections to peers in this prefix, of those that are only forwarded to or from; may be given several times' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l format -d 'Report also, as diagnose does, with the addresses as they are' -r -f -a "text\t'For people'
json\t'One JSON array of records at the end'
ndjson\t'One JSON record a line, each as it happens'"
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l fail-on -d 'From which confidence on a finding makes the exit code 1' -r -f -a "suspected\t'Any finding'
confirmed\t'Only findings that admit no other explanation'
never\t'None'"
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l btf -d 'Read the kernel\'s type information from this file instead of /sys/kernel/btf/vmlinux' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l force-mechanism -d 'Attach by this mechanism only, to try a fallback where it is not needed' -r -f -a "tp_btf\t'BTF tracepoints'
tracepoint\t'Classic tracepoints'
fentry\t'Trampolines at functions (fentry and fexit)'
kprobe\t'Probes at functions (kprobes and kretprobes)'"
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l force -d 'Write over a file that is there already'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l anonymize -d 'Replace addresses and names, so that the recording can be shared'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -l follow -d 'Watch until interrupted'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand record" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -l format -d 'How to report' -r -f -a "text\t'For people'
json\t'One JSON array of records at the end'
ndjson\t'One JSON record a line, each as it happens'"
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -l verdict -d 'Only these verdicts, as silently_dropped_fin,half_open; the exit code counts only these' -r -f -a "half_open\t''
asymmetric_handshake\t''
retransmit_stalled\t''
silently_dropped_fin\t''
zero_window_stalled\t''"
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -l speed -d 'How fast, for example 1x or 10x as it happened, or max' -r
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -l fail-on -d 'From which confidence on a finding makes the exit code 1' -r -f -a "suspected\t'Any finding'
confirmed\t'Only findings that admit no other explanation'
never\t'None'"
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -l follow -d 'In text, report each finding as it happens, too'
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c connprobe -n "__fish_connprobe_using_subcommand replay" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand schema" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand schema" -s h -l help -d 'Print help'
complete -c connprobe -n "__fish_connprobe_using_subcommand schema" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand completions" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand completions" -s h -l help -d 'Print help'
complete -c connprobe -n "__fish_connprobe_using_subcommand completions" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand man" -l directory -d 'Write all pages to this directory, one file a page' -r -F
complete -c connprobe -n "__fish_connprobe_using_subcommand man" -s v -l verbose -d 'Say more about what connprobe itself does, on standard error (twice for every event)'
complete -c connprobe -n "__fish_connprobe_using_subcommand man" -s h -l help -d 'Print help'
complete -c connprobe -n "__fish_connprobe_using_subcommand man" -s V -l version -d 'Print version'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "diagnose" -d 'Watch for a while and report the connections in limbo'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "daemon" -d 'Watch all year as a service, and write what is found to files, sockets and the journal'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "snapshot" -d 'Look for a moment, without privileges and without loading anything, and report the connections in limbo'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "check" -d 'Say what can be observed on this kernel, by which mechanism, and what is missing'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "explain" -d 'Say what a verdict or a cause means, which evidence it takes, what it is not, and what to do'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "record" -d 'Watch for a while and write what was seen to a file, to be replayed elsewhere'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "replay" -d 'Report once more what a recorded run found'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "schema" -d 'Print the JSON Schema of the records'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "completions" -d 'Print what makes a shell complete connprobe\'s commands and options'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "man" -d 'Print a manual page, or write all of them'
complete -c connprobe -n "__fish_connprobe_using_subcommand help; and not __fish_seen_subcommand_from diagnose daemon snapshot check explain record replay schema completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
