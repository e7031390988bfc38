#!/bin/busybox sh
# Process 1 of a guest: twice, first in the initramfs (no argument), then in the host's root ("in-root").
# Whatever fails here ends process 1, and so the guest: the kernel panics, which the host tells apart from success.
set -eu
busybox=/bin/busybox

in_initramfs() {
    $busybox mount -t proc proc /proc
    $busybox mount -t sysfs sysfs /sys
    $busybox mount -t devtmpfs devtmpfs /dev
    while read -r module; do
        $busybox insmod "/modules/$module"
    done </modules/order
    # The host's root, read-only, under a layer in memory that takes all that is written.
    $busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host
    $busybox mount -t tmpfs -o size=75% memory /memory
    $busybox mkdir /memory/upper /memory/work
    . /orders
    $busybox mount -t overlay -o "lowerdir=/host$root,upperdir=/memory/upper,workdir=/memory/work" overlay /root
    $busybox mkdir -p /root/proc /root/sys /root/dev /root/run /root/tmp /root/root /root/etc
    [ -e /root/etc/passwd ] || echo root:x:0:0:root:/root:/bin/sh >/root/etc/passwd
    for kind in proc sys dev; do
        $busybox mount --move "/$kind" "/root/$kind"
    done
    $busybox mount -t tmpfs tmpfs /root/run
    # Of a root that is not the host's: what the command needs of the host, at its place.
    for folder in $shared; do
        $busybox mkdir -p "/root$folder"
        $busybox mount --bind "/host$folder" "/root$folder"
    done
    release=$($busybox uname -r)
    $busybox mkdir -p "/root/lib/modules/$release" /root/run/guest
    $busybox mount --bind "/host$modules" "/root/lib/modules/$release"
    $busybox cp /bin/busybox /init /orders /root/run/guest/
    # Process 1 itself must move: the kernel starts modprobe in the root of process 1.
    exec $busybox switch_root /root /run/guest/busybox sh /run/guest/init in-root
}

in_root() {
    busybox=/run/guest/busybox
    . /run/guest/orders
    $busybox mkdir -p /dev/pts /dev/shm
    $busybox mount -t devpts devpts /dev/pts
    $busybox mount -t tmpfs tmpfs /dev/shm
    $busybox mount -t tracefs tracefs /sys/kernel/tracing
    $busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
    $busybox ip link set lo up
    $busybox hostname "guest-$($busybox uname -r)"
    export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}"
    cd "$folder"
    code=0
    if [ -n "$interactive" ]; then
        # A terminal of its own, so that Ctrl-C reaches the command and not process 1.
        $busybox setsid -c sh -c "$command" </dev/hvc0 >/dev/hvc0 2>&1 || code=$?
    else
        $busybox stty raw -echo </dev/hvc0
        sh -c "$command" </dev/null >/dev/hvc0 2>&1 || code=$?
    fi
    # A command may leave a program that takes the place of process 1, as a service manager wants to, and tells the result itself.
    if [ "$code" = 0 ] && [ -x /run/guest/successor ]; then
        exec /run/guest/successor </dev/null >/dev/hvc0 2>&1
    fi
    for port in /sys/class/virtio-ports/*; do
        if [ -e "$port/name" ] && [ "$($busybox cat "$port/name")" = result ]; then
            echo "$code" >"/dev/${port##*/}"
        fi
    done
    $busybox poweroff -f
}

case "${1:-}" in
    in-root) in_root ;;
    *) in_initramfs ;;
esac
