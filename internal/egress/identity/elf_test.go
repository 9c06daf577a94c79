package identity

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// elf builds the smallest file that isLoader reads to the end.
func elf(kind uint16, interp bool, tags ...uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], kind)
	le.PutUint64(b[32:], headerSize)
	le.PutUint16(b[54:], segmentSize)
	segments := []uint32{1, segDynamic}
	if interp {
		segments = append(segments, segInterp)
	}
	le.PutUint16(b[56:], uint16(len(segments)))
	at := uint64(headerSize + segmentSize*len(segments))
	for _, s := range segments {
		var seg [segmentSize]byte
		le.PutUint32(seg[:], s)
		le.PutUint64(seg[8:], at)
		le.PutUint64(seg[32:], uint64(8*len(tags)))
		b = append(b, seg[:]...)
	}
	for _, tag := range tags {
		b = le.AppendUint64(b, tag)
	}
	return b
}

func TestIsLoader(t *testing.T) {
	tests := []struct {
		name string
		file []byte
		want bool
	}{
		{"glibc_loader", elf(elfDyn, false, dynSoname, 5, 0, 0), true},
		{"loader_without_name", elf(elfDyn, false, 4, 9, 0, 0), true},
		{"name_beside_pie", elf(elfDyn, false, dynFlags1, flagPIE, dynSoname, 5, 0, 0), true},
		{"static_pie", elf(elfDyn, false, dynFlags1, flagPIE, 0, 0), false},
		{"static_pie_end_missing", elf(elfDyn, false, dynFlags1, flagPIE), false},
		{"name_after_the_end", elf(elfDyn, false, dynFlags1, flagPIE, 0, 0, dynSoname, 5), false},
		{"dynamic_program", elf(elfDyn, true, dynFlags1, flagPIE, 0, 0), false},
		{"library_with_interpreter", elf(elfDyn, true, dynSoname, 5, 0, 0), false},
		{"fixed_program", elf(2, false, dynSoname, 5, 0, 0), false},
		{"script", []byte("#!/bin/sh\n" + string(make([]byte, 100))), false},
		{"empty", nil, false},
		{"cut_header", elf(elfDyn, false, dynSoname, 5)[:40], false},
		{"cut_segments", elf(elfDyn, false, dynSoname, 5)[:80], false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := isLoader(bytes.NewReader(tt.file))
			if err != nil || got != tt.want {
				t.Errorf("isLoader = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if got, err := isLoader(self); err != nil || got {
		t.Errorf("isLoader(this program) = %v, %v", got, err)
	}
}

func FuzzIsLoader(f *testing.F) {
	f.Add(elf(elfDyn, false, dynSoname, 5, 0, 0))
	f.Add(elf(elfDyn, true, dynFlags1, flagPIE, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := isLoader(bytes.NewReader(b)); err != nil {
			t.Errorf("isLoader: %v", err)
		}
	})
}
