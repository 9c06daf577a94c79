package rego

import (
	"encoding/binary"
	"sync"
)

const (
	// maxRemembered bounds what is remembered of one kind. A sandbox that asks for more different things makes
	// the engine forget and work them out again; it cannot make it grow.
	maxRemembered = 512
	// maxKey bounds the bytes of one key. What has a longer one is worked out every time.
	maxKey = 4096
)

// memory remembers answers that depend on nothing but their key. What it gives out is shared: do not change it.
type memory[V any] struct {
	mu      sync.RWMutex
	answers map[string]V
}

// get returns what is remembered under key, or what work gives; an error is not remembered.
func (m *memory[V]) get(key []byte, work func() (V, error)) (V, error) {
	m.mu.RLock()
	v, ok := m.answers[string(key)]
	m.mu.RUnlock()
	if ok {
		return v, nil
	}
	v, err := work()
	if err != nil || len(key) > maxKey {
		return v, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil || len(m.answers) >= maxRemembered {
		m.answers = map[string]V{}
	}
	m.answers[string(key)] = v
	return v, nil
}

// texts appends an unambiguous form of some texts to a key.
func texts(key []byte, some ...string) []byte {
	for _, s := range some {
		key = append(binary.AppendUvarint(key, uint64(len(s))), s...)
	}
	return key
}

// numbers appends an unambiguous form of some numbers to a key.
func numbers(key []byte, some []int) []byte {
	key = binary.AppendUvarint(key, uint64(len(some)))
	for _, n := range some {
		key = binary.AppendUvarint(key, uint64(n))
	}
	return key
}
