package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"sallyport/deploy/image/oci"
	"sallyport/test/kubernetes/bed"
	"sallyport/test/programs/resolvers"
)

// Names under which the tests find their images.
const (
	supervisorImage = "bed.local/sallyport-supervisor:1"
	agentImage      = "bed.local/agent:1"
)

// test runs the tests of test/kubernetes/e2e, once in a cluster of each
// generation of runtime.
func test(ctx context.Context, cache bed.Cache, args []string) (int, error) {
	var runtimes []string
	flags := flag.NewFlagSet("test", flag.ExitOnError)
	flags.Func("runtime", "generation of runtime; may be repeated; default: each", func(s string) error {
		runtimes = append(runtimes, s)
		return nil
	})
	run := flags.String("run", "", "tests to run, as go test has it")
	keep := flags.Bool("keep", false, "keep the runs' directories")
	if err := flags.Parse(args); err != nil {
		return 0, err
	}
	if err := bed.Build(ctx, cache, os.Stderr); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "sallyport-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	o, err := prepare(ctx, cache, dir)
	if err != nil {
		return 0, err
	}
	o.Command, o.Keep = []string{filepath.Join(dir, "e2e.test"), "-test.v", "-test.timeout=30m", "-test.run=" + *run}, *keep
	worst := 0
	for _, rt := range cache.Runtimes() {
		if len(runtimes) > 0 && !slices.Contains(runtimes, rt.Name) {
			continue
		}
		begun := time.Now()
		o.Runtime, o.Env = rt.Name, []string{
			"SALLYPORT_E2E=" + rt.Name, "SALLYPORT_E2E_BIN=" + dir, "SALLYPORT_E2E_SUPERVISOR=" + supervisorImage, "SALLYPORT_E2E_AGENT=" + agentImage,
		}
		status, err := bed.Run(ctx, o)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", rt.Name, err)
		}
		fmt.Fprintf(os.Stderr, "kubebed: %s: status %d after %.0f s\n", rt.Name, status, time.Since(begun).Seconds())
		worst = max(worst, status)
	}
	return worst, nil
}

// prepare builds what the tests use: the program, the supervisor's image as it
// is shipped, an agent's image with Debian's tools, and the tests themselves.
func prepare(ctx context.Context, cache bed.Cache, dir string) (bed.Options, error) {
	o := bed.Options{Cache: cache, Log: os.Stderr}
	var files []bed.File
	for name, pkg := range map[string]string{
		"sallyport": "sallyport/cmd/sallyport", "sallyport-supervisor": "sallyport/cmd/sallyport-supervisor", "breach": "sallyport/test/kubernetes/cmd/breach",
	} {
		out := filepath.Join(dir, name)
		if err := bed.GoBuild(ctx, out, pkg); err != nil {
			return o, err
		}
		files = append(files, bed.File{From: out, To: "usr/local/bin/" + name})
	}
	supervisor, agent := filepath.Join(dir, "supervisor.tar"), filepath.Join(dir, "agent.tar")
	for _, args := range [][]string{
		{"run", "sallyport/deploy/image", "-o", supervisor, "-name", supervisorImage, "-arch", "amd64", "-gzip=false"},
		{"test", "-c", "-o", filepath.Join(dir, "e2e.test"), "sallyport/test/kubernetes/e2e"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return o, fmt.Errorf("kubebed: go %v: %w\n%s", args, err, out)
		}
	}
	tools := filepath.Join(dir, "resolvers")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return o, err
	}
	made, err := resolvers.Build(ctx, tools)
	if err != nil {
		return o, err
	}
	for _, name := range made {
		files = append(files, bed.File{From: filepath.Join(tools, name), To: "usr/local/lib/resolvers/" + name})
	}
	layer, err := bed.AgentImage(cache)
	if err != nil {
		return o, err
	}
	err = bed.WriteImage(agent, agentImage, nil, []oci.Layer{layer}, files...)
	o.Images = []string{supervisor, agent}
	return o, err
}
