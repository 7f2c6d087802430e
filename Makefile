# SPDX-License-Identifier: Apache-2.0
# The commands of README.md, and what they need. All work is done by setup.sh, pytest, topology/demo/__main__.py and tests/bench.

ROUTER ?= bird
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test check bench bench-xdp routers clean

demo: .venv/ready  ## a real cluster, its failures, and what became of the connections
	.venv/bin/python -m topology.demo --router $(ROUTER) --json demo.json

test: .venv/ready  ## everything: linters, pure logic, packets, the cluster
	.venv/bin/python -m pytest $(PYTEST_ARGS)

check: .venv/ready  ## the fast part of the tests, without labs
	.venv/bin/python -m pytest -m "not lab" $(PYTEST_ARGS)

bench: .venv/bench-ready  ## speed and memory, beside the last committed figures; writes bench.json
	PYTHONPATH=tests .venv/bin/python -m bench $(BENCH_ARGS)

bench-xdp: .venv/ready  ## ns per packet alone, in under a minute
	PYTHONPATH=tests .venv/bin/python -m bench --only xdp $(BENCH_ARGS)

routers: .venv/ready  ## the labs' router configurations again, each by the command that it names
	@for file in topology/routers/*.conf tests/bench/lab/bird.conf; do \
		.venv/bin/$$(sed -n 's/^[#!] Made by: //p' $$file) >$$file.new && mv $$file.new $$file || exit 1; done

.venv/ready: setup.sh pyproject.toml
	./setup.sh

.venv/bench-ready: setup.sh pyproject.toml
	./setup.sh bench

clean:
	rm -rf .venv demo.json bench.json
