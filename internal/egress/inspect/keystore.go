package inspect

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"strconv"
	"unicode/utf16"
)

// KeystorePassword protects nothing: a Java trust store holds no secret and must
// have one.
const KeystorePassword = "changeit"

// Keystore gives the certificates of a PEM file as a Java trust store in the
// format JKS, version 2: all big-endian, a list of trusted certificates, and at
// its end a digest that has the password in it. It is a millisecond's work; when
// ctx ends, it gives up with its error.
// Source: sun.security.provider.JavaKeyStore.engineStore of OpenJDK.
func Keystore(ctx context.Context, bundle []byte) ([]byte, error) {
	be := binary.BigEndian
	out := be.AppendUint32(make([]byte, 0, len(bundle)), 0xfeedfeed)
	out = be.AppendUint32(out, 2)
	out = be.AppendUint32(out, 0) // the number of certificates, below
	n := uint32(0)
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		out = be.AppendUint32(out, 2) // a trusted certificate
		out = javaText(out, "ca"+strconv.Itoa(int(n)))
		out = be.AppendUint64(out, 0) // when it was put in
		out = javaText(out, "X.509")
		out = be.AppendUint32(out, uint32(len(block.Bytes)))
		out = append(out, block.Bytes...)
	}
	be.PutUint32(out[8:], n)
	digest := sha1.New()
	for _, unit := range utf16.Encode([]rune(KeystorePassword)) {
		digest.Write(be.AppendUint16(nil, unit))
	}
	digest.Write([]byte("Mighty Aphrodite"))
	digest.Write(out)
	return digest.Sum(out), nil
}

// javaText writes ASCII as java.io.DataOutput.writeUTF does.
func javaText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
