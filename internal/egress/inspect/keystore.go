package inspect

import (
	"bytes"
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
// its end a digest that has the password in it.
// Source: sun.security.provider.JavaKeyStore.engineStore of OpenJDK.
func Keystore(bundle []byte) []byte {
	var list bytes.Buffer
	n := 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		binary.Write(&list, binary.BigEndian, uint32(2)) // a trusted certificate
		javaText(&list, "ca"+strconv.Itoa(n))
		binary.Write(&list, binary.BigEndian, uint64(0)) // when it was put in
		javaText(&list, "X.509")
		binary.Write(&list, binary.BigEndian, uint32(len(block.Bytes)))
		list.Write(block.Bytes)
	}
	var out bytes.Buffer
	binary.Write(&out, binary.BigEndian, []uint32{0xfeedfeed, 2, uint32(n)})
	out.Write(list.Bytes())
	digest := sha1.New()
	binary.Write(digest, binary.BigEndian, utf16.Encode([]rune(KeystorePassword)))
	digest.Write([]byte("Mighty Aphrodite"))
	digest.Write(out.Bytes())
	return digest.Sum(out.Bytes())
}

// javaText writes ASCII as java.io.DataOutput.writeUTF does.
func javaText(b *bytes.Buffer, s string) {
	binary.Write(b, binary.BigEndian, uint16(len(s)))
	b.WriteString(s)
}
