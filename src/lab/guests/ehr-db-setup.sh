#!/bin/sh
# mmdebstrap customize hook: makes the database inside the new root, so that the guest's first boot is like every other.
# $1: the root. The environment names the files that go into it: EHR_GUESTS (our folder), EHR_BUTTON (compiled program).
set -eu
root=$1
data=/var/lib/postgresql/15/main
# Of shared memory, a root that is being built may have none that the user postgres can write to.
single_user() { as_postgres /usr/lib/postgresql/15/bin/postgres --single -c dynamic_shared_memory_type=mmap -D "$data" "$1" >&2; }
as_postgres() { chroot "$root" setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

install -m 755 "$EHR_GUESTS/ehr-db-init.sh" "$root/sbin/holdfast-init"
install -m 755 "$EHR_GUESTS/ehr-db-power.sh" "$root/bin/on-power-button"
install -m 755 "$EHR_BUTTON" "$root/bin/power-button"
install -m 755 /bin/busybox "$root/bin/busybox"
echo ehr-db >"$root/etc/hostname"

# Small log segments: what a cycle of replication moves, and what a recovery replays, stays small.
as_postgres /usr/lib/postgresql/15/bin/initdb -D "$data" --no-locale -E UTF8 -A trust --wal-segsize=4 --no-sync >&2
cat >"$root$data/postgresql.conf" <<'CONF'
listen_addresses = '*'
unix_socket_directories = '/run/postgresql'
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = minimal
max_wal_senders = 0
shared_buffers = 32MB
min_wal_size = 16MB
max_wal_size = 64MB
checkpoint_timeout = 60s
max_connections = 30
jit = off
huge_pages = off
max_parallel_workers = 0
update_process_title = off
log_timezone = 'UTC'
timezone = 'UTC'
log_checkpoints = off
recovery_init_sync_method = syncfs
CONF
# samenet: only machines of the network that the guest's own address belongs to, which is the lab's.
cat >"$root$data/pg_hba.conf" <<'HBA'
local all postgres           peer
host  ehr ehr      samenet   trust
HBA
single_user postgres <<'SQL'
CREATE ROLE ehr LOGIN
CREATE DATABASE ehr OWNER ehr
SQL
single_user ehr <<'SQL'
CREATE TABLE visit (id bigint PRIMARY KEY, committed_at timestamptz NOT NULL DEFAULT now(), payload text NOT NULL)
ALTER TABLE visit OWNER TO ehr
SQL
