# Each target brings uv itself where it is missing; uv brings Python packages from uv.lock.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --frozen

.PHONY: demo page extras test test-all check docs site clean

PORT ?= 8892

demo: $(UV)  ## a drawn face speaks: demo.mp4 and its contact sheet demo.png
	$(RUN) --no-dev ltx-a2v demo --output-path demo.mp4 --overwrite

page: $(UV)  ## the page over the miniature model; PORT=0 takes a free port, and the log says which
	$(RUN) --no-dev ltx-a2v serve --demo --port $(PORT)

extras: $(UV)  ## optional libraries, as EXTRAS="voice mcp"; those that are there stay
	$(UV) sync --frozen --no-dev --inexact $(EXTRAS:%=--extra %)

test: $(UV)  ## the tests that a change needs
	$(RUN) pytest -q -n 2 --dist worksteal -m "not slow"

test-all: $(UV)  ## all tests, also the slow ones
	$(RUN) pytest -q -n 2 --dist worksteal

check: $(UV)  ## style, types, floors, and the generated parts of the docs
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) python scripts/docs.py --check

docs: $(UV)  ## write the help texts and the list of model files into the docs
	$(RUN) python scripts/docs.py

site: $(UV)  ## docs/ as a static site in build/site; a broken link inside it is an error
	$(RUN) --group docs python scripts/site.py

.uv/bin/uv:
	python3 -m pip install --quiet --target .uv uv

clean:
	rm -rf .uv .venv demo.mp4 demo.png
