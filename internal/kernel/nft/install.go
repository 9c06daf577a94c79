package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ErrNone says that the kernel has no nftables, or not all of it that the rules
// need.
var ErrNone = errors.New("nft: this kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_REJECT, CONFIG_NFT_LOG, CONFIG_NFT_LIMIT)")

// hooks are the chains and where they stand.
var hooks = []struct {
	name string
	hook *nftables.ChainHook
}{
	{Output, nftables.ChainHookOutput}, {Input, nftables.ChainHookInput}, {Forward, nftables.ChainHookForward},
}

// Install puts the rules into the network namespace of the calling thread, all
// or nothing, and reads them back. It needs CAP_NET_ADMIN there. The error is
// [ErrNone] for a kernel that cannot hold them.
//
// Precondition: the calling thread is locked.
func Install(rules []Rule) error { return install(&nftables.Conn{}, rules) }

func install(c *nftables.Conn, rules []Rule) error {
	queue(c, rules)
	if err := c.Flush(); err != nil {
		if missing(err) {
			return fmt.Errorf("%w: %w", ErrNone, err)
		}
		return fmt.Errorf("nft: installing the rules: %w", err)
	}
	if c.TestDial != nil {
		return nil // a recorder has nothing to read back
	}
	return verify(c, rules)
}

// queue puts together the whole set. The table is created, not added: one that is there
// already is somebody else's.
func queue(c *nftables.Conn, rules []Rule) {
	t := c.CreateTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: TableName})
	drop := nftables.ChainPolicyDrop
	chains := map[string]*nftables.Chain{}
	for _, h := range hooks {
		chains[h.name] = c.AddChain(&nftables.Chain{
			Name: h.name, Table: t, Hooknum: h.hook, Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter, Policy: &drop,
		})
	}
	for _, r := range rules {
		var e []expr.Any
		for _, m := range r.Match {
			e = append(e, m.expr...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: chains[r.Chain], Exprs: append(e, r.Do.expr...)})
	}
}

// missing tells a kernel without something from one that refuses.
func missing(err error) bool {
	for _, e := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.Is(err, fs.ErrNotExist)
}

// verify wants every chain with its policy and as many rules as were sent, and
// no table but ours.
func verify(c *nftables.Conn, rules []Rule) error {
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("nft: reading the rules back: %w", err)
	}
	if len(tables) != 1 || tables[0].Name != TableName {
		return fmt.Errorf("nft: the namespace has %d tables, expected ours alone", len(tables))
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("nft: reading the rules back: %w", err)
	}
	want := map[string]int{}
	for _, h := range hooks {
		want[h.name] = 0
	}
	for _, r := range rules {
		want[r.Chain]++
	}
	for _, ch := range chains {
		got, err := c.GetRules(tables[0], ch)
		if err != nil {
			return fmt.Errorf("nft: reading the rules back: %w", err)
		}
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || len(got) != want[ch.Name] {
			return fmt.Errorf("nft: chain %s does not hold what was installed", ch.Name)
		}
		delete(want, ch.Name)
	}
	if len(want) != 0 {
		return fmt.Errorf("nft: %d chains are missing", len(want))
	}
	return nil
}

// Text is the rule set for people, in the words of nft(8), each rule with its
// reason.
func Text(rules []Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, h := range hooks {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority 0; policy drop;\n", h.name, h.name)
		for _, r := range rules {
			if r.Chain != h.name {
				continue
			}
			b.WriteString("\t\t")
			for _, m := range r.Match {
				b.WriteString(m.Text + " ")
			}
			fmt.Fprintf(&b, "%s # %s\n", r.Do.Text, r.Why)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
