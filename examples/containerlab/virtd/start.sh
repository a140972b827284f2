#!/bin/sh
# What the node "virtd" runs: its addresses, as soon as its links are there, then virtd.
until ip address add 192.0.2.1/24 dev eth1 2>/dev/null; do sleep 0.2; done
until ip address add 198.18.0.1/24 dev eth2 2>/dev/null; do sleep 0.2; done
# OpenBGPD takes its file from root alone, and a bind mount has the host's owner and mode.
install -m 600 /etc/virtd/openbgpd.conf /run/openbgpd.conf
virtd-monitor --config /etc/virtd/virtd.toml &
exec virtd --config /etc/virtd/virtd.toml
