// Package e2e is tests of a pod in a real cluster; `make e2e-kubernetes` makes
// the cluster, runs them in it and removes it. Elsewhere they skip.
package e2e
