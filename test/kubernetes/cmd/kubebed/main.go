// Command kubebed makes a Kubernetes cluster of one node for as long as a
// command runs.
//
//	kubebed build                       fill the cache
//	kubebed warm                        exit status 0 if the cache is full
//	kubebed image -o F -name N [FROM=TO...]   write an agent's image with files of ours
//	kubebed run [-runtime R] [-image F]... CMD...   run a command in a cluster
//	kubebed test [-runtime R]... [-run RE]          run the tests, in a cluster of each runtime
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"sallyport/deploy/image/oci"
	"sallyport/test/kubernetes/bed"
)

func main() {
	bed.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	// ctrl-c is for what runs in the cluster; when that has ended, what is left
	// to do here is to clean up
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	defer stop()
	status, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	cache, err := bed.DefaultCache()
	if err != nil {
		return 0, err
	}
	if len(args) == 0 {
		return 0, fmt.Errorf("kubebed: expected build, warm, image, run or test")
	}
	switch args[0] {
	case "build":
		return 0, bed.Build(ctx, cache, os.Stderr)
	case "warm":
		if !bed.Warm(cache) {
			return 1, nil
		}
		return 0, nil
	case "image":
		return 0, image(ctx, cache, args[1:])
	case "run":
		return start(ctx, cache, args[1:])
	case "test":
		return test(ctx, cache, args[1:])
	}
	return 0, fmt.Errorf("kubebed: %q: expected build, warm, image, run or test", args[0])
}

func start(ctx context.Context, cache bed.Cache, args []string) (int, error) {
	o := bed.Options{Cache: cache, Log: os.Stderr}
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	flags.StringVar(&o.Runtime, "runtime", "containerd-2", "containerd-1.6 or containerd-2")
	flags.BoolVar(&o.Keep, "keep", false, "keep the run's directory")
	flags.Func("image", "OCI archive to load", func(s string) error { o.Images = append(o.Images, s); return nil })
	if err := flags.Parse(args); err != nil {
		return 0, err
	}
	if o.Command = flags.Args(); len(o.Command) == 0 {
		o.Command = []string{"/bin/bash"}
	}
	if err := bed.Build(ctx, cache, os.Stderr); err != nil {
		return 0, err
	}
	return bed.Run(ctx, o)
}

func image(ctx context.Context, cache bed.Cache, args []string) error {
	flags := flag.NewFlagSet("image", flag.ExitOnError)
	out := flags.String("o", "agent.tar", "OCI archive to write")
	name := flags.String("name", "bed.local/agent:1", "name of the image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := bed.Build(ctx, cache, os.Stderr); err != nil {
		return err
	}
	layer, err := bed.AgentImage(cache)
	if err != nil {
		return err
	}
	var files []bed.File
	for _, a := range flags.Args() {
		from, to, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("kubebed: %q: expected FROM=TO", a)
		}
		files = append(files, bed.File{From: from, To: to})
	}
	return bed.WriteImage(*out, *name, nil, []oci.Layer{layer}, files...)
}
