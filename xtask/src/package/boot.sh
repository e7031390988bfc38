#!/bin/sh
# Tries the unit out in a guest with systemd as process 1: "prepare" runs before it, "check" as a service of it.
set -eu
us=/run/guest/boot.sh

prepare() {
    cp "$0" "$us"
    cp "$1" /run/guest/connprobe.deb
    mkdir -p /run/systemd/system
    cat >/run/systemd/system/try-out.service <<UNIT
[Unit]
Description=Tries connprobe's unit out
Requires=systemd-journald.service
After=systemd-journald.service
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C SYSTEMD_PAGER=
ExecStart=/bin/sh $us check
StandardOutput=file:/dev/hvc0
StandardError=inherit
TimeoutStartSec=infinity
UNIT
    printf '[Unit]\nRequires=try-out.service\nDefaultDependencies=no\nAllowIsolate=yes\n' >/run/systemd/system/try-out.target
    # Nothing of this machine's own services is wanted, nor what makes a system ready that is none.
    for unit in /lib/systemd/system/sysinit.target.wants/* /etc/systemd/system/sysinit.target.wants/* \
        /lib/systemd/system/sockets.target.wants/* /etc/systemd/system/timers.target.wants/*; do
        case "$unit" in
            *journald*) ;;
            *) ln -s /dev/null "/run/systemd/system/${unit##*/}" ;;
        esac
    done
    printf '#!/bin/sh\nexec /lib/systemd/systemd --unit=try-out.target --log-level=warning --show-status=no\n' >/run/guest/successor
    chmod +x /run/guest/successor
}

# Ends the guest with a result.
end() {
    for port in /sys/class/virtio-ports/*; do
        if [ -e "$port/name" ] && [ "$(cat "$port/name")" = result ]; then
            echo "$1" >"/dev/${port##*/}"
        fi
    done
    sync
    /run/guest/busybox poweroff -f
}

fail() {
    echo "failed: $*"
    systemctl status --no-pager --full connprobe || true
    ip netns exec one ss -tno || true
    tail -n 3 "$records" || true
    journalctl --no-pager --lines 30 -u connprobe || true
    exit 1
}

property() {
    systemctl show --value --property "$1" connprobe
}

# Waits for a record that says this.
record() {
    for _ in $(seq 60); do
        if grep -q "$1" "$records" 2>/dev/null; then return 0; fi
        sleep 1
    done
    fail "no record says $1"
}

check() {
    trap 'end $?' EXIT
    records=/var/log/connprobe/events.ndjson
    echo "systemd as process 1: $(cat /proc/1/comm)"
    # dpkg itself would go through all of this machine's packages; how it installs is tried elsewhere.
    dpkg-deb --control /run/guest/connprobe.deb /run/guest/control
    dpkg-deb --extract /run/guest/connprobe.deb /
    export DPKG_MAINTSCRIPT_PACKAGE=connprobe DPKG_MAINTSCRIPT_NAME=postinst
    /run/guest/control/postinst configure "" || fail "its script fails"
    [ "$(systemctl is-active connprobe)" = inactive ] || fail "its package starts it"
    [ "$(systemctl is-enabled connprobe)" = disabled ] || fail "its package enables it"
    mkdir -p /run/systemd/system/connprobe.service.d
    # A watchdog so short that it is due while this looks; and a system call that the filter refuses ends it, where an error might
    # pass unnoticed.
    printf '[Service]\nWatchdogSec=9s\nSystemCallErrorNumber=kill\n' >/run/systemd/system/connprobe.service.d/strict.conf
    systemctl daemon-reload
    systemctl enable --now connprobe || fail "it does not start"
    [ "$(systemctl is-active connprobe)" = active ] || fail "it is not active"
    systemctl status --no-pager connprobe
    pid=$(property MainPID)
    grep -E '^(Cap|NoNewPrivs|Seccomp)' "/proc/$pid/status"
    record '"type":"coverage"'

    # Two connections between two namespaces, and then nothing passes: one goes on writing, and the other is closed.
    ip netns add one && ip netns add two
    ip link add name near netns one type veth peer name far netns two
    ip -n one address add 10.77.0.1/24 dev near && ip -n one link set dev near up
    ip -n two address add 10.77.0.2/24 dev far && ip -n two link set dev far up
    ip netns exec two /run/guest/busybox nc -ll -p 5672 -e cat </dev/null >/dev/null 2>&1 &
    for _ in $(seq 30); do if [ -n "$(ip netns exec two ss -Hltn)" ]; then break; fi; sleep 1; done
    ip netns exec one bash -c 'for fd in 3 4; do eval "exec $fd<>/dev/tcp/10.77.0.2/5672; echo early >&$fd; read -r _ <&$fd"; done
        ip netns exec two nft "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }"
        echo late >&3; exec 4>&-; exec sleep 600' </dev/null >/dev/null 2>&1 &
    record '"verdict":"retransmit_stalled"'
    record '"comm":"sleep"'
    # That takes nft, as a child of the daemon.
    record '"table":"cut","chain":"in"'

    [ "$(systemctl is-active connprobe)" = active ] || fail "it is not active after a finding"
    systemctl reload connprobe || fail "it does not reload"
    sleep 12
    [ "$(property MainPID)" = "$pid" ] || fail "it is another process"
    [ "$(property NRestarts)" = 0 ] || fail "it was started anew"
    journalctl --no-pager --quiet --output cat -u connprobe
    # An upgrade starts it anew, and a removal ends it, but for a machine that lets packages do neither, as containers do.
    rm -f /usr/sbin/policy-rc.d
    /run/guest/control/postinst configure 0.0.1
    [ "$(systemctl is-active connprobe)" = active ] || fail "it does not survive an upgrade"
    [ "$(property MainPID)" != "$pid" ] || fail "an upgrade leaves the old one running"
    /run/guest/control/prerm remove
    [ "$(systemctl is-active connprobe)" = inactive ] || fail "it survives its removal"
    [ "$(property Result)" = success ] || fail "it did not end well: $(property Result)"
    record '"outcome":"left_open"\|"state":"left_open"'
    tail -n 1 "$records" | grep -q '"type":"summary"' || fail "the last record is no summary"
    ls -la /var/log/connprobe
    echo "the unit starts, finds, reloads, feeds its watchdog, is started anew and stops"
}

case "$1" in
    prepare) shift && prepare "$@" ;;
    check) check ;;
esac
