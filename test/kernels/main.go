// Command kernels runs the attack suite on other kernels than this machine's:
// Debian's, in qemu-system with software emulation, which needs no privilege and
// works in a virtual machine. A kernel that Platform mode cannot hold must refuse; on
// every other one the suite must be as green as here.
//
//	go run ./test/kernels              # all kernels of the table
//	go run ./test/kernels bookworm     # one of them
//	go run ./test/kernels trixie-arm64 # the other architecture
//	go run ./test/kernels -modes       # only namespace mode, where its modules are missing
//
// It needs Debian's packages qemu-system-x86, qemu-system-arm, cpio and dpkg. Kernels are kept below
// $XDG_CACHE_HOME/sallyport/kernels.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// kernel is a row of the matrix.
type kernel struct {
	suite   string // of Debian, whose newest cloud kernel is taken
	arch    string // of Debian, and of Go
	what    string // what is special about it
	holds   bool   // Platform mode must hold there; else it must refuse
	modules bool   // namespace mode is tried without and with the modules it needs
}

var kernels = []kernel{
	{"bullseye", "amd64", "5.10: no Landlock", false, false},
	{"bookworm", "amd64", "6.1: Landlock ABI 2, no network rules, no scopes", true, false},
	{"trixie", "amd64", "6.12: Landlock ABI 6 (scopes)", true, true},
	{"trixie", "arm64", "the same on another processor", true, true},
	{"forky", "amd64", "the newest that Debian has", true, false},
}

// name is what a row is asked for by.
func (k kernel) name() string {
	if k.arch == "amd64" {
		return k.suite
	}
	return k.suite + "-" + k.arch
}

func main() {
	races := flag.Int("races", 200, "how often a race is run")
	cases := flag.String("only", "", "run these cases only, separated by commas")
	tries := flag.Bool("modes", false, "try namespace mode on kernels that lack what it needs, and nothing else")
	limit := flag.Duration("limit", 45*time.Minute, "for one kernel")
	flag.Parse()
	params := fmt.Sprintf("attack.races=%d attack.only=%s", *races, *cases)
	if *tries {
		params = triesOnly
	}
	if err := run(flag.Args(), params, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// triesOnly makes a guest leave the suite out.
const triesOnly = "tries.only"

func run(only []string, params string, limit time.Duration) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "sallyport", "kernels")
	dir, err := os.MkdirTemp("", "sallyport-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var red []string
	for _, k := range kernels {
		if len(only) > 0 && !slices.Contains(only, k.name()) || params == triesOnly && !k.modules {
			continue
		}
		if err := one(k, filepath.Join(cache, k.name()), filepath.Join(dir, k.name()), params, limit); err != nil {
			red = append(red, k.name())
			fmt.Printf("%-12s RED      %v\n", k.name(), err)
		}
	}
	if len(red) > 0 {
		return errors.New("red: " + strings.Join(red, ", "))
	}
	return nil
}

// one boots a kernel and judges what it says. What is fetched is kept in cache, and
// what is made goes to dir.
func one(k kernel, cache, dir, params string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	image, err := fetch(ctx, k, cache)
	if err != nil {
		return err
	}
	initrd, err := guestFiles(dir, k.arch, filepath.Join(cache, shell))
	if err != nil {
		return err
	}
	if k.modules {
		both := initrd + "-modules"
		if err := concatenate(both, initrd, filepath.Join(cache, archive)); err != nil {
			return err
		}
		initrd = both
	}
	start := time.Now()
	said, err := boot(ctx, k.arch, image, initrd, params)
	if err != nil {
		return err
	}
	if err := k.judge(said, params == triesOnly); err != nil {
		return err
	}
	word := "held"
	if !k.holds {
		word = "refused"
	}
	fmt.Printf("%-12s %-8s %s, in %v\n", k.name(), word, said.kernel, time.Since(start).Round(time.Second))
	if k.modules {
		fmt.Printf("             namespace mode without veth, without nftables, with both: %d tries as expected\n", len(said.tries))
	}
	for _, r := range said.runs {
		fmt.Printf("             uid %-5d %s\n", r.UID, r.counts())
	}
	for _, h := range said.holes {
		fmt.Printf("             %s\n", h)
	}
	return nil
}
