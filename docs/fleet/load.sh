#!/bin/sh
# Hands the records that a collector has spooled to ClickHouse; by a timer, every minute:
#   load.sh [FOLDER]
# A file is taken 90 seconds after it was last written to, and is gone when the server has all of it. Should this end in between, it is
# inserted again, and the store keeps one of each record. The command that inserts standard input is $CONNPROBE_INSERT.
set -eu

folder=${1:-/var/spool/connprobe}
query='INSERT INTO connprobe.incoming SETTINGS distributed_foreground_insert = 1, parallel_view_processing = 1 FORMAT LineAsString'

insert() {
    if [ -n "${CONNPROBE_INSERT:-}" ]; then
        $CONNPROBE_INSERT "$query"
    else
        clickhouse-client --query "$query"
    fi
}

# One at a time: a slow server must not be given the same file twice.
exec 9>"$folder/lock"
flock -n 9 || exit 0

find "$folder" -maxdepth 1 -name 'records-*.ndjson' ! -newermt "-${CONNPROBE_SETTLED:-90} seconds" | sort | while read -r file; do
    insert < "$file"
    rm "$file"
done
