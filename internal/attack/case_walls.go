package attack

import (
	"golang.org/x/sys/unix"

	"sallyport/internal/confine"
)

// wallCases leave out every wall but one and show that this one holds alone
// what it is there for. In the whole sandbox several walls stop most attacks,
// so that the loss of one would not be seen there.
func wallCases() []Case {
	one := func(w confine.Walls, name, what string, attack func(*agent), needs []need, stops ...stop) Case {
		return Case{Name: name, Category: Walls, What: what, group: onlyPrefix + w.String(), twin: "child", attack: attack, stops: stops, files: true, needs: needs}
	}
	return []Case{
		one(confine.WallPorts, "only_landlock_ports", "connect and bind TCP with nothing but Landlock's port rules left", onlyPorts,
			[]need{landlockABI(4)}, by(WallPorts, "EACCES")),
		one(confine.WallFiles, "only_landlock_files", "read, write and move files with nothing but Landlock's file rules left", onlyFiles,
			[]need{landlockABI(3)}, by(WallFiles, "EACCES", "EXDEV")),
		one(confine.WallScopes, "only_landlock_scopes", "signal and reach abstract sockets with nothing but Landlock's scopes left", onlyScopes,
			[]need{landlockABI(6)}, by(WallScopes, "EPERM"), by(WallNamespace, "ECONNREFUSED")),
		one(confine.WallFilter, "only_seccomp_filter", "use what no other wall sees with nothing but the static filter left", onlyFilter,
			nil, by(WallFilter, "EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EOPNOTSUPP", "ENOSYS", "ESOCKTNOSUPPORT")),
		one(confine.WallGate, "only_gate", "connect, bind and listen with nothing but the gate left", onlyGate,
			nil, by(WallGate, "EACCES", "ECONNREFUSED", wordCaptured, wordSilent, wordLoopback)),
	}
}

// onlyPrefix starts the name of a group whose sandbox has a single wall.
const onlyPrefix = "only "

func onlyPorts(a *agent) {
	for name, to := range map[string]string{"v4": a.TCP4, "v6": a.TCP6} {
		a.try("connect_"+name, func() error { return a.reach("connect_"+name, sockaddr(parse(to))) })
	}
	a.try("bind", func() error {
		_, _, err := a.serve(unix.AF_INET, at(a.TCP4, "127.0.0.99"))
		return err
	})
}

func onlyFiles(a *agent) {
	a.try("read", func() error { return a.readSecret(a.own(fileSecret)) })
	writeOutside(a)
	a.try("link", func() error { return linkSecret(a) })
}

func onlyScopes(a *agent) {
	a.try("signal", func() error { return signalVictim(a) })
	a.try("abstract", func() error { return a.reachUnix("abstract", "\x00"+a.Unix.Abstract, unix.SOCK_STREAM) })
}

func onlyFilter(a *agent) {
	fastopenSend(a)
	a.try("mptcp", func() error {
		return a.reachBy("mptcp", sockaddr(parse(a.TCP4)), unix.SOCK_STREAM, protoMPTCP)
	})
	a.try("udplite", func() error {
		if a.Lite == "" {
			return &absent{"this kernel was built without UDP-Lite"}
		}
		return a.reachBy("udplite", sockaddr(parse(a.Lite)), unix.SOCK_DGRAM, protoUDPLite)
	})
	a.try("unix_datagram", func() error {
		_, err := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		return err
	})
	a.probe("chroot", func() error { return chrootNowhere(a) })
}

func onlyGate(a *agent) {
	a.try("connect", func() error { return a.reach("connect", sockaddr(parse(a.TCP4))) })
	a.try("connect_beside", func() error { return a.reach("connect_beside", sockaddr(parse(a.Beside[0]))) })
	a.try("unix", func() error { return a.reachUnix("unix", a.Unix.Stream, unix.SOCK_STREAM) })
	listenUnbound(a)
}
