#include "textflag.h"

// func cloneFlip(flags, stack, at, a, b, stop uintptr) int64
TEXT ·cloneFlip(SB), NOSPLIT, $0-56
	MOVQ at+16(FP), R12
	MOVQ a+24(FP), R13
	MOVQ b+32(FP), BX
	MOVQ stop+40(FP), R15
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JZ   turn
	MOVQ AX, ret+48(FP)
	RET

turn:
	MOVQ  R13, (R12)
	MOVQ  BX, (R12)
	MOVQ  (R15), AX
	TESTQ AX, AX
	JZ    turn
	XORL  DI, DI
	MOVL  $60, AX // exit
	SYSCALL
	INT   $3

// func cloneCalls(flags, stack, rows, n uintptr) int64
TEXT ·cloneCalls(SB), NOSPLIT, $0-40
	MOVQ rows+16(FP), R12
	MOVQ n+24(FP), R13
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JZ   next
	MOVQ AX, ret+32(FP)
	RET

next:
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	SYSCALL
	MOVQ AX, 56(R12)
	ADDQ $64, R12
	DECQ R13
	JNZ  next
	XORL DI, DI
	MOVL $60, AX // exit
	SYSCALL
	INT  $3

// func int80(nr, a1, a2, a3, a4, a5 uintptr) int64
TEXT ·int80(SB), NOSPLIT, $0-56
	MOVQ nr+0(FP), AX
	MOVQ a1+8(FP), BX
	MOVQ a2+16(FP), CX
	MOVQ a3+24(FP), DX
	MOVQ a4+32(FP), SI
	MOVQ a5+40(FP), DI
	INT  $0x80
	MOVLQSX AX, AX
	MOVQ AX, ret+48(FP)
	RET
