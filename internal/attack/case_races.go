package attack

import "time"

// mainRace is the race that is run most.
const mainRace = "connect_race"

// raceCases rewrite what a call points to while it is being judged.
func raceCases() []Case {
	lost := by(WallGate, wordNever)
	race := func(name, what string, attack func(*agent)) Case {
		return Case{Name: name, Category: Sockets, twin: "proxy", attack: attack, stops: []stop{lost}, raced: true, What: what}
	}
	bound := race("unix_bind_race", "rewrite the path of a unix bind from a second thread", unixBindRace)
	bound.files = true
	return []Case{
		race(mainRace, "rewrite the address of a connect from a second thread", connectRace),
		race("connect_race_shared", "rewrite the address of a connect from another process, by shared memory", connectRaceShared),
		race("connect_race_clone", "rewrite the address of a connect from a process cloned with the same memory", connectRaceClone),
		race("connect6_race", "rewrite the address of a connect of a v6 socket from a second thread", connectRace6),
		race("bind_race", "rewrite the address of a bind from a second thread", bindRace),
		race("sendto_race", "rewrite the destination of a datagram from a second thread", sendtoRace),
		race("unix_connect_race", "rewrite the path of a unix connect from a second thread", unixRace),
		bound,
		race("unix_symlink_race", "exchange a unix socket for a link to another one while it is being connected", unixSymlinkRace),
		race("descriptor_race", "put another descriptor in the place of the one that is being connected", descriptorRace),
		{Name: "names_race", Category: Sockets, twin: "proxy", control: mustKeep, attack: namesRace, raced: true,
			What: "rewrite where an address goes, and the room for it, while recvfrom, recvmsg, getsockname and getpeername write it: nothing beside changes"},
		{Name: "signals_kept", Category: Sockets, twin: "proxy", control: mustKeep, attack: signalsKept, limit: 3 * time.Minute,
			What: "keep every call whole while signals interrupt them: none lost, none doubled"},
	}
}
