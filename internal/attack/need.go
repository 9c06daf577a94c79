package attack

import (
	"fmt"

	"sallyport/internal/kernel/landlock"
)

// need is a feature of the kernel without which a case means nothing.
type need struct {
	what  string
	check func() error // nil when it is there
}

func landlockABI(n int) need {
	return need{fmt.Sprintf("Landlock ABI %d", n), func() error {
		got, err := landlock.ABI()
		if err != nil {
			return fmt.Errorf("this kernel has no Landlock: %w", err)
		}
		if got < n {
			return fmt.Errorf("this kernel has Landlock ABI %d, this needs %d", got, n)
		}
		return nil
	}}
}

// lacking says what this kernel is too old for, or nothing.
func (c Case) lacking() string {
	for _, n := range c.needs {
		if err := n.check(); err != nil {
			return err.Error()
		}
	}
	return ""
}
