#!/bin/sh
# Tries a package out in a fresh system: "outside" lays a layer in memory over it and enters, "inside" is what runs there.
set -eu

must() {
    if ! "$@" >/tmp/said 2>&1; then
        cat /tmp/said
        echo "failed: $*"
        exit 1
    fi
}

must_not() {
    if "$@" >/tmp/said 2>&1; then
        cat /tmp/said
        echo "should have failed: $*"
        exit 1
    fi
}

outside() {
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
    mount --rbind /proc /mnt/root/proc
    mount --rbind /sys /mnt/root/sys
    cp "$2" /mnt/root/tmp/first.deb
    cp "$3" /mnt/root/tmp/upgrade.deb
    cp "$0" /mnt/root/tmp/try_out.sh
    exec chroot /mnt/root /bin/sh /tmp/try_out.sh inside
}

inside() {
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C
    settings=/etc/connprobe/connprobe.toml
    link=/etc/systemd/system/multi-user.target.wants/connprobe.service

    must dpkg --install /tmp/first.deb
    # It depends on nothing that a minimal system lacks, and nothing was changed on the way.
    must dpkg --audit
    must test -z "$(dpkg --verify connprobe)"
    must connprobe --version
    must connprobe explain half_open
    must connprobe daemon --config "$settings" --check-config
    # Degraded (1) is the kernel's doing, not the package's.
    code=0
    connprobe check >/tmp/said 2>&1 || code=$?
    must test "$code" -le 1
    must gunzip -t /usr/share/man/man1/connprobe.1.gz /usr/share/man/man1/connprobe-daemon.1.gz
    must bash -n /usr/share/bash-completion/completions/connprobe
    must grep -q "^License: GPL-2" /usr/share/doc/connprobe/copyright
    # Each file that the fleet's document links to.
    fleet=/usr/share/doc/connprobe/docs/fleet
    named=$(sed -n 's/^| \[[^]]*\](\([^)]*\)).*/\1/p' "$fleet/README.md")
    must test -n "$named"
    for file in $named; do
        must test -f "$fleet/$file"
    done
    must test -x "$fleet/load.sh"
    must test -f /usr/lib/systemd/system/connprobe.service
    must test ! -e "$link"

    # As `systemctl enable`, a running service and an operator leave it.
    mkdir -p "${link%/*}" /var/log/connprobe
    ln -s /lib/systemd/system/connprobe.service "$link"
    touch /var/log/connprobe/events.ndjson
    echo 'ports = [5672]' >"$settings"
    must dpkg --force-confdef --force-confold --install /tmp/upgrade.deb
    must grep -qx 'ports = \[5672\]' "$settings"
    must test -f "$settings.dpkg-dist"
    must test -L "$link"
    must connprobe --version

    must dpkg --remove connprobe
    must test ! -e /usr/bin/connprobe
    must grep -qx 'ports = \[5672\]' "$settings"
    must dpkg --install /tmp/upgrade.deb
    must test -L "$link"
    must grep -qx 'ports = \[5672\]' "$settings"

    must dpkg --purge connprobe
    left=$(find / -xdev -name '*connprobe*')
    must test -z "$left"
    must_not dpkg --status connprobe
    echo "the package installs, runs, keeps settings, and leaves nothing"
}

case "$1" in
    outside) shift && outside "$@" ;;
    inside) inside ;;
esac
