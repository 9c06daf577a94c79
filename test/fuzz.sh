#!/bin/sh
# Runs each fuzz target for the time or number of inputs given, 10s without one.
set -eu
cd "$(dirname "$0")/.."
grep -rl --include='*_test.go' '^func Fuzz' internal | while read -r file; do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
    ${GO:-go} test -run='^$' -fuzz="^$target\$" -fuzztime="${1:-10s}" "./$(dirname "$file")"
  done
done
