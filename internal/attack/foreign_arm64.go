package attack

// An arm64 process cannot enter the kernel by the 32-bit table: that takes a
// 32-bit program.
func foreignI386(a *agent) {
	a.try("getpid", func() error { return &absent{"this processor has no second system call table within a process"} })
}

func foreignX32(a *agent) { foreignI386(a) }
