// Package kube writes the Kubernetes objects that run an agent inside Sallyport
// in a pod: the Pod, the ConfigMap with the policy, and the NetworkPolicy that
// is the outer wall. The pod conforms to the Pod Security Standard "restricted"
// and to OpenShift's restricted-v2, and names no user, so that a platform may
// choose one.
//
// Deliberately not here: a client of the API server, and reading a policy: the
// caller says what the policy needs as plain destinations. Not here either: the
// types of k8s.io/api; the few fields in use are in objects.go.
//
// What must hold: nothing here asks for a privilege, a token or a path of the
// node; equal options give equal bytes; what is printed as YAML means the same
// to readers of YAML 1.1 and 1.2.
package kube
