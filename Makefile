# make demo and make test each work on a machine that has only python3, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AIRFLOW_VENV := .venv-airflow
SITE_VENV := .venv-site
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-strip-extras --universal --python-version 3.11 --no-header pyproject.toml

# Tests start hundreds of processes. Without cached bytecode, each of them would compile its libraries for seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test check-fast dags-test increments-test faults-test crash-test judge-test vendors-test recipes-test migrate-test installs-test lint docs reference site types check crm bench example lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("winback needs Python 3.11, 3.12 or 3.13; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...") if not (3, 11) <= sys.version_info < (3, 14) else None'
	@$(PYTHON) -m venv $(VENV)

# $(1) is the name of the lock file. The environment matches the lock file if the stamp is newer.
define install
	@echo "Installing requirements/$(1).txt into $(VENV) (once, some seconds) ..."
	@$(BIN)/python requirements/install.py --project $(1)
	@touch $@
endef

$(VENV)/laptop.stamp: requirements/laptop.txt requirements/uv.txt requirements/install.py pyproject.toml | $(BIN)/python
	@rm -f $(VENV)/dev.stamp
	$(call install,laptop)

$(VENV)/dev.stamp: requirements/dev.txt requirements/uv.txt requirements/install.py pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch $(VENV)/laptop.stamp

demo: $(VENV)/laptop.stamp  ## run the whole product on this machine, in about two minutes
	@$(BIN)/winback demo

crm: $(VENV)/laptop.stamp  ## open the local CRM with the demo's data
	@$(BIN)/winback local-crm

# The commands of examples/loan_applications/README.md, in order. It deletes var/loans first.
example: export WINBACK_CONFIG := examples/loan_applications
example: export WINBACK_WAREHOUSE := duckdb:///var/loans/winback.duckdb
example: export WINBACK_MODELS := var/loans/models
example: export WINBACK_DBT_TARGET := var/loans/dbt
example: $(if $(LOANS),$(VENV)/laptop.stamp)  ## run the job on real loan applications: make example LOANS=folder
	@test -n "$(LOANS)" || { echo "LOANS is not set. Set it to the folder of the data: make example LOANS=path/to/loan_applications (see examples/loan_applications/README.md)"; exit 2; }
	@for file in app_events users; do test -f "$(LOANS)/$$file.parquet" || { echo "$(LOANS)/$$file.parquet does not exist. See examples/loan_applications/README.md."; exit 2; }; done
	@rm -rf var/loans
	@$(BIN)/winback load --events "$(LOANS)/app_events.parquet" --users "$(LOANS)/users.parquet"
	@$(BIN)/winback backfill --until 2011-12-15
	@$(BIN)/winback train
	@$(BIN)/winback backtest --until 2012-01-14 --every 6 --database var/loans/crm.sqlite

test: $(VENV)/dev.stamp  ## run the tests on all cores
	@$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Without dbt, a warehouse or a model registry: what an edit of the sync, the policy or the settings breaks most often.
CRMS := $(addprefix tests/crm_sync/destinations/,braze hubspot klaviyo salesforce)
FAST := tests/core $(wildcard tests/scoring/test_policy*.py) tests/scoring/test_holdout.py $(CRMS) tests/project/test_docs.py tests/project/test_map.py

check-fast: lint types  ## lint, types and the fast tests, in a minute
	@$(BIN)/pytest --numprocesses auto --dist loadfile $(FAST)

# Airflow has an environment of its own, because its dependencies conflict with the job's: docs/adr/0020-airflow-apart.md
$(AIRFLOW_VENV)/airflow.stamp: requirements/airflow.txt requirements/uv.txt requirements/install.py | $(BIN)/python
	@echo "Installing requirements/airflow.txt into $(AIRFLOW_VENV) (once, some seconds) ..."
	@$(BIN)/python requirements/install.py --into $(AIRFLOW_VENV) airflow
	@touch $@

dags-test: $(AIRFLOW_VENV)/airflow.stamp $(VENV)/laptop.stamp  ## test the Airflow DAGs: parse them, check them, and run them with processes instead of pods
	@$(AIRFLOW_VENV)/bin/pytest tests/airflow

increments-test: EXAMPLES ?= 5000
increments-test: $(VENV)/dev.stamp  ## run the property tests of the tables on 5,000 event streams, in about an hour
	@INCREMENTS_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/dbt/test_increments.py tests/dbt/test_parity.py tests/dbt/test_labels.py

faults-test: $(VENV)/dev.stamp  ## make every BigQuery request of a run fail in every way; compare BigQuery and DuckDB on two apps
	@FAULTS=all $(BIN)/pytest tests/resilience/test_bigquery_faults.py tests/end_to_end tests/resilience/test_concurrency.py

crash-test: $(VENV)/dev.stamp  ## kill runs at every effect and pause them while others work, on every CRM, in one to two hours
	@$(BIN)/python -m tests.support.crash.kill_matrix --crm braze,hubspot,klaviyo,salesforce
	@$(BIN)/python -m tests.support.crash.kill_matrix --warehouse bigquery --short --lanes 1
	@$(BIN)/python -m tests.support.crash.pause_matrix --modes free,expired,held
	@$(BIN)/python -m tests.support.crash.pause_matrix --modes file --places "after request POST /users/track" --sleep-seconds 60
	@$(BIN)/python -m tests.support.crash.pause_matrix --warehouse bigquery --lanes 1
	@SYNC_EXAMPLES=2000 $(BIN)/pytest tests/crm_sync/test_sync_machine.py -k laws

