#!/bin/sh
# Stands in for ipmitool below fence_ipmilan (its option ipmitool_path). fence_ipmilan always hands the password to ipmitool as
# an argument (`-P`), where every user of the machine can read it. It is therefore told no password at all, and the empty `-P ''`
# it then passes is replaced here by the name of the file that holds it, which arrives in HOLDFAST_BMC_PASSWORD_FILE.
# One retry a request (`-R 1`) instead of ipmitool's four: who fences asks again by himself and wants to know soon.
count=$#
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  count=$((count - 1))
  if [ "$argument" = -P ]; then
    shift
    count=$((count - 1))
    set -- "$@" -f "$HOLDFAST_BMC_PASSWORD_FILE" -R 1
  else
    set -- "$@" "$argument"
  fi
done
exec ipmitool "$@"
