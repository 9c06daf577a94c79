package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// RequireVar is the environment variable that turns every skip into a failure
// when its value is "all".
const RequireVar = "SALLYPORT_REQUIRE"

// Requirement is something that a test cannot run without.
type Requirement struct {
	Name  string       // as a skip message says it
	Since Release      // the kernel that has it; the zero value says nothing about kernels
	Check func() error // nil when it is there
}

// Release is a kernel version without its patch level.
type Release struct{ Major, Minor int }

func (r Release) String() string { return fmt.Sprintf("Linux %d.%d", r.Major, r.Minor) }

// Before says whether r is older than o.
func (r Release) Before(o Release) bool {
	return r.Major < o.Major || r.Major == o.Major && r.Minor < o.Minor
}

// Kernel is the release of the running kernel.
func Kernel() Release {
	var u unix.Utsname
	var r Release
	if unix.Uname(&u) == nil {
		fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &r.Major, &r.Minor)
	}
	return r
}

// Require ends the test unless everything is there. It skips only where the
// running kernel is older than the requirement, or where the requirement is
// none of the kernel's (root, a program) and nobody insisted; else it fails.
func Require(t testing.TB, all ...Requirement) {
	t.Helper()
	for _, r := range all {
		err := r.Check()
		if err == nil {
			continue
		}
		insist := os.Getenv(RequireVar) == "all"
		switch old := Kernel().Before(r.Since); {
		case insist:
			t.Fatalf("%s=all: %s: %v", RequireVar, r.Name, err)
		case r.Since != Release{} && !old:
			t.Fatalf("%s is in %v and this is %v, but: %v", r.Name, r.Since, Kernel(), err)
		case old:
			t.Skipf("%s needs %v, this is %v", r.Name, r.Since, Kernel())
		default:
			t.Skipf("%s: %v", r.Name, err)
		}
	}
}

// landlockSince is the kernel that brought each ABI of Landlock.
var landlockSince = []Release{{}, {5, 13}, {5, 19}, {6, 2}, {6, 7}, {6, 10}, {6, 12}, {6, 15}, {7, 0}}

// Landlock requires an ABI version of Landlock, 1 to 8.
func Landlock(abi int) Requirement {
	return Requirement{
		Name:  fmt.Sprintf("Landlock ABI %d", abi),
		Since: landlockSince[min(abi, len(landlockSince)-1)],
		Check: func() error {
			got, errno := landlockABI()
			if errno != 0 {
				return errno
			}
			if got < abi {
				return fmt.Errorf("kernel offers ABI %d", got)
			}
			return nil
		},
	}
}

// Root requires uid 0 with the capability to make namespaces.
func Root() Requirement {
	return Requirement{Name: "root", Check: func() error {
		if os.Geteuid() != 0 {
			return fmt.Errorf("uid %d", os.Geteuid())
		}
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			return err
		}
		if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
			return fmt.Errorf("uid 0 without CAP_SYS_ADMIN")
		}
		return nil
	}}
}

// Program requires a command in PATH.
func Program(name string) Requirement {
	return Requirement{Name: name, Check: func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// Arch requires a processor, by its GOARCH name.
func Arch(name string) Requirement {
	return Requirement{Name: name, Check: func() error {
		if runtime.GOARCH != name {
			return fmt.Errorf("this is %s", runtime.GOARCH)
		}
		return nil
	}}
}
