# Every target first makes sure that what it needs is installed (quick when it is), then works with the Node.js of node_modules.
node = node_modules/.bin/node
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run lab-full test check bench bench-full deb clean

help:
	@echo 'make run     three nodes, a database under load, the plug pulled; ARGS="--once --json FILE" ends by itself'
	@echo 'make lab-full three complete emulated servers (OpenZFS, watchdog, systemd, our .deb) and what can happen to them; ARGS="--once --json FILE"'
	@echo 'make test    unit, contract and lab tests; ARGS="lab plug" picks a stage and files'
	@echo 'make check   format, lint, types, core tests'
	@echo 'make bench   replication beside rsync, and the figures of repeated plug pulls'
	@echo 'make bench-full  one replication cycle beside zfs send | zfs receive, between two machines of the full lab'
	@echo 'make deb     the Debian package of a node, in build/; ARGS="--node FILE" takes another Node.js'
	@echo 'make clean   ends every lab on this machine and removes what was built'

setup:
	@tools/setup

run: setup
	@bin/holdfast drill main $(ARGS)

lab-full: setup
	@bin/holdfast drill full $(ARGS)

test: setup
	@$(node) tools/run-tests.ts $(ARGS)

check: setup
	@npm run -s check

bench: setup
	@$(node) tools/bench.ts $(ARGS)

bench-full: setup
	@bin/holdfast drill full --once --only cycle $(ARGS)

deb: setup
	@$(node) tools/build-deb.ts $(ARGS)

clean: setup
	@$(node) tools/clean.ts
