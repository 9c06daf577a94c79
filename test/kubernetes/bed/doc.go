// Package bed builds, starts and removes a Kubernetes cluster of one node for
// tests: a real API server, a real kubelet, and a choice of two generations of
// container runtime, all inside one private mount, network and process
// namespace.
//
// Deliberately not here: what the tests ask of the cluster, and anything of
// Sallyport.
//
// What must hold: nothing but the Go module proxy and Debian's packages is
// ever reached; everything that a run makes outside its cache directory is
// gone when it ends, kernel settings included; the first process of the
// namespace is the whole cluster, so ending it ends everything.
package bed
