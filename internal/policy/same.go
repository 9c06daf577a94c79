package policy

import "reflect"

// Same compares two policies, or parts of them, their places in the file aside.
func Same[T any](a, b T) bool {
	return reflect.DeepEqual(withoutLines(reflect.ValueOf(a)).Interface(), withoutLines(reflect.ValueOf(b)).Interface())
}

// withoutLines copies v with every field named Line set to zero.
func withoutLines(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[Policy]().PkgPath() {
			return v
		}
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		for i := range c.NumField() {
			if v.Type().Field(i).Name == "Line" {
				c.Field(i).SetZero()
				continue
			}
			c.Field(i).Set(withoutLines(v.Field(i)))
		}
		return c
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			c.Index(i).Set(withoutLines(v.Index(i)))
		}
		return c
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeMapWithSize(v.Type(), v.Len())
		for _, k := range v.MapKeys() {
			c.SetMapIndex(k, withoutLines(v.MapIndex(k)))
		}
		return c
	}
	return v
}
