# Slipway: `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
PY := $(VENV)/bin/python
LAB := $(PY) -m tests.lab
STEP := tests/lab/step.sh
PROFILE ?= core
S ?=
CMD ?=
LIMIT ?= machines
INVENTORY ?= inventory/lab
# A comma that $(if …) does not take for its own.
comma := ,

# The tools of the virtual environment, without activating it.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: help setup lab lab-down lab-ssh verify lint unit browser molecule test test-long bench bench-ui docs build requirements clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | \
	  while IFS=$$'\t' read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

setup: ## Install what is missing, start dockerd where systemd doesn't, make the virtual environment
	@tests/lab/setup.sh

lab: setup ## Boot the embedded lab, converge it, verify it, show the result; PROFILE=kubernetes or spark: with a cluster
	@$(STEP) "Boot the lab ($(PROFILE))" env PROFILE=$(PROFILE) $(LAB) up
	# In that profile node3 stays as it is, for: ansible-playbook playbooks/onboard.yml -l node3
	rest=($(if $(filter kubernetes,$(PROFILE)),-l '!node3'))
	$(STEP) "Converge it: ansible-playbook site.yml" \
	  ansible-playbook site.yml "$${rest[@]}" $(if $(filter-out core,$(PROFILE)),--skip-tags kubernetes$(comma)spark)
	$(STEP) "Push hello:1 to the private registry" $(LAB) seed
	if [ "$(PROFILE)" != core ]; then
	  $(STEP) "Push Kubernetes' images to it" $(LAB) kubernetes --push
	  $(STEP) "Run the cluster: playbooks/kubernetes.yml" ansible-playbook playbooks/kubernetes.yml "$${rest[@]}"
	fi
	if [ "$(PROFILE)" = spark ]; then
	  $(STEP) "Push a model image to the private registry" $(LAB) spark --push
	  $(STEP) "Put Spark onto it, and run Spark: playbooks/spark.yml" ansible-playbook playbooks/spark.yml
	  $(STEP) "Put the example's input into HDFS" $(LAB) inference
	  $(STEP) "Submit the example: playbooks/spark_submit.yml" \
	    ansible-playbook playbooks/spark_submit.yml -e @examples/spark/inference.yml
	  $(STEP) "Compare its result with plain Python" $(LAB) inference --check
	fi
	$(STEP) "Verify it: ansible-playbook playbooks/verify.yml" ansible-playbook playbooks/verify.yml "$${rest[@]}"
	env PROFILE=$(PROFILE) $(PY) -m tests.lab.summary

lab-down: ## Throw the lab's machines away (images and caches stay)
	@$(LAB) down

lab-ssh: ## Open a shell on a machine, or run a command there: make lab-ssh HOST=node1 [CMD='docker ps']
	@$(LAB) ssh $(HOST) $(CMD)

verify: setup ## Read-only checks of an inventory: make verify LIMIT=gpu_nodes INVENTORY=inventory/lab
	@ansible-playbook -i $(INVENTORY) -l $(LIMIT) playbooks/verify.yml

lint: setup ## Style, types, dead links between docs and code
	@tests/lint.sh

unit: setup ## Unit tests with the coverage gate
	@$(PY) -m pytest --cov=plugins --cov=images/registry_ui/registry_ui --cov-fail-under=95 -q

browser: setup ## The registry's pages in Debian's Chromium; screenshots in .slipway/screenshots
	@$(PY) -m pytest tests/browser -q

molecule: setup ## Prove the roles on real machines: make molecule [S=scenario]
	@tests/molecule.sh $(S)

test: setup ## Everything that CI runs
	@# What the cache lacks is made beside the checks that leave a core idle; who needs a part of it waits for that part.
	mkdir -p .slipway/logs
	setsid nice $(LAB) images >.slipway/logs/images.log 2>&1 & made=$$!
	setsid $(STEP) "Lint, beside the unit tests" tests/lint.sh >.slipway/logs/lint.log 2>&1 & lint=$$!
	trap 'kill -- -$$made -$$lint 2>/dev/null || true' EXIT
	$(STEP) "Unit tests" $(PY) -m pytest --cov=plugins --cov=images/registry_ui/registry_ui --cov-fail-under=95 -q
	wait $$lint || { cat .slipway/logs/lint.log; exit 1; }
	cat .slipway/logs/lint.log
	$(STEP) "The whole site on a fresh lab" $(PY) -m pytest tests/site -q
	$(STEP) "The registry's pages in Chromium" $(PY) -m pytest tests/browser -q
	$(STEP) "Roles by molecule" tests/molecule.sh

test-long: setup ## The long matrices: all hostile credentials, both Debians for every role, chaos, a cluster, a bucket
	@export SLIPWAY_LONG=1
	$(STEP) "Unit tests, with examples by chance" $(PY) -m pytest tests/unit -q
	$(STEP) "What programs make of our files" $(PY) -m pytest tests/templates -q
	$(STEP) "The whole site, long" $(PY) -m pytest tests/site -q
	$(STEP) "Roles by molecule, long" tests/molecule.sh
	MOLECULE_IMAGE=bookworm $(STEP) "Roles by molecule on Debian 12" tests/molecule.sh

bench: setup ## Nothing to change: site.yml against ping and pyinfra, as ratios (docs/benchmarks.md)
	@$(PY) -m tests.bench

bench-ui: setup ## Pages of a registry with 20,000 tags against the walk through its API (docs/benchmarks.md)
	@PYTHONPATH=images/registry_ui $(PY) -m tests.bench.registry_ui

docs: setup ## Write the pages that are generated from argument_specs
	@$(PY) tools/docs.py

build: setup ## Build the collection's tarball into build/
	@ansible-galaxy collection build --force --output-path build .

requirements: ## Resolve requirements.in again into requirements.txt
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header -o requirements.txt requirements.in

clean: ## Remove what was made in the checkout (caches outside it stay)
	@rm -rf build .venv .venv-bench .cache .slipway .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