judge-test: EXAMPLES ?= 300
judge-test: $(VENV)/dev.stamp  ## run every model on 300 random histories in Google's reference implementation of BigQuery's SQL
	@INCREMENTS_EXAMPLES=$$((200 * $(EXAMPLES))) $(BIN)/pytest tests/dbt/bigquery/test_google_laws.py

vendors-test: $(VENV)/dev.stamp  ## download the CRM vendors' published API specifications and check every request and reply against them
	@$(BIN)/python -m tests.support.vendor_specs var/vendor_specs
	@VENDOR_SPECS=var/vendor_specs $(BIN)/pytest tests/crm_sync/destinations/test_vendor_specs.py tests/sandbox/local_crm/test_crm_server.py tests/crm_sync/destinations/hubspot tests/crm_sync/destinations/klaviyo

recipes-test: $(VENV)/dev.stamp  ## run every command sequence of README and docs, including the long ones, on a temporary warehouse
	@RECIPES=all $(BIN)/pytest tests/project/test_recipes.py

migrate-test: $(VENV)/dev.stamp  ## migrate a warehouse of an earlier commit; kill a rebuild at every table
	@MIGRATE=all $(BIN)/pytest -rs tests/jobs/upkeep/test_migrate.py tests/jobs/transform/test_outdated.py

installs-test: $(VENV)/dev.stamp  ## install every lock file, with newer releases available
	@INSTALLS=all $(BIN)/pytest tests/project/test_install.py

lint: $(VENV)/dev.stamp  ## run ruff, import-linter, sqlfluff, and the workflow and Dockerfile checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@cd dbt && ../$(BIN)/sqlfluff lint --disable-progress-bar models tests
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/hadolint Dockerfile training/Dockerfile

# The columns come from the warehouse in WINBACK_WAREHOUSE, by default the demo's.
docs: FILE = $(abspath $(patsubst duckdb:///%,%,$(or $(WINBACK_WAREHOUSE),duckdb:///var/winback.duckdb)))
docs: export WINBACK_WAREHOUSE := $(if $(filter bigquery:%,$(WINBACK_WAREHOUSE)),$(WINBACK_WAREHOUSE),duckdb:///$(FILE))
docs: $(VENV)/laptop.stamp  ## write the dbt documentation as one page: var/dbt_docs/static_index.html
	@$(BIN)/dbt docs generate --static --quiet --project-dir dbt --profiles-dir dbt --target-path "$(CURDIR)/var/dbt_docs" --log-path "$(CURDIR)/var/dbt_docs"
	@echo "Open var/dbt_docs/static_index.html"

reference: $(VENV)/laptop.stamp  ## generate docs/reference/ and config/schemas/ from the code
	@$(BIN)/python -m docgen reference

# Zensical has an environment of its own, because it needs a version of pathspec that dbt-core refuses.
$(SITE_VENV)/site.stamp: requirements/site.txt requirements/uv.txt requirements/install.py | $(BIN)/python
	@echo "Installing requirements/site.txt into $(SITE_VENV) (once, some seconds) ..."
	@$(BIN)/python requirements/install.py --into $(SITE_VENV) site
	@touch $@

site: $(SITE_VENV)/site.stamp  ## build the documentation site and check every link: var/site/index.html
	@$(BIN)/python -m docgen stage var/site_pages
	@$(SITE_VENV)/bin/zensical build --clean --strict
	@$(BIN)/python -m docgen check var/site

types: $(VENV)/dev.stamp  ## run mypy in strict mode
	@$(BIN)/mypy

check: lint types site test  ## run all checks that a change must pass

bench: $(VENV)/laptop.stamp  ## measure speed, as ratios within one run
	@$(BIN)/python bench/scoring_step.py
	@$(BIN)/python bench/idle_run.py
	@$(BIN)/python bench/growth.py
	@$(BIN)/python bench/sync.py

lock:  ## update the lock files requirements/*.txt from pyproject.toml
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@{ echo "# uv, which installs the other lock files: requirements/install.py"; \
		$(BIN)/uv --version | sed 's/^uv \([^ ]*\).*/uv==\1/' | $(COMPILE:pyproject.toml=-); } > requirements/uv.txt
	@$(COMPILE) --extra train --extra sandbox --group dev --output-file requirements/dev.txt
	@$(COMPILE) --extra train --extra sandbox --constraint requirements/dev.txt --output-file requirements/laptop.txt
	@$(COMPILE) --constraint requirements/dev.txt --output-file requirements/job.txt
	@$(COMPILE) --extra train --constraint requirements/dev.txt --output-file requirements/training.txt
	@$(COMPILE:pyproject.toml=requirements/airflow.in) --output-file requirements/airflow.txt
	@$(COMPILE:pyproject.toml=requirements/site.in) --output-file requirements/site.txt

clean:  ## delete var/, with the demo's warehouse and models
	@rm -rf var
