package supervisor

import (
	"fmt"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// passed are the variables that the agent inherits. Everything else of the
// caller's environment stays outside: that is where keys and tokens live. LC_*
// is added by prefix.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR",
	"LANG", "LANGUAGE", "TZ", "TMPDIR", "EDITOR", "VISUAL", "PAGER", "COLUMNS", "LINES",
}

// loaders are variables that put foreign code into a program. They are refused
// even when asked for by name, because a policy's rules name programs.
var loaders = []string{"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GCONV_PATH"}

// environment builds the agent's environment: what is passed of base, the way
// to the proxy in the words of the common runtimes, which does not lead to the
// sandbox's own servers, the roots that they are to trust, and last what the caller asked for.
func environment(base, extra []string, proxy netip.AddrPort, servers [2]netip.Addr, roots func(map[string]string)) ([]string, error) {
	env := map[string]string{}
	for _, kv := range base {
		k, v, _ := strings.Cut(kv, "=")
		if slices.Contains(passed, k) || strings.HasPrefix(k, "LC_") {
			env[k] = v
		}
	}
	url := "http://" + proxy.String()
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy"} {
		env[k] = url
	}
	// The servers inside see their own addresses and hand them on. Some programs
	// take a network here, some only addresses.
	local := fmt.Sprintf("localhost,127.0.0.0/8,127.0.0.1,::1,%s,%s", servers[0], servers[1])
	env["NO_PROXY"], env["no_proxy"] = local, local
	env["NODE_USE_ENV_PROXY"] = "1"
	env["RES_OPTIONS"] = "use-vc" // glibc and c-ares ask name servers by TCP, resolv.conf(5)
	env["SALLYPORT"] = "1"
	roots(env)
	for _, kv := range extra {
		k, v, found := strings.Cut(kv, "=")
		if !found || k == "" {
			return nil, fmt.Errorf("--env %q: expected NAME=VALUE", kv)
		}
		if slices.Contains(loaders, k) {
			return nil, fmt.Errorf("--env %s: loads code into other programs, so rules that name programs would mean nothing", k)
		}
		env[k] = v
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out, nil
}

// identityEnv replaces the variables that name a person, for an agent that is
// somebody else than the caller.
func identityEnv(base []string, uid int, workdir string) []string {
	name, home, shell := strconv.Itoa(uid), workdir, "/bin/sh"
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
		if u.HomeDir != "" && u.HomeDir != "/nonexistent" {
			home = u.HomeDir
		}
	}
	set := map[string]string{"HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell}
	out := slices.DeleteFunc(slices.Clone(base), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, is := set[k]
		return is
	})
	for k, v := range set {
		out = append(out, k+"="+v)
	}
	return out
}
