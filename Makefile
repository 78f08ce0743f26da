# The commands of the README. Each sets up .venv first, and is quick when that is done.
#   make demo    paint a cohort, train, evaluate and predict on it; see demo-out/
#   make test    formatting, lint, types, the import contract, spelling and the tests
#   make test-all  the same with the tests marked slow
#   make docs    bring the generated pages of docs/ up to date
#   make site    build the documentation site to site/
#   make sbom    write sbom.cdx.json, a bill of materials of the tested versions (CycloneDX)
#   make clean   remove .venv and what the tools left
# With another interpreter: make test PYTHON=/path/to/python3.12

.DEFAULT_GOAL := test
.PHONY: demo test test-all docs site sbom clean

BIN := .venv/bin
READY := .venv/.ready
DEMO_OUT ?= demo-out
TESTS := -m "not slow"
# A name on the PATH may be a shim that does not run, or lack venv (Debian), so each is tried.
CANDIDATES := $(PYTHON) python3 python python3.11 python3.12 python3.13 python3.14
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

demo: $(READY)
	$(BIN)/python -m parfocal.cli demo --out "$(DEMO_OUT)"

test-all: TESTS :=
test test-all: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs README.md benchmarks examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal $(TESTS)

docs: $(READY)
	@for script in docs/make_*.py; do $(BIN)/python "$$script" || exit 1; done

site: docs
	$(BIN)/zensical build --strict

sbom: $(READY)
	$(BIN)/python scripts/sbom.py --out sbom.cdx.json

# The stamp is written last, so that a set-up stopped half-way starts again.
$(READY): pyproject.toml constraints.txt hatch_build.py
	@set -eu; \
	for python in $(CANDIDATES) none; do \
	    "$$python" -c '$(USABLE)' 2>/dev/null && break || true; \
	done; \
	if [ "$$python" = none ]; then \
	    echo "parfocal needs Python 3.11 or newer with venv and pip; tried: $(CANDIDATES)." >&2; \
	    echo "Install it (Debian, Ubuntu: apt install python3 python3-venv) or name it:" >&2; \
	    echo "make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version); the first time takes minutes."; \
	"$$python" -m venv .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -e '.[dev,docs,onnx]'; \
	touch $(READY)

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
