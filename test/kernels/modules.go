package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// stages are the modules that a guest loads one group after the other. Before the
// first group and after each it tries namespace mode, so that kernels which lack
// something are real ones.
var stages = [][]string{
	{"veth"},
	{"nf_tables", "nft_reject_inet", "nft_log", "nft_limit", "nfnetlink_log"},
}

// tries are what a guest with these modules must say of namespace mode: after how
// many groups, asked for by which mode, with which status and words.
var tries = []struct {
	loaded int
	mode   string
	status int
	says   []string
}{
	{0, "namespace", 125, []string{"sallyport: this kernel has no veth pairs", "hint: load the module veth"}},
	{0, "", 0, []string{"sallyport: platform mode: this kernel has no veth pairs", "; load the module veth"}},
	{1, "namespace", 125, []string{"sallyport: this kernel has no nftables, so namespace mode cannot hold", "hint: load the module nf_tables"}},
	{1, "", 0, []string{"sallyport: platform mode: this kernel has no nftables, so namespace mode cannot hold", "; load the module nf_tables"}},
	{2, "namespace", 0, []string{"sallyport: namespace mode: the agent is 10.200.0.2 behind sallyport0"}},
	{2, "", 0, []string{"sallyport: namespace mode: it is the strictest that this host can hold"}},
}

// try is how one start ended.
type try struct {
	Loaded, Status int
	Mode, Err      string
	Left           []string // interfaces that were there afterwards and not before
}

func judgeTries(got []try) error {
	if len(got) != len(tries) {
		return fmt.Errorf("%d tries of namespace mode, expected %d", len(got), len(tries))
	}
	for i, want := range tries {
		g := got[i]
		missing := slices.ContainsFunc(want.says, func(s string) bool { return !strings.Contains(g.Err, s) })
		if g.Loaded != want.loaded || g.Mode != want.mode || g.Status != want.status || missing || len(g.Left) > 0 {
			return fmt.Errorf("namespace mode with %d groups of modules, --mode %q: status %d, left %v, said %q; expected status %d and %q",
				g.Loaded, g.Mode, g.Status, g.Left, g.Err, want.status, want.says)
		}
	}
	return nil
}

// keepModules packs the stages' modules of an unpacked kernel, each group with
// what it depends on and in the order of loading, into an archive that can follow
// the guest's own.
func keepModules(tree, to string) error {
	files := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		if name, _, is := strings.Cut(filepath.Base(path), ".ko"); is {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	root, n := filepath.Join(tree, "guest"), 0
	done := map[string]bool{}
	var add func(name, dir string) error
	add = func(name, dir string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		code, err := module(files[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range dependencies(code) {
			if err := add(d, dir); err != nil {
				return err
			}
		}
		n++
		return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d-%s.ko", n, name)), code, 0o644)
	}
	for i, group := range stages {
		dir := filepath.Join(root, "modules", strconv.Itoa(i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, name := range group {
			if err := add(name, dir); err != nil {
				return err
			}
		}
	}
	_, err = pack(root, to)
	return err
}

// module reads a kernel module, which may be compressed.
func module(path string) ([]byte, error) {
	switch {
	case path == "":
		return nil, errors.New("the kernel's package does not have it")
	case strings.HasSuffix(path, ".xz"):
		return exec.Command("/bin/busybox", "unxz", "-c", path).Output()
	}
	return os.ReadFile(path)
}

// dependencies are the modules that one names in its section .modinfo.
func dependencies(code []byte) []string {
	_, rest, _ := bytes.Cut(code, []byte("\x00depends="))
	names, _, _ := bytes.Cut(rest, []byte{0})
	return strings.FieldsFunc(string(names), func(r rune) bool { return r == ',' })
}

// concatenate writes the archives one after the other, as the kernel takes them.
func concatenate(to string, archives ...string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, a := range archives {
		in, err := os.Open(a)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}
