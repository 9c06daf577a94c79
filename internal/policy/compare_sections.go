package policy

import (
	"fmt"
	"slices"
)

// compareSections compares what is not in network_policies.
func compareSections(a, b *Policy) (out []Difference) {
	lists := func(what string, of func(*Policy) []string) {
		was, now := of(a), of(b)
		for _, s := range now {
			if !slices.Contains(was, s) {
				out = append(out, Difference{Wider: true, What: what + " " + s})
			}
		}
		for _, s := range was {
			if !slices.Contains(now, s) {
				out = append(out, Difference{What: what + " " + s})
			}
		}
	}
	lists("filesystem_policy.read_only", func(p *Policy) []string { return p.Filesystem.ReadOnly })
	lists("filesystem_policy.read_write", func(p *Policy) []string { return p.Filesystem.ReadWrite })
	lists("sockets.unix", func(p *Policy) []string { return p.Sockets.Unix })
	lists("sockets.bind", func(p *Policy) []string { return texts(p.Sockets.Bind) })
	lists("sockets.publish", func(p *Policy) []string { return texts(p.Sockets.Publish) })
	lists("host_services", func(p *Policy) []string {
		var out []string
		for _, s := range p.HostServices {
			out = append(out, fmt.Sprintf("%s:%d to %v", s.Host, s.Port, s.To))
		}
		return out
	})
	flags := func(what string, was, now bool) {
		if was != now {
			out = append(out, Difference{Wider: now, What: what})
		}
	}
	flags("filesystem_policy.include_workdir: true", a.Filesystem.IncludeWorkdir, b.Filesystem.IncludeWorkdir)
	flags("landlock.compatibility: best_effort", a.Landlock.Compatibility == BestEffort, b.Landlock.Compatibility == BestEffort)
	flags("network_capture: on", a.NetworkCapture, b.NetworkCapture)
	both := func(what string, same bool) {
		if !same {
			out = append(out, Difference{Wider: true, What: what}, Difference{What: what})
		}
	}
	both(fmt.Sprintf("network_enforcement, %q and then %q", a.NetworkEnforcement, b.NetworkEnforcement), a.NetworkEnforcement == b.NetworkEnforcement)
	both(fmt.Sprintf("process, %q and then %q", a.Process, b.Process), a.Process == b.Process)
	both("network_middlewares, which are not compared in detail", Same(a.Middlewares, b.Middlewares))
	return out
}

func texts[T any](list []T) (out []string) {
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
