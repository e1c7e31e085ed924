#!/bin/sh
# What ipmi_sim runs when somebody asks its chassis for power or switches it: `chassis.sh FOLDER get power`, or
# `... set power 0|1` (other settings may stand in the same call). The folder's `power` says how things are; an order goes into the
# FIFO `order`, and whether it was carried out is for the next `get` to say, as with real controllers.
folder=$1
shift
action=$1
shift
while [ $# -gt 0 ]; do
  if [ "$action" = get ]; then
    case $1 in
    power) [ "$(cat "$folder/power")" = on ] && echo power:1 || echo power:0 ;;
    *) echo "$1:0" ;;
    esac
    shift
  else
    # Opened for reading too, so that it cannot block when nobody reads.
    [ "$action" = set ] && [ "$1" = power ] && { [ "$2" = 1 ] && echo on || echo off; } 1<>"$folder/order"
    shift 2 || shift
  fi
done
