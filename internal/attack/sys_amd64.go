package attack

import "golang.org/x/sys/unix"

const low32 = unix.MAP_32BIT
