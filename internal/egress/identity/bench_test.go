package identity

import (
	"context"
	"testing"
)

// BenchmarkOpen is what the gate waits for when the caller is known.
func BenchmarkOpen(b *testing.B) {
	p := programs(b, "agent", "shell", "tool")
	r := start(b, p...)
	l := ledger(b, r.pids[0], Options{})
	settle(l)
	if _, err := identify(b, l, r.pids[2]); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		book, err := l.Open(r.pids[2], wanted)
		if err != nil {
			b.Fatal(err)
		}
		book(local)
	}
}

// BenchmarkOpen_new is a process that was not seen before, whose executables
// were, two levels below the sandbox's first one.
func BenchmarkOpen_new(b *testing.B) {
	p := programs(b, "agent", "shell", "tool")
	r := start(b, p...)
	l := ledger(b, r.pids[0], Options{})
	settle(l)
	if _, err := identify(b, l, r.pids[2]); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.threads.clear()
		book, err := l.Open(r.pids[2], wanted)
		if err != nil {
			b.Fatal(err)
		}
		book(local)
	}
}

// BenchmarkConnection is the whole way of one connection of a known process.
func BenchmarkConnection(b *testing.B) {
	p := programs(b, "agent", "shell", "tool")
	r := start(b, p...)
	l := ledger(b, r.pids[0], Options{})
	settle(l)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		book, err := l.Open(r.pids[2], wanted)
		if err != nil {
			b.Fatal(err)
		}
		book(local)
		c, err := l.Lookup(ctx, local)
		if err == nil {
			_, err = c.Identify(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
