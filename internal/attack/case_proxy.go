package attack

// proxyCases speak to the proxy. Unsandboxed they speak to one without rules,
// which takes every form of a name that some program takes.
func proxyCases() []Case {
	denied := by(WallProxy, "http-400", "http-403", "http-404", "http-405", "http-407", "http-408", "http-413", "http-414", "http-421", "http-431", "http-501", wordClosed)
	c := func(name, what string, attack func(*agent)) Case {
		return Case{Name: name, Category: Proxy, twin: "proxy", attack: attack, stops: []stop{denied}, What: what}
	}
	keep := func(name, what string, attack func(*agent)) Case {
		return Case{Name: name, Category: Proxy, twin: "proxy", control: mustKeep, attack: attack, What: what}
	}
	stranger := c("stranger", "use the proxy from a process outside of the sandbox", strangerCase)
	stranger.outside = strangerAsks
	service := c("host_service_port", "reach a host service by its own address, or another port of its name", hostServicePort)
	service.outside = whereOrigin
	return []Case{
		stranger, service,
		c("request_forms", "ask for a denied destination by CONNECT and by every form of a plain request", requestForms),
		c("numeric_hosts", "write a denied address in decimal, octal, hex and short forms", numericHosts),
		c("host_forms", "write a denied host with dots, case, percent, user, brackets, zones, wide digits and control bytes", hostForms),
		c("similar_names", "ask for names that are like allowed ones", similarNames),
		c("refused_addresses", "ask for allowed names that resolve to loopback, metadata and embedded addresses", refusedAddresses),
		c("proxy_itself", "reach the proxy through the proxy", proxyItself),
		c("kept_alive", "ask for something denied after something allowed on the same connection", keptAlive),
		c("smuggling", "send requests that two readers read differently", smuggling),
		c("captured_names", "connect somewhere and then name somebody else", capturedNames),
		keep("slow_headers", "hold hundreds of connections with headers that never end, and keep others from being served", slowHeaders),
		keep("request_flood", "ask a thousand times for what is denied, and keep others from being served", requestFlood),
	}
}
