package landlock

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

// TestLayout holds the structures to include/uapi/linux/landlock.h.
func TestLayout(t *testing.T) {
	var ours rulesetAttr
	var theirs unix.LandlockRulesetAttr
	if unsafe.Offsetof(ours.fs) != unsafe.Offsetof(theirs.Handled_access_fs) ||
		unsafe.Offsetof(ours.net) != unsafe.Offsetof(theirs.Handled_access_net) ||
		unsafe.Offsetof(ours.scoped) != unsafe.Offsetof(theirs.Scoped) {
		t.Error("struct landlock_ruleset_attr differs")
	}
	var path pathAttr
	var theirPath unix.LandlockPathBeneathAttr
	if unsafe.Offsetof(path.fd) != unsafe.Offsetof(theirPath.Parent_fd) || unsafe.Sizeof(path) < 12 {
		t.Error("struct landlock_path_beneath_attr differs")
	}
	if unsafe.Offsetof(portAttr{}.port) != 8 || unsafe.Sizeof(portAttr{}) != 16 {
		t.Error("struct landlock_net_port_attr differs")
	}
}

// TestSize asks the kernel whether each length of the structure is one of its own.
func TestSize(t *testing.T) {
	testkit.Require(t, testkit.Landlock(6))
	for _, a := range []rulesetAttr{{fs: 1}, {net: 1}, {scoped: 1}, {fs: 1, net: 1, scoped: 1}} {
		fd, e := createRuleset(&a, a.size(), 0)
		if e != 0 {
			t.Errorf("createRuleset(%+v, %d): %v", a, a.size(), e)
			continue
		}
		unix.Close(fd)
	}
}
