package policy

// fixed are the sections that hold for the life of a sandbox, because the walls
// that they describe are built once.
var fixed = []struct {
	section string
	of      func(*Policy) any
}{
	{"network_enforcement", func(p *Policy) any { return p.NetworkEnforcement }},
	{"filesystem_policy", func(p *Policy) any { return p.Filesystem }},
	{"landlock", func(p *Policy) any { return p.Landlock }},
	{"process", func(p *Policy) any { return p.Process }},
	{"host_services", func(p *Policy) any { return p.HostServices }},
	{"network_capture", func(p *Policy) any { return p.NetworkCapture }},
	{"sockets", func(p *Policy) any { return p.Sockets }},
}

// Fixed lists what keeps next from taking the place of now in a sandbox that
// runs: the sections that differ and cannot change any more.
func Fixed(now, next *Policy) Errors {
	var errs Errors
	for _, f := range fixed {
		if !Same(f.of(now), f.of(next)) {
			errs = append(errs, &PositionError{File: next.Source,
				Msg: f.section + " is fixed when a sandbox starts and differs from that of the one that runs; leave it as it is, or start a new sandbox"})
		}
	}
	return errs
}
