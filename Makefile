# SPDX-License-Identifier: Apache-2.0
# The two commands of README.md, and what they need. All work is done by setup.sh, pytest and topology/demo.py.

ROUTER ?= bird
PYTEST_ARGS ?=

.PHONY: demo test check clean

demo: .venv/ready  ## a real cluster, its failures, and what became of the connections
	.venv/bin/python -m topology.demo --router $(ROUTER) --json demo.json

test: .venv/ready  ## everything: linters, pure logic, packets, the cluster
	.venv/bin/python -m pytest $(PYTEST_ARGS)

check: .venv/ready  ## the fast part of the tests, without labs
	.venv/bin/python -m pytest -m "not lab" $(PYTEST_ARGS)

.venv/ready: setup.sh pyproject.toml
	./setup.sh

clean:
	rm -rf .venv demo.json
