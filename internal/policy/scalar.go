package policy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// text reads a string. A number or a word such as true is not one: it would be
// read differently by another tool; quotes make it one.
func (d *decoder) text(to *string, what string) func(ast.Node) {
	return func(n ast.Node) {
		switch s := n.(type) {
		case *ast.StringNode:
			*to = s.Value
		case *ast.LiteralNode:
			*to = s.Value.Value
		default:
			d.fail(n, "%s: expected text, found %s (quote it to make it text)", what, describe(n))
		}
	}
}

// word reads one of a few words and hands its index over.
func (d *decoder) word(what string, set func(i int), words ...string) func(ast.Node) {
	return func(n ast.Node) {
		var s string
		before := len(d.errs)
		d.text(&s, what)(n)
		if len(d.errs) > before {
			return
		}
		if i := slices.Index(words, s); i >= 0 {
			set(i)
			return
		}
		d.fail(n, "%s: expected %s, found %q", what, strings.Join(words, " or "), clip(s))
	}
}

func (d *decoder) boolean(to *bool, what string) func(ast.Node) {
	return func(n ast.Node) {
		b, is := n.(*ast.BoolNode)
		if !is {
			d.fail(n, "%s: expected true or false, found %s", what, describe(n))
			return
		}
		*to = b.Value
	}
}

func (d *decoder) integer(n ast.Node, what string, least, most int64) (int64, bool) {
	i, is := n.(*ast.IntegerNode)
	if !is {
		d.fail(n, "%s: expected a number, found %s", what, describe(n))
		return 0, false
	}
	var v int64
	switch x := i.Value.(type) {
	case int64:
		v = x
	case uint64:
		v = int64(min(x, math.MaxInt64))
	}
	if v < least || v > most {
		d.fail(n, "%s: expected %d to %d, found %d", what, least, most, v)
		return 0, false
	}
	return v, true
}

func (d *decoder) list(what string, most int, each func(ast.Node)) func(ast.Node) {
	return func(n ast.Node) {
		s, is := n.(*ast.SequenceNode)
		if !is {
			d.fail(n, "%s: expected a list, found %s", what, describe(n))
			return
		}
		if len(s.Values) > most {
			d.fail(n, "%s: at most %d entries, found %d", what, most, len(s.Values))
			return
		}
		for _, v := range s.Values {
			each(v)
		}
	}
}

func (d *decoder) texts(to *[]string, what string, most int) func(ast.Node) {
	return d.list(what, most, func(n ast.Node) {
		var s string
		d.text(&s, what)(n)
		if slices.Contains(*to, s) {
			d.fail(n, "%s: %q is listed twice", what, clip(s))
			return
		}
		*to = append(*to, s)
	})
}

func (d *decoder) port(n ast.Node, what string) (uint16, bool) {
	v, ok := d.integer(n, what, 1, 65535)
	return uint16(v), ok
}

func (d *decoder) size(to *int64, what string, ceiling int64) func(ast.Node) {
	return func(n ast.Node) {
		if v, ok := d.integer(n, what, 1, ceiling); ok {
			*to = v
		}
	}
}

// path checks an absolute path that means what it shows.
func (d *decoder) path(n ast.Node, what, p string) bool {
	switch {
	case !strings.HasPrefix(p, "/"):
		d.fail(n, "%s: expected an absolute path, found %q", what, clip(p))
	case len(p) > 4096:
		d.fail(n, "%s: a path is at most 4096 characters long", what)
	case slices.Contains(strings.Split(p, "/"), ".."):
		d.fail(n, "%s: %q goes up with ..; write the path that is meant", what, clip(p))
	default:
		return true
	}
	return false
}

// portRange reads 3000 or "8000-8099".
func (d *decoder) portRange(n ast.Node, what string) (PortRange, bool) {
	s, is := n.(*ast.StringNode)
	if !is {
		p, ok := d.port(n, what)
		return PortRange{p, p}, ok
	}
	a, b, _ := strings.Cut(s.Value, "-")
	first, err1 := strconv.ParseUint(a, 10, 16)
	last, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		d.fail(n, "%s: expected a port or a range such as \"8000-8099\", found %q", what, clip(s.Value))
		return PortRange{}, false
	}
	return PortRange{uint16(first), uint16(last)}, true
}

// prefixOf reads an address or a CIDR prefix. Host bits must be zero: a prefix
// with others means two things.
func prefixOf(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("an address with a zone means another network on every host")
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("expected an address or a prefix such as 10.4.0.0/16")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("the prefix has host bits; did you mean %v?", p.Masked())
	}
	return p, nil
}
