# SPDX-License-Identifier: Apache-2.0
# The commands of README.md and CONTRIBUTING.md. The work is done by setup.sh, pytest, topology.demo and tests/bench.

ROUTER ?= bird
NAT ?=
T ?= tests
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEB_ARGS ?=
LOCK_ARGS ?=
# Much of a lab's time is waiting: more workers than a small machine has CPUs.
WORKERS ?= 4
PYTEST = .venv/bin/python -m pytest

# Without its bytecode cache pytest rewrites every assert again, 4 s of each run. The nodes of labs, which know none of
# these variables and may not write, look for bytecode next to the sources.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPYCACHEPREFIX
BYTECODE = @.venv/bin/python -m compileall -q agent bgp bpf topology

.PHONY: help demo check lint test proof bench bench-xdp deb routers figures lock clean

help:  ## these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' Makefile | expand -t 12

demo: .venv/ready  ## a real cluster, its failures, and what became of the connections; NAT=1: of backends' sessions
	$(BYTECODE)
	.venv/bin/python -m topology.demo --router $(ROUTER) $(if $(NAT),--nat) --json demo.json

check: .venv/ready  ## every change: pure logic and single packets, no labs; T=tests/agent/table for a part
	$(PYTEST) -q -n 4 -m "not lab and not slow" --hypothesis-profile check $(T) $(PYTEST_ARGS)

lint: .venv/ready  ## format, lints, types, import contracts
	@.venv/bin/python tests/lint.py

test: .venv/ready lint  ## all but the long proofs: what must be green before a merge
	$(BYTECODE)
	$(PYTEST) -q -n $(WORKERS) $(T) $(PYTEST_ARGS)

proof: .venv/ready  ## the long proofs: before a release, and after a change to what it proves
	$(BYTECODE)
	$(PYTEST) tests/proof/test_generated.py --generated 1000000 $(PYTEST_ARGS)
	$(PYTEST) tests/bpf/program/test_session_races.py --raced-sessions 1000000 $(PYTEST_ARGS)
	$(PYTEST) tests/topology/demo/test_demo.py --demo-router frr --whole-demo -k plain_ecmp $(PYTEST_ARGS)
	$(PYTEST) tests/proof/test_nat_claims.py -s --nat-sessions 1000000 --timeout 3600 $(PYTEST_ARGS)
	$(PYTEST) tests/agent/channel/test_convergence.py --channel-histories 5000 --timeout 3600 $(PYTEST_ARGS)
	$(PYTEST) tests/agent/liveness/test_simulation.py -s --echo-scale 20 --timeout 3600 $(PYTEST_ARGS)
	$(PYTEST) tests/cluster/node_agent/test_under_full_load.py -s --echo-load-s 600 --timeout 3600 $(PYTEST_ARGS)
	$(PYTEST) tests/proof/test_cluster_stories.py tests/proof/test_claim_stories.py -s --story-seeds 4 --timeout 3600 $(PYTEST_ARGS)
	$(PYTEST) tests/cluster/test_claims.py -s -k churn --churn-seeds 3 $(PYTEST_ARGS)
	ANYLB_DEB=1 $(PYTEST) tests/package --timeout 900 $(PYTEST_ARGS)
	$(PYTEST) tests/bgp/bfd/test_bfd_lab.py -s --bfd-rounds 20 --bfd-load-s 600 --timeout 3600 $(PYTEST_ARGS)

bench: .venv/bench-ready  ## speed and memory, compared with the last committed figures; writes bench.json
	PYTHONPATH=tests .venv/bin/python -m bench $(BENCH_ARGS)

bench-xdp: .venv/ready  ## ns per packet alone, in under a minute
	PYTHONPATH=tests .venv/bin/python -m bench --only xdp --only nat $(BENCH_ARGS)

deb: .venv/ready  ## dist/anylb_VERSION_ARCHITECTURE.deb, for Debian 12 and 13; DEB_ARGS=--revision=+mine1
	.venv/bin/python -m package.build $(DEB_ARGS)

routers: .venv/ready  ## write the labs' router configurations again, each by the command that it names
	@for file in topology/routers/*.conf tests/bench/lab/bird.conf tests/cluster/uplinks/bird.conf; do \
		.venv/bin/$$(sed -n 's/^[#!] Made by: //p' $$file) >$$file.new && mv $$file.new $$file || exit 1; done

figures: .venv/ready  ## draw docs/figures again from their .dot files; needs Debian's graphviz
	.venv/bin/python docs/figures/draw.py

# For the oldest Python that is supported; the hashes are of a release's files for all. A pinned version stays as it is
# without LOCK_ARGS="--upgrade" or "--upgrade-package NAME".
lock: export UV_CUSTOM_COMPILE_COMMAND = make lock
lock: LOCK = pipx run uv pip compile --quiet --python-version 3.11 --python-platform linux --generate-hashes \
	--no-annotate $(LOCK_ARGS)
lock:  ## resolve pyproject.toml again, into what setup.sh installs, and the package (agent.txt)
	$(LOCK) --output-file requirements/agent.txt pyproject.toml
	$(LOCK) --output-file requirements/setup.txt --group setup
	$(LOCK) --output-file requirements/test.txt --group setup --extra test --constraint requirements/agent.txt \
		--constraint requirements/setup.txt pyproject.toml

.venv/ready: setup.sh pyproject.toml requirements/test.txt
	./setup.sh

.venv/bench-ready: setup.sh pyproject.toml requirements/test.txt
	./setup.sh bench

clean:  ## remove .venv and the figures of demo and bench
	rm -rf .venv demo.json bench.json
