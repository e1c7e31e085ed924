#!/bin/sh
# mmdebstrap essential hook: the packages must not make a database of their own; ours is made by ehr-db-setup.sh.
set -eu
mkdir -p "$1/etc/postgresql-common"
echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
