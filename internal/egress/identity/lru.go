package identity

import "container/list"

// lru is a table of bounded size that gives up what was not used for longest.
type lru[K comparable, V any] struct {
	limit int
	drop  func(V) // told of each value that is given up or replaced; may be nil
	order *list.List
	at    map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int, drop func(V)) *lru[K, V] {
	return &lru[K, V]{limit: limit, drop: drop, order: list.New(), at: map[K]*list.Element{}}
}

func (l *lru[K, V]) len() int { return len(l.at) }

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	e, ok := l.at[k]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(entry[K, V]).value, true
}

func (l *lru[K, V]) put(k K, v V) {
	l.remove(k)
	for l.order.Len() >= l.limit {
		l.remove(l.order.Back().Value.(entry[K, V]).key)
	}
	l.at[k] = l.order.PushFront(entry[K, V]{k, v})
}

// remove gives up the value of k, if there is one.
func (l *lru[K, V]) remove(k K) {
	e, ok := l.at[k]
	if !ok {
		return
	}
	delete(l.at, k)
	v := l.order.Remove(e).(entry[K, V]).value
	if l.drop != nil {
		l.drop(v)
	}
}

// take removes the value of k without telling drop.
func (l *lru[K, V]) take(k K) (v V, ok bool) {
	e, ok := l.at[k]
	if !ok {
		return v, false
	}
	delete(l.at, k)
	return l.order.Remove(e).(entry[K, V]).value, true
}

func (l *lru[K, V]) clear() {
	for l.order.Len() > 0 {
		l.remove(l.order.Back().Value.(entry[K, V]).key)
	}
}
