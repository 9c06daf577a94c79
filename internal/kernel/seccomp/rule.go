package seccomp

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Action is what becomes of a call: a SECCOMP_RET_ value.
type Action uint32

// The actions besides [Errno].
const (
	Allow       Action = unix.SECCOMP_RET_ALLOW
	Notify      Action = unix.SECCOMP_RET_USER_NOTIF
	KillProcess Action = unix.SECCOMP_RET_KILL_PROCESS
	Pretend     Action = unix.SECCOMP_RET_ERRNO // the call is not made and returns 0
)

// maxErrno is MAX_ERRNO of the kernel. A filter that returns more returns this.
const maxErrno = 4095

// Errno is the action that fails the call with e. No error is no action: what
// is to succeed without being made says [Pretend].
func Errno(e unix.Errno) Action {
	if e == 0 {
		return unix.SECCOMP_RET_ERRNO | unix.SECCOMP_RET_DATA
	}
	return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&unix.SECCOMP_RET_DATA)
}

// Errno returns the error that the action fails a call with, or 0.
func (a Action) Errno() unix.Errno {
	if uint32(a)&unix.SECCOMP_RET_ACTION_FULL != unix.SECCOMP_RET_ERRNO {
		return 0
	}
	return unix.Errno(uint32(a) & unix.SECCOMP_RET_DATA)
}

// String is the action as a table prints it: "allow", "notify", "kill", "EPERM".
func (a Action) String() string {
	switch a {
	case Allow:
		return "allow"
	case Notify:
		return "notify"
	case KillProcess:
		return "kill"
	case Pretend:
		return "pretend"
	}
	if e := a.Errno(); e != 0 {
		if name := unix.ErrnoName(e); name != "" {
			return name
		}
	}
	return fmt.Sprintf("action %#x", uint32(a))
}

func (a Action) valid() bool {
	e := a.Errno()
	return a == Allow || a == Notify || a == KillProcess || a == Pretend || e > 0 && e <= maxErrno
}

// Op compares the masked value of an argument.
type Op uint8

// The comparisons. The zero value is none of them.
const (
	In    Op = 1 + iota // is one of the values
	NotIn               // is none of the values
	Above               // is greater than the one value, unsigned
)

// Cond is a condition on one argument: argument & Mask, compared with Values by
// Op. Bits that Mask leaves out do not count.
type Cond struct {
	Arg    int // 0 to 5
	Mask   uint64
	Op     Op
	Values []uint64
}

// Value is an argument that a condition is to be made of.
type Value struct {
	arg  int
	mask uint64
}

// Int is argument arg where the kernel takes an int or an unsigned int: it
// ignores the upper 32 bits of the register, and so does the condition.
func Int(arg int) Value { return Value{arg, 1<<32 - 1} }

// Word is argument arg where the kernel takes a pointer or a long.
func Word(arg int) Value { return Value{arg, 1<<64 - 1} }

// And keeps only the bits of mask.
func (v Value) And(mask uint64) Value { return Value{v.arg, v.mask & mask} }

// Is holds if the value is one of those given.
func (v Value) Is(values ...uint64) Cond { return Cond{v.arg, v.mask, In, values} }

// IsNot holds if the value is none of those given.
func (v Value) IsNot(values ...uint64) Cond { return Cond{v.arg, v.mask, NotIn, values} }

// Above holds if the value is greater than limit, both taken as unsigned.
func (v Value) Above(limit uint64) Cond { return Cond{v.arg, v.mask, Above, []uint64{limit}} }

// Has holds if any of the bits is set.
func (v Value) Has(bits uint64) Cond { return v.And(bits).IsNot(0) }

// holds is the meaning of a condition, in one place and without a program.
func (c Cond) holds(args [6]uint64) bool {
	v := args[c.Arg] & c.Mask
	if c.Op == Above {
		return v > c.Values[0]
	}
	for _, w := range c.Values {
		if v == w {
			return c.Op == In
		}
	}
	return c.Op == NotIn
}

// check reports what is wrong with a condition: the kernel would not tell.
func (c Cond) check() error {
	switch {
	case c.Arg < 0 || c.Arg > 5:
		return fmt.Errorf("condition on argument %d, expected 0 to 5", c.Arg)
	case c.Op < In || c.Op > Above:
		return fmt.Errorf("condition without a comparison")
	case len(c.Values) == 0 || c.Op == Above && len(c.Values) != 1:
		return fmt.Errorf("condition with %d values", len(c.Values))
	case c.Mask == 0:
		return fmt.Errorf("condition on no bit")
	}
	for _, v := range c.Values {
		if v&^c.Mask != 0 {
			return fmt.Errorf("value %#x has bits outside of the mask %#x", v, c.Mask)
		}
	}
	return nil
}

// String is the condition as a table prints it, with x0 to x5 for the arguments:
// "int x1&0xf = 0x2|0x5".
func (c Cond) String() string {
	var b strings.Builder
	switch {
	case c.Mask == 1<<64-1:
		fmt.Fprintf(&b, "x%d", c.Arg)
	case c.Mask == 1<<32-1:
		fmt.Fprintf(&b, "int x%d", c.Arg)
	case c.Mask>>32 == 0:
		fmt.Fprintf(&b, "int x%d&%#x", c.Arg, c.Mask)
	default:
		fmt.Fprintf(&b, "x%d&%#x", c.Arg, c.Mask)
	}
	b.WriteString(map[Op]string{In: " = ", NotIn: " ≠ ", Above: " > "}[c.Op])
	for i, v := range c.Values {
		if i > 0 {
			b.WriteByte('|')
		}
		fmt.Fprintf(&b, "%#x", v)
	}
	return b.String()
}

// Rule is one row of a table: what becomes of some calls, and why.
type Rule struct {
	Name  string   // what the row is about, for people
	Calls []string // names; one that the architecture does not have is left out
	// From, if not 0, makes the row count for every number from there on,
	// instead of for Calls. Such a row takes no conditions.
	From int
	When []Cond // all must hold; none: always
	Do   Action
	Why  string
}

// check reports what is wrong with a row.
func (r Rule) check() error {
	switch {
	case !r.Do.valid():
		return fmt.Errorf("%v is not an action", r.Do)
	case r.From < 0 || r.From >= x32Bit:
		return fmt.Errorf("call number %d is out of range", r.From)
	case r.From > 0 && (len(r.Calls) > 0 || len(r.When) > 0):
		return fmt.Errorf("a row for all numbers from %d on takes neither calls nor conditions", r.From)
	case r.From == 0 && len(r.Calls) == 0:
		return fmt.Errorf("no calls")
	}
	for _, c := range r.When {
		if err := c.check(); err != nil {
			return err
		}
	}
	return nil
}
