package landlock

import (
	"encoding/json"
	"errors"
	"math/bits"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRights(t *testing.T) {
	var seen [3]uint64
	for _, r := range Rights {
		if bits.OnesCount64(r.Bit) != 1 || seen[r.Kind]&r.Bit != 0 {
			t.Errorf("%s: bit %#x is not one of its own", r.Name, r.Bit)
		}
		seen[r.Kind] |= r.Bit
		if r.ABI < 1 || r.ABI > Newest || r.Why == "" {
			t.Errorf("%s: ABI %d, why %q", r.Name, r.ABI, r.Why)
		}
	}
	// Every kind counts its bits from zero without a gap.
	for k, set := range seen {
		if set&(set+1) != 0 {
			t.Errorf("kind %d: bits %#x have a gap", k, set)
		}
	}
}

func TestVersions(t *testing.T) {
	for i, v := range Versions {
		if v.ABI != i+1 {
			t.Errorf("row %d is for ABI %d", i, v.ABI)
		}
	}
	if Since(0) != "" || Since(6) != "6.12" || Since(Newest+1) != "" {
		t.Errorf("Since: %q %q %q", Since(0), Since(6), Since(Newest+1))
	}
}

// TestOf compares with the kernel's own counts (LANDLOCK_LAST_ACCESS_FS and its
// like) in each version.
func TestOf(t *testing.T) {
	tests := []struct {
		abi            int
		fs, net, scope int
	}{
		{0, 0, 0, 0}, {1, 13, 0, 0}, {2, 14, 0, 0}, {3, 15, 0, 0}, {4, 15, 2, 0}, {5, 16, 2, 0},
		{6, 16, 2, 2}, {7, 16, 2, 2}, {8, 16, 2, 2}, {9, 17, 2, 2}, {10, 17, 4, 2}, {99, 17, 4, 2},
	}
	for _, tt := range tests {
		fs, net, scope := uint64(FilesOf(tt.abi)), uint64(NetworkOf(tt.abi)), uint64(ScopesOf(tt.abi))
		if fs != 1<<tt.fs-1 || net != 1<<tt.net-1 || scope != 1<<tt.scope-1 {
			t.Errorf("ABI %d: %#x %#x %#x, want %d, %d and %d bits", tt.abi, fs, net, scope, tt.fs, tt.net, tt.scope)
		}
	}
}

func TestSets(t *testing.T) {
	if WriteFiles&ReadFiles != ReadFiles {
		t.Error("WriteFiles lacks rights of ReadFiles")
	}
	left := FilesOf(Newest) &^ WriteFiles
	if left != MakeChar|MakeBlock|ResolveUnix {
		t.Errorf("WriteFiles leaves out %v", left)
	}
}

func TestNames(t *testing.T) {
	got, err := json.Marshal(Attr{FS: Execute | Truncate, Net: ConnectTCP | 1<<40, Scoped: 0})
	want := `{"FS":["execute","truncate"],"Net":["connect_tcp","bit 40"],"Scoped":[]}`
	if err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v, want %s", got, err, want)
	}
	if s := (ReadFile | ReadDir).String(); s != "read_file,read_dir" {
		t.Errorf("String = %q", s)
	}
}

func TestNeeds(t *testing.T) {
	tests := map[string]struct {
		attr Attr
		have int
	}{
		"the kernel offers ABI 3, connect_tcp needs 4 (Linux 6.7)":           {Attr{Net: ConnectTCP}, 3},
		"the kernel offers ABI 4, ioctl_dev needs 5 (Linux 6.10)":            {Attr{FS: IoctlDev, Scoped: ScopeSignal}, 4},
		"the kernel offers ABI 4, signal needs 6 (Linux 6.12)":               {Attr{Scoped: ScopeSignal}, 4},
		"the kernel offers ABI 7, rights 0x8000000000 0x0 0x0 are not known": {Attr{FS: 1 << 39}, 7},
	}
	for want, tt := range tests {
		if got := tt.attr.needs(tt.have); got != want {
			t.Errorf("needs = %q, want %q", got, want)
		}
	}
}

func TestHas(t *testing.T) {
	var got []int
	for n := -1; n <= 40; n++ {
		if Has(0x80000006, n) {
			got = append(got, n)
		}
	}
	if d := cmp.Diff([]int{2, 3, 32}, got); d != "" {
		t.Errorf("Has (-want +got):\n%s", d)
	}
}

func TestError(t *testing.T) {
	e := &Error{Side: Bug, Op: "granting a path", Detail: "access execute", Err: unix.EINVAL}
	if got := e.Error(); got != "bug: landlock: granting a path: access execute: invalid argument" {
		t.Errorf("Error = %q", got)
	}
	if !errors.Is(e, unix.EINVAL) {
		t.Error("the errno is lost")
	}
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		if absence(errno) == "" || strings.HasSuffix(absence(errno), ".") {
			t.Errorf("absence(%v) = %q", errno, absence(errno))
		}
	}
}
