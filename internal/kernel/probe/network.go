package probe

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/netns"
	"sallyport/internal/kernel/nft"
)

// userNS reports whether a child could make a user namespace, and whether the
// capabilities that it got there were worth anything: a security module may give
// one and refuse every use of it.
func userNS() (user bool, network Trial) {
	p := &program{calls: []call{
		{unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNET}},
	}}
	k, err := start(p, 0)
	if err != nil {
		return false, Trial{Why: err.Error()}
	}
	defer func() { k.end(err != nil) }()
	for _, what := range []string{"user namespace: ", "network namespace in a user namespace: "} {
		var result int64
		if result, err = k.result(); err != nil {
			return user, Trial{Why: what + err.Error()}
		}
		if result != 0 {
			return user, Trial{Why: what + syscall.Errno(-result).Error()}
		}
		user = true
	}
	return true, Trial{Works: true}
}

// netNS tries out what namespace mode needs, in a namespace that ends with the
// probe; the host's own is not touched.
func netNS() Trial {
	n, err := netns.New(1)
	if err == nil {
		defer n.Close()
		if err = n.Try(); err == nil {
			err = n.Do(func() error {
				return nft.Install(nft.Rules(nft.Options{Proxy: netip.MustParseAddrPort("10.200.0.1:3128"), Device: netns.Inside}))
			})
		}
	}
	if err != nil {
		return Trial{Why: err.Error()}
	}
	return Trial{Works: true}
}
