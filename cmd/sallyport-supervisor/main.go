// Command sallyport-supervisor is what a container of a pod starts: the sandbox,
// and the agent in it.
package main

import (
	"context"
	"os"

	"sallyport/internal/pod"
)

func main() {
	os.Exit(pod.Main(context.Background(), pod.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args, os.Environ()))
}
