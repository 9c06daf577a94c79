package attack

import "time"

// processCases are about other processes of the host: their memory, their
// descriptors, their lives.
func processCases() []Case {
	filter := by(WallFilter, "EPERM", "ENOSYS", "EACCES")
	domain := by(WallDomain, "EPERM", "EACCES")
	scope := by(WallScopes, "EPERM")
	return []Case{
		{Name: "ptrace", Category: Processes, twin: "child", attack: ptraceCase, held: []string{"EPERM"}, stops: []stop{filter, domain},
			What: "attach to a process outside, to the supervisor and to a child of its own"},
		{Name: "process_memory_calls", Category: Processes, twin: "child", attack: processVM, held: []string{"EPERM"}, stops: []stop{filter, domain},
			What: "read and write the memory of processes outside by process_vm_readv and its kin"},
		{Name: "proc_files", Category: Processes, twin: "child", attack: procFiles, held: []string{"EACCES", "EPERM"},
			stops: []stop{domain, by(WallFiles, "EACCES"), by(WallFiles, "ENOENT")},
			What:  "read memory, environment, descriptors, root and maps of processes outside in /proc"},
		{Name: "pidfd_getfd", Category: Processes, twin: "child", attack: pidfdGetfd, held: []string{"EPERM"}, stops: []stop{filter, domain},
			What: "take descriptors out of processes outside"},
		{Name: "signals", Category: Processes, twin: "child", attack: signalsOut, needs: []need{landlockABI(6)}, stops: []stop{scope, filter},
			What: "signal processes outside, the supervisor and the guard by every call there is"},
		{Name: "signals_by_io", Category: Processes, twin: "child", attack: signalsByIO, outside: victimHeard, needs: []need{landlockABI(6)},
			stops: []stop{by(WallScopes, wordSilent, "EPERM"), filter},
			What:  "make the kernel signal a process outside, as the owner of a descriptor"},
		{Name: "signal_everybody", Category: Processes, group: "alone", attack: signalEverybody, outside: victimHeard, needs: []need{landlockABI(6)},
			stops: []stop{by(WallScopes, wordSilent, "EPERM", "ESRCH"), filter},
			What:  "signal everything that may be signalled"},
		{Name: "limits_outside", Category: Processes, twin: "child", attack: limitsOutside, stops: []stop{filter, by(WallGate, "EPERM")},
			What: "change the resource limits of processes outside, which can end them"},
		{Name: "scheduling_outside", Category: Processes, twin: "child", attack: schedulingOutside, open: "no wall sees these calls apart from a thread's own; others of the same user can be slowed, not entered", stops: []stop{filter, by(WallGate, "EPERM")},
			What: "change priority, policy and processors of processes outside"},
		{Name: "second_listener", Category: Processes, twin: "child", attack: secondListener, stops: []stop{by(WallGate, "EBUSY"), filter},
			What: "install a notification listener of its own"},
		{Name: "own_filter", Category: Processes, twin: "child", control: mustKeep, attack: ownFilter,
			What: "loosen the filter with another one on top that allows everything, traces or notifies"},
		{Name: "landlock_layers", Category: Processes, twin: "child", control: mustKeep, attack: landlockLayers, needs: []need{landlockABI(1)},
			What: "use up the layers that Landlock has, and lose nothing of the sandbox by it"},
		{Name: "i386_calls", Category: Processes, twin: "child", attack: foreignI386, stops: []stop{by(WallFilter, wordKilled+"SIGSYS", "ENOSYS", "EPERM")},
			What: "make 32-bit system calls: through int 0x80 with socketcall, or by a 32-bit ARM program"},
		{Name: "x32_calls", Category: Processes, twin: "child", attack: foreignX32, stops: []stop{by(WallFilter, "ENOSYS", "EPERM", "EAFNOSUPPORT", wordKilled+"SIGSYS")},
			What: "make system calls by their x32 numbers, and with garbage above the number"},
		{Name: "keep_open_file", Category: Processes, twin: "child", control: noControl, attack: ownPosture, stops: []stop{by(WallPrivilege, wordNothing), by(WallLaunch, wordNothing)},
			What: "find a capability, a second group, a core dump or a missing lock in what it was started with"},
		{Name: "environment", Category: Processes, control: mustWork, attack: environmentCase, stops: []stop{by(WallLaunch, wordNothing)},
			What: "find secrets and loader variables of the caller in its own environment"},
		{Name: "terminal", Category: Processes, twin: "child", attack: terminal, stops: []stop{filter, by(WallFiles, "EACCES"), by(WallLaunch, "ENXIO")},
			What: "push characters into a terminal of the same user"},
		{Name: "fork_bomb", Category: Processes, group: "bomb", control: noControl, attack: forkBomb, outside: nil, stops: []stop{by(WallGuard, wordEnded)}, limit: 3 * time.Minute,
			What: "leave hundreds of processes behind, in sessions of their own, deaf to signals"},
		{Name: "descriptor_flood", Category: Processes, group: "flood", control: noControl, attack: descriptorFlood, stops: []stop{by(WallGate, wordEnded)}, limit: 3 * time.Minute,
			What: "hold more sockets than the supervisor can count, then see whether others still get theirs"},
		{Name: "notify_flood", Category: Processes, group: "flood", control: noControl, attack: notifyFlood, stops: []stop{by(WallGate, wordEnded)}, limit: 6 * time.Minute,
			What: "make notified calls from ten thousand threads at once"},
		{Name: "supervisor_killed", Category: Processes, group: "killed", control: noControl, attack: outliveSupervisor, outside: killSupervisor, stops: []stop{by(WallGuard, wordEnded)}, limit: 3 * time.Minute,
			What: "go on, or get out, after the supervisor was killed"},
	}
}

// wordEnded is the answer of an attack on the sandbox as a whole that the
// sandbox outlived.
const wordEnded = "ended"
