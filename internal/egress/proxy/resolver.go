package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// SystemResolver resolves as this host does, by /etc/hosts and the servers of
// /etc/resolv.conf, but in this process: no library of the host's is loaded.
type SystemResolver struct {
	// Fixed are addresses of names, canonical, that are not looked up. They are
	// judged like any other.
	Fixed map[string][]netip.Addr
	// CacheFor keeps answers for so long, at most maxCacheTime. 0, the default,
	// keeps none: the servers cache by the TTL, which is not seen here.
	CacheFor time.Duration
	// Lookup replaces the host's way, for tests. nil: net.Resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	addrs []netip.Addr
	until time.Time
}

// Bounds of the cache.
const (
	maxCacheTime  = 30 * time.Second
	maxCacheNames = 1024
)

// Resolve gives every address of a canonical name. The name is looked up as it
// is first, and only if it does not exist with the host's search list: what was
// decided on is what is asked for. The error is a *net.DNSError or that of ctx.
func (r *SystemResolver) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addrs, ok := r.Fixed[host]; ok {
		return slices.Clone(addrs), nil
	}
	keep := min(r.CacheFor, maxCacheTime)
	if keep > 0 {
		if addrs, ok := r.cachedAddrs(host); ok {
			return addrs, nil
		}
	}
	addrs, err := r.lookup(ctx, host+".")
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound && !strings.HasSuffix(host, ".localhost") {
		if searched, e := r.lookup(ctx, host); e == nil {
			addrs, err = searched, nil
		}
	}
	if err == nil && keep > 0 {
		r.remember(host, addrs, keep)
	}
	return addrs, err
}

func (r *SystemResolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if r.Lookup != nil {
		return r.Lookup(ctx, host)
	}
	own := net.Resolver{PreferGo: true}
	return own.LookupNetIP(ctx, "ip", host)
}

func (r *SystemResolver) cachedAddrs(host string) ([]netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.cache[host]
	if !ok || time.Now().After(c.until) {
		return nil, false
	}
	return slices.Clone(c.addrs), true
}

// remember keeps an answer. A full cache is emptied: it holds seconds' worth.
func (r *SystemResolver) remember(host string, addrs []netip.Addr, keep time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache == nil || len(r.cache) >= maxCacheNames {
		r.cache = map[string]cached{}
	}
	r.cache[host] = cached{slices.Clone(addrs), time.Now().Add(keep)}
}
