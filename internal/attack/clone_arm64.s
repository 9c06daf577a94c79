#include "textflag.h"

// func cloneFlip(flags, stack, at, a, b, stop uintptr) int64
TEXT ·cloneFlip(SB), NOSPLIT, $0-56
	MOVD at+16(FP), R19
	MOVD a+24(FP), R20
	MOVD b+32(FP), R21
	MOVD stop+40(FP), R22
	MOVD flags+0(FP), R0
	MOVD stack+8(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $220, R8 // clone
	SVC
	CBZ  R0, turn
	MOVD R0, ret+48(FP)
	RET

turn:
	MOVD R20, (R19)
	MOVD R21, (R19)
	MOVD (R22), R0
	CBZ  R0, turn
	MOVD ZR, R0
	MOVD $93, R8 // exit
	SVC
	BRK

// func cloneCalls(flags, stack, rows, n uintptr) int64
TEXT ·cloneCalls(SB), NOSPLIT, $0-40
	MOVD rows+16(FP), R19
	MOVD n+24(FP), R20
	MOVD flags+0(FP), R0
	MOVD stack+8(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $220, R8 // clone
	SVC
	CBZ  R0, next
	MOVD R0, ret+32(FP)
	RET

next:
	MOVD 0(R19), R8
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	SVC
	MOVD R0, 56(R19)
	ADD  $64, R19
	SUB  $1, R20
	CBNZ R20, next
	MOVD ZR, R0
	MOVD $93, R8 // exit
	SVC
	BRK
