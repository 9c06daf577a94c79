package attack

// low32 would ask for memory below 4 GiB; no 32-bit calls are made here.
const low32 = 0
