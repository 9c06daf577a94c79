package attack

import "time"

// socketCases are about the kinds of sockets that could leave, and the calls
// that could use them.
func socketCases() []Case {
	notified := by(WallGate, "EACCES", "ECONNREFUSED", "ENETUNREACH", wordCaptured, wordSilent)
	filtered := by(WallFilter, "EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP", "ENOSYS")
	return []Case{
		{Name: "fastopen_send", Category: Sockets, twin: "proxy", attack: fastopenSend, stops: []stop{filtered, notified},
			What: "connect by a send with MSG_FASTOPEN, which no connect hook sees"},
		{Name: "fastopen_connect", Category: Sockets, twin: "proxy", attack: fastopenConnect, stops: []stop{filtered, notified},
			What: "put the connect off until the first write with TCP_FASTOPEN_CONNECT"},
		{Name: "mptcp", Category: Sockets, twin: "proxy", attack: mptcp, stops: []stop{filtered, notified},
			What: "use multipath TCP, which the TCP rules of Landlock do not see"},
		{Name: "smc", Category: Sockets, twin: "proxy", attack: smc, stops: []stop{filtered, notified},
			What: "use SMC sockets, which fall back to TCP by themselves"},
		{Name: "udp", Category: Sockets, twin: "proxy", attack: udp, stops: []stop{notified, filtered, by(WallGate, wordOther, "EAFNOSUPPORT", "EPIPE", "ENOTCONN", "EISCONN")},
			What: "send datagrams by every call that can name a destination"},
		{Name: "udplite", Category: Sockets, twin: "proxy", attack: udpLite, stops: []stop{filtered},
			What: "send UDP-Lite datagrams"},
		{Name: "sctp_dccp", Category: Sockets, twin: "proxy", attack: otherTransports, stops: []stop{filtered},
			What: "open SCTP, DCCP and L2TP sockets"},
		{Name: "raw_and_ping", Category: Sockets, twin: "proxy", attack: rawSockets, stops: []stop{filtered}, held: []string{"EACCES", "EPERM"},
			What: "open raw, packet and ICMP echo sockets"},
		{Name: "families", Category: Sockets, twin: "proxy", attack: families, stops: []stop{filtered}, held: runtimesOwn, limit: 20 * time.Second,
			What: "open a socket of every family, type and netlink protocol, with garbage in the upper halves of the arguments"},
		{Name: "socketpairs", Category: Sockets, twin: "pair", attack: socketpairs, stops: []stop{filtered},
			What: "make a socket pair whose ends obey the name in a message"},
		{Name: "netlink", Category: Sockets, twin: "routes", attack: netlinkCase, stops: []stop{filtered, by(WallGate, "EPERM", "EACCES"), by(WallPrivilege, "EPERM")},
			What: "talk netlink to other processes, or change the network"},
		{Name: "vsock", Category: Sockets, twin: "proxy", attack: vsock, stops: []stop{filtered}, held: []string{"EPERM"},
			What: "reach the hypervisor's services by a vsock"},
		{Name: "named_messages", Category: Sockets, twin: "proxy", control: mustKeep, attack: namedMessages,
			What: "put a destination into a message on every kind of socket that the sandbox can have"},
		{Name: "io_uring", Category: Sockets, twin: "proxy", attack: ioUring, stops: []stop{filtered}, held: []string{"EPERM"},
			What: "make sockets and connect through a ring that no filter sees"},
		{Name: "socket_options", Category: Sockets, twin: "proxy", attack: socketOptions, stops: []stop{filtered, by(WallFilter, "ENOENT"), by(WallGate, "EPERM", "EACCES")},
			What: "bend a brokered connection with options: source routes, interfaces, repair mode, other protocols on top"},
		{Name: "inherited_descriptors", Category: Sockets, attack: inherited, stops: []stop{by(WallLaunch, wordNothing)},
			What: "use a descriptor that the supervisor's caller left open"},
		{Name: "abstract_unix", Category: Sockets, twin: "pair", attack: abstractUnix,
			stops: []stop{by(WallGate, "ECONNREFUSED", "EACCES"), filtered, by(WallScopes, "EPERM")},
			What:  "connect to an abstract unix socket of the host"},
		{Name: "unix_path", Category: Sockets, twin: "own_unix", attack: unixPath, stops: []stop{by(WallGate, "EACCES"), filtered},
			What: "connect to a unix socket outside: an engine, a bus, an agent"},
		{Name: "unix_path_tricks", Category: Sockets, twin: "own_unix", attack: unixPathTricks,
			stops: []stop{by(WallGate, "EACCES", "ELOOP", "ECONNREFUSED", "ENOENT", "EXDEV"), by(WallFiles, "EXDEV", "EPERM")},
			What:  "reach the same socket by links, .., /proc and relative paths"},
		{Name: "unix_daemons", Category: Sockets, twin: "own_unix", control: noControl, attack: unixDaemons,
			stops: []stop{by(WallGate, "EACCES", "ECONNREFUSED"), filtered},
			What:  "connect to the engines, buses and name services that run on this host"},
		{Name: "unix_bind_outside", Category: Sockets, twin: "own_unix", files: true, attack: unixBindOutside,
			stops: []stop{by(WallGate, "EACCES", "ELOOP"), by(WallFiles, "EACCES")},
			What:  "make a socket file outside of the grants"},
		{Name: "scm_rights", Category: Sockets, twin: "proxy", attack: scmRights, stops: []stop{notified},
			What: "pass an unconnected socket to another process and connect it there"},
		{Name: "dns_tunnel", Category: Sockets, twin: "proxy", attack: dnsTunnel, stops: []stop{notified, filtered, by(WallProxy, "rcode-3", "rcode-5")},
			What: "send a secret as the label of a name to a name server"},
		{Name: "undumpable", Category: Sockets, twin: "proxy", attack: undumpable, stops: []stop{notified},
			What: "hide memory from the gate with PR_SET_DUMPABLE, then connect"},
	}
}
