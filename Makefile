# Every command of the project. `make` alone prints them; what they do is in localstack/stack and infra.

# These are arguments of a command (`make up STACK=mine`); of the same names in the environment nothing is taken, so
# that a shell that was set up for one database cannot send a test, or a deploy, to it.
ARGUMENTS := STACK USE_DATABASE USE_ELASTICSEARCH ELASTICSEARCH_VERSION POSTGRES_BIN MAVEN_REPOSITORY DOCKER SERVICE \
	FUNCTION STACK_NAME
given = $(foreach v,$(ARGUMENTS),$(if $(findstring command,$(origin $v)),'$v=$(subst ','\'',$(value $v))'))
stack = @python3 localstack/stack $@ $(given)

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help
help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: servers env
servers: ## Start PostgreSQL and Elasticsearch alone
	$(stack)
env: ## Print the stack's URLs and test credentials as `export` lines: eval "$$(make env)"
	$(stack)
