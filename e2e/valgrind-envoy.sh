#!/bin/sh
# $VALGRIND_ENVOY under valgrind, for `make test-module-valgrind`; what it finds goes to $VALGRIND_LOGS.
# Envoy has a malloc of its own, which the module uses too: NONE says that it is the executable's.
exec valgrind --quiet --error-limit=no --num-callers=20 --undef-value-errors=no \
  --soname-synonyms=somalloc=NONE --log-file="$VALGRIND_LOGS/%p" "$VALGRIND_ENVOY" "$@"
