package attack

// privilegeCases are about becoming somebody else, or somewhere else.
func privilegeCases() []Case {
	filter := by(WallFilter, "EPERM", "ENOSYS", "EACCES")
	nothing := by(WallPrivilege, wordNothing, "EPERM", "EINVAL", "EACCES")
	identity := by(WallProxy, "http-403", "http-407", wordClosed)
	return []Case{
		{Name: "clone3", Category: Processes, twin: "child", attack: clone3, stops: []stop{by(WallFilter, "ENOSYS")},
			What: "make processes by clone3, whose flags no filter can see"},
		{Name: "user_namespace", Category: Processes, twin: "child", attack: userNamespace, held: []string{"EPERM", "ENOSPC", "EUSERS", "EACCES"}, stops: []stop{filter},
			What: "become root of a user namespace, alone and with each other namespace"},
		{Name: "namespaces", Category: Processes, twin: "child", attack: namespaces, stops: []stop{filter},
			What: "enter or leave namespaces without one"},
		{Name: "mounts", Category: Processes, twin: "child", attack: mounts, stops: []stop{filter},
			What: "mount, move, pivot and change root, by the old calls and the new ones"},
		{Name: "privileged_calls", Category: Processes, twin: "child", attack: privilegedCalls, stops: []stop{filter},
			What: "reach the kernel's checks of bpf, perf, keys, modules, kexec, handles and other calls that no agent needs"},
		{Name: "regain_root", Category: Processes, twin: "child", attack: regainRoot, stops: []stop{nothing},
			What: "set ids, groups and capabilities back"},
		{Name: "setuid_program", Category: Processes, twin: "child", attack: setuidProgram, held: []string{wordNothing}, stops: []stop{nothing, by(WallFiles, "EACCES")},
			What: "run a program that is set-uid root or has file capabilities"},
		{Name: "overwrite_sallyport", Category: Processes, twin: "child", attack: overwriteExe, stops: []stop{by(WallFiles, "EACCES", "EXDEV", "EPERM"), by(WallHost, "ETXTBSY")},
			What: "change the sallyport program itself, by its path and through /proc"},
		{Name: "memfd_program", Category: Proxy, twin: "proxy", attack: memfdProgram, stops: []stop{identity, filter},
			What: "use the proxy from a program that exists in memory only"},
		{Name: "deleted_program", Category: Proxy, twin: "proxy", attack: deletedProgram, stops: []stop{identity, by(WallFiles, "EACCES")},
			What: "use the proxy from an allowed path whose file was replaced and deleted"},
		{Name: "spoofed_name", Category: Proxy, twin: "tool", attack: spoofedName, stops: []stop{identity},
			What: "claim another program's name in argv, comm and the environment"},
		{Name: "replaced_program", Category: Proxy, group: "replaced", attack: replacedProgram, stops: []stop{identity},
			What: "replace an allowed program after its first use"},
		{Name: "handed_over_connection", Category: Proxy, twin: "tool", attack: handedOver, stops: []stop{identity},
			What: "open a connection as a program that is not allowed and let one that is speak on it"},
	}
}
