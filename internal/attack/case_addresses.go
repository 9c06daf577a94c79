package attack

// addressCases are about where a TCP socket may be connected or bound to.
func addressCases() []Case {
	gate := by(WallGate, "EACCES", "ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EISCONN", "EINVAL", "EAFNOSUPPORT", wordCaptured, wordSilent)
	ports := by(WallPorts, "EACCES")
	return []Case{
		{Name: "connect_loopback", Category: Sockets, twin: "proxy", attack: connectLoopback, stops: []stop{gate, ports}, held: runtimesOwn,
			What: "connect to a service of the host on loopback, in every form of the address"},
		{Name: "connect_own_address", Category: Sockets, twin: "proxy", attack: connectOwn, stops: []stop{gate, ports},
			What: "connect to the host's own addresses, link-local with zone included"},
		{Name: "proxy_port_elsewhere", Category: Sockets, twin: "proxy", attack: connectBeside, stops: []stop{gate, ports},
			What: "connect to the proxy's port on another address"},
		{Name: "nonblocking_clients", Category: Sockets, twin: "epoll", attack: nonblocking, stops: []stop{gate, ports},
			What: "connect without blocking and wait in poll"},
		{Name: "connect_again", Category: Sockets, twin: "proxy", attack: connectAgain, stops: []stop{gate, ports},
			What: "dissolve an allowed connection with AF_UNSPEC and connect the same socket elsewhere"},
		{Name: "accepted_socket", Category: Sockets, twin: "own_server", attack: acceptedSocket, stops: []stop{gate, ports},
			What: "connect a socket that accept made and the gate never saw"},
		{Name: "bind_ports", Category: Sockets, twin: "own_server", attack: bindPorts, stops: []stop{gate, ports, by(WallGate, wordLoopback)},
			What: "serve on ports and addresses that the policy does not grant"},
		{Name: "listen_unbound", Category: Sockets, twin: "own_server", attack: listenUnbound, stops: []stop{gate, ports, by(WallGate, wordLoopback)},
			What: "listen without bind, on every address of the host"},
		{Name: "proxy_port_hijack", Category: Sockets, twin: "own_server", attack: hijack, stops: []stop{gate, ports, by(WallGate, "EADDRINUSE")},
			What: "bind the proxy's port beside it with SO_REUSEPORT"},
		{Name: "stale_server", Category: Sockets, twin: "own_server", attack: staleServer, outside: takePort, stops: []stop{gate, ports},
			What: "keep the right to a loopback port after one's own server has gone and the host took the port"},
		{Name: "shared_memory_clone", Category: Sockets, twin: "proxy", attack: cloneConnect, stops: []stop{gate, ports, by(WallFilter, "EPERM", "ENOSYS")},
			What: "connect from a process that was cloned with shared memory and descriptors"},
	}
}
