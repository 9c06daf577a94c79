// Package tree finds values in JSON that was read into maps and slices.
//
// Deliberately not here: types of any API. Tests that judge a manifest know
// nothing of who wrote it.
package tree

// Object is one JSON object.
type Object = map[string]any

// At is the value behind a path of keys, or nil where there is none.
func At(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(Object)
		v = m[p]
	}
	return v
}

// List is the objects of the array behind a path; what is no object is nil.
func List(v any, path ...string) []Object {
	all, _ := At(v, path...).([]any)
	var out []Object
	for _, i := range all {
		m, _ := i.(Object)
		out = append(out, m)
	}
	return out
}
