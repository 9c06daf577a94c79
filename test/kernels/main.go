// Command kernels runs the attack suite on other kernels than this machine's:
// Debian's, in qemu-system with software emulation, which needs no privilege and
// works in a virtual machine. A kernel that Platform mode cannot hold must refuse; on
// every other one the suite must be as green as here.
//
//	go run ./test/kernels              # all kernels of the table
//	go run ./test/kernels bookworm     # one of them
//	go run ./test/kernels -modes       # only namespace mode, where its modules are missing
//
// It needs Debian's packages qemu-system-x86, cpio, dpkg and busybox-static. Kernels are kept below
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
	what    string // what is special about it
	holds   bool   // Platform mode must hold there; else it must refuse
	modules bool   // namespace mode is tried without and with the modules it needs
}

var kernels = []kernel{
	{"bullseye", "5.10: no Landlock", false, false},
	{"bookworm", "6.1: Landlock ABI 2, no network rules, no scopes", true, false},
	{"trixie", "6.12: Landlock ABI 6 (scopes)", true, true},
	{"forky", "the newest that Debian has", true, false},
}

func main() {
	races := flag.Int("races", 200, "how often a race is run")
	cases := flag.String("only", "", "run these cases only, separated by commas")
	tries := flag.Bool("modes", false, "try namespace mode on kernels that lack what it needs, and nothing else")
	limit := flag.Duration("limit", 15*time.Minute, "for one kernel")
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
	root, err := guestFiles(dir)
	if err != nil {
		return err
	}
	var red []string
	for _, k := range kernels {
		if len(only) > 0 && !slices.Contains(only, k.suite) || params == triesOnly && !k.modules {
			continue
		}
		if err := one(k, cache, root, params, limit); err != nil {
			red = append(red, k.suite)
			fmt.Printf("%-10s RED      %v\n", k.suite, err)
		}
	}
	if len(red) > 0 {
		return errors.New("red: " + strings.Join(red, ", "))
	}
	return nil
}

// one boots a kernel and judges what it says.
func one(k kernel, cache, initrd, params string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	dir := filepath.Join(cache, k.suite)
	image, err := fetch(ctx, k.suite, dir, k.modules)
	if err != nil {
		return err
	}
	if k.modules {
		both := initrd + "-" + k.suite
		if err := concatenate(both, initrd, filepath.Join(dir, archive)); err != nil {
			return err
		}
		initrd = both
	}
	start := time.Now()
	said, err := boot(ctx, image, initrd, params)
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
	fmt.Printf("%-10s %-8s %s, in %v\n", k.suite, word, said.kernel, time.Since(start).Round(time.Second))
	if k.modules {
		fmt.Printf("           namespace mode without veth, without nftables, with both: %d tries as expected\n", len(said.tries))
	}
	for _, r := range said.runs {
		fmt.Printf("           uid %-5d %s\n", r.UID, r.counts())
	}
	for _, h := range said.holes {
		fmt.Printf("           %s\n", h)
	}
	return nil
}
