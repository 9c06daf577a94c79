package identity

import (
	"encoding/binary"
	"errors"
	"io"
)

// Numbers of elf(5).
const (
	elfDyn       = 3          // e_type ET_DYN: a shared object or a position-independent program
	segDynamic   = 2          // p_type PT_DYNAMIC
	segInterp    = 3          // p_type PT_INTERP
	dynSoname    = 14         // d_tag DT_SONAME
	dynFlags1    = 0x6ffffffb // d_tag DT_FLAGS_1
	flagPIE      = 0x08000000 // DF_1_PIE: linked as a program
	headerSize   = 64         // of a 64-bit file
	segmentSize  = 56
	maxSegments  = 128
	dynEntrySize = 16
	maxDynamic   = 64 << 10 // bytes
)

// isLoader reports whether an executable is a shared object that the kernel ran
// as a program: it asks for no interpreter, and was either given a name for
// others to link against or not linked as a program. That is what the dynamic
// loaders of glibc and musl are, and what a static program,
// position-independent or not, is not. A loader runs whatever it is told to and
// keeps its own name in /proc/PID/exe.
//
// Anything that is no 64-bit little-endian ELF file is no loader.
func isLoader(in io.ReaderAt) (bool, error) {
	var h [headerSize]byte
	if ok, err := readFull(in, h[:], 0); !ok {
		return false, err
	}
	le := binary.LittleEndian
	if string(h[:6]) != "\x7fELF\x02\x01" || le.Uint16(h[16:]) != elfDyn {
		return false, nil
	}
	offset, size, count := le.Uint64(h[32:]), le.Uint16(h[54:]), int(le.Uint16(h[56:]))
	if size != segmentSize || count > maxSegments || offset > maxExecutable {
		return false, nil
	}
	var dynamic, length uint64
	for i := range count {
		var s [segmentSize]byte
		if ok, err := readFull(in, s[:], int64(offset)+int64(i)*segmentSize); !ok {
			return false, err
		}
		switch le.Uint32(s[:]) {
		case segInterp:
			return false, nil
		case segDynamic:
			dynamic, length = le.Uint64(s[8:]), le.Uint64(s[32:])
		}
	}
	if dynamic > maxExecutable {
		return false, nil
	}
	program, err := linkedAsProgram(in, int64(dynamic), int64(min(length, maxDynamic)))
	return err == nil && dynamic != 0 && !program, err
}

// linkedAsProgram looks at the list of tags that the linker left.
func linkedAsProgram(in io.ReaderAt, at, length int64) (program bool, err error) {
	for end := at + length; at+dynEntrySize <= end; at += dynEntrySize {
		var d [dynEntrySize]byte
		if ok, err := readFull(in, d[:], at); !ok {
			return false, err
		}
		switch value := binary.LittleEndian.Uint64(d[8:]); binary.LittleEndian.Uint64(d[:]) {
		case 0: // DT_NULL ends the list
			return program, nil
		case dynSoname:
			return false, nil
		case dynFlags1:
			program = value&flagPIE != 0
		}
	}
	return program, nil
}

// readFull fills b from at; ok is false without an error where the file ends.
func readFull(in io.ReaderAt, b []byte, at int64) (ok bool, err error) {
	n, err := in.ReadAt(b, at)
	if n == len(b) {
		return true, nil
	}
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return false, err
}
