package caps

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeHost knows one user, "dev", and one group, "team".
type fakeHost struct{}

func (h fakeHost) user(name string) (int, int, error) {
	if id, ok := parseID(name); ok {
		return id, groupOf(id, h), nil
	}
	switch name {
	case "dev":
		return 1500, 1600, nil
	case "root":
		return 0, 0, nil
	}
	return 0, 0, fmt.Errorf("no user %q", name)
}

func (fakeHost) group(name string) (int, error) {
	if id, ok := parseID(name); ok {
		return id, nil
	}
	if name == "team" {
		return 1700, nil
	}
	return 0, fmt.Errorf("no group %q", name)
}

func (fakeHost) primaryGroup(uid int) (int, bool) { return 1600, uid == 1500 }

func TestTarget(t *testing.T) {
	type environ map[string]string
	sudo := environ{"SUDO_UID": "1500", "SUDO_GID": "1601"}
	tests := []struct {
		name        string
		user, group string
		env         environ
		want        Identity
		ok          bool
	}{
		{"nobody", "", "", nil, Identity{UID: 65534, GID: 65534, From: "nobody"}, true},
		{"sudo", "", "", sudo, Identity{UID: 1500, GID: 1601, From: "SUDO_UID"}, true},
		{"sudo_without_group", "", "", environ{"SUDO_UID": "1500"}, Identity{UID: 1500, GID: 1600, From: "SUDO_UID"}, true},
		{"sudo_stranger", "", "", environ{"SUDO_UID": "42", "SUDO_GID": "0"}, Identity{UID: 42, GID: 65534, From: "SUDO_UID"}, true},
		{"sudo_by_root", "", "", environ{"SUDO_UID": "0", "SUDO_GID": "0"}, Identity{UID: 65534, GID: 65534, From: "nobody"}, true},
		{"sudo_empty", "", "", environ{"SUDO_UID": ""}, Identity{UID: 65534, GID: 65534, From: "nobody"}, true},
		{"policy_name", "dev", "", sudo, Identity{UID: 1500, GID: 1600, From: "the policy"}, true},
		{"policy_number", "1500", "", nil, Identity{UID: 1500, GID: 1600, From: "the policy"}, true},
		{"policy_unknown_number", "42", "", nil, Identity{UID: 42, GID: 65534, From: "the policy"}, true},
		{"policy_group", "dev", "team", nil, Identity{UID: 1500, GID: 1700, From: "the policy"}, true},
		{"policy_group_alone", "", "2000", sudo, Identity{UID: 1500, GID: 2000, From: "SUDO_UID"}, true},
		{"sudo_letters", "", "", environ{"SUDO_UID": "me"}, Identity{}, false},
		{"sudo_minus_one", "", "", environ{"SUDO_UID": "4294967295"}, Identity{}, false},
		{"sudo_group_letters", "", "", environ{"SUDO_UID": "5", "SUDO_GID": "x"}, Identity{}, false},
		{"root_by_name", "root", "team", nil, Identity{}, false},
		{"root_by_number", "0", "", nil, Identity{}, false},
		{"root_group", "dev", "0", nil, Identity{}, false},
		{"unknown_user", "ghost", "", nil, Identity{}, false},
		{"unknown_group", "dev", "ghosts", nil, Identity{}, false},
		{"minus_one", "4294967295", "", nil, Identity{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := func(k string) (string, bool) { v, ok := tt.env[k]; return v, ok }
			got, err := target(tt.user, tt.group, env, fakeHost{})
			if (err == nil) != tt.ok {
				t.Fatalf("target error = %v, want ok %v", err, tt.ok)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("target (-want +got):\n%s", d)
			}
		})
	}
}

func TestTarget_host(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	if _, err := Target("no-such-user-here", "", none); err == nil {
		t.Error("an unknown user is accepted")
	}
	if _, err := Target("root", "", none); err == nil {
		t.Error("root is accepted")
	}
	got, err := Target("65534", "65534", none)
	if err != nil || got.UID != 65534 || got.GID != 65534 || got.Groups != nil {
		t.Errorf("Target(65534) = %+v, %v", got, err)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Skip("no /etc/passwd")
	}
	if got, err := (hostAccounts{}).group("root"); err != nil || got != 0 {
		t.Errorf("group(root) = %d, %v", got, err)
	}
}
