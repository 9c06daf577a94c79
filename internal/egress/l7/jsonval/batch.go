package jsonval

// Batch reads a body of one value or an array of 1 to most of them, under the
// default limits. protocol and what are the words of its errors, which are those
// of Read.
func Batch(body []byte, protocol, what string, most int) ([]Value, error) {
	v, err := Read(body, Limits{})
	if err != nil {
		return nil, err
	}
	batch := []Value{*v}
	if v.Kind == Array {
		batch = v.Items
	}
	switch {
	case len(batch) == 0:
		return nil, Malformedf("the %s batch is empty", protocol)
	case len(batch) > most:
		return nil, &TooLarge{What: what + " in a batch", Limit: int64(most)}
	}
	return batch, nil
}
