# Every command of the project. `make` alone prints them; what they do is in localstack/stack and infra.

# These are arguments of a command (`make up STACK=mine`). Of the same names in the environment nothing is taken: a shell
# that was set up for one database must not send a test, or a deploy, to it.
ARGUMENTS := STACK USE_DATABASE USE_ELASTICSEARCH USE_CLICKHOUSE USE_KAFKA SEARCH ELASTICSEARCH_VERSION POSTGRES_BIN MAVEN_REPOSITORY TARGETS DOCKER RUN DIRECT LIVE SERVICE \
	SIGNAL FUNCTION STACK_NAME STAGE ARCH IMAGE ARTIFACTS RELEASE YES BUCKET REGION SERVERS STREAM TARGET FROM REPAIR DRY_RUN ACTION ACCEPT_DEAD_LETTERS SECONDS NAME QUICK LATENCY EVENTS_PER_DAY DOC_BYTES
given = $(foreach v,$(ARGUMENTS),$(if $(findstring command,$(origin $v)),'$v=$(subst ','\'',$(value $v))'))
stack = @localstack/stack/run $@ $(given)

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { gsub(/\$$\$$/, "$$", $$2); printf "  make %-18s%s\n", $$1, $$2 } /^##$$/ { print "" }' Makefile
	@echo
	@echo "  Arguments: STACK=name (its own folder and ports), SEARCH=opensearch (in Elasticsearch's place), ELASTICSEARCH_VERSION=8|9,"
	@echo "  POSTGRES_BIN=/usr/lib/postgresql/15/bin, USE_DATABASE=postgres://user:password@host/db, DOCKER=1,"
	@echo "  USE_ELASTICSEARCH=http://host:9200 (or an OpenSearch),"
	@echo "  RUN=direct|queue (one process in place of the deployed functions; direct: without LocalStack), LIVE=1 (with it: live sync, and its board),"
	@echo "  TARGETS=clickhouse,kafka,chdb,mongodb (any of them, beside the other servers; all: the first two), or servers of yours:"
	@echo "  USE_CLICKHOUSE=http://user:password@host:8123/db, USE_KAFKA=host:9092"
##
demo: ## Show the main job on real data; with LATENCY=1 measure single changes, too, for a minute; with TARGETS=all go on to ClickHouse and Kafka; with DIRECT=1 without a queue; with LIVE=1 show live sync instead: a board that several people edit
	@python3 -B examples/demo/demo.py $(given)
test: ## Run every test, in stacks of their own
	$(stack)
soak: ## Run the alarms, the faults, the simulation and the property tests for longer: make soak SECONDS=600
	$(stack)
bench: ## Measure speed: all of it, or make bench-drain, -held, -index, -ingest, -validate, -replay, -generations, -end-to-end, -targets, -beside, -live, -capture, -cold; QUICK=1 for seconds
	$(stack)
bench-%:
	@localstack/stack/run bench NAME=$* $(given)
##
up: ## Start everything, deploy, migrate
	$(stack)
down: ## Stop everything; the data stays
	$(stack)
signal: ## Send a server or function a signal: make signal SERVICE=elasticsearch SIGNAL=KILL|TERM|INT|QUIT|STOP|CONT
	$(stack)
start: ## Start PostgreSQL, Elasticsearch or OpenSearch, a target or sluice again: make start SERVICE=elasticsearch
	$(stack)
status: ## What runs, since when, healthy or not, where
	$(stack)
health: ## Fail unless all is healthy
	$(stack)
logs: ## Show logs; of one by make logs-NAME, or SERVICE=postgres|elasticsearch|opensearch|localstack|sluice|clickhouse|kafka|chdb|clickhouse-function|kafka-function|trigger|indexer|migrate|admin|ingest|origin|validate
	$(stack)
logs-%:
	@localstack/stack/run logs SERVICE=$* $(given)
psql: ## Open the stack's database
	$(stack)
env: ## Print URLs and test credentials for any shell: eval "$$(make env)"
	$(stack)
shell-postgres: ## The same as psql
	@localstack/stack/run psql $(given)
list-kafka-topics: ## The topics of the stack's Kafka, and how many partitions each has
	$(stack)
init-kafka: ## Make the topics of the streams that go to Kafka, as migrate does with all that streams need
	@localstack/stack/run migrate $(given)
clean: ## Stop everything and delete the stack's data; downloads stay
	$(stack)
servers: ## Start PostgreSQL, Elasticsearch (or SEARCH=opensearch) and the targets alone
	$(stack)
fetch: ## Download all that the stack needs, and start nothing
	$(stack)
##
build: ## Build the functions for Lambda: target/lambda/*/bootstrap.zip, for arm64 or by ARCH=x86_64
	$(stack)
release: ## The same as a folder that is deployed without Rust: dist, or RELEASE=folder
	$(stack)
binary: ## Build all functions as one static binary: target/image/*/sluice, for this machine or by ARCH=arm64|x86_64
	$(stack)
image: ## The same in a container image: target/image/sluice-*.tar; IMAGE=name
	$(stack)
deploy: ## Build, or take ARTIFACTS=folder, deploy, migrate: the local stack, or by STAGE=prod what .env.prod says, on AWS; BUCKET=name takes your own for the code
	$(stack)
destroy: ## Delete the CloudFormation stack, once its name was typed: the local one, or by STAGE=prod on AWS
	$(stack)
trial: ## Try a release in an AWS account, and delete all of it: make trial REGION=eu-central-1, ARTIFACTS=dist, SERVERS=.env.trial
	$(stack)
redeploy: ## Replace one function's code: make redeploy FUNCTION=indexer; in a stack of RUN, the process
	$(stack)
dashboard: ## Build the dashboard's page and the board's, and check their types
	$(stack)
migrate: ## Run the migrations and make the indexes
	$(stack)
rebase: ## Begin anew after a dump was restored into another cluster: everything is read again
	$(stack)
validate: ## Compare each stream's source with its index and its table, or one by STREAM=books, TARGET=clickhouse; REPAIR=1 puts right what differs, DRY_RUN=1 only says what that would be
	$(stack)
replay: ## Deliver again what changed since a checkpoint, by its name or a time: make replay FROM=before-import, STREAM=books, TARGET=clickhouse; DRY_RUN=1 only says what that would be
	$(stack)
reindex: ## Build another generation of a stream's index, which takes over when it has all: make reindex STREAM=books; ACTION=status tells how far, takeover approves, rollback goes back, abort gives up
	$(stack)
uninstall: ## Remove all that Sluice made in PostgreSQL and Elasticsearch, and nothing else
	$(stack)
init: ## Write .env, the parameters of a deploy to AWS
	$(stack)
cost: ## What a month on AWS costs: make cost EVENTS_PER_DAY=1000000 DOC_BYTES=1024
	@python3 -B infra/cost.py $(given)

.PHONY: help demo test soak bench up down signal start status health logs psql env shell-postgres list-kafka-topics init-kafka clean servers fetch build release binary image deploy destroy trial redeploy dashboard migrate rebase validate replay reindex uninstall init cost
